"""The clock of training: seconds spent in updates, and nothing else.

The one rule: it stands still while anything else is done (evaluation, logging, saving), and before it is read the
device has finished what it was given.
"""

import time
from collections.abc import Callable


class Clock:
    """A stopwatch that goes on from `seconds`. `synchronize` waits for the device (CPU: nothing to wait for)."""

    def __init__(self, seconds: float = 0.0, synchronize: Callable[[], None] | None = None) -> None:
        self.seconds = seconds
        self.synchronize = synchronize
        self._since: float | None = None

    def start(self) -> None:
        """Go on. Does nothing on a running clock."""
        if self._since is None:
            if self.synchronize:
                self.synchronize()
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stand still, after waiting for the device. Does nothing on a standing clock."""
        if self._since is not None:
            if self.synchronize:
                self.synchronize()
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def pause(self) -> None:
        """Stand still where that costs nothing: without a device to wait for. Otherwise the clock goes on."""
        if self.synchronize is None:
            self.stop()
