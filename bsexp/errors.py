"""Errors that a user can act on.

The one rule: whatever a user can cause is raised as a `BsexpError` subclass, whose text is one line of the form
"WHAT: WHICH VALUE OR FILE; WHAT TO DO" and whose class fixes the exit code.
"""

from collections.abc import Iterable


class BsexpError(Exception):
    """An error with one clear line and an exit code.

    `what` names the option, key or thing; `which` the offending value or file; `cure` what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, which: str, cure: str = "") -> None:
        self.what, self.which, self.cure = what, which, cure
        super().__init__(f"{what}: {which}" + (f"; {cure}" if cure else ""))

    def __reduce__(self) -> tuple[type["BsexpError"], tuple[str, str, str]]:
        # The default pickles `args`, the joined text, and could not be rebuilt from it in another process.
        return type(self), (self.what, self.which, self.cure)

    def within(self, place: str) -> "BsexpError":
        """The same error, told from where it was found: `place` is put in front, for example a file and dotted key."""
        return type(self)(f"{place}: {self.what}" if self.what else place, self.which, self.cure)


class UsageError(BsexpError):
    """Wrong usage or configuration; nothing was trained or written."""

    exit_code = 2


class RunsFailed(BsexpError):  # noqa: N818
    """A run or a sweep ended with failed runs."""

    exit_code = 3


class DataError(BsexpError):
    """A data set is missing or damaged."""

    exit_code = 4


class StoreError(BsexpError):
    """The results folder cannot be used: full, read-only, of a newer schema, or of another meaning."""

    exit_code = 5


class NewerSchema(StoreError):  # noqa: N818
    """Results written by a later version of bsexp."""


class SetupError(BsexpError):
    """The environment lacks something: a device, a package, wheels that match."""

    exit_code = 6


class MemoryExhausted(BsexpError):  # noqa: N818
    """Out of memory although micro-batches of one sample were tried."""

    exit_code = 7


SHOWN = 80


def shown(value: object) -> str:
    """A value as errors show it: its repr, on one line, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Python prints no integers of thousands of digits, and nothing that is nested as deep.
        text = "a value too long to print"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


NEAR = 0.15


def nearest(name: str, known: Iterable[str]) -> str:
    """A cure for an unknown name: the nearest known ones, or all of them when none is near.

    >>> nearest("growing-bach", ["fixed-small", "growing-batch"])
    "did you mean 'growing-batch'?"
    """
    import difflib

    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        # Beside a name with one letter wrong, one that shares half of its letters isn't meant.
        best = difflib.SequenceMatcher(None, close[0], name).ratio()
        close = [item for item in close if difflib.SequenceMatcher(None, item, name).ratio() > best - NEAR]
        return "did you mean " + " or ".join(repr(item) for item in close) + "?"
    return "known: " + ", ".join(known) if known else "there are none"
