"""From runs to the outcomes that claims are judged on: one record per arm and seed.

The one rule: an arm's run is the one at the learning rate that was chosen for it; runs at other rates, left from
another tuning, are not mixed in.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bsexp.analysis.claims import FAILURES, TRAINED, Record
from bsexp.analysis.declared import AT_TARGET, INSPECTED, LADDER, OF_TWINS, TO_TARGET, cells_of
from bsexp.analysis.targets import budget_to_target, first_crossing
from bsexp.analysis.twins import find_twins
from bsexp.signals.disagreement import disagreement
from bsexp.store.inspected import read_inspected
from bsexp.store.predictions import read_classes, read_examples
from bsexp.store.products import Products, Row

if TYPE_CHECKING:
    import pandas

    from bsexp.store.tables import Results

BUDGET, END = "budget", "end"  # Of a rung: its epochs, and the target's outcome at its end.
Found = dict[tuple[str, int], Record]
Hashes = dict[tuple[str, int], str]  # Of the run of an arm and a seed, the config hash.


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
    hashes: Hashes = {}
    afterwards = [outcome for outcome in wanted if outcome in INSPECTED]
    inspected = read_inspected(results.place.inspected) if afterwards else {}
    for row in results.runs.to_dict("records"):
        arm = arm_of(results, str(row["arm"]))
        if arm in chosen and not math.isclose(row["lr"], chosen[arm], rel_tol=1e-9):
            continue
        key = str(row["config_hash"])
        values = {name: _number(row.get(name)) for name in wanted if name not in (*TO_TARGET, *AT_TARGET)}
        if target and key in curves:
            values |= _crossings(curves[key], *target)
            # In epochs: a run that diverged has seen fewer samples than its rung has.
            values[BUDGET], values[END] = _number(row["epochs"]), _number(row.get(target[0]))
        if key in inspected:
            values |= {outcome: getattr(inspected[key], outcome) for outcome in afterwards}
        mine = {outcome: by_hash[key] for outcome, by_hash in examples.items() if key in by_hash}
        found[arm, int(row["seed"])] = Record(str(row["status"]), values, mine)
        hashes[arm, int(row["seed"])] = key
    if target:
        _add_ladders(found, target)
    if of_twins := [outcome for outcome in wanted if outcome in OF_TWINS]:
        twins = twins_of(results)
        if "disagreement" in of_twins:
            _add_disagreements(found, twins, results, hashes)
        _fail_with_twins(found, of_twins, twins)
    return _tuning_records(results, chosen) | found


def twins_of(results: "Results") -> dict[str, str]:
    """The twin of each arm that has exactly one; a variant of [sensitivity] has it among the variants of its kind."""
    definition = results.definition
    variants = definition.get("variants", {})
    rates = {arm: (str(rate["of"]), float(rate["times"])) for arm, rate in definition.get("rates", {}).items()}
    kinds: dict[str, dict[str, Any]] = {}
    for arm, settings in definition.get("arms", {}).items():
        kinds.setdefault(variants[arm]["what"] if arm in variants else "", {})[arm] = settings
    found = [find_twins(arms, rates, "tune" in definition) for arms in kinds.values()]
    return {arm: twins[0] for each in found for arm, twins in each.items() if len(twins) == 1}


def _add_disagreements(found: Found, twins: Mapping[str, str], results: "Results", hashes: Hashes) -> None:
    """disagreement, for the runs whose twin has trained too."""
    for classes in read_classes(results.place):
        pairs: dict[tuple[str, int], tuple[Any, Any]] = {}
        for (arm, seed), record in found.items():
            mate = found.get((twins[arm], seed)) if arm in twins else None
            if mate is None or not record.status == mate.status == TRAINED:
                continue
            mine, other = (classes.get(hashes[name, seed]) for name in (arm, twins[arm]))
            if mine is not None and other is not None:
                pairs[arm, seed] = mine, other
        if not pairs:
            continue
        table = Products.of([mine != other for mine, other in pairs.values()])
        for place, (key, (mine, other)) in enumerate(pairs.items()):
            record, share = found[key], disagreement(mine.tolist(), other.tolist())
            examples = {**record.examples, "disagreement": Row(table, place)}
            found[key] = replace(record, values={**record.values, "disagreement": share}, examples=examples)


def _fail_with_twins(found: Found, outcomes: Sequence[str], twins: Mapping[str, str]) -> None:
    """The `outcomes` of a run and its twin are infinite where the twin failed: a failure of both, not a run missing."""
    for (arm, seed), record in list(found.items()):
        mate = found.get((twins[arm], seed)) if arm in twins else None
        if mate is not None and record.status == TRAINED and mate.status in FAILURES:
            found[arm, seed] = replace(record, values={**record.values, **dict.fromkeys(outcomes, math.inf)})


def arm_of(results: "Results", name: str) -> str:
    """The arm that runs called `name` belong to: those that differ in more than their seed have that behind it."""
    return name if name in results.definition.get("arms", {}) else name.partition(" (")[0]


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _crossings(rows: "pandas.DataFrame", name: str, target: float) -> dict[str, float | None]:
    """Samples, updates and seconds to the target within one run, and how well it does there, interpolated in each.

    Weights that reach it untrained did not get there by training: the evaluation at 0 then doesn't count. AT_TARGET is
    left out where the target was missed.
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
    reached = found["samples_to_target"] or math.inf
    for outcome in AT_TARGET if math.isfinite(reached) else ():
        column = outcome.removesuffix("_at_target")
        if column in rows:
            found[outcome] = float(np.interp(reached, rows["samples"], rows[column]))
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
