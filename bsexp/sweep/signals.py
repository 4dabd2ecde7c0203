"""Signals that end a run or a sweep in good order.

The one rule: where work can be finished in order, and in the middle of an import, the first signal is only noted, and a
second one ends it at once; everywhere else the first one does. The exit code is 128 + the signal's number.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class Stopped(BaseException):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """What a shell reports for a program ended by this signal."""
        return 128 + self.number


def importing(frame: FrameType | None) -> bool:
    """Whether a signal came in the middle of an import: a package may make of an exception there what it likes."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


class StopSignals:
    """Listens to `names` in the main thread while its block runs."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.requested: int | None = None
        self._gentle = 0
        self._names = names
        self._before: list[tuple[int, Any]] = []

    def __enter__(self) -> "StopSignals":
        for name in self._names:
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._before.append((number, signal.signal(number, self._hear)))
        return self

    def __exit__(self, *_: object) -> None:
        for number, answer in reversed(self._before):
            signal.signal(number, answer)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first, self.requested = self.requested is None, number
        if not (first and (self._gentle or importing(frame))):
            # Noted all the same: in the middle of a finalizer, torch's compiler has many, Python drops the exception.
            raise Stopped(number)

    @contextmanager
    def gentle(self) -> Iterator[None]:
        """In this block the first signal is only noted in `requested`: look at it, or call `check`."""
        self._gentle += 1
        try:
            yield
        finally:
            self._gentle -= 1

    def request(self, number: int) -> None:
        """As if the signal had come in a gentle block."""
        if self.requested is None:
            self.requested = number

    def check(self) -> None:
        """Raise Stopped where a signal was noted."""
        if self.requested is not None:
            raise Stopped(self.requested)
