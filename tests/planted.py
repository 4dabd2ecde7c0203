"""Results folders made by hand, whose truth is known because it was put in. Nothing here was trained.

The one rule: a folder is what `report --pack` leaves, declared as a sweep declares it: the lock first, then the data.
"""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w

from bsexp.commands.report import main
from bsexp.records import EvalRow, StepRow, columns
from bsexp.store.lock import declaration, declare
from bsexp.store.paths import Experiment
from bsexp.store.tables import Results
from bsexp.sweep.tuning import COLUMNS
from tests.made_results import results

SEEDS = tuple(range(12))
POINT = 0.01
LR = 0.1
CLAIM = {"text": "a against b", "compare": ["a", "b"], "metric": "test_accuracy"}

# Twelve numbers with mean 0 and standard deviation 1, and the same in other orders: noise of single arms.
_RAISED = np.array([-1.6, 0.3, 1.1, -0.8, 0.1, 0.8, -0.3, 1.6, -1.1, 0.5, -0.1, -0.5])
NOISE = _RAISED / _RAISED.std(ddof=1)
OTHER, THIRD = NOISE[[5, 8, 0, 3, 11, 2, 9, 1, 7, 10, 4, 6]], NOISE[::-1]
# Luck that all arms of a seed share; pairing takes it out.
LUCK = 0.80 + 0.02 * NOISE[[3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 10, 11]]


def arm(shift: float, spread: float = 0.0, noise: np.ndarray = NOISE) -> tuple[float, ...]:
    """Test accuracies, one a seed: luck, `shift` points, and noise of its own with a standard deviation of `spread`
    points. Less an arm without noise, the mean is exactly `shift` and the standard deviation exactly `spread`.
    """
    return tuple((LUCK + POINT * (shift + spread * noise)).tolist())


@dataclass(frozen=True)
class Told:
    """What `bsexp report` made of a folder: --json, verdicts.csv and report.md."""

    document: dict[str, Any]
    verdicts: pd.DataFrame
    text: str

    def word(self, claim: int = 0) -> str:
        """The word of a claim in verdicts.csv, which report.json and the table in report.md must repeat."""
        row = self.verdicts.iloc[claim]
        word = str(row["verdict"])
        assert self.document["verdicts"][claim]["verdict"] == word
        assert self.document["claims"][claim]["verdict"] == word.partition(" ")[0].rstrip(",:")
        table = self.text.split("## Verdicts", 1)[1].split("\n\n", 2)[1]
        shown = next(line for line in table.split("\n") if line.startswith(f"| {claim + 1}. {row['claim']} |"))
        assert f": {word} |" in shown
        return word

    def number(self, column: str, claim: int = 0) -> float:
        """A number of verdicts.csv, which report.json must repeat."""
        value = float(self.verdicts.iloc[claim][column])
        assert self.document["verdicts"][claim][column] == pytest.approx(value, rel=1e-9)
        return value


def definition(
    accuracies: Mapping[str, Sequence[float]], claims: Sequence[Mapping[str, Any]], **changes: Any
) -> dict[str, Any]:
    """experiment.toml of arms that differ in their name: 400 samples of digits in tens. `changes`: its keys."""
    settings = {
        "schedule": "fixed-small",
        "dataset": "digits",
        "model": "mlp",
        "batch_size": 10,
        "epochs": 4.0,
        "warmup_epochs": 0.0,
        "weight_decay": 5e-4,
    }
    made = {
        "schema_version": 1,
        "name": "planted",
        "question": "Is it so?",
        "seeds": list(SEEDS),
        "arms": {name: dict(settings) for name in accuracies},
        "tune": {"lr": [LR / 2, LR, LR * 2], "seeds": [100, 101]},
        "claims": [{**CLAIM, **claim} for claim in claims],
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def plant(
    folder: Path,
    accuracies: Mapping[str, Sequence[float]],
    claims: Sequence[Mapping[str, Any]],
    *,
    status: dict[tuple[str, int], str] | None = None,
    missing: Sequence[tuple[str, int]] = (),
    place: str | None = "2 of 3",
    edit: Callable[[Results], None] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A packed folder of these arms and claims; what was declared. Each claim is completed by CLAIM.

    `status` and `missing`: of single runs. `place`: that of the chosen rate, .1, in every arm's grid; None: untuned.
    `edit` changes the frames before they are written, `changes` the keys of `definition`.
    """
    folder.mkdir(parents=True)
    if place is None:
        changes["tune"] = None
    asked = definition(accuracies, claims, **changes)
    (folder / "experiment.toml").write_text(tomli_w.dumps(asked))
    declare(Experiment(folder), declaration(asked))
    made = results({name: tuple(values) for name, values in accuracies.items()}, status)
    made.runs["total_shrink"] = 0.01
    made.steps["train_seconds"] = 0.001 * made.steps["step"]
    if edit:
        edit(made)
    gone = {f"{name}-{seed}" for name, seed in missing}
    runs, evals, steps = (frame[~frame["config_hash"].isin(gone)] for frame in (made.runs, made.evals, made.steps))
    runs.to_csv(folder / "runs.csv", index=False, lineterminator="\n")
    _zip(folder / "evals.csv.gz", evals[["arm", "seed", "lr", "config_hash", *columns(EvalRow)]])
    first = steps["seed"] == steps.groupby("arm")["seed"].transform("min")
    _zip(folder / "steps.csv.gz", steps[first][["arm", "seed", "config_hash", *columns(StepRow)]])
    (folder / "environments.json").write_text(json.dumps({"schema_version": 1, "environments": made.environments}))
    if place is not None:
        inherited = {*asked.get("rates", {}), *asked.get("variants", {})}
        write_tuning(folder, {name: (place, LR) for name in accuracies if name not in inherited})
    return asked


def write_tuning(folder: Path, chosen: Mapping[str, tuple[str, float]]) -> None:
    """tune.csv with a row for each arm's chosen rate and its place: `2 of 3`."""
    rows = [
        {
            "arm": name,
            "lr": lr,
            "seeds": "100 101",
            "val_loss": 0.5,
            "place": place,
            "chosen": True,
            "status": "finished",
        }
        for name, (place, lr) in chosen.items()
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "tune.csv", index=False, lineterminator="\n")


def _zip(path: Path, frame: pd.DataFrame) -> None:
    path.write_bytes(gzip.compress(frame.to_csv(index=False, lineterminator="\n").encode(), mtime=0))


def report(folder: Path, capsys: Any) -> Told:
    """`bsexp report FOLDER --json`, in this process, and the files that it wrote."""
    capsys.readouterr()
    assert main(str(folder), {"json": True, "quiet": True}) == 0
    document = json.loads(capsys.readouterr().out)
    written = folder / "report"
    return Told(document, pd.read_csv(written / "verdicts.csv"), (written / "report.md").read_text("utf-8"))
