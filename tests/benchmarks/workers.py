"""A candidate of a benchmark in a process of its own, which rests while the others are measured.

The one rule: what one candidate settles for its process (allocator, threads, imports) no other one gets.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

Run = Callable[[int], float]
"""Makes so many updates; the seconds that they took."""


class Candidate:
    """A process that prepares what `maker` (a function at the top of a module) returns, and runs it when asked."""

    def __init__(self, maker: Callable[..., Run]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # Not a daemon: a DataLoader has workers of its own.
        self._process = context.Process(target=_live, args=(theirs, maker))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Candidate":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join()

    def prepare(self, **arguments: Any) -> None:
        """Call the maker with `arguments`; what it made before is gone."""
        self._ask("prepare", arguments)

    def run(self, updates: int) -> float:
        """Seconds for `updates` updates."""
        return float(self._ask("run", updates))

    def calibrate(self, seconds: float, least: int = 2) -> int:
        """How many updates take about `seconds`, after a warm-up."""
        self.run(least)
        each = self.run(least) / least
        return max(least, round(seconds / each))

    def peak_memory(self) -> int:
        """Bytes of the process's largest resident size; where it has used a GPU, of that GPU's memory."""
        return int(self._ask("peak", None))

    def _ask(self, word: str, content: Any) -> Any:
        self._pipe.send((word, content))
        fine, answer = self._pipe.recv()
        if not fine:
            raise RuntimeError(answer)
        return answer


def _live(pipe: Any, maker: Callable[..., Run]) -> None:
    run: Run | None = None
    while True:
        try:
            word, content = pipe.recv()
        except EOFError:
            # At once: loaders and frameworks leave threads that would be waited for.
            os._exit(0)
        try:
            if word == "prepare":
                run = None
                run = maker(**content)
                pipe.send((True, None))
            elif word == "run":
                assert run is not None, "prepared first"
                pipe.send((True, run(content)))
            else:
                pipe.send((True, _peak()))
        except Exception:
            pipe.send((False, traceback.format_exc()))


def _peak() -> int:
    import resource
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
