"""The critical batch at one point of training: up to which batch a branch ends where the trunk's own would have ended.

The one rule: the number is told only where its interval is inside what was tried and narrow; else it is a bound.

After Merrill et al. 2025, arXiv:2505.23971, who branch a run; what is called the same here is our choice: within the
standard deviation that the trunk's own batch shows from one order of the samples to another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bsexp.analysis.fits import FEWEST_SEEDS, bca
from bsexp.analysis.paired import Estimate, mean_interval
from bsexp.analysis.ratios import Ratio, ratio_of_means
from bsexp.records import CriticalRow

# An interval from half of the number to twice of it is still one.
NARROW = 2.0
OWN = "none"
RESAMPLING_SEED = 0


@dataclass(frozen=True)
class Branches:
    """What branches of `batch_size` ended at with the rule that suited them best.

    `difference` of their validation loss (averaged weights) from the trunk's own batch, paired by seed; None where a
    branch diverged under each rule.
    """

    batch_size: int
    lr_rule: str
    difference: Estimate | None


@dataclass(frozen=True)
class Critical:
    """The critical batch at a `share` of the budget, `epoch` in passes over the data.

    `spread`: standard deviation of the loss at the trunk's batch from order to order. `batch`: the largest batch whose
    best branch ended within it, between the sizes tried linear in log B; infinite where all did, and then a bound.
    `says`: "estimate", "at least" (only `batch.low` holds), "at most" (only `batch.high`), "between" (both, but far
    apart) or "nothing". `b_simple`: of the trunk at that point.
    """

    share: float
    epoch: float
    spread: float
    branches: tuple[Branches, ...]
    batch: Estimate
    says: str
    b_simple: Ratio


def critical_batches(rows: Sequence[CriticalRow]) -> list[Critical]:
    """What the branches say, by their share of the budget. Only seeds with all branches of a point are looked at.

    A point without such a seed, without two orders of the own batch or without other batches is left out, and so is one
    where a branch of the trunk's own batch diverged: nothing can be compared with that.
    """
    shares = sorted({row.share for row in rows})
    found = [_at_point([row for row in rows if row.share == share]) for share in shares]
    return [each for each in found if each is not None]


def _at_point(rows: Sequence[CriticalRow]) -> Critical | None:
    table = {(row.seed, row.batch_size, row.lr_rule, row.order): row for row in rows}
    kinds = sorted({key[1:] for key in table}, key=lambda kind: (kind[0], kind[2], kind[1]))
    seeds = sorted(seed for seed in {key[0] for key in table} if all((seed, *kind) in table for kind in kinds))
    if not seeds:
        return None
    own = min(kind[0] for kind in kinds)
    orders_of_own = [kind for kind in kinds if kind[0] == own and kind[2] > 0]
    if (own, OWN, 0) not in kinds or len(orders_of_own) < 2 or kinds[-1][0] == own:
        return None
    losses = {kind: _losses(table, seeds, kind) for kind in kinds}
    orders = np.stack([losses[kind] for kind in orders_of_own], axis=1)
    base = losses[own, OWN, 0]
    if not (np.isfinite(orders).all() and np.isfinite(base).all()):
        return None
    sizes = sorted({kind[0] for kind in kinds} - {own})
    differences = {kind[:2]: losses[kind] - base for kind in kinds if kind[0] != own}
    batch, spread = _fitted(own, sizes, differences, orders)
    firsts = [table[seed, own, OWN, 0] for seed in seeds]
    return Critical(
        share=firsts[0].share,
        epoch=float(np.mean([row.epoch for row in firsts])),
        spread=spread,
        branches=(Branches(own, OWN, mean_interval([0.0] * len(seeds))), *_best(sizes, differences)),
        batch=batch,
        says=says_of(batch, own, sizes[-1]),
        b_simple=ratio_of_means([row.grad_var for row in firsts], [row.grad_sq_norm for row in firsts]),
    )


def _losses(
    table: Mapping[tuple[int, int, str, int], CriticalRow], seeds: Sequence[int], kind: tuple[int, str, int]
) -> np.ndarray:
    found = [table[seed, *kind].val_loss_ema for seed in seeds]
    return np.array([math.inf if loss is None else loss for loss in found])


def _best(sizes: Sequence[int], differences: Mapping[tuple[int, str], np.ndarray]) -> list[Branches]:
    best = []
    for size in sizes:
        means = {rule: float(values.mean()) for (other, rule), values in differences.items() if other == size}
        rule = min(means, key=lambda name: means[name])
        values = differences[size, rule]
        best.append(Branches(size, rule, mean_interval(values) if np.isfinite(values).all() else None))
    return best


def _fitted(
    own: int, sizes: Sequence[int], differences: Mapping[tuple[int, str], np.ndarray], orders: np.ndarray
) -> tuple[Estimate, float]:
    """The critical batch with its BCa interval over seeds, and the spread; without one below FEWEST_SEEDS seeds.

    The spread is drawn again with the seeds, so that what isn't known of it is in the interval.
    """
    # The unbiased variance over orders, of each seed; its mean over seeds is that of one order.
    columns = [orders.var(axis=1, ddof=1)]
    places: list[list[int]] = []
    for size in sizes:
        # One branch that diverged rules out its size under that rule: its mean loss is infinite.
        kept = [values for (other, _), values in differences.items() if other == size and np.isfinite(values).all()]
        places.append([len(columns) + k for k in range(len(kept))])
        columns += kept
    values = np.stack(columns, axis=1)

    def crossing(means: np.ndarray) -> np.ndarray:
        best = [means[:, at].min(axis=1) if at else np.full(len(means), math.inf) for at in places]
        return crossings([own, *sizes], np.stack([np.zeros(len(means)), *best], axis=1), np.sqrt(means[:, 0]))

    spread = math.sqrt(float(values[:, 0].mean()))
    if len(values) < FEWEST_SEEDS:
        point = float(crossing(values.mean(axis=0, keepdims=True))[0])
        return Estimate(point, None, None, len(values)), spread
    found = bca(values, crossing, np.random.default_rng(RESAMPLING_SEED))
    assert found.low is not None
    # Infinite is from the largest size on: what holds at least is that size.
    return replace(found, low=min(found.low, float(sizes[-1]))), spread


def crossings(sizes: Sequence[int], differences: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The largest batch whose difference is within `spread`, for rows of `differences` at rising `sizes`.

    Between the last size within and the next one linear in log B; infinite where the largest size is within.

    >>> crossings([16, 64], np.array([[0.0, 2.0], [0.0, 0.5]]), np.array([1.0, 1.0])).tolist()
    [32.0, inf]
    """
    places = np.log2(np.asarray(sizes, dtype=float))
    rows = np.arange(len(differences))
    last = len(sizes) - 1 - (differences <= spread[:, None])[:, ::-1].argmax(axis=1)
    following = np.minimum(last + 1, len(sizes) - 1)
    low, high = differences[rows, last], differences[rows, following]
    # Right above a size that diverged nothing is known.
    share = np.divide(spread - low, high - low, out=np.zeros(len(rows)), where=np.isfinite(high) & (high > low))
    found = 2.0 ** (places[last] + share * (places[following] - places[last]))
    return np.where(last == len(sizes) - 1, math.inf, found)


def says_of(batch: Estimate, own: int, largest: int) -> str:
    """What may be said of a critical batch when sizes from `own` to `largest` were tried (see Critical)."""
    if batch.low is None or batch.high is None:
        return "nothing"
    above, below = batch.low > own, batch.high < largest
    if above and below:
        near = batch.low >= batch.mean / NARROW and batch.high <= batch.mean * NARROW
        return "estimate" if near else "between"
    return "at least" if above else "at most" if below else "nothing"
