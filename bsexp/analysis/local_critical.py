"""The local critical batch: how large a batch may be at a share of the budget, by branches of a constant-rate trunk.

The one rule: a branch is compared with the trunk's own batch at the same seed, and counts as no worse where it ends
within the spread of trainings that were repeated in other orders of the samples (the branched training of
Merrill et al. 2025, arXiv:2505.23971).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import stdtrit

from bsexp.analysis.paired import Estimate
from bsexp.analysis.trials import LEVEL, by_seed, cost, degrees_of_freedom, deviation
from bsexp.records import TrialRow


@dataclass(frozen=True)
class Spread:
    """A standard deviation of single trainings, in the metric's unit, known with `freedom` degrees of freedom."""

    value: float
    freedom: int

    def half_width(self, share: float) -> float:
        """Half of the LEVEL interval of a mean whose variance is `share` of that of one training."""
        return float(stdtrit(self.freedom, (1 + LEVEL) / 2)) * self.value * math.sqrt(share)


@dataclass(frozen=True)
class Size:
    """How branches of `batch_size` ended: `difference` of their loss from the trunk's own batch, for the rule that
    suited them best; `usable`: the rules under which it is within the spread. None where all of them diverged.
    """

    batch_size: int
    lr_rule: str
    difference: Estimate | None
    usable: tuple[str, ...]


@dataclass(frozen=True)
class Local:
    """The critical batch at a `share` of the budget: the largest that ends within the `spread` of the trunk's own.

    `low`: the largest that surely does, `high`: the smallest that surely doesn't (infinite where none). Losses are
    those of averaged weights, in nats.
    """

    share: float
    spread: Spread
    own: int
    sizes: tuple[Size, ...]

    @property
    def critical(self) -> int:
        """The largest batch whose branch ended within the spread."""
        return self._largest(lambda found: found.mean <= self.spread.value)

    @property
    def low(self) -> int:
        """The largest batch whose branch surely did."""
        return self._largest(lambda found: found.high is not None and found.high <= self.spread.value)

    @property
    def high(self) -> float:
        """The smallest batch whose branch surely did not."""
        return min((size.batch_size for size in self.sizes if _surely_worse(size, self.spread)), default=math.inf)

    def _largest(self, within: Callable[[Estimate], bool]) -> int:
        found = [size.batch_size for size in self.sizes if size.difference and within(size.difference)]
        return max([self.own, *found])


def _surely_worse(size: Size, spread: Spread) -> bool:
    found = size.difference
    return found is None or (found.low is not None and found.low > spread.value)


def local_critical(rows: Sequence[TrialRow]) -> list[Local]:
    """The critical batch at each share of the budget that there are branches at, by rising share.

    A share at which a branch of the trunk's own batch diverged is left out: nothing can be compared with that.
    """
    found = []
    for share in sorted({row.share for row in rows}):
        here = [row for row in rows if row.share == share]
        own = min(row.batch_size for row in here)
        orders = by_seed([row for row in here if row.batch_size == own], "val_loss_ema")
        if any(map(math.isinf, (cost for costs in orders.values() for cost in costs))):
            continue
        spread = Spread(deviation(orders.values()), degrees_of_freedom(orders.values()))
        base = {seed: fmean(costs) for seed, costs in orders.items()}
        repeated = min(map(len, orders.values()))
        half = spread.half_width((1 + 1 / repeated) / len(base))
        sizes = sorted({row.batch_size for row in here} - {own})
        of_size = {size: [row for row in here if row.batch_size == size] for size in sizes}
        found.append(Local(share, spread, own, tuple(_size(of_size[size], base, half, spread) for size in sizes)))
    return found


def _size(rows: Sequence[TrialRow], base: Mapping[int, float], half: float, spread: Spread) -> Size:
    means = {}
    for rule in dict.fromkeys(row.lr_rule for row in rows):
        means[rule] = fmean(cost(row, "val_loss_ema") - base[row.seed] for row in rows if row.lr_rule == rule)
    best = min(means, key=lambda rule: means[rule])
    usable = tuple(rule for rule, mean in means.items() if mean <= spread.value)
    if math.isinf(means[best]):
        return Size(rows[0].batch_size, best, None, usable)
    found = Estimate(means[best], means[best] - half, means[best] + half, len(base))
    return Size(rows[0].batch_size, best, found, usable)


def rule_for(points: Sequence[Local], share: float, batch: int) -> str | None:
    """The rule of the rate that suits `batch` from `share` of the budget on: the one that was best at most points.

    The earliest of these where that leaves several; None where all rules diverged at the first point.
    """
    later = [size for point in points if point.share >= share for size in point.sizes if size.batch_size == batch]
    if not later or later[0].difference is None:
        return None
    rules = [size.lr_rule for size in later if size.difference]
    return max(rules, key=lambda rule: (rules.count(rule), -rules.index(rule)))
