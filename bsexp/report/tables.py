"""The tables of a report, as text cells with the number to sort by.

The one rule: no cell says nan, and every mean says over how many runs: runs that did not finish are counted in their
own column and enter nothing else.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bsexp.analysis.paired import Estimate, paired_difference
from bsexp.analysis.rates import NEAR, Usable, usable_rates
from bsexp.options import OPTIONS
from bsexp.report import numbers
from bsexp.report.frames import STATES, batch_range, by_seed, outcome
from bsexp.report.groups import Group

if TYPE_CHECKING:
    from bsexp.store.tables import Results

# Of what an arm's settings hold, these are told elsewhere or say nothing about the arm.
UNTOLD = ("schedule", "parameters", "lr", "seed", "seeds", "data_fingerprint", "dataset", "model", "description")


@dataclass(frozen=True)
class Cell:
    """A cell's text, and the number it is sorted by (None: by its text, or last)."""

    text: str
    sort: float | None = None


@dataclass(frozen=True)
class Table:
    """A table: its title, headings, rows of cells (the first names the row), and a sentence on how to read it.

    `numeric`: whether a column holds numbers and is set flush right.
    """

    title: str
    headings: list[str]
    rows: list[list[Cell]]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [any(row[place].sort is not None for row in self.rows) for place in range(len(self.headings))]


def settings_text(settings: dict[str, Any], shared: Sequence[str] = ()) -> str:
    """An arm's schedule and what sets it apart: `growing-batch (match step, factor 4)`."""
    own = {**settings, **(settings.get("parameters") or {})}
    told = [
        f"{key.replace('_', ' ')} {setting(value)}"
        for key, value in own.items()
        if key not in UNTOLD and key not in shared and value is not None
    ]
    name = str(settings.get("schedule", ""))
    return f"{name} ({', '.join(told)})" if told else name


def setting(value: Any) -> str:
    """A setting's value as a person would write it."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(setting(item) for item in value) + "]"
    return json.dumps(value) if isinstance(value, dict) else numbers.number(value)


def shared_settings(group: Group) -> dict[str, Any]:
    """The options (not schedule parameters) that all arms of the group set to the same value."""
    every = list(group.settings.values())
    if not every:
        return {}
    return {
        key: value
        for key, value in every[0].items()
        if key in OPTIONS
        and key not in UNTOLD
        and value is not None
        and all(key in other and other[key] == value for other in every)
    }


def arm_tables(group: Group, claimed: bool = False) -> list[Table]:
    """What a section shows in tables: outcomes, differences from the first arm, and what each arm did.

    `claimed`: whether there are verdicts above, beside which these are estimates.
    """
    tables = [_outcomes(group)] if len(group.finished) else []
    if any(by_seed(group, label, "test_accuracy") for label in group.labels[1:]):
        tables.append(_differences(group, claimed))
    return [*tables, _deeds(group)]


def _cell(estimate: Estimate | None, write: Callable[[Estimate | None], str]) -> Cell:
    return Cell(write(estimate), None if estimate is None else estimate.mean)


def _value(value: Any, write: Callable[[Any], str]) -> Cell:
    return Cell(write(value), None if numbers.missing(value) else float(value))


def _outcomes(group: Group) -> Table:
    percent, loss = numbers.percent_interval, numbers.loss_interval
    plain = lambda estimate: numbers.percent(None if estimate is None else estimate.mean)  # noqa: E731
    points = lambda estimate: numbers.points(None if estimate is None else estimate.mean)  # noqa: E731
    wanted: list[tuple[str, str, Callable[[Estimate | None], str]]] = [
        ("test_accuracy", "Test accuracy", percent),
        ("test_loss", "Test loss (nats)", loss),
        ("test_accuracy_ema", "Test accuracy, averaged weights", percent),
        ("test_loss_ema", "Test loss, averaged weights", loss),
        ("train_accuracy", "Train accuracy", plain),
        ("memorised", "Wrong labels memorised", plain),
        ("generalization_gap", "Train − test accuracy (points)", points),
    ]
    shown = [column for column in wanted if group.has(column[0])]
    rows = []
    for label in group.labels:
        done = group.finished[group.finished["label"] == label]
        rows.append(
            [Cell(label), *(_cell(outcome(done, name), write) for name, _, write in shown), _runs(group, label)]
        )
    note = "Means over the finished runs of an arm; in brackets the 95 % t-interval over seeds. "
    if group.finished.groupby("label").size().max() < 2:
        note = "One finished run per arm: no intervals, and nothing to tell chance by. "
    note += "The test split was evaluated once, at the end of each run."
    return Table("Outcomes", ["Arm", *(heading for _, heading, _ in shown), "Runs finished"], rows, note)


def _runs(group: Group, label: str) -> Cell:
    status = group.runs.loc[group.runs["label"] == label, "status"]
    done = int((status == "finished").sum())
    mishap = group.mishaps(label)
    return Cell(f"{done} of {len(status)}" + (f" ({mishap})" if mishap else ""), float(done))


def _differences(group: Group, claimed: bool) -> Table:
    reference, *others = group.labels
    wanted = [
        ("test_accuracy", "Test accuracy (points)", numbers.points_interval),
        ("test_loss", "Test loss (nats)", numbers.loss_difference_interval),
        ("test_accuracy_ema", "Test accuracy, averaged weights (points)", numbers.points_interval),
        ("test_loss_ema", "Test loss, averaged weights (nats)", numbers.loss_difference_interval),
    ]
    shown = [column for column in wanted if group.has(column[0])]
    rows = []
    for label in others:
        found = [paired_difference(by_seed(group, label, name), by_seed(group, reference, name)) for name, *_ in shown]
        cells = [_cell(estimate, write) for estimate, (_, _, write) in zip(found, shown, strict=True)]
        pairs = max((estimate.num for estimate in found if estimate is not None), default=0)
        rows.append([Cell(label), *cells, Cell(numbers.count(pairs), float(pairs))])
    return Table(
        f"Estimates, no verdict: differences from {reference}, paired by seed",
        [f"Arm − {reference}", *(heading for _, heading, _ in shown), "Pairs"],
        rows,
        "Mean of the differences over seeds that both arms finished; in brackets its 95 % t-interval, each for itself: "
        "no allowance is made for looking at several of them. "
        + (
            "These are estimates; the words are those of the declared claims above, and no others."
            if claimed
            else "No margin and no family of claims was declared, so no word of comparison is given."
        )
        + ("" if any(row[-1].sort and row[-1].sort > 1 for row in rows) else " With one pair there is no interval."),
    )


def _deeds(group: Group) -> Table:
    shared = list(shared_settings(group))
    seconds = numbers.seconds
    headings = ["Arm", "Schedule", "Learning rate", "Batch size", "Updates", "Samples", "Training time (s)", "Seeds"]
    rows = []
    for label in group.labels:
        runs = group.runs[group.runs["label"] == label]
        done = runs[runs["status"] == "finished"]
        told = settings_text(group.settings[label], shared) or (str(runs["schedule"].iloc[0]) if len(runs) else "")
        first, last = batch_range(group, label)
        sizes = numbers.count(first) if last in (None, first) else f"{numbers.count(first)} → {numbers.count(last)}"
        lr = runs["lr"].iloc[0] if len(runs) else None
        cells = [Cell(label), Cell(told or numbers.DASH), _value(lr, numbers.number), Cell(sizes, first)]
        for name in ("updates", "samples"):
            values = done[name].to_list()
            cells.append(Cell(numbers.span(values), float(done[name].median()) if len(done) else None))
        time = done["train_seconds"].median() if done["train_seconds"].notna().any() else None
        rows.append([*cells, _value(time, seconds), _value(runs["seed"].nunique(), numbers.count)])
    counts = [state for state in STATES if (group.runs["status"] == state).any()]
    for state in counts:
        headings.append({"oom": "Out of memory"}.get(state, state.capitalize()))
        for label, row in zip(group.labels, rows, strict=True):
            number = int(((group.runs["label"] == label) & (group.runs["status"] == state)).sum())
            row.append(_value(number, numbers.count))
    note = "Batch size: first and last. Training time: median over finished runs of the time spent in updates alone."
    return Table("What each arm did", headings, rows, note)


def tuning_table(results: "Results") -> Table | None:
    """The learning rates tried for each arm, by validation; None without tuning."""
    tuning = results.tuning
    if tuning is None or not len(tuning):
        return None
    order = {arm: place for place, arm in enumerate(results.arms)}
    ranks = tuning["arm"].map(lambda arm: order.get(arm, len(order)))
    tuning = tuning.assign(rank=ranks).sort_values(["rank", "arm", "lr"], kind="stable")
    ranges = usable_rates(tuning)
    rows = []
    for row in tuning.to_dict("records"):
        chosen = bool(row["chosen"])
        place = str(row["place"]) if not pd.isna(row["place"]) else numbers.DASH
        status = str(row["status"]) if not pd.isna(row["status"]) else numbers.DASH
        cells = [Cell(str(row["arm"])), _value(row["lr"], numbers.number), _value(row["val_loss"], numbers.loss)]
        seeds = row["seeds"]
        cells.append(Cell(seeds) if isinstance(seeds, str) else _value(seeds, numbers.count))
        around = usable_text(ranges[row["arm"]]) if chosen and row["arm"] in ranges else ""
        rows.append([*cells, Cell(status), Cell(f"chosen, {place}" if chosen else ""), Cell(around)])
    averaged = results.definition.get("tune", {}).get("metric") == "val_loss_ema"
    note = (
        f"Chosen by validation loss{' of averaged weights' if averaged else ''}, on seeds that are not among the "
        "reported ones; the test split was not looked at. "
        f"Usable: the rates next to the chosen one whose loss is at most {NEAR:.0%} above its own; ≤ and ≥ where none "
        "beyond was tried."
    )
    headings = [
        "Arm",
        "Learning rate",
        "Validation loss (nats)",
        "Tuning seeds",
        "Status",
        "Place in the grid",
        "Usable",
    ]
    return Table("Tuning", headings, rows, note)


def usable_text(rates: Usable) -> str:
    """The usable range of rates: `0.01 to 0.04`, with ≤ or ≥ at an end beyond which none was tried."""
    low, high = (("" if rates.below else "≤ ") + numbers.number(rates.low)), numbers.number(rates.high)
    if rates.low == rates.high and rates.bounded:
        return high
    return f"{low} to {'' if rates.above else '≥ '}{high}"
