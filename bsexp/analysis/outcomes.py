"""From runs to the outcomes that claims are judged on: one record per arm and seed.

The one rule: an arm's run is the one at the learning rate that was chosen for it; runs at other rates, left from
another tuning, are not mixed in.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bsexp.analysis.claims import Record
from bsexp.analysis.declared import LADDER, TO_TARGET, cells_of
from bsexp.analysis.targets import budget_to_target, first_crossing
from bsexp.store.predictions import read_examples

if TYPE_CHECKING:
    import pandas

    from bsexp.store.tables import Results

BUDGET, END = "budget", "end"  # Of a rung: its epochs, and the target's outcome at its end.
Found = dict[tuple[str, int], Record]


def chosen_rates(results: "Results") -> dict[str, float]:
    """The learning rate of each arm that was tuned, or that takes a multiple of a tuned one's."""
    if results.tuning is None:
        return {}
    rows = results.tuning
    chosen = {str(row["arm"]): float(row["lr"]) for row in rows.to_dict("records") if row["chosen"]}
    rates = results.definition.get("rates", {})
    return chosen | {arm: chosen[r["of"]] * r["times"] for arm, r in rates.items() if r["of"] in chosen}


def outcomes_of(results: "Results", wanted: Iterable[str], chosen: Mapping[str, float]) -> Found:
    """(arm, seed) -> Record of every run at the rate chosen for its arm, with the `wanted` outcomes measured on it.

    Tuning runs stand for their seeds with the mean validation loss that tune.csv keeps.
    """
    wanted = sorted(set(wanted))
    examples = {outcome: read_examples(results.place, outcome) for outcome in wanted}
    target = next(iter(results.definition.get("target", {}).items()), None)
    curves = dict(list(results.evals.groupby("config_hash"))) if target else {}
    found: Found = {}
    for row in results.runs.to_dict("records"):
        arm = arm_of(results, str(row["arm"]))
        if arm in chosen and not math.isclose(row["lr"], chosen[arm], rel_tol=1e-9):
            continue
        key = str(row["config_hash"])
        values = {name: _number(row.get(name)) for name in wanted if name not in TO_TARGET}
        if target and key in curves:
            values |= _crossings(curves[key], *target)
            # In epochs: a run that diverged has seen fewer samples than its rung has.
            values[BUDGET], values[END] = _number(row["epochs"]), _number(row.get(target[0]))
        mine = {outcome: by_hash[key] for outcome, by_hash in examples.items() if key in by_hash}
        found[arm, int(row["seed"])] = Record(str(row["status"]), values, mine)
    if target:
        _add_ladders(found, target)
    return _tuning_records(results, chosen) | found


def arm_of(results: "Results", name: str) -> str:
    """The arm that runs called `name` belong to: those that differ in more than their seed have that behind it."""
    return name if name in results.definition.get("arms", {}) else name.partition(" (")[0]


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _crossings(rows: "pandas.DataFrame", name: str, target: float) -> dict[str, float | None]:
    """Samples, updates and seconds to the target within one run, interpolated in each.

    Weights that reach it untrained did not get there by training: the evaluation at 0 then doesn't count.
    """
    rising = "accuracy" in name
    first = rows[name].iloc[0]
    rows = rows.iloc[1:] if (first >= target if rising else first <= target) else rows
    values = rows[name].to_list()
    found: dict[str, float | None] = {}
    for clock, column in (("samples", "samples"), ("updates", "step"), ("seconds", "train_seconds")):
        places = [float(each) for each in rows[column]]
        # Clocks that stand still between two rows can't be interpolated: the earlier row says nothing more.
        kept = [k for k in range(len(places)) if not k or places[k] > places[k - 1]]
        crossing = first_crossing([places[k] for k in kept], [values[k] for k in kept], target, rising)
        found[f"{clock}_to_target"] = crossing
    return found


def _add_ladders(found: Found, target: tuple[str, float]) -> None:
    """budget_to_target, in epochs, for the arms that have rungs, from each seed's ends at all budgets.

    A run that failed at the whole budget stays one: its cost is infinite, whatever its smaller rungs did.
    """
    name, value = target
    arms = dict.fromkeys(arm for arm, _ in found)
    for arm, seed in list(found):
        if LADDER in arm:
            continue
        rungs = [arm, *(cell for cell in _rungs(arm, arms))]
        if len(rungs) < 2:
            continue
        records = [found[rung, seed] for rung in rungs if (rung, seed) in found]
        ladder = {
            budget: record.values.get(END) if record.status == "finished" else None
            for record in records
            if (budget := record.values.get(BUDGET))
        }
        if len(ladder) == len(rungs):
            cost = budget_to_target(ladder, value, "accuracy" in name)
            record = found[arm, seed]
            found[arm, seed] = replace(record, values={**record.values, "budget_to_target": cost})


def _rungs(arm: str, arms: Mapping[str, Any]) -> list[str]:
    """The cells of `arm` at other budgets: `decay[budget=0.5]`, for a cell `decay[dropout=0.1,budget=0.5]`."""
    if arm.endswith("]"):
        return [cell for cell in arms if cell.startswith(f"{arm[:-1]},{LADDER}")]
    return [cell for cell in cells_of(arm, arms) if cell.startswith(f"{arm}[{LADDER}")]


def _tuning_records(results: "Results", chosen: Mapping[str, float]) -> Found:
    if results.tuning is None:
        return {}
    found: Found = {}
    for row in results.tuning.to_dict("records"):
        arm, loss = str(row["arm"]), _number(row["val_loss"])
        if row["lr"] == chosen.get(arm):
            record = Record("finished" if loss is not None else "diverged", {"val_loss": loss})
            found |= {(arm, int(seed)): record for seed in str(row["seeds"]).split()}
    return found
