"""Handing a beginning on: what one run has trained becomes the first attempt of each of its heirs.

The one rule: an heir's folder is left as if it had been stopped there, with a checkpoint; going on from it is what
going on always is. Where that can't be done, because somebody else is making the heir, nothing is: it is trained alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bsexp.config import RunConfig
from bsexp.engine import checkpoint
from bsexp.engine.ledger import Ledger
from bsexp.engine.loop import Training
from bsexp.records import StepRow
from bsexp.store.checkpoints import samples_of
from bsexp.store.lease import Observer
from bsexp.store.paths import RunFolder
from bsexp.store.runs import RunWriter, claim_run, finished
from bsexp.sweep.changes import Surroundings, code_hash
from bsexp.sweep.tasks import Task

# In environment.json, and in each checkpoint: from which run, and how many samples.
BEGINNING = "beginning"


class Heirs:
    """The runs that go on from what `task` trains. Those with another budget are written down from the start on."""

    def __init__(self, task: Task, before: int) -> None:
        self.task = task
        self._left = [(samples, RunConfig(**heir.config), heir) for samples, heir in task.heirs if samples > before]
        self._ledgers: dict[str, Ledger] = {}
        if before:
            # What they would have written down so far is not known any more.
            self._left = [entry for entry in self._left if not self._rides(entry[1])]

    def _rides(self, config: RunConfig) -> bool:
        return config.epochs != self.task.config["epochs"]

    @property
    def riders(self) -> list[RunConfig]:
        """Those that have to be written down from the start on."""
        return [config for _, config, _ in self._left if self._rides(config)]

    def watch(self, training: Training) -> None:
        """Take the ledgers of `riders` from the training."""
        self._ledgers = {ledger.config.hash: ledger for ledger in training.riders}

    def after(
        self, training: Training, writer: RunWriter, made_by: Surroundings, environment: Mapping[str, Any], wall: float
    ) -> None:
        """To be called after each update: whoever goes on from here gets its beginning."""
        while self._left and self._left[0][0] <= training.samples:
            samples, config, heir = self._left.pop(0)
            ledger = self._ledgers.pop(config.hash, None)
            if ledger is not None:
                training.riders.remove(ledger)
            if samples == training.samples and not (ledger and ledger.failure):
                mine = replace(made_by, code=code_hash(config.model, config.schedule))
                told = {"run": self.task.folder.path.name, "samples": samples}
                meta = checkpoint_meta(config, mine, samples, wall) | {BEGINNING: told}
                _hand_on(training, writer, ledger, heir, config, meta, {**environment, **mine.recorded()})


def checkpoint_meta(config: RunConfig, made_by: Surroundings, samples: int, wall: float) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {
        "samples": samples,
        "config_hash": config.hash,
        "config": config.model_dump(),
        "made_by": made_by.recorded(),
        "wall_seconds": wall,
    }


def _hand_on(
    training: Training,
    own: RunWriter,
    ledger: Ledger | None,
    heir: Task,
    config: RunConfig,
    meta: dict[str, Any],
    environment: dict[str, Any],
) -> None:
    lease = claim_run(heir.folder, Observer())
    if lease is None:
        return
    try:
        if finished(heir.folder) is not None or _progress(heir.folder) >= training.samples:
            return
        writer = RunWriter(heir.folder, lease, config, heir.arm, environment | {BEGINNING: meta[BEGINNING]})
        if ledger is None:
            writer.begin(None, own.written())
        else:
            writer.begin(None)
            for row in ledger.queue:
                if isinstance(row, StepRow):
                    writer.steps.append(row)
                else:
                    writer.evals.append(row)  # type: ignore[arg-type]
            ledger.queue.clear()
        state = training.state(ledger) | {"config_hash": config.hash}
        writer.save(training.samples, meta, checkpoint.to_bytes(state))
        writer.leave()
    finally:
        lease.release()


def _progress(folder: RunFolder) -> int:
    """The samples up to which a run has been trained already."""
    paths = [path for attempt in folder.attempts() for path in RunFolder(attempt).checkpoints()]
    return max(map(samples_of, paths), default=0)
