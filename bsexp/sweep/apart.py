"""One function in a process of its own: fresh, alone, and of no consequence to this one whatever becomes of it.

The one rule: what the function raises is raised here, a process that dies is an error with a name, and none is left
behind. The parent never imports torch.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from bsexp.errors import BsexpError, MemoryExhausted, RunsFailed
from bsexp.sweep.executors import ctrl_c_blocked, watch_parent

# Fresh ones: a copy of a server that has torch in it already would have that memory in its peak.
CONTEXT = multiprocessing.get_context("spawn")


def in_a_process(work: Callable[..., Any], *arguments: Any, which: str, cure: str, held: bool = False) -> Any:
    """What `work(*arguments)` returns in a fresh process; both are pickled, so `work` is a function of a module.

    `which` and `cure` go into errors. `held`: the process is held to a limit of memory, so that its death speaks of
    that: libraries abort, or exit, where they can't have any. Raises what `work` raises as a BsexpError,
    MemoryExhausted where memory ran out, and RunsFailed where the process died or failed otherwise.
    """
    mine, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(theirs, work, arguments), daemon=True)
    try:
        with ctrl_c_blocked():
            process.start()
        theirs.close()
        try:
            outcome, content = mine.recv()
        except EOFError:
            process.join()
            raise _died(process.exitcode or 0, which, cure, held) from None
    finally:
        mine.close()
        if process.pid:
            process.kill()
            process.join()
    if outcome == "done":
        return content
    if outcome == "refused":
        raise content
    if outcome == "exhausted":
        raise MemoryExhausted("out of memory", f"{which}: {content}", cure)
    raise RunsFailed("measure", f"{which}: {content}", "run it with --debug and report it")


def _died(code: int, which: str, cure: str, held: bool) -> BsexpError:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"died ({code})"
    # Linux ends with SIGKILL who takes the machine's last memory.
    if code == -9 or held:
        return MemoryExhausted("out of memory", f"{which}: its process {how}", cure)
    return RunsFailed("measure", f"{which}: its process {how}", cure)


def _answer(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=watch_parent, daemon=True).start()
    try:
        pipe.send(("done", work(*arguments)))
    except BsexpError as error:
        pipe.send(("refused", error))
    except Exception as error:
        pipe.send(("exhausted" if _exhausted(error) else "failed", f"{type(error).__name__}: {error}".splitlines()[0]))
    pipe.close()
    # Python with torch takes seconds to take itself down.
    os._exit(0)


def _exhausted(error: Exception) -> bool:
    """Whether memory ran out, elsewhere than in an update."""
    if isinstance(error, RuntimeError):
        from bsexp.engine.device import is_out_of_memory

        return is_out_of_memory(error)
    return isinstance(error, MemoryError)
