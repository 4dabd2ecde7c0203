"""Workers on this machine: processes that import torch once, load the data once and take one run after another.

The one rule: a worker that dies costs its run one attempt and nothing else; a parent that dies takes its workers with
it; the parent never imports torch.
"""

import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from bsexp.errors import BsexpError, MemoryExhausted, SetupError
from bsexp.sweep.queue import Event, Queue
from bsexp.sweep.signals import Stopped, StopSignals
from bsexp.sweep.tasks import Execution, Task

if TYPE_CHECKING:
    from bsexp.engine.loop import Training
    from bsexp.sweep.runner import Made

# A server imports torch once for all workers, and does nothing with it, so that its copies are like fresh processes.
CONTEXT = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else multiprocessing.get_context("spawn")
CONTEXT.set_forkserver_preload(["bsexp.sweep.runner", "torch._dynamo"])
LOOK_SECONDS = 0.2
TELL_SECONDS = 0.1
# What a terminal or a cluster sends to everybody is the parent's business.
IGNORED = [getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
GRACE_SECONDS = 3.0
STARTS = 20


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str
    index: int | None = None


class _Pool:
    """The workers, and what waits for them."""

    def __init__(self, tasks: Sequence[Task], devices: Sequence[str], execution: Execution) -> None:
        self.tasks, self.execution = tasks, execution
        self.queue = Queue(tasks)
        self.workers = [_start(device, execution) for device in devices[: len(tasks)]]

    def hand_out(self, worker: _Worker) -> Iterator[Event]:
        """Give `worker` the next task, if there is one that can be made."""
        taken = self.queue.take()
        worker.index = None if taken is None else taken.index
        if taken is not None:
            # A worker that has just died is noticed where it is listened to.
            with suppress(OSError):
                worker.pipe.send((self.tasks[taken.index], taken.wait))
            yield Event("started", taken.index)

    def hear(self, worker: _Worker) -> Iterator[Event]:
        """Take what `worker` says; raises the BsexpError that ends everything."""
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._replace(worker)
            return
        if kind == "refused":
            raise content
        assert worker.index is not None
        if kind == "busy":
            self.queue.busy(worker.index)
        elif kind == "progress":
            samples, total = content
            yield Event(kind, worker.index, samples / total)
            yield from self._release(worker.index, samples)
        else:
            yield Event(kind, worker.index, content)
        if kind in ("done", "failed"):
            yield from self._release(worker.index)
        if kind not in ("progress", "told"):
            yield from self.hand_out(worker)

    def _release(self, parent: int, samples: float = math.inf) -> Iterator[Event]:
        if self.queue.release(parent, samples):
            for worker in self.workers:
                if worker.index is None:
                    yield from self.hand_out(worker)

    def _replace(self, worker: _Worker) -> Iterator[Event]:
        """A worker is gone: another takes its place."""
        worker.process.join()
        index, code = worker.index, worker.process.exitcode
        assert index is not None
        event = self.queue.lost(index, f"signal {-code}" if code is not None and code < 0 else f"exit code {code}")
        yield event
        if event.kind == "failed":
            yield from self._release(index)
        fresh = _start(worker.device, self.execution)
        worker.process, worker.pipe = fresh.process, fresh.pipe
        yield from self.hand_out(worker)

    def stop(self) -> None:
        """End all workers: one without a task ends with its pipe, one that trains is told and clears up first."""
        for worker in self.workers:
            if worker.index is None:
                worker.pipe.close()
            else:
                worker.process.terminate()
        try:
            # As long as a checkpoint takes; a second signal ends the waiting.
            while any(worker.process.is_alive() for worker in self.workers):
                time.sleep(0.02)
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()


def run_local(
    tasks: Sequence[Task], devices: Sequence[str], execution: Execution, stop: StopSignals
) -> Generator[Event, None, None]:
    """Make all `tasks` with one worker per entry of `devices`, in the order given; yields what happens.

    An error that is the user's (BsexpError) ends everything and is raised here; any other failure costs its run only. A
    signal that `stop` hears ends the workers after their update, with checkpoints, and raises Stopped.
    """
    pool = _Pool(tasks, devices, execution)
    try:
        with stop.gentle():
            for worker in pool.workers:
                yield from pool.hand_out(worker)
            while at_work := {worker.pipe: worker for worker in pool.workers if worker.index is not None}:
                for pipe in wait(list(at_work), LOOK_SECONDS):
                    yield from pool.hear(at_work[pipe])  # type: ignore[index]
                if stop.requested is not None:
                    text = "stopping: runs in hand end after their update, with a checkpoint; again to stop at once"
                    yield Event("told", -1, (logging.INFO, text))
                stop.check()
    finally:
        pool.stop()


def _start(device: str, execution: Execution) -> _Worker:
    for tries in range(1, STARTS + 1):
        mine, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_work, args=(theirs, device, execution, dict(os.environ)), daemon=True)
        try:
            with ctrl_c_blocked(), imports_as_here():
                process.start()
            return _Worker(process, mine, device)
        except (ConnectionError, EOFError, RuntimeError) as error:
            # The server is dying at this moment; a worker that it had made already ends with its pipe.
            mine.close()
            if tries == STARTS:
                which = f"can't be started ({type(error).__name__})"
                raise SetupError("workers", which, "look for what ends processes here") from None
            time.sleep(0.2)
        finally:
            theirs.close()
    raise AssertionError("the last try returns or raises")


@contextmanager
def imports_as_here() -> Iterator[None]:
    """Python would have the server look first in the current folder, where a file may be called like a module."""
    ours = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ[name] for name in ours if name in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """A process started here never hears the terminal's Ctrl-C, not even while it imports: the parent answers it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, device: str, execution: Execution, environment: dict[str, str]) -> None:
    """A worker's life. The parent ends it with SIGTERM, or by dying."""
    threading.Thread(target=watch_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # Until here SIGTERM ends the process as it is: there is nothing to lose, and importing torch takes seconds.
    import bsexp.sweep.runner  # noqa: F401

    with suppress(EOFError, OSError, Stopped), StopSignals(("SIGTERM",)) as stop:
        _take_tasks(pipe, device, execution, stop)
    # All files are closed, and Python with torch takes seconds to take itself down.
    os._exit(0)


def watch_parent() -> None:
    """End this process when its parent has died: in good order, or after GRACE_SECONDS at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


class Teller(logging.Handler):
    """Sends what the library logs to the parent, which shows it."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send("told", (record.levelno, record.getMessage()))


def _take_tasks(pipe: Connection, device: str, execution: Execution, stop: StopSignals) -> None:
    from bsexp.engine.device import set_up
    from bsexp.sweep.runner import make_run

    def say(kind: str, content: Any) -> None:
        try:
            pipe.send((kind, content))
        except OSError:
            # Nobody listens any more: an end from outside, not a failure of the run.
            stop.request(signal.SIGTERM)

    told = 0.0

    def tell(training: "Training", row: object) -> None:
        # Somebody looks at a bar: a message for each of a small run's hundreds of rows would cost more than it tells.
        nonlocal told
        if (now := time.monotonic()) - told >= TELL_SECONDS:
            told = now
            say("progress", (training.samples, training.total_samples))

    logger = logging.getLogger("bsexp")
    logger.setLevel(logging.INFO)
    logger.addHandler(Teller(say))
    try:
        found = set_up(device, execution.threads, execution.deterministic, execution.keep_memory)
    except BsexpError as error:
        say("refused", error)
        return
    mine = execution.on(device, found)
    while True:
        while not pipe.poll(LOOK_SECONDS):
            stop.check()
        task, wait_for_it = pipe.recv()
        say(*answer(lambda: make_run(task, mine, tell, stop, wait_for_it)))  # noqa: B023
        stop.check()


def answer(make: Callable[[], "Made"]) -> tuple[str, Any]:
    """What came of a run, in the words of `Event`, or "busy", or "refused" with the error that ends the sweep."""
    from bsexp.sweep.runner import Busy

    try:
        return "done", make()
    except Busy:
        return "busy", None
    except MemoryExhausted as error:
        return "failed", str(error)
    except BsexpError as error:
        return "refused", error
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0]
