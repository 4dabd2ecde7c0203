"""Choosing each arm's learning rate, by the same rule for all: the lowest mean validation loss over the tuning seeds.

The one rule: only validation is looked at, never the test split, and never the seeds that are reported.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bsexp.config import check_value
from bsexp.errors import RunsFailed, UsageError, nearest, shown
from bsexp.options import OPTIONS
from bsexp.store.files import csv_text, write_text
from bsexp.store.paths import Experiment as Place
from bsexp.sweep.axes import note_doubles, read_seeds, table_at
from bsexp.sweep.variants import LR_FACTOR, default_rate

METRICS = ("val_loss", "val_loss_ema")
COLUMNS = ("arm", "lr", "seeds", "val_loss", "place", "chosen", "status")


@dataclass(frozen=True)
class Tune:
    """What is chosen for each arm, on validation: the learning rate that minimises the mean loss over `seeds`.

    Of the rates `lr` or, where `factors` are given, of these times the arm's default: that of its data set, or of its
    optimizer. Exactly one of the two is empty. `metric`: which loss, of the last or of the averaged weights.
    """

    lr: tuple[float, ...]
    seeds: tuple[int, ...]
    factors: tuple[float, ...] = ()
    metric: str = METRICS[0]

    @property
    def num_rates(self) -> int:
        """How many rates are tried for an arm."""
        return len(self.lr or self.factors)

    def rates(self, settings: Mapping[str, Any]) -> list[float]:
        """The rates that are tried for the arm with these settings, rising."""
        if self.lr:
            return list(self.lr)
        default = default_rate(settings)
        return [default * factor for factor in self.factors]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Tune":
        """The rule that `stored` gave."""
        factors, metric = tuple(stored.get(LR_FACTOR, ())), stored.get("metric", METRICS[0])
        return cls(tuple(stored.get("lr", ())), tuple(stored["seeds"]), factors, metric)

    def stored(self) -> dict[str, Any]:
        """As it is kept beside results."""
        grid = {"lr": list(self.lr)} if self.lr else {LR_FACTOR: list(self.factors)}
        metric = {"metric": self.metric} if self.metric != METRICS[0] else {}
        return {**grid, "seeds": list(self.seeds), **metric}


def read_tune(table: Any, base: Mapping[str, Any], notes: list[str]) -> Tune:
    """The rule of [tune]; `base` is [run]. Notes doubled values. Raises UsageError."""
    table = table_at(table, "tune")
    known = ("lr", LR_FACTOR, "seeds", "metric")
    for key in table:
        if key not in known:
            raise UsageError(f"tune.{key}", "unknown key", nearest(key, known))
    if "lr" in table and LR_FACTOR in table:
        raise UsageError(f"tune.{LR_FACTOR}", "with lr", "give rates, or factors on each arm's default rate")
    key = LR_FACTOR if LR_FACTOR in table else "lr"
    place, rates = f"tune.{key}", table.get(key)
    if not isinstance(rates, list) or not rates:
        raise UsageError(place, shown(rates), f"give a list of {'factors' if key == LR_FACTOR else 'learning rates'}")
    if base.get("val_fraction") == 0:
        raise UsageError("tune", "without a validation split", "set val_fraction above 0 or remove [tune]")
    checked = [check_value(OPTIONS["lr"], rate, place) for rate in rates]
    distinct = tuple(sorted(set(checked)))
    note_doubles(place, len(checked) - len(distinct), notes)
    seeds = read_seeds(table.get("seeds", [100]), "tune.seeds", notes)
    metric = table.get("metric", METRICS[0])
    if metric not in METRICS:
        raise UsageError("tune.metric", shown(metric), nearest(metric, METRICS))
    return Tune((), seeds, distinct, metric) if key == LR_FACTOR else Tune(distinct, seeds, (), metric)


def check_measured(tune: Tune, arms: Mapping[str, Mapping[str, Any]]) -> None:
    """UsageError for the first arm whose runs don't have what they are chosen by."""
    for arm, settings in arms.items():
        if tune.metric.endswith("_ema") and settings.get("averaging") == "none":
            raise UsageError(
                "tune.metric", tune.metric, f"arm {arm} averages no weights: give it averaging, or val_loss"
            )


def choose(summaries: Iterable[dict[str, Any]], metric: str = METRICS[0]) -> list[dict[str, Any]]:
    """A row per arm and rate with `chosen` and its place in the grid, from the summaries of the tuning runs.

    `val_loss` is the mean of the `metric` that is chosen by.

    A rate at which a seed didn't train counts as infinitely bad. Ties go to the smaller rate. Raises RunsFailed where
    no rate of an arm trained.
    """
    found: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for summary in summaries:
        found.setdefault(summary["arm"], {}).setdefault(summary["lr"], []).append(summary)
    rows = []
    for arm, rates in found.items():
        losses = {lr: _mean_loss(runs, metric) for lr, runs in sorted(rates.items())}
        best = min(losses, key=lambda lr: losses[lr])
        if losses[best] == math.inf:
            raise RunsFailed(
                "tuning", f"{arm} learned at none of {', '.join(f'{lr:g}' for lr in losses)}", "try smaller rates"
            )
        for number, (lr, loss) in enumerate(losses.items(), start=1):
            statuses = sorted({run["status"] for run in rates[lr]})
            rows.append(
                {
                    "arm": arm,
                    "lr": lr,
                    "seeds": " ".join(str(seed) for seed in sorted(run["seed"] for run in rates[lr])),
                    "val_loss": None if loss == math.inf else loss,
                    "place": f"{number} of {len(losses)}",
                    "chosen": lr == best,
                    "status": " ".join(statuses),
                }
            )
    return rows


def rates_beyond(rows: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """For each arm whose chosen rate is the first or last of its grid, from `choose`: the next rate or rates beyond.

    The step there is that of the two rates at that end; 2 where a single rate was tried.
    """
    grids: dict[str, list[float]] = {}
    best: dict[str, float] = {}
    for row in rows:
        grids.setdefault(row["arm"], []).append(row["lr"])
        if row["chosen"]:
            best[row["arm"]] = row["lr"]
    found = {}
    for arm, grid in grids.items():
        low, high = grid[0], grid[-1]
        steps = (grid[1] / low, high / grid[-2]) if len(grid) > 1 else (2.0, 2.0)
        beyond = [low / steps[0]] * (best[arm] == low) + [high * steps[1]] * (best[arm] == high)
        if beyond:
            found[arm] = beyond
    return found


def _mean_loss(runs: list[dict[str, Any]], metric: str) -> float:
    if any(run["status"] != "finished" for run in runs):
        return math.inf
    return math.fsum(run[metric] for run in runs) / len(runs)


def write_choice(place: Place, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Write tune.csv; the chosen rate of each arm."""
    write_text(place.tuning_table, csv_text(COLUMNS, rows))
    return {row["arm"]: row["lr"] for row in rows if row["chosen"]}
