"""The numbers of a report as data frames: one row per arm, and one row per arm and outcome for paired differences.

The one rule: accuracies are shares in [0, 1] and losses nats; an empty cell means "not measured" or, for an interval,
"one run only". Means are over finished runs.
"""

from dataclasses import fields
from typing import Any

import pandas as pd

from bsexp.analysis.paired import Estimate, mean_interval, paired_difference
from bsexp.report.groups import Group

OUTCOMES = ("test_accuracy", "test_loss", "test_accuracy_ema", "test_loss_ema")
AVERAGED = (*OUTCOMES, "train_accuracy", "train_loss", "memorised", "generalization_gap", "val_accuracy", "val_loss")
STATES = ("finished", "collapsed", "diverged", "failed", "oom")
ARM_COLUMNS: tuple[str, ...] = (
    *("dataset", "model", "arm", "schedule", "lr", "batch_size_first", "batch_size_last", "updates", "samples"),
    *("train_seconds", "num_seeds", *STATES),
    *(f"{name}{part}" for name in AVERAGED for part in ("", "_low", "_high")),
)
DIFFERENCE_COLUMNS = (
    *("dataset", "model", "arm", "reference", "outcome"),
    *(field.name.replace("mean", "difference").replace("num", "num_pairs") for field in fields(Estimate)),
)


def arm_frame(groups: list[Group], arms: list[str]) -> pd.DataFrame:
    """One row per arm with ARM_COLUMNS; without any run one row for each of `arms`, counts 0.

    `updates`, `samples` and `train_seconds` are medians over finished runs.
    """
    rows = [_arm_row(group, label) for group in groups for label in group.labels]
    if not groups:
        rows = [{"arm": arm, "num_seeds": 0, **dict.fromkeys(STATES, 0)} for arm in arms]
    return pd.DataFrame(rows, columns=list(ARM_COLUMNS))


def _arm_row(group: Group, label: str) -> dict[str, Any]:
    runs = group.runs[group.runs["label"] == label]
    done = runs[runs["status"] == "finished"]
    row: dict[str, Any] = {"dataset": group.dataset, "model": group.model, "arm": label}
    settings = group.settings[label]
    row["schedule"] = runs["schedule"].iloc[0] if len(runs) else settings.get("schedule", "")
    row["lr"] = runs["lr"].iloc[0] if len(runs) else settings.get("lr")
    row["batch_size_first"], row["batch_size_last"] = batch_range(group, label)
    for name in ("updates", "samples", "train_seconds"):
        row[name] = done[name].median() if done[name].notna().any() else None
    row["num_seeds"] = runs["seed"].nunique()
    row |= {state: int((runs["status"] == state).sum()) for state in STATES}
    for name in AVERAGED:
        estimate = outcome(done, name)
        if estimate is not None:
            row |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row


def outcome(done: pd.DataFrame, name: str) -> Estimate | None:
    """The mean over finished runs of one column of their summaries; None where it was not measured."""
    return mean_interval(done[name].astype(float)) if name in done else None


def trace(group: Group, label: str) -> pd.DataFrame:
    """The rows of steps.csv of one run of an arm: its first finished seed, else its first seed; may be empty."""
    steps = group.steps[group.steps["label"] == label]
    if not len(steps):
        return steps
    finished = steps[steps["config_hash"].isin(group.finished["config_hash"])]
    steps = finished if len(finished) else steps
    return steps[steps["seed"] == steps["seed"].min()].sort_values("step")


def batch_range(group: Group, label: str) -> tuple[float | None, float | None]:
    """The first and last batch size of an arm as trained; the last two updates share what remained and don't count."""
    steps = trace(group, label)
    if len(steps):
        sizes = steps["batch_size"].to_list()
        last = sizes[-2] if len(sizes) > 2 else sizes[-1]
        return float(sizes[0]), float(last)
    runs = group.runs[group.runs["label"] == label]
    size = float(runs["batch_size"].iloc[0]) if len(runs) else None
    return size, None


def by_seed(group: Group, label: str, name: str) -> dict[int, float]:
    """An outcome of the finished runs of an arm, by seed; empty where not measured."""
    done = group.finished
    done = done[done["label"] == label]
    if name not in done:
        return {}
    return {int(seed): float(value) for seed, value in zip(done["seed"], done[name], strict=True)}


def difference_frame(groups: list[Group]) -> pd.DataFrame:
    """Every arm but the first less the first arm of its group, with DIFFERENCE_COLUMNS, for OUTCOMES measured."""
    rows = []
    for group in groups:
        reference, *others = group.labels
        for name in OUTCOMES:
            base = by_seed(group, reference, name)
            if not group.has(name):
                continue
            for label in others:
                found = paired_difference(by_seed(group, label, name), base)
                row: list[Any] = [group.dataset, group.model, label, reference, name]
                row += [None, None, None, 0] if found is None else [found.mean, found.low, found.high, found.num]
                rows.append(row)
    frame = pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))
    return frame.astype({"difference": float, "low": float, "high": float})


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain dictionaries for JSON: nan and NA become None, numpy scalars Python's own."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): _plain(value) for key, value in row.items()} for row in plain.to_dict("records")]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
