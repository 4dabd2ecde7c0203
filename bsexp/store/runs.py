"""The folder of one run while it is written, and what is known of it afterwards.

The one rule: an attempt writes into a folder of its own; finishing moves its files into place, summary.json last.
"""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.errors import StoreError
from bsexp.records import SCHEMA_VERSION, SUMMARY_COLUMNS, EvalRow, Outcome, StepRow, columns, eval_columns
from bsexp.store.files import csv_text, ensure_folder, plain, read_json, usable, write_bytes, write_json
from bsexp.store.paths import RunFolder

if TYPE_CHECKING:
    from bsexp.config import RunConfig


class RunWriter:
    """Writes one attempt of a run. Rows are kept until `flush`, which appends whole rows."""

    def __init__(self, folder: RunFolder, config: "RunConfig", arm: str, environment: dict[str, Any]) -> None:
        self.folder, self.config, self.arm, self.environment = folder, config, arm, environment
        self.steps: list[StepRow] = []
        self.evals: list[EvalRow] = []
        self.attempt: RunFolder

    def open(self) -> None:
        """Begin: from here on there is something to `abandon`."""
        config, arm, environment = self.config, self.arm, self.environment
        ensure_folder(self.folder.path)
        self._make_attempt()
        document = {
            "schema_version": SCHEMA_VERSION,
            "config_hash": config.hash,
            "arm": arm,
            "config": config.model_dump(),
        }
        write_json(self.attempt.config, document)
        write_json(self.attempt.environment, environment)
        self._append(self.attempt.steps, csv_text(columns(StepRow), []))
        self._append(self.attempt.evals, csv_text(eval_columns(config.val_fraction), []))

    def _make_attempt(self) -> None:
        """A fresh folder attempt-<n>; attempts that others left behind are cleared when the run is finished."""
        number = max((int(path.name.partition("-")[2]) for path in self.folder.attempts()), default=0) + 1
        # Named before it is made: a signal that arrives while the system makes it still finds what to clear up.
        self.attempt = RunFolder(self.folder.path / f"attempt-{number}")
        with usable(self.attempt.path):
            try:
                self.attempt.path.mkdir()
            except FileExistsError:
                del self.attempt
                self._make_attempt()

    def flush(self) -> None:
        """Append the rows that came since the last call."""
        self._append(self.attempt.steps, csv_text(columns(StepRow), map(asdict, self.steps), header=False))
        names = eval_columns(self.config.val_fraction)
        rows = [dict(zip(names, asdict(row).values(), strict=True)) for row in self.evals]
        self._append(self.attempt.evals, csv_text(names, rows, header=False))
        self.steps, self.evals = [], []

    def finish(self, summary: dict[str, Any], predictions: dict[str, Any], weights: bytes | None = None) -> None:
        """Write what the end of the run brings and move everything into place. Harmless when done twice."""
        self.flush()
        if predictions:
            self._save_arrays(predictions)
        if weights is not None:
            write_bytes(self.attempt.weights, weights)
        write_json(self.attempt.summary, summary)
        with usable(self.folder.path):
            for name in sorted(os.listdir(self.attempt.path), key=lambda name: name == "summary.json"):
                os.replace(self.attempt.path / name, self.folder.path / name)
            self.folder.failure.unlink(missing_ok=True)
            for path in self.folder.attempts():
                shutil.rmtree(path, ignore_errors=True)

    def abandon(self) -> None:
        """Leave nothing of this attempt, if it was begun at all."""
        if not hasattr(self, "attempt"):
            return
        shutil.rmtree(self.attempt.path, ignore_errors=True)
        if self.folder.path.is_dir() and not os.listdir(self.folder.path):
            self.folder.path.rmdir()

    def fail(self, reason: str, trace: str) -> None:
        """Record why the attempt failed and leave nothing else of it."""
        write_json(self.folder.failure, {"schema_version": SCHEMA_VERSION, "reason": reason, "trace": trace})
        shutil.rmtree(self.attempt.path, ignore_errors=True)

    def _append(self, path: Path, text: str) -> None:
        with usable(path), open(path, "a", encoding="utf-8", newline="") as file:
            file.write(text)

    def _save_arrays(self, arrays: dict[str, Any]) -> None:
        import io

        import numpy

        content = io.BytesIO()
        numpy.savez_compressed(content, **arrays)
        write_bytes(self.attempt.predictions, content.getvalue())


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
    """The summary of a finished run, None for any other. StoreError for a damaged or newer one."""
    if not folder.summary.exists():
        return None
    summary = read_json(folder.summary)
    version = summary.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StoreError(
            "results", f"{folder.summary}: schema version {version!r}", f"this bsexp reads up to {SCHEMA_VERSION}"
        )
    return summary


def read_failure(folder: RunFolder) -> str | None:
    """Why the latest attempt of an unfinished run failed; None where it didn't."""
    return str(read_json(folder.failure).get("reason", "")) if folder.failure.exists() else None
