"""Workers on this machine: processes that import torch once, load the data once and take one run after another.

The one rule: a worker that dies costs its run one attempt and nothing else; the parent never imports torch.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Literal

from bsexp.errors import BsexpError
from bsexp.sweep.signals import Stopped, raise_on_signals
from bsexp.sweep.tasks import Execution, Task

if TYPE_CHECKING:
    from bsexp.engine.loop import Training

ATTEMPTS = 3


@dataclass(frozen=True)
class Event:
    """What happened to task number `index`: `content` is the share done, a summary, or the reason of a failure."""

    kind: Literal["started", "progress", "done", "failed"]
    index: int
    content: Any = None


@dataclass(frozen=True)
class ProcessSettings:
    """What each worker settles before its first run: CPU threads (None: torch's choice), kernels, allocator."""

    threads: int | None
    deterministic: bool
    keep_memory: bool


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    index: int | None = None


def run_local(
    tasks: Sequence[Task], devices: Sequence[str], execution: Execution, settings: ProcessSettings
) -> Iterator[Event]:
    """Make all `tasks` with one worker per entry of `devices`, in the order given; yields what happens.

    An error that is the user's (BsexpError) ends everything and is raised here; any other failure costs its run only.
    """
    waiting = deque((index, 1) for index in range(len(tasks)))
    tries: dict[int, int] = {}
    workers: list[_Worker] = []
    try:
        for device in devices[: len(tasks)]:
            workers.append(_start(device, execution, settings))
        for worker in workers:
            yield from _hand_out(worker, waiting, tries, tasks)
        while any(worker.index is not None for worker in workers):
            for pipe in wait([worker.pipe for worker in workers if worker.index is not None]):
                number = next(k for k, worker in enumerate(workers) if worker.pipe is pipe)
                worker = workers[number]
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    yield from _bury(worker, waiting, tries)
                    workers[number] = worker = _start(devices[number], execution, settings)
                    yield from _hand_out(worker, waiting, tries, tasks)
                    continue
                if kind == "refused":
                    raise content
                assert worker.index is not None
                yield Event(kind, worker.index, content)
                if kind != "progress":
                    yield from _hand_out(worker, waiting, tries, tasks)
    finally:
        _stop(workers)


def _start(device: str, execution: Execution, settings: ProcessSettings) -> _Worker:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, device, execution, settings), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, mine)


def _hand_out(
    worker: _Worker, waiting: deque[tuple[int, int]], tries: dict[int, int], tasks: Sequence[Task]
) -> Iterator[Event]:
    worker.index = None
    if waiting:
        worker.index, tries[worker.index] = waiting.popleft()
        worker.pipe.send(tasks[worker.index])
        yield Event("started", worker.index)


def _bury(worker: _Worker, waiting: deque[tuple[int, int]], tries: dict[int, int]) -> Iterator[Event]:
    """A worker is gone: its run goes back, or has failed after ATTEMPTS tries."""
    worker.process.join()
    index = worker.index
    assert index is not None
    if tries[index] < ATTEMPTS:
        waiting.append((index, tries[index] + 1))
    else:
        yield Event("failed", index, f"its worker died {ATTEMPTS} times (exit code {worker.process.exitcode})")


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        # A worker that waits for a task ends when its pipe does; one that trains is told, and clears up first.
        if worker.index is None:
            worker.pipe.close()
        else:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(pipe: Connection, device: str, execution: Execution, settings: ProcessSettings) -> None:
    """A worker's life. The terminal's Ctrl-C is the parent's business; the parent ends workers with SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_on_signals()
    try:
        from bsexp.engine.device import set_up
        from bsexp.sweep.runner import make_run

        found = set_up(device, settings.threads, settings.deterministic, settings.keep_memory)
        mine = execution.on(device, found)

        def tell(training: "Training", row: object) -> None:
            try:
                pipe.send(("progress", training.samples / training.total_samples))
            except OSError:
                # Nobody listens any more: an end from outside, not a failure of the run.
                raise Stopped(signal.SIGTERM) from None

        while True:
            task = pipe.recv()
            try:
                summary = make_run(task, mine, tell)
                pipe.send(("done", summary))
            except BsexpError as error:
                pipe.send(("refused", error))
            except OSError:
                raise
            except Exception as error:
                pipe.send(("failed", f"{type(error).__name__}: {error}".splitlines()[0]))
    except (EOFError, OSError, Stopped):
        return
