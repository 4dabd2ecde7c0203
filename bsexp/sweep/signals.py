"""Signals that end a run or a sweep in good order.

The one rule: a signal becomes an exception at a place where files are consistent; the exit code is 128 + its number.
"""

import signal
from types import FrameType


class Stopped(BaseException):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """What a shell reports for a program ended by this signal."""
        return 128 + self.number


def raise_on_signals() -> None:
    """Make SIGTERM, SIGHUP and SIGUSR1 raise Stopped in the main thread; SIGINT stays KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    for name in ("SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
