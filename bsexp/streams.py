"""stdin, stdout and stderr as they may be: closed, a pipe that nobody reads, a full disk, of an old encoding.

The one rule: only what was really written to the user's streams is spoken of here; any other broken pipe is none of
this module's business. Standard library only: errors must be told when nothing else works.
"""

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from bsexp.errors import StoreError

ENCODING_ERRORS = "bsexp"
SPELT = {"±": "+/-", "−": "-", "–": "-", "→": "->", "…": "...", "×": "x"}


class NobodyReads(Exception):  # noqa: N818
    """Whoever read the results has seen enough: `bsexp report | head`."""


def prepare_streams() -> None:
    """Open closed streams to nowhere, and let characters that an encoding lacks be spelt instead of raising."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The next file to be opened would get the number otherwise, and then all that is printed.
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):
                stream.reconfigure(errors=ENCODING_ERRORS)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    text = "".join(SPELT.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in missing)
    return text, error.end


codecs.register_error(ENCODING_ERRORS, _spell)


def spelt(text: str, encoding: str) -> str:
    """The text as a stream of `encoding` will have it.

    >>> spelt("70 ± 5", "ascii")
    '70 +/- 5'
    """
    return text.encode(encoding, ENCODING_ERRORS).decode(encoding)


def end_streams() -> None:
    """Write what is left. What can't be written is dropped: Python would complain about it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _to_nowhere(stream)


def _to_nowhere(stream: TextIO) -> None:
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return


@contextmanager
def result_output() -> Iterator[None]:
    """A block that writes results: NobodyReads where they go to a pipe that is closed, StoreError for a full disk."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise NobodyReads from None
    except OSError as error:
        raise StoreError("output", str(error.strerror), "free some space, or write it elsewhere") from None


def error_line(text: str) -> None:
    """The one line of an error on stderr; it is dropped where there is no stderr any more."""
    try:
        sys.stderr.write(f"bsexp: {visible(' '.join(text.split()))}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def visible(text: str) -> str:
    """The text on one line, with control characters spelt: a path may hold any.

    >>> visible("two\\nlines \\x1b[31m")
    'two\\\\nlines \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) == "Cc" else sign for sign in text
    )
