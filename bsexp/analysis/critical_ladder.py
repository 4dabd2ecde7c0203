"""The critical batch of a training: updates and samples to the target against the batch size.

The one rule: only arms whose rate is constant, tuned at each size and read on averaged weights, speak. Annealing would
move the target's place, and the noise of the last weights would pass for a need of larger batches.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bsexp.analysis.claims import FAILURES, Record
from bsexp.analysis.facts import config_of
from bsexp.analysis.fits import Fit, critical_batch
from bsexp.analysis.outcomes import chosen_rates, outcomes_of
from bsexp.analysis.rates import apart_from_the_batch, at_own_batch, usable_rates

if TYPE_CHECKING:
    from bsexp.config import RunConfig
    from bsexp.store.tables import Results

COST = "updates_to_target"
CONSTANT = ("fixed-small", "fixed-large")
FEWEST = 3  # Sizes that are worth a figure; `fits.critical_batch` asks for more.


@dataclass(frozen=True, eq=False)
class Size:
    """An arm. `lr`: as trained with at its batch size; `updates`: to the target, (seeds,), infinite for a miss."""

    arm: str
    batch_size: int
    lr: float
    updates: np.ndarray


@dataclass(frozen=True, eq=False)
class CriticalLadder:
    """Arms that differ in their batch size and tuned rate alone, smallest batch first, and what their costs say."""

    sizes: tuple[Size, ...]
    target: tuple[str, float]
    fit: Fit

    @property
    def fewest_updates(self) -> float | None:
        """s_min: what no batch does without."""
        return self.fit.scale

    @property
    def fewest_samples(self) -> float | None:
        """e_min = s_min * b_crit; None where the fit has no finite b_crit above 0."""
        point, level = self.fit.estimate.mean, self.fit.scale
        return level * point if level is not None and 0 < point < np.inf else None


def critical_ladders(results: "Results") -> list[CriticalLadder]:
    """Each set of at least 3 arms of constant rate that were tuned at batch sizes of their own, in the order of the
    experiment; none where its target isn't one on averaged weights.
    """
    target = next(iter(results.definition.get("target", {}).items()), None)
    if target is None or not target[0].endswith("_ema"):
        return []
    ranges = usable_rates(results.tuning)
    sets: dict[str, dict[int, tuple[str, RunConfig]]] = {}
    for arm in results.arms:
        config = config_of(results, arm) if arm in ranges else None
        if config is not None and config.schedule in CONSTANT:
            sets.setdefault(apart_from_the_batch(config), {}).setdefault(config.batch_size, (arm, config))
    wanted = [arms for arms in sets.values() if len(arms) >= FEWEST]
    outcomes = outcomes_of(results, [COST], chosen_rates(results)) if wanted else {}
    found = []
    for arms in wanted:
        ordered = [arms[size] for size in sorted(arms)]
        table = _costs([arm for arm, _ in ordered], outcomes)
        if len(table):
            sizes = [
                Size(arm, config.batch_size, at_own_batch(ranges[arm], config).best, table[:, place])
                for place, (arm, config) in enumerate(ordered)
            ]
            fit = critical_batch([size.batch_size for size in sizes], table, np.random.default_rng(0))
            found.append(CriticalLadder(tuple(sizes), target, fit))
    return found


def _costs(arms: Sequence[str], outcomes: Mapping[tuple[str, int], Record]) -> np.ndarray:
    """Updates to the target of (seeds, arms), infinite for a miss; of seeds that say it of all arms."""
    rows = []
    for seed in sorted({seed for _, seed in outcomes}):
        records = [outcomes.get((arm, seed)) for arm in arms]
        costs = [
            None if record is None else math.inf if record.status in FAILURES else record.values.get(COST)
            for record in records
        ]
        if all(cost is not None for cost in costs):
            rows.append(costs)
    return np.array(rows, dtype=float).reshape(len(rows), len(arms))
