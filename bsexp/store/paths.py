"""File names: the only place that knows how a results folder is laid out.

The one rule: nothing outside `store` joins a path below a results folder.
"""

import re
from dataclasses import dataclass
from pathlib import Path


def slug(text: str) -> str:
    """`text` as part of a file name: letters, digits, dot, underscore, equals sign and dash."""
    return re.sub(r"[^A-Za-z0-9._=]+", "-", text).strip("-") or "x"


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """What is called NAME-<number>, by number."""
    found = (path for path in folder.glob(pattern) if path.stem.partition("-")[2].isdigit())
    return sorted(found, key=_number)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: results/<name>/runs/<arm>-lr<lr>-s<seed>-<hash8>."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def steps(self) -> Path:
        return self.path / "steps.csv"

    @property
    def evals(self) -> Path:
        return self.path / "evals.csv"

    @property
    def decisions(self) -> Path:
        """Only where the schedule decides along the run."""
        return self.path / "decisions.csv"

    @property
    def predictions(self) -> Path:
        return self.path / "test_predictions.npz"

    @property
    def weights(self) -> Path:
        return self.path / "model.pt"

    @property
    def summary(self) -> Path:
        """Renamed into place last: where it is, the run is finished."""
        return self.path / "summary.json"

    @property
    def failure(self) -> Path:
        """Why the latest attempt failed; removed by the next one."""
        return self.path / "failure.json"

    @property
    def tensorboard(self) -> Path:
        """A folder of TensorBoard's, where that was asked for: all attempts' rows."""
        return self.path / "tensorboard"

    def logs(self, closed_loop: bool) -> tuple[Path, ...]:
        """The files that grow while the run is made."""
        return (self.steps, self.evals, self.decisions) if closed_loop else (self.steps, self.evals)

    def checkpoint(self, samples: int) -> Path:
        """Where the state after `samples` samples is kept, in an attempt's folder."""
        return self.path / f"checkpoint-{samples}.pt"

    def checkpoints(self) -> list[Path]:
        """The checkpoints in an attempt's folder, oldest first."""
        return _numbered(self.path, "checkpoint-*.pt")

    def attempt(self, number: int) -> "RunFolder":
        """The folder of one attempt: what is written until the run is finished."""
        return RunFolder(self.path / f"attempt-{number}")

    def attempts(self) -> list[Path]:
        """The folders of unfinished attempts, oldest first."""
        return _numbered(self.path, "attempt-*")

    def last_attempt(self) -> int:
        """The number of the latest attempt, 0 where there is none."""
        return max((_number(path) for path in self.attempts()), default=0)


@dataclass(frozen=True)
class Experiment:
    """The folder of one experiment: results/<name>."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def title(self) -> str:
        """The name as a document can hold it: a folder's may have line ends in it, and bytes that are no UTF-8."""
        signs = (sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in self.name)
        return "".join(signs)

    @property
    def definition(self) -> Path:
        return self.path / "experiment.toml"

    @property
    def claims_lock(self) -> Path:
        """What was claimed before the data; only where something was."""
        return self.path / "claims.lock"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def runs_table(self) -> Path:
        return self.path / "runs.csv"

    @property
    def evals_table(self) -> Path:
        """Only in a packed folder."""
        return self.path / "evals.csv.gz"

    @property
    def steps_table(self) -> Path:
        """Only in a packed folder: one seed per arm."""
        return self.path / "steps.csv.gz"

    @property
    def decisions_table(self) -> Path:
        """Only in a packed folder, and only where something was decided along the runs."""
        return self.path / "decisions.csv.gz"

    @property
    def predictions(self) -> Path:
        """Only in a packed folder."""
        return self.path / "test_predictions.npz"

    @property
    def environments(self) -> Path:
        """Only in a packed folder."""
        return self.path / "environments.json"

    @property
    def tuning(self) -> "Experiment":
        """The tuning runs, kept apart from the reported ones."""
        return Experiment(self.path / "tune")

    @property
    def tuning_table(self) -> Path:
        return self.path / "tune.csv"

    @property
    def inspected(self) -> Path:
        """What was measured of finished runs afterwards; only where that was asked for."""
        return self.path / "inspected.csv"

    @property
    def hardware(self) -> Path:
        """Seconds per update by batch size, where they were measured or put."""
        return self.path / "hardware.csv"

    def find_lr(self, ending: str) -> Path:
        """The files of a range test: its rows (csv), what it was made with and found (json), its figure (png, svg)."""
        return self.path / f"find_lr.{ending}"

    def find_batch(self, ending: str) -> Path:
        """The files of a search for batch sizes: its rows (csv), what it was made with and found (json)."""
        return self.path / f"find_batch.{ending}"

    @property
    def gradients(self) -> Path:
        """Errors of batches' gradients, where they were measured."""
        return self.path / "gradient.csv"

    @property
    def critical(self) -> Path:
        """Branches for the critical batch, where they were made."""
        return self.path / "critical.csv"

    @property
    def trials(self) -> Path:
        """Trainings that advice rests on, where some was asked for."""
        return self.path / "trials.csv"

    def advice(self, ending: str) -> Path:
        """The files of an advice: all of it (json), its figure (png, svg)."""
        return self.path / f"advice.{ending}"

    @property
    def verify(self) -> Path:
        """The experiment that would settle what an advice says."""
        return self.path / "verify.toml"

    @property
    def trunks(self) -> Path:
        """States that branches go on from, as long as some are to be made."""
        return self.path / "trunks"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def run(self, arm: str, lr: float, seed: int, config_hash: str) -> RunFolder:
        """The folder of a run of this experiment."""
        return RunFolder(self.runs / f"{slug(arm)}-lr{lr:g}-s{seed}-{config_hash[:8]}")

    def run_folders(self) -> list[RunFolder]:
        """All folders of runs, by name."""
        return [RunFolder(path) for path in sorted(self.runs.glob("*")) if path.is_dir()]

    @property
    def has_runs(self) -> bool:
        """Whether folders of runs stand here; `results` itself has none, though an experiment in it is called runs."""
        return self.runs.is_dir() and not (self.runs / "runs").is_dir()

    @property
    def packed(self) -> bool:
        """Whether the CSVs of all runs stand here instead of the runs' folders."""
        return self.evals_table.exists() and not self.has_runs


def about_table(table: Path) -> Path:
    """What a measured table was measured with, beside it: hardware.json for hardware.csv."""
    return table.with_suffix(".json")
