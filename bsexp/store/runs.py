"""The folder of one run while it is written, and what is known of it afterwards.

The one rule: an attempt writes into a folder of its own; finishing moves its files into place, summary.json last.
"""

import io
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.errors import NewerSchema, StoreError
from bsexp.records import (
    SCHEMA_VERSION,
    SUMMARY_COLUMNS,
    DecisionRow,
    EvalRow,
    Outcome,
    StepRow,
    columns,
    eval_columns,
)
from bsexp.store.checkpoints import Checkpoint, Log, samples_of, write_checkpoint
from bsexp.store.files import (
    check_schema,
    csv_lines,
    csv_text,
    ensure_folder,
    leftovers,
    plain,
    read_json,
    sync,
    sync_all,
    usable,
    write_bytes,
    write_json,
)
from bsexp.store.lease import BEAT_SECONDS, Lease, Observer, beats, claim, leases
from bsexp.store.paths import RunFolder

if TYPE_CHECKING:
    from bsexp.config import RunConfig

# In environment.json: what the attempts before this one took.
EARLIER = "earlier_attempts_seconds"
# Rows as tuples, in the order of their columns: a run writes hundreds, and `asdict` would copy each cell.
STEP_VALUES, EVAL_VALUES, DECISION_VALUES = (attrgetter(*columns(row)) for row in (StepRow, EvalRow, DecisionRow))

log = logging.getLogger(__name__)


def claim_run(folder: RunFolder, observer: Observer) -> Lease | None:
    """The claim to make the run in `folder`, or None while another process makes it."""
    ensure_folder(folder.path)
    dead = leases(folder.path)
    lease = claim(folder.path, observer, above=folder.last_attempt)
    if lease is not None:
        for path in dead.values():
            log.warning("taking over from a process that is gone: %s", path)
    return lease


def remove_empty(folder: RunFolder) -> None:
    """Remove the run's folder and those above it, up to that of all results, as far as nothing is in them."""
    for path in (folder.path, *folder.path.parents[:3]):
        try:
            path.rmdir()
        except OSError:
            return


class RunWriter:
    """Writes one attempt of a run. Rows are kept until `flush`, which appends whole rows.

    `environment` is recorded. `wall_seconds` is what earlier attempts took, as far as is known.
    """

    def __init__(
        self, folder: RunFolder, lease: Lease, config: "RunConfig", arm: str, environment: Mapping[str, Any]
    ) -> None:
        self.folder, self.lease, self.config, self.arm = folder, lease, config, arm
        self.environment = dict(environment)
        self.steps: list[StepRow] = []
        self.evals: list[EvalRow] = []
        self.decisions: list[DecisionRow] = []
        self.attempt = folder.attempt(lease.number)
        self.wall_seconds = 0.0
        self._announced = False
        self._logs = {path.name: Log(path) for path in self.attempt.logs(config.closed_loop)}

    def begin(self, found: Checkpoint | None, logs: Mapping[str, bytes] | None = None) -> None:
        """Begin the attempt, as a copy of what belongs to `found` where the run goes on from a checkpoint.

        Without one it begins with `logs`, where another run has been written down so far. Earlier attempts are cleared
        away once this one holds all that is needed.
        """
        earlier = self.folder.attempts()
        self.wall_seconds = max(self._wall_of(earlier), found.meta["wall_seconds"] if found else 0.0)
        with usable(self.attempt.path):
            self.attempt.path.mkdir()
            if found is not None:
                self._copy(found)
            elif logs is not None:
                for name, content in logs.items():
                    self._logs[name].append(content)
            else:
                self._append(self.attempt.steps.name, csv_text(columns(StepRow), []))
                self._append(self.attempt.evals.name, csv_text(eval_columns(self.config.val_fraction), []))
                if self.config.closed_loop:
                    self._append(self.attempt.decisions.name, csv_text(columns(DecisionRow), []))
            self.folder.failure.unlink(missing_ok=True)
        self._announced = announce(self.folder, self.config, self.arm)
        self.environment |= {"attempts": self.lease.number, EARLIER: round(self.wall_seconds, 3)}
        write_json(self.attempt.config, config_document(self.config, self.arm), durable=False)
        write_json(self.attempt.environment, self.environment, durable=False)
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)
        for number, path in leases(self.folder.path).items():
            if number < self.lease.number:
                path.unlink(missing_ok=True)

    def _wall_of(self, earlier: list[Path]) -> float:
        """Seconds up to the death of the last of the `earlier` attempts, as far as its beats tell."""
        if not earlier:
            return 0.0
        try:
            before = float(read_json(RunFolder(earlier[-1]).environment)[EARLIER])
        except (StoreError, KeyError, TypeError, ValueError):
            before = 0.0
        lived = max(beats(path) for path in [*leases(self.folder.path).values()])
        return before + lived * BEAT_SECONDS

    def _copy(self, found: Checkpoint) -> None:
        """The logs cut back to the checkpoint, then the checkpoints: where one is, its logs are."""
        for name, content in found.logs.items():
            self._logs[name].append(content)
            sync(self._logs[name].path)
        for path in RunFolder(found.path.parent).checkpoints():
            if samples_of(path) <= samples_of(found.path):
                _link(path, self.attempt.path / path.name)
        sync(self.attempt.path)
        sync(self.folder.path)

    def flush(self) -> None:
        """Append the rows that came since the last call."""
        with usable(self.attempt.path):
            self._append(self.attempt.steps.name, csv_lines(map(STEP_VALUES, self.steps)))
            self._append(self.attempt.evals.name, csv_lines(map(EVAL_VALUES, self.evals)))
            self._append(self.attempt.decisions.name, csv_lines(map(DECISION_VALUES, self.decisions)))
        self.steps, self.evals, self.decisions = [], [], []

    def written(self) -> dict[str, bytes]:
        """The logs so far, by name."""
        self.flush()
        with usable(self.attempt.path):
            return {name: kept.path.read_bytes()[: kept.length] for name, kept in self._logs.items()}

    def save(self, samples: int, meta: Mapping[str, Any], payload: bytes) -> None:
        """Keep the state after `samples` samples, together with the rows up to it."""
        self.flush()
        with usable(self.attempt.path):
            sync_all(kept.path for kept in self._logs.values())
        extents = {name: kept.extent() for name, kept in self._logs.items()}
        write_checkpoint(self.attempt, samples, {**meta, "logs": extents}, payload)

    def finish(self, summary: dict[str, Any], predictions: dict[str, Any], weights: bytes | None = None) -> None:
        """Write what the end of the run brings and move everything into place. Harmless when done twice."""
        self.flush()
        if predictions:
            self._save_arrays(predictions)
        if weights is not None:
            write_bytes(self.attempt.weights, weights, durable=False)
        with usable(self.attempt.path):
            # Where the summary is, also in an attempt, all the rest is whole.
            sync_all(self.attempt.path.iterdir())
        write_json(self.attempt.summary, summary)
        publish(self.folder, self.attempt, self.lease)

    def leave(self) -> None:
        """End the attempt before the run is finished: what can be gone on from stays, anything else goes."""
        if not self.attempt.checkpoints():
            shutil.rmtree(self.attempt.path, ignore_errors=True)

    def withdraw(self) -> None:
        """End an attempt at a run that can't be: what it wrote goes, also that the run is planned."""
        self.leave()
        if self._announced and not self.folder.attempts():
            self.folder.config.unlink(missing_ok=True)

    def fail(self, reason: str, trace: str) -> None:
        """Record why the attempt failed."""
        record_failure(self.folder, reason, trace)
        self.leave()

    def _append(self, name: str, text: str) -> None:
        if text:
            self._logs[name].append(text.encode())

    def _save_arrays(self, arrays: dict[str, Any]) -> None:
        import numpy

        content = io.BytesIO()
        numpy.savez_compressed(content, **arrays)
        write_bytes(self.attempt.predictions, content.getvalue(), durable=False)


def publish(folder: RunFolder, attempt: RunFolder, lease: Lease) -> None:
    """Move the files of an attempt that has ended, its summary last, and clear everything else away.

    Harmless when done twice, or when another process died in the middle of it.
    """
    with usable(folder.path):
        # Where the run is made anew its files change: it isn't finished until all of them are the new ones.
        folder.summary.unlink(missing_ok=True)
        for path in sorted(attempt.path.iterdir()):
            if path != attempt.summary and not path.name.startswith((".", "checkpoint-")):
                os.replace(path, folder.path / path.name)
        sync(folder.path)
        # Before the summary is in place: nobody looks into a finished run again, so what a kill left there would stay.
        for path in folder.attempts():
            if path != attempt.path:
                shutil.rmtree(path, ignore_errors=True)
        for path in attempt.checkpoints():
            path.unlink(missing_ok=True)
        os.replace(attempt.summary, folder.summary)
        sync(folder.path)
        folder.failure.unlink(missing_ok=True)
        shutil.rmtree(attempt.path, ignore_errors=True)
        for number, path in leases(folder.path).items():
            if number != lease.number:
                path.unlink(missing_ok=True)
        for path in leftovers(folder.path):
            path.unlink(missing_ok=True)


def publish_ended(folder: RunFolder, lease: Lease) -> dict[str, Any] | None:
    """The summary of a run whose maker died after its end and before all its files were in place: now they are."""
    for path in reversed(folder.attempts()):
        attempt = RunFolder(path)
        summary = finished(attempt)
        if summary is not None:
            publish(folder, attempt, lease)
            return summary
    return None


def _link(old: Path, new: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)
        sync(new)


def config_document(config: "RunConfig", arm: str) -> dict[str, Any]:
    """The document of config.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "config_hash": config.hash,
        "arm": arm,
        "config": config.model_dump(),
    }


def announce(folder: RunFolder, config: "RunConfig", arm: str) -> bool:
    """A planned run is a folder with its config: whoever comes later knows what is waiting. False: it was known."""
    ensure_folder(folder.path)
    if folder.config.exists():
        return False
    # There may be thousands; one that a power cut damages is written again when its run is made.
    write_json(folder.config, config_document(config, arm), durable=False)
    return True


def record_failure(folder: RunFolder, reason: str, trace: str = "") -> None:
    """Write failure.json: why the latest attempt failed."""
    write_json(folder.failure, {"schema_version": SCHEMA_VERSION, "reason": reason, "trace": trace})


def summarise(
    experiment: str, arm: str, config: "RunConfig", max_batch: int, wall: float, outcome: Outcome
) -> dict[str, Any]:
    """The document of summary.json: SUMMARY_COLUMNS in order, with the schema version in front."""
    values = asdict(outcome) | {
        "experiment": experiment,
        "arm": arm,
        "max_batch": max_batch,
        "wall_seconds": wall,
        "config_hash": config.hash,
        **{
            name: getattr(config, name)
            for name in ("schedule", "dataset", "model", "seed", "lr", "batch_size", "epochs")
        },
    }
    return {"schema_version": SCHEMA_VERSION, **{name: plain(values[name]) for name in SUMMARY_COLUMNS}}


def read_summary(folder: RunFolder) -> dict[str, Any] | None:
    """The summary of a finished run, None for any other. StoreError for a damaged one, NewerSchema for a newer one."""
    if not folder.summary.exists():
        return None
    summary = read_json(folder.summary)
    check_schema(folder.summary, summary.get("schema_version"))
    missing = [name for name in SUMMARY_COLUMNS if name not in summary]
    if missing:
        cure = "delete the run's folder and run the sweep again"
        raise StoreError("results", f"{folder.summary}: {missing[0]!r} is missing", cure)
    return summary


def finished(folder: RunFolder) -> dict[str, Any] | None:
    """The summary of a finished run; None for any other, and, with a warning, for one whose summary is damaged.

    Raises NewerSchema.
    """
    try:
        return read_summary(folder)
    except NewerSchema:
        raise
    except StoreError as error:
        log.warning("damaged: %s: the run is made again", error.which)
        return None


def read_failure(folder: RunFolder) -> str | None:
    """Why the latest attempt of an unfinished run failed; None where it didn't."""
    return str(read_json(folder.failure).get("reason", "")) if folder.failure.exists() else None
