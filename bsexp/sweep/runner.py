"""One run from its config to its files.

The one rule: this is where the engine's records meet the store; neither knows of the other. Whatever ends the process,
the run's folder holds a state from which the next call goes on to the same bytes.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bsexp.config import RunConfig
from bsexp.data.sources import Images, load_images
from bsexp.data.splits import prepare
from bsexp.engine import checkpoint
from bsexp.engine.device import process_peak_memory
from bsexp.engine.loop import Training
from bsexp.errors import BsexpError, MemoryExhausted, UsageError
from bsexp.records import DecisionRow, EvalRow, StepRecord, StepRow
from bsexp.store.checkpoints import Checkpoint, newest
from bsexp.store.lease import Lease, Observer, holder
from bsexp.store.runs import RunWriter, claim_run, finished, publish_ended, remove_empty, summarise
from bsexp.sweep.beginnings import BEGINNING, Heirs, checkpoint_meta
from bsexp.sweep.changes import Surroundings, check_unchanged, settle
from bsexp.sweep.loggers import Guarded, TensorBoard
from bsexp.sweep.ranks import joined
from bsexp.sweep.signals import StopSignals
from bsexp.sweep.tasks import Execution, Task

Tell = Callable[[Training, StepRow | EvalRow], None]

log = logging.getLogger(__name__)


class Busy(Exception):  # noqa: N818
    """Another process makes the run."""


@dataclass(frozen=True)
class Made:
    """The summary of a finished run, and how many samples were trained for it by this call."""

    summary: dict[str, Any]
    samples: int


def make_run(task: Task, execution: Execution, tell: Tell, stop: StopSignals, wait: bool = True) -> Made:
    """Train one run, from its newest checkpoint if there is one, and store it. A finished one is only read.

    `tell` hears of every row. A signal that `stop` hears ends the training after the update: with a checkpoint, and
    with Stopped. While another process makes the run, this one waits for it, or, where `wait` is false, raises Busy.
    """
    while True:
        try:
            return _make_once(task, execution, tell, stop, wait)
        except _Superseded:
            if not wait:
                raise Busy from None


def _make_once(task: Task, execution: Execution, tell: Tell, stop: StopSignals, wait: bool) -> Made:
    with _claimed(task, stop, wait) as lease:
        if lease is None:
            summary = finished(task.folder)
            assert summary is not None, "a run without a claim is finished"
            return Made(summary, 0)
        attempt = _Attempt(task, execution, lease, tell, stop)
        try:
            with lease.beating():
                return attempt.make()
        except BaseException as error:
            attempt.end(error)
            if isinstance(error, BsexpError) and not lease.held():
                # What this process couldn't write any more was cleared away by the one that took over.
                raise _Superseded from None
            raise


@contextmanager
def _claimed(task: Task, stop: StopSignals, wait: bool) -> Iterator[Lease | None]:
    """The claim to make the run; None where it is finished."""
    observer = Observer()
    told = False
    while (lease := claim_run(task.folder, observer)) is None:
        if not task.anew and finished(task.folder) is not None:
            break
        if not wait:
            raise Busy
        if not told and (owner := holder(task.folder.path)):
            log.info("process %d makes this run: waiting for it (%s)", owner.pid, task.folder.path)
            told = True
        stop.check()
        time.sleep(0.2)
    if lease is None:
        yield None
        return
    try:
        yield None if not task.anew and finished(task.folder) is not None else lease
    finally:
        lease.release()
        # Refused before it was begun, for its data perhaps: then nothing was written.
        remove_empty(task.folder)


class _Superseded(Exception):  # noqa: N818
    """Another process has taken the run over, after this one stood still for too long."""


class _Attempt:
    """One attempt at a run, by the process that holds its claim."""

    def __init__(self, task: Task, execution: Execution, lease: Lease, tell: Tell, stop: StopSignals) -> None:
        self.task, self.execution, self.lease, self.tell, self.stop = task, execution, lease, tell, stop
        self.config = RunConfig(**task.config)
        self.began = time.perf_counter()
        self.writer: RunWriter | None = None
        self.training: Training | None = None
        self.surroundings: Surroundings
        self._beginning: dict[str, Any] | None = None
        self._saved_at, self._saved_samples = time.monotonic(), -1

    def make(self) -> Made:
        """Train from the newest checkpoint, or from the start, to the end."""
        if not self.task.anew and (summary := publish_ended(self.task.folder, self.lease)):
            return Made(summary, 0)
        images = _images(self.config.dataset, self.config.image_size)
        found = None if self.task.anew else newest(self.task.folder)
        device, self.surroundings = settle(self.config, self.execution, found)
        changed = check_unchanged(self.config, self.surroundings, found, self.execution.allow_changed)
        state = _state_of(found) if found else None
        environment = {**self.execution.environment, **self.surroundings.recorded()}
        if changed:
            environment["changed"] = changed
        self._beginning = found.meta.get(BEGINNING) if found else None
        if self._beginning:
            environment[BEGINNING] = self._beginning
        writer = self.writer = RunWriter(self.task.folder, self.lease, self.config, self.task.arm, environment)
        writer.begin(found)
        data = prepare(self.config, images)
        before = found.meta["samples"] if found else 0
        heirs = Heirs(self.task, before)
        self._saved_samples = before if found else -1
        if (nproc := self.surroundings.nproc) > 1:
            log.info("each batch is shared by %d processes, threads of each: %d", nproc, self.surroundings.threads)
        with joined(nproc, device, self._work(found)) as ranks:
            compile = self.surroundings.compile
            training = self.training = Training(
                self.config, state, data=data, device=device, riders=heirs.riders, compile=compile, ranks=ranks
            )
            if compile:
                _tell_compiled(training.compiled_sizes)
            heirs.watch(training)
            self._train(training, heirs, before)
        return Made(self._store(), training.samples - before)

    def _work(self, found: Checkpoint | None) -> dict[str, Any]:
        """What other ranks need to know."""
        return {
            "config": self.task.config,
            "state": found.payload if found else None,
            "threads": self.surroundings.threads,
            "deterministic": self.execution.deterministic,
            "keep_memory": self.execution.keep_memory,
        }

    def _train(self, training: Training, heirs: Heirs, before: int) -> None:
        writer = self.writer
        assert writer is not None
        with self.stop.gentle(), self._logger(before) as logger:
            for record in training:
                if isinstance(record, StepRecord):
                    heirs.after(training, writer, self.surroundings, self.execution.environment, self._wall())
                elif isinstance(record, StepRow):
                    writer.steps.append(record)
                elif isinstance(record, DecisionRow):
                    writer.decisions.append(record)
                elif isinstance(record, EvalRow):
                    writer.evals.append(record)
                    writer.flush()
                if isinstance(record, StepRow | EvalRow):
                    logger.row(record)
                    self.tell(training, record)
                self._between_records()

    def _logger(self, samples: int) -> AbstractContextManager[Guarded]:
        folder = self.task.folder.tensorboard
        return closing(Guarded((lambda: TensorBoard(folder, samples)) if self.execution.tensorboard else None))

    def _between_records(self) -> None:
        if self.lease.lost:
            raise _Superseded
        if self.stop.requested is not None:
            self._save()
            self.stop.check()
        elif time.monotonic() - self._saved_at >= self.execution.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        """Keep the state; outside the training clock, which `state` stops."""
        training, writer = self.training, self.writer
        assert training is not None
        assert writer is not None
        if training.samples != self._saved_samples:
            meta = checkpoint_meta(self.config, self.surroundings, training.samples, self._wall())
            if self._beginning:
                meta[BEGINNING] = self._beginning
            writer.save(training.samples, meta, checkpoint.to_bytes(training.state()))
            self._saved_samples = training.samples
        self._saved_at = time.monotonic()

    def _wall(self) -> float:
        assert self.writer is not None
        return self.writer.wall_seconds + time.perf_counter() - self.began

    def _store(self) -> dict[str, Any]:
        training, writer = self.training, self.writer
        assert training is not None
        assert writer is not None
        outcome = training.outcome
        assert outcome is not None, "an exhausted training has an outcome"
        summary = summarise(
            self.task.experiment, self.task.arm, self.config, self.task.max_batch, self._wall(), outcome
        )
        if summary["peak_memory_bytes"] is None and self.execution.alone:
            summary["peak_memory_bytes"] = process_peak_memory()
        arrays = {
            f"{which}_{name}": getattr(predictions, name).numpy()
            for which, predictions in training.predictions.items()
            for name in ("classes", "losses", "confidences")
        }
        if arrays:
            arrays["labels"] = training.test_labels.numpy()
        weights = checkpoint.to_bytes(training.model.state_dict()) if self.execution.save_model else None
        writer.finish(summary, arrays, weights)
        return summary

    def end(self, error: BaseException) -> None:
        """What stays of an attempt that didn't finish: its checkpoints and, for a failure of the run's own, why."""
        if self.writer is None:
            return
        if isinstance(error, UsageError):
            self.writer.withdraw()
            return
        own = not isinstance(error, BsexpError) or isinstance(error, MemoryExhausted)
        if isinstance(error, Exception) and own and not isinstance(error, _Superseded):
            self.writer.fail(f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())
        else:
            self.writer.leave()


def _tell_compiled(sizes: Sequence[int]) -> None:
    if sizes:
        log.debug("compiled for batches of %s; others are run as they are", ", ".join(map(str, sizes)))
    else:
        log.info("--compile: no batch size has enough of the samples to compile for; the run goes on without")


def _state_of(found: Checkpoint) -> dict[str, Any]:
    try:
        return checkpoint.from_bytes(found.payload)
    except BsexpError as error:
        raise error.within(str(found.path)) from None


@lru_cache(maxsize=2)
def _images(dataset: str, image_size: int | None) -> Images:
    return load_images(dataset, image_size)
