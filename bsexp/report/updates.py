"""The batch sizes of a run's updates, counted: from its log, its decisions or its schedule.

The one rule: whatever they come from, they must give the updates and samples that the run made; else nothing is told.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bsexp.analysis.hardware import Updates, count_sizes, num_samples, num_updates
from bsexp.errors import UsageError
from bsexp.report.groups import Group

if TYPE_CHECKING:
    from bsexp.store.tables import Results


def arm_updates(results: "Results", group: Group, label: str) -> Updates:
    """The updates of an arm by batch size: the mean over its finished runs. UsageError where one isn't known."""
    runs = group.finished[group.finished["label"] == label]
    total: dict[int, float] = {}
    for run in runs.to_dict("records"):
        for size, count in run_updates(results, group, {str(key): value for key, value in run.items()}).items():
            total[size] = total.get(size, 0.0) + count
    return {size: total[size] / len(runs) for size in sorted(total)}


def run_updates(results: "Results", group: Group, run: Mapping[str, Any]) -> Updates:
    """The updates of one run by batch size: from its log where that has each of them, from what it decided where it
    decided its batches along its way, else from its schedule.

    UsageError where the schedule can't be made here, or what is known doesn't give the updates that the run made.
    """
    key, made = run["config_hash"], (int(run["updates"]), int(run["samples"]))
    logged = group.steps[group.steps["config_hash"] == key]
    if len(logged) == made[0]:
        return count_sizes(logged["batch_size"].astype(int))
    num_train = _num_train(group, key)
    if decided := decided_batches(group, key):
        updates, source = _replayed(int(run["batch_size"]), decided, made[1], num_train), "what it decided"
    else:
        settings = results.configs.get(key) or {**results.arms.get(run["arm"], {}), "lr": run["lr"]}
        # What a seed draws changes no batch size.
        updates = dict(_simulated(json.dumps({**settings, "seed": 0}, sort_keys=True), made[1], num_train))
        source = "its schedule"
    if (found := (round(num_updates(updates)), round(num_samples(updates)))) != made:
        which = f"{source} gives {found[0]:,} updates of {found[1]:,} samples, run {key[:8]} made {made[0]:,}"
        raise UsageError("updates", f"{which} of {made[1]:,}", "report with the version that made it")
    return updates


def decided_batches(group: Group, key: str) -> list[tuple[int, int]]:
    """(samples, batch size) of each decision of a run about its own batches; empty where it made none."""
    if not len(group.decisions):
        return []
    own = group.decisions[group.decisions["config_hash"] == key]
    # A shadow's batches are those of the schedule that it follows, also between decisions.
    if not len(own) or (own["policy"] == "shadow").any():
        return []
    return [(int(samples), int(batch)) for samples, batch in zip(own["samples"], own["batch_size"], strict=True)]


def _num_train(group: Group, key: str) -> int:
    evals = group.evals[(group.evals["config_hash"] == key) & (group.evals["epoch"] > 0)]
    if not len(evals):
        raise UsageError("updates", f"run {key[:8]} has no evaluations to tell its training samples from")
    return round(evals["samples"].iloc[-1] / evals["epoch"].iloc[-1])


def _replayed(first: int, decided: list[tuple[int, int]], total_samples: int, num_train: int) -> dict[int, float]:
    """The updates that these decisions lead to; UsageError where one of them fell between two updates."""
    from bsexp.schedules import simulate
    from bsexp.schedules.closed import replayed

    updates = list(simulate(replayed(first, decided), total_samples=total_samples, num_train=num_train))
    ends = {update.samples + update.batch_size for update in updates}
    if strays := [samples for samples, _ in decided if samples not in ends]:
        which = f"one at {strays[0]:,} samples, where no update ended"
        raise UsageError("decisions", which, "report with the version that made the run")
    return count_sizes(update.batch_size for update in updates)


@lru_cache(maxsize=1024)
def _simulated(settings: str, total_samples: int, num_train: int) -> tuple[tuple[int, float], ...]:
    from bsexp.config import RunConfig
    from bsexp.schedules import simulate

    schedule = RunConfig(**json.loads(settings)).build_schedule()
    sizes = (update.batch_size for update in simulate(schedule, total_samples=total_samples, num_train=num_train))
    return tuple(count_sizes(sizes).items())
