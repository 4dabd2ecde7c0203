"""Learning rates as they were tuned: the range that is usable around the best, and how the best rises with the batch.

The one rule: a best rate is known where rates that do clearly worse were tried on both sides of it; elsewhere a grid's
end speaks and not the task, and no law is drawn through it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bsexp.analysis.facts import config_of
from bsexp.analysis.fits import FEWEST_TUNED, Fit, lr_exponent
from bsexp.config import RunConfig
from bsexp.schedules.scaling import scaling_rule

if TYPE_CHECKING:
    import pandas

    from bsexp.store.tables import Results

# A rate is usable where its loss is at most this share above the best one's.
NEAR = 0.01
# What may differ between the arms of a ladder: the batch, and how a rate is carried to it.
ALONG = ("batch_size", "lr", "lr_scaling", "reference_batch")


@dataclass(frozen=True)
class Usable:
    """The tried rates next to the best whose validation loss is within 1 % of its own: `low` to `high`.

    `below`, `above`: whether a rate beyond that end was tried, which then did worse or didn't train; without one the
    range may go on. `step`: the larger factor from the best to a neighbour in the grid; 1 where it has none. `loss`:
    the best's, in nats.
    """

    best: float
    low: float
    high: float
    below: bool
    above: bool
    step: float
    loss: float

    @property
    def bounded(self) -> bool:
        """Whether the best rate is known: worse ones were tried on both sides."""
        return self.below and self.above


def usable(losses: Mapping[float, float | None], best: float) -> Usable:
    """The usable range around `best` among `losses`: mean validation loss by rate, None where it didn't train.

    ValueError where the best itself has no loss.

    >>> found = usable({0.1: 0.9, 0.2: 0.5, 0.4: 0.502, 0.8: None}, 0.2)
    >>> found.low, found.high, found.bounded
    (0.2, 0.4, True)
    """
    loss = losses.get(best)
    if loss is None:
        raise ValueError(f"the best rate has a loss, got none at {best}")
    rates = sorted(losses)
    low = high = place = rates.index(best)
    while low > 0 and _near(losses[rates[low - 1]], loss):
        low -= 1
    while high < len(rates) - 1 and _near(losses[rates[high + 1]], loss):
        high += 1
    ends = rates[max(0, place - 1)], rates[min(len(rates) - 1, place + 1)]
    step = max(best / ends[0], ends[1] / best)
    return Usable(best, rates[low], rates[high], low > 0, high < len(rates) - 1, step, loss)


def _near(loss: float | None, best: float) -> bool:
    return loss is not None and loss <= best * (1 + NEAR)


def usable_rates(tuning: "pandas.DataFrame | None") -> dict[str, Usable]:
    """The usable range of each arm that was tuned, from tune.csv, as the rates are given there."""
    found: dict[str, Usable] = {}
    for arm, rows in tuning.groupby("arm", sort=False) if tuning is not None else ():
        pairs = zip(rows["lr"].astype(float), rows["val_loss"].astype(float), strict=True)
        losses = {lr: None if loss != loss else loss for lr, loss in pairs}
        best = rows.loc[rows["chosen"].astype(bool), "lr"]
        if len(best) == 1 and losses[float(best.iloc[0])] is not None:
            found[str(arm)] = usable(losses, float(best.iloc[0]))
    return found


@dataclass(frozen=True)
class Rung:
    """An arm of a ladder. `rates`: as trained with at its batch size, after its scaling rule."""

    arm: str
    batch_size: int
    rates: Usable


@dataclass(frozen=True)
class Ladder:
    """Arms of one schedule, data set and model that were tuned each at a batch size of its own, smallest batch first.

    `fit`: how their best rates rise with the batch.
    """

    rungs: tuple[Rung, ...]
    fit: Fit


def ladders(results: "Results") -> list[Ladder]:
    """Each set of at least 4 tuned arms that differ in their batch size alone, in the order of the experiment."""
    ranges = usable_rates(results.tuning)
    sets: dict[str, dict[int, Rung]] = {}
    for arm in results.arms:
        config = config_of(results, arm) if arm in ranges else None
        if config is not None:
            rung = Rung(arm, config.batch_size, at_own_batch(ranges[arm], config))
            # Two ways of carrying a rate to one batch are one rung: tuned, they are the same arm.
            sets.setdefault(apart_from_the_batch(config), {}).setdefault(rung.batch_size, rung)
    return [_ladder(list(rungs.values())) for rungs in sets.values() if len(rungs) >= FEWEST_TUNED]


def apart_from_the_batch(config: RunConfig) -> str:
    kept: dict[str, Any] = {name: value for name, value in config.model_dump(mode="json").items() if name not in ALONG}
    return json.dumps(kept, sort_keys=True)


def at_own_batch(rates: Usable, config: RunConfig) -> Usable:
    factor = 1.0
    if config.lr_scaling is not None:
        factor = scaling_rule(config.lr_scaling, config.optimizer)(config.batch_size / config.reference_batch)
    return replace(rates, best=factor * rates.best, low=factor * rates.low, high=factor * rates.high)


def _ladder(rungs: list[Rung]) -> Ladder:
    rungs = sorted(rungs, key=lambda rung: rung.batch_size)
    unbounded = [rung.batch_size for rung in rungs if not rung.rates.bounded]
    bounded = [rung for rung in rungs if rung.rates.bounded] or rungs
    # Where a single rate was tried nothing is bounded, and the step is not looked at.
    step = max([rung.rates.step for rung in bounded if rung.rates.step > 1], default=2.0)
    sizes, rates = [rung.batch_size for rung in rungs], [rung.rates.best for rung in rungs]
    return Ladder(tuple(rungs), lr_exponent(sizes, rates, step, unbounded))
