"""What was decided along the runs of closed loops, and what policies that were only asked would have decided.

The one rule: a decision holds from the update after it until the next one; only finished runs are looked at.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bsexp.report import numbers
from bsexp.report.groups import Group
from bsexp.report.tables import Cell, Table

# Four places to each decision.
PLACES = 400
FOLLOWED = "shadow"
LIMITS = ("; at most doubled", "; at most halved", "; min_batch", "; max_batch")


@dataclass(frozen=True)
class Course:
    """What held along the budget, one run a row: `epochs` (PLACES + 1,) and `values` (runs, PLACES + 1)."""

    epochs: np.ndarray
    values: np.ndarray

    @property
    def median(self) -> np.ndarray:
        """Over runs, (PLACES + 1,)."""
        return np.asarray(np.median(self.values, axis=0))


def deciding(group: Group) -> list[str]:
    """The arms that decided something about themselves along their finished runs."""
    return [label for label in group.labels if (found := policies(group, label)) and FOLLOWED not in found]


def asking(group: Group) -> list[str]:
    """The arms that followed another schedule and asked policies what they would do."""
    return [label for label in group.labels if FOLLOWED in policies(group, label)]


def policies(group: Group, label: str) -> list[str]:
    """The policies with decisions in an arm's finished runs, in the order of their rows."""
    rows = decided_rows(group, label)
    return list(dict.fromkeys(rows["policy"])) if len(rows) else []


def asked(group: Group, label: str) -> list[str]:
    """The policies that an arm only asked, but for those that can't be used in its setting."""
    found = policies(group, label)
    refused = unusable(group, label)
    return [policy for policy in found if policy not in (FOLLOWED, *refused)] if FOLLOWED in found else []


def unusable(group: Group, label: str) -> list[str]:
    """The policies that an arm asked, and that can't be used in its setting."""
    rows = decided_rows(group, label)
    found = policies(group, label)
    return [policy for policy in found if rows.loc[rows["policy"] == policy, "reason"].map(_refused).all()]


def _refused(reason: str) -> bool:
    return reason.startswith("held: refused")


def decided_rows(group: Group, label: str) -> pd.DataFrame:
    """The rows of decisions.csv of an arm's finished runs; may be empty, without columns."""
    if not len(group.decisions):
        return group.decisions
    rows = group.decisions[group.decisions["label"] == label]
    return rows[rows["config_hash"].isin(group.finished["config_hash"])]


def course(group: Group, label: str, policy: str, column: str = "batch_size") -> Course:
    """What `policy` decided in each finished run of an arm; before its first decision what the run began with."""
    rows = decided_rows(group, label)
    rows = rows[rows["policy"] == policy]
    finished = group.finished[["config_hash", "batch_size", "samples"]]
    runs = {key: (float(first), float(end)) for key, first, end in finished.itertuples(index=False, name=None)}
    shares = np.arange(PLACES + 1) / PLACES
    values, epochs = [], shares
    for key, own in rows.groupby("config_hash", sort=False):
        first, total = runs[key]
        held = np.concatenate([[first if column == "batch_size" else 1.0], own[column].to_numpy(dtype=float)])
        values.append(held[np.searchsorted(own["samples"].to_numpy(dtype=float), shares * total, side="right")])
        epochs = shares * total * float(own["epoch"].iloc[0] / own["samples"].iloc[0])
    return Course(epochs, np.stack(values))


def decisions_table(group: Group) -> Table | None:
    """How often each policy grew, shrank and held the batch, and where it ended; None where nothing was decided."""
    rows = []
    for label in group.labels:
        for policy in policies(group, label):
            if policy != FOLLOWED and (FOLLOWED not in policies(group, label) or policy in asked(group, label)):
                rows.append(_counted(group, label, policy))
    if not rows:
        return None
    headings = ["Arm", "Policy", "Decisions per run", "Batch grew", "Batch shrank", "Held", "At a limit", "Last batch"]
    note = (
        "Over the finished runs of an arm. Held: the policy had no word, or kept to what was. At a limit: at most "
        "doubled, at most halved, min_batch or max_batch. Last batch: median over runs, and its range."
    )
    if asking(group):
        note += " Policies in brackets were only asked: the run followed its schedule."
    return Table("Decisions", headings, rows, note)


def _counted(group: Group, label: str, policy: str) -> list[Cell]:
    rows = decided_rows(group, label)
    rows = rows[rows["policy"] == policy]
    runs = group.finished.set_index("config_hash")
    before = rows.groupby("config_hash", sort=False)["batch_size"].shift()
    before = before.fillna(rows["config_hash"].map(runs["batch_size"]))
    reasons = rows["reason"].astype(str)
    shares = [
        float((rows["batch_size"] > before).mean()),
        float((rows["batch_size"] < before).mean()),
        float(reasons.str.startswith("held").mean()),
        float(reasons.str.endswith(LIMITS).mean()),
    ]
    last = rows.groupby("config_hash", sort=False)["batch_size"].last()
    span = numbers.span(last.to_list())
    text = span if last.min() == last.max() else f"{numbers.count(last.median())} ({span})"
    per_run = len(rows) / rows["config_hash"].nunique()
    name = f"({policy})" if FOLLOWED in policies(group, label) else policy
    cells = [Cell(label), Cell(name), Cell(numbers.number(round(per_run, 1)), per_run)]
    return [*cells, *(Cell(f"{100 * share:.0f} %", share) for share in shares), Cell(text, float(last.median()))]
