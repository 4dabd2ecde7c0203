"""Runs as tasks of a Ray cluster: one task for each run, its beginning shared where it has one.

The one rule: Ray says where a run is made and nothing else. Claims, checkpoints, attempts and what is finished are in
the results folder; a node that is lost costs its runs one attempt.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.errors import BsexpError, RunsFailed, StoreError
from bsexp.store.paths import RunFolder
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.executors import IGNORED, Teller, answer
from bsexp.sweep.queue import Event, Queue
from bsexp.sweep.ray_nodes import Cluster
from bsexp.sweep.signals import Stopped, StopSignals
from bsexp.sweep.tasks import Execution, Task

if TYPE_CHECKING:
    from bsexp.engine.loop import Training

LOOK_SECONDS = 0.2
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Place:
    """What a task needs of the machine that the sweep was started on: its current folder, where it looks for modules,
    its environment."""

    cwd: str
    path: tuple[str, ...]
    environment: dict[str, str]
    token: Path

    @classmethod
    def here(cls, token: Path) -> "Place":
        """That of this process."""
        ours = {name: value for name, value in os.environ.items() if name.startswith("BSEXP_")}
        return cls(str(Path.cwd()), tuple(sys.path), ours, token)

    def settle(self) -> None:
        """Take it over, as far as this machine has it. Raises StoreError where the results folder isn't shared."""
        if not self.token.exists():
            which = f"{self.token.parent} isn't the same on node {node_name()}"
            raise StoreError("results folder", which, "choose an --out on a disk that all nodes have at the same path")
        if os.path.isdir(self.cwd):
            os.chdir(self.cwd)
        sys.path += [entry for entry in self.path if entry not in sys.path]
        os.environ.update(self.environment)


@dataclass
class Board:
    """Where tasks tell how far they are, and hear whether to stop. An actor: one of it, in a process of its own."""

    news: dict[int, tuple[int, int]] = field(default_factory=dict)
    told: list[tuple[int, tuple[int, str]]] = field(default_factory=list)
    stopping: bool = False

    def report(self, index: int, samples: int, total: int, told: Sequence[tuple[int, str]]) -> bool:
        """A task has come to `samples` of `total`; whether it is to stop."""
        self.news[index] = samples, total
        self.told += [(index, message) for message in told]
        return self.stopping

    def take(self) -> tuple[dict[int, tuple[int, int]], list[tuple[int, tuple[int, str]]]]:
        """What was reported since the last time."""
        news, told = self.news, self.told
        self.news, self.told = {}, []
        return news, told

    def stop(self) -> None:
        """All tasks are to stop after their update."""
        self.stopping = True


def run_ray(
    tasks: Sequence[Task],
    cluster: Cluster,
    limit: int,
    cpus: int,
    per_gpu: int | None,
    execution: Execution,
    stop: StopSignals,
) -> Generator[Event, None, None]:
    """Make all `tasks`, at most `limit` at a time, each with `cpus` cores or its share of a GPU; yields what happens.

    As `run_local` does: a BsexpError ends everything, other failures cost their run only, a signal ends the tasks after
    their update.
    """
    pool = _Pool(tasks, cluster, limit, cpus, per_gpu, execution)
    try:
        with stop.gentle():
            while pool.submit():
                yield from pool.look()
                if stop.requested is not None:
                    text = "stopping: runs in hand end after their update, with a checkpoint; again to stop at once"
                    yield Event("told", -1, (logging.INFO, text))
                stop.check()
    finally:
        pool.end()


class _Pool:
    """The tasks that are in Ray's hands."""

    def __init__(
        self,
        tasks: Sequence[Task],
        cluster: Cluster,
        limit: int,
        cpus: int,
        per_gpu: int | None,
        execution: Execution,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.ray = ray
        self.tasks = [_absolute(task) for task in tasks]
        self.queue, self.limit = Queue(tasks), limit
        self.execution = replace(execution, device="cuda" if cluster.on_gpu else execution.device)
        self.place = Place.here(cluster.token)
        # A worker that has imported torch is used again, also on a GPU, which Ray would otherwise end it for.
        share = {"num_cpus": 0, "num_gpus": 1 / (per_gpu or 1)} if cluster.on_gpu else {"num_cpus": cpus}
        self.remote = ray.remote(max_retries=0, max_calls=0, **share)(_make)
        # Beside the sweep: it ends with it, and with no other node.
        near = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=near).remote()
        self.running: dict[Any, int] = {}
        self.begun: set[int] = set()

    def submit(self) -> bool:
        """Hand over what can be made now; whether anything is being made."""
        while len(self.running) < self.limit and (taken := self.queue.take()) is not None:
            task = self.tasks[taken.index]
            named = self.remote.options(name=f"bsexp {task.folder.path.name}")
            reference = named.remote(task, taken.index, taken.wait, self.execution, self.place, self.board)
            self.running[reference] = taken.index
        return bool(self.running)

    def look(self) -> Iterator[Event]:
        """What has happened meanwhile; raises the BsexpError that ends everything."""
        done, _ = self.ray.wait(list(self.running), timeout=LOOK_SECONDS)
        news: dict[int, tuple[int, int]] = {}
        told: list[tuple[int, tuple[int, str]]] = []
        try:
            news, told = self.ray.get(self.board.take.remote())
        except self.ray.exceptions.ActorUnavailableError:
            # For now: what is reported meanwhile is reported again.
            pass
        except self.ray.exceptions.RayError as error:
            cure = "run the same command again: it goes on"
            raise RunsFailed("ray", f"the cluster is gone ({type(error).__name__})", cure) from None
        for index, message in told:
            yield Event("told", index, message)
        for index, (samples, total) in news.items():
            if index not in self.running.values():
                continue
            yield from self._begin(index)
            yield Event("progress", index, samples / total)
            self.queue.release(index, samples)
        for reference in done:
            yield from self._hear(reference, self.running.pop(reference))

    def _begin(self, index: int) -> Iterator[Event]:
        if index not in self.begun:
            self.begun.add(index)
            yield Event("started", index)

    def _hear(self, reference: Any, index: int) -> Iterator[Event]:
        try:
            kind, content, told = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            yield from self._begin(index)
            event = self.queue.lost(index, type(error).__name__)
            yield event
            kind, content, told = event.kind, None, []
        else:
            for message in told:
                yield Event("told", index, message)
            if kind == "refused":
                raise content
            if kind in ("done", "failed"):
                yield from self._begin(index)
                yield Event(kind, index, content)
        if kind == "busy":
            self.queue.busy(index)
        elif kind in ("done", "failed"):
            self.queue.release(index)

    def end(self) -> None:
        """End what is in Ray's hands: what hasn't begun is taken back, what trains is told and clears up first."""
        ray = self.ray
        try:
            with suppress(ray.exceptions.RayError):
                ray.get(self.board.stop.remote())
            for reference, index in self.running.items():
                if index not in self.begun:
                    ray.cancel(reference)
            # As long as a checkpoint takes; a second signal ends the waiting.
            ray.wait(list(self.running), num_returns=len(self.running)) if self.running else None
        finally:
            for reference in self.running:
                with suppress(Exception):
                    ray.cancel(reference, force=True)
            ray.kill(self.board)


def _absolute(task: Task) -> Task:
    """The same wherever it is made: with absolute paths."""
    folder = RunFolder(task.folder.path.resolve())
    heirs = tuple((samples, _absolute(heir)) for samples, heir in task.heirs)
    return replace(task, folder=folder, heirs=heirs)


# -- in a process of Ray's, somewhere


def node_name() -> str:
    """What the machine calls itself."""
    return socket.gethostname()


class _Link(threading.Thread):
    """Tells the board how far a task is, and the task when it is to stop."""

    def __init__(self, board: Any, index: int, stop: StopSignals) -> None:
        super().__init__(daemon=True)
        self.board, self.index, self.stop_signals = board, index, stop
        self.samples, self.total = 0, 1
        self.told: list[tuple[int, str]] = []
        self.over = threading.Event()

    def say(self, kind: str, content: Any) -> None:
        """A message of the library's for whoever looks on."""
        self.told.append(content)

    def run(self) -> None:
        """Until the task is over."""
        import ray

        while not self.over.wait(REPORT_SECONDS):
            told, self.told = self.told, []
            try:
                stopping = ray.get(self.board.report.remote(self.index, self.samples, self.total, told))
            except ray.exceptions.RayError:
                # Nobody listens any more.
                stopping = True
            if stopping:
                self.stop_signals.request(signal.SIGTERM)


def _make(
    task: Task, index: int, wait: bool, execution: Execution, place: Place, board: Any
) -> tuple[str, Any, list[tuple[int, str]]]:
    """Make a run; what came of it, in the words of `Event`, "busy", "stopped", or "refused" with the error.

    And what is still to be told.
    """
    for number in IGNORED:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
    stop = StopSignals(())
    link = _Link(board, index, stop)
    link.start()
    logger = logging.getLogger("bsexp")
    logger.setLevel(logging.INFO)
    teller = Teller(link.say)
    logger.addHandler(teller)
    try:
        with stop.gentle():
            kind, content = _made(task, wait, execution, place, link, stop)
    except Stopped:
        kind, content = "stopped", None
    except BsexpError as error:
        kind, content = "refused", error
    finally:
        logger.removeHandler(teller)
        link.over.set()
        link.join()
    return kind, content, link.told


def _made(
    task: Task, wait: bool, execution: Execution, place: Place, link: _Link, stop: StopSignals
) -> tuple[str, Any]:
    place.settle()
    # Ray's worker may be told to use one thread for each core that the task has: what counts is ours.
    from bsexp.engine.device import set_up
    from bsexp.sweep.runner import make_run

    found = set_up(execution.device, execution.threads, execution.deterministic, execution.keep_memory)
    # The commit is that of the folder in which the sweep was started.
    machine = {name: value for name, value in describe_machine().items() if name != "commit"}
    mine = replace(execution, environment={**execution.environment, **machine}).on(execution.device, found)

    def tell(training: "Training", row: object) -> None:
        link.samples, link.total = training.samples, training.total_samples

    return answer(lambda: make_run(task, mine, tell, stop, wait))
