"""Quantities fitted over many runs: the critical batch, the exponent of the learning rate, and spread over tasks.

The one rule: a fit says a number only where the data pin it down on both sides; else it says a bound, or nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc, ndtr, ndtri, stdtrit

from bsexp.analysis.paired import Estimate

FEWEST_SEEDS = 12
FEWEST_SIZES = 5
FEWEST_TUNED = 4
RESAMPLES = 4000
STEPS_PER_OCTAVE = 64


def bca(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
    level: float = 0.95,
    num: int = RESAMPLES,
    expanded: bool = True,
) -> Estimate:
    """The BCa interval of statistic(mean over seeds), for `values` of shape (seeds, k), at least 12 seeds.

    `statistic` maps means of shape (resamples, k) to (resamples,); infinite values are allowed. Efron 1987, doi
    10.1080/01621459.1987.10478410. `expanded`: at the level at which a percentile interval of a normal mean is as wide
    as its t-interval (Hesterberg 2015, doi 10.1080/00031305.2015.1089789): z becomes t(n - 1) sqrt(n / (n - 1)). At 12
    seeds BCa covers .91 to .92 without it and .95 with it (results/calibration). Where all resamples agree, an interval
    of no length. ValueError for fewer than 12 seeds.
    """
    seeds = len(values)
    if seeds < FEWEST_SEEDS or not 0 < level < 1:
        raise ValueError(f"a bootstrap needs {FEWEST_SEEDS} seeds and a level in (0, 1), got {seeds} and {level}")
    point = float(statistic(values.mean(axis=0, keepdims=True))[0])
    weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), num) / seeds
    drawn = np.sort(statistic(weights @ values))
    if drawn[0] == drawn[-1]:
        return Estimate(point, float(drawn[0]), float(drawn[0]), seeds)
    left_out = statistic((values.sum(axis=0) - values) / (seeds - 1))
    below = (float((drawn < point).mean()) + float((drawn <= point).mean())) / 2
    bias = float(ndtri(min(max(below, 0.5 / num), 1 - 0.5 / num)))
    skew = _acceleration(left_out)
    ends = []
    reach = float(ndtri((1 + level) / 2))
    if expanded:
        reach = float(stdtrit(seeds - 1, (1 + level) / 2)) * math.sqrt(seeds / (seeds - 1))
    for sign in (-1, 1):
        moved = bias + sign * reach
        place = float(ndtr(bias + moved / (1 - skew * moved)))
        # The next order statistic outward: no interpolation, so that infinite draws stay infinite and not nan.
        rank = math.floor(place * (num - 1)) if sign < 0 else math.ceil(place * (num - 1))
        ends.append(float(drawn[rank]))
    return Estimate(point, ends[0], ends[1], seeds)


def _acceleration(left_out: np.ndarray) -> float:
    """The skewness of the jackknife over 6; 0 where it has no spread or is not finite."""
    if not np.isfinite(left_out).all():
        return 0.0
    away = left_out.mean() - left_out
    spread = float((away**2).sum()) ** 1.5
    return float((away**3).sum()) / (6 * spread) if spread else 0.0


@dataclass(frozen=True)
class Fit:
    """A fitted number with its interval, and what may be said of it.

    `says`: "estimate" (the interval lies inside what the data can pin down), "at least" (only `estimate.low` holds),
    "at most" (only `estimate.high`), or "nothing". `scale`: the fit's other parameter (s_min; the rate
    at a batch of 1), None without one.
    """

    estimate: Estimate
    says: str
    scale: float | None
    notes: tuple[str, ...] = ()


def critical_batch(
    sizes: Sequence[float], costs: np.ndarray, generator: np.random.Generator, level: float = 0.95
) -> Fit:
    """b_crit of S(B) = s_min (1 + b_crit / B): least squares of log S on B, with the BCa interval over seeds.

    `sizes`: k different batch sizes; `costs`: updates to the target, shape (seeds, k), infinite for a miss. On
    constant-lr runs read on averaged weights, lr tuned for each size. McCandlish et al. 2018, arXiv:1812.06162.
    A size that missed on any seed is left out, with a note: its mean cost is not known. b_crit may come out 0 (S does
    not fall) or infinite (S falls as 1/B throughout). At least 5 sizes and 12 seeds, and an interval inside
    [2 B_min, B_max / 2], make an estimate; else a bound or nothing is said. ValueError for costs of another shape, or
    not above 0.
    """
    batch = np.asarray(sizes, dtype=float)
    table = np.asarray(costs, dtype=float)
    if table.ndim != 2 or table.shape[1:] != batch.shape or not len(table) or len(set(sizes)) < len(sizes):
        raise ValueError(f"costs are seeds x sizes for different sizes, got {table.shape} for {list(sizes)}")
    if np.isnan(table).any() or (table <= 0).any() or (batch <= 0).any():
        raise ValueError("costs and batch sizes are above 0; a miss is infinite")
    known = np.isfinite(table).all(axis=0)
    notes = [f"Batch size {size:g} missed the target on some seed and is not in the fit." for size in batch[~known]]
    batch, logs = batch[known], np.log(table[:, known])
    if len(batch) < 2:
        return Fit(Estimate(0.0, None, None, len(table)), "nothing", None, (*notes, _too_few_sizes(len(batch))))

    def fitted(means: np.ndarray) -> np.ndarray:
        return _critical(batch, means)[0]

    point, smallest = (float(each[0]) for each in _critical(batch, logs.mean(axis=0, keepdims=True)))
    if len(batch) < FEWEST_SIZES:
        notes.append(_too_few_sizes(len(batch)))
    if len(table) < FEWEST_SEEDS:
        notes.append(f"{len(table)} seeds: an interval needs {FEWEST_SEEDS}.")
        return Fit(Estimate(point, None, None, len(table)), "nothing", smallest, tuple(notes))
    estimate = bca(logs, fitted, generator, level)
    says = _what_it_says(estimate, 2 * float(batch.min()), float(batch.max()) / 2)
    if len(batch) < FEWEST_SIZES:
        says = "nothing"
    if says != "estimate":
        notes.append(
            f"The interval is not inside [{2 * batch.min():g}, {batch.max() / 2:g}], which the sizes can pin down."
        )
    return Fit(estimate, says, smallest, tuple(notes))


def _too_few_sizes(num: int) -> str:
    return f"{num} batch sizes that always reached the target: a fit needs {FEWEST_SIZES}."


def _what_it_says(estimate: Estimate, low: float, high: float) -> str:
    assert estimate.low is not None
    assert estimate.high is not None
    above, below = estimate.low >= low, estimate.high <= high
    if above and below:
        return "estimate"
    return "at least" if above else "at most" if below else "nothing"


def _critical(batch: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b_crit, s_min) for rows of mean log costs, shape (rows, k): a fine grid in log b_crit, then a parabola.

    For a given b_crit the best log s_min is a mean, so that one dimension is left to search.
    """
    octaves = np.arange(
        (math.log2(batch.min()) - 10) * STEPS_PER_OCTAVE, (math.log2(batch.max()) + 10) * STEPS_PER_OCTAVE + 1
    )
    grid = octaves / STEPS_PER_OCTAVE
    curves = np.log1p(2.0 ** grid[:, None] / batch[None, :])
    centred = curves - curves.mean(axis=1, keepdims=True)
    shifted = means - means.mean(axis=1, keepdims=True)
    errors = (centred**2).sum(axis=1)[None, :] - 2 * shifted @ centred.T
    best = errors.argmin(axis=1)
    inner = np.clip(best, 1, len(grid) - 2)
    rows = np.arange(len(means))
    left, middle, right = (errors[rows, inner + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    safe = np.where(bend > 0, bend, 1.0)
    offset = np.where(bend > 0, np.clip((left - right) / (2 * safe), -1, 1), 0.0)
    found = 2.0 ** (grid[inner] + offset / STEPS_PER_OCTAVE)
    level = np.exp((means - np.log1p(found[:, None] / batch[None, :])).mean(axis=1))
    found = np.where(best == 0, 0.0, np.where(best == len(grid) - 1, math.inf, found))
    return found, np.where(best == 0, np.exp(means.mean(axis=1)), level)


def lr_exponent(
    sizes: Sequence[float], rates: Sequence[float], step: float, unbounded: Sequence[float] = (), level: float = 0.95
) -> Fit:
    """The exponent e of tuned lr ~ B^e: the slope of log2 lr on log2 B, with its t-interval on k - 2.

    0: no scaling; .5: square root; 1: linear. `sizes`: k different batch sizes; `rates`: the best lr tried at each;
    `step`: the largest factor from one of these to the next rate of its grid. A best rate is known to half a step, so
    the interval reaches at least as far as a line may be tilted within half a step at either end. `unbounded`: sizes
    whose true best may lie beyond the rates tried; they are left out, with a note. Fewer than 4 others: nothing is
    said. ValueError for numbers that are not above 0, sizes that are not different, or a step not above 1.
    """
    batch, best = (np.asarray(each, dtype=float) for each in (sizes, rates))
    if batch.shape != best.shape or len(set(sizes)) < len(sizes) or not step > 1:
        raise ValueError(f"needs a rate for each of different sizes and a step above 1, got {sizes}, {rates}, {step}")
    if not all((np.isfinite(each) & (each > 0)).all() for each in (batch, best)):
        raise ValueError(f"batch sizes and learning rates are above 0 and finite, got {sizes} and {rates}")
    known = ~np.isin(batch, np.asarray(unbounded, dtype=float))
    notes = [
        f"Batch size {size:g} is not in the fit: its best rate may lie beyond those tried." for size in batch[~known]
    ]
    batch, best = np.log2(batch[known]), np.log2(best[known])
    num = len(batch)
    if num < FEWEST_TUNED:
        notes.append(f"{num} batch sizes whose best rate is known: an exponent needs {FEWEST_TUNED}.")
        return Fit(Estimate(0.0, None, None, num), "nothing", None, tuple(notes))
    places = batch - batch.mean()
    slope = float(places @ best / (places @ places))
    left = best - best.mean() - slope * places
    error = math.sqrt(float(left @ left) / (num - 2) / float(places @ places))
    half = max(float(stdtrit(num - 2, (1 + level) / 2)) * error, math.log2(step) / float(np.ptp(batch)))
    scale = 2.0 ** float(best.mean() - slope * batch.mean())
    return Fit(Estimate(slope, slope - half, slope + half, num), "estimate", scale, tuple(notes))


@dataclass(frozen=True)
class Heterogeneity:
    """How an effect varies over tasks. `q`: Cochran's Q on `freedom`; `p`: of equal effects, small where they differ.

    `between`: DerSimonian-Laird variance of the true effects; `share`: I^2 = max(0, 1 - freedom / Q). `pooled`: the
    mean effect over tasks like these with its 95 % Hartung-Knapp t-interval.
    """

    q: float
    freedom: int
    p: float
    between: float
    share: float
    pooled: Estimate


def heterogeneity(estimates: Sequence[float], errors: Sequence[float], nums: Sequence[int]) -> Heterogeneity:
    """Whether an effect is the same on all tasks, from its estimate, standard error and number of pairs on each.

    Q = sum w (d - mean)^2 with w = 1 / error^2. With estimated errors Q exceeds chi-square's quantiles far too often at
    12 seeds, so p is of Welch's F (Biometrika 1951), which allows for nums - 1 degrees of freedom each. Two tasks or
    more; ValueError for an error that is not above 0 or fewer than 2 pairs.
    """
    values, spread, pairs = (np.asarray(each, dtype=float) for each in (estimates, errors, nums))
    if not (len(values) == len(spread) == len(pairs) >= 2) or not np.isfinite(values).all():
        raise ValueError(f"needs as many finite estimates, errors and nums, two or more, got {len(values)}")
    if not (np.isfinite(spread) & (spread > 0)).all() or (pairs < 2).any():
        raise ValueError(f"errors are above 0 and nums at least 2, got {list(spread)} and {list(pairs)}")
    tasks = len(values)
    weights = 1 / spread**2
    mean = float((weights * values).sum() / weights.sum())
    q = float((weights * (values - mean) ** 2).sum())
    lost = float(((1 - weights / weights.sum()) ** 2 / (pairs - 1)).sum())
    ratio = q / (tasks - 1) / (1 + 2 * (tasks - 2) / (tasks**2 - 1) * lost)
    p = float(fdtrc(tasks - 1, (tasks**2 - 1) / (3 * lost), ratio))
    room = float(weights.sum() - (weights**2).sum() / weights.sum())
    between = max(0.0, (q - (tasks - 1)) / room)
    return Heterogeneity(
        q, tasks - 1, p, between, max(0.0, 1 - (tasks - 1) / q) if q else 0.0, _pooled(values, spread, between)
    )


def _pooled(values: np.ndarray, spread: np.ndarray, between: float) -> Estimate:
    weights = 1 / (spread**2 + between)
    mean = float((weights * values).sum() / weights.sum())
    tasks = len(values)
    variance = float((weights * (values - mean) ** 2).sum()) / ((tasks - 1) * float(weights.sum()))
    half = float(stdtrit(tasks - 1, 0.975)) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, tasks)


def collapse(lrs: Sequence[float], sizes: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """How much of an outcome's variance over a grid is told by lr / B, by lr and by B alone: shares in [0, 1].

    One entry per run; runs whose lr / B agree to 1e-6 are one group. A share is between groups over total: if the
    outcome depends on the noise lr / B only, that one is near 1 and the others are not. More groups tell more: compare
    them on a full grid in one factor, where lr / B has more levels than either. 1 for all where nothing varies.
    """
    rates, batch, found = (np.asarray(each, dtype=float) for each in (lrs, sizes, values))
    if not (len(rates) == len(batch) == len(found) >= 2) or (rates <= 0).any() or (batch <= 0).any():
        raise ValueError(f"needs two or more runs with lr and batch size above 0, got {len(found)}")
    total = float(((found - found.mean()) ** 2).sum())
    keys = {"lr / B": np.log(rates / batch), "lr": np.log(rates), "B": np.log(batch)}
    return {name: _between(np.round(key, 6), found, total) for name, key in keys.items()}


def _between(groups: np.ndarray, values: np.ndarray, total: float) -> float:
    if not total:
        return 1.0
    inside = sum(
        float(((values[groups == key] - values[groups == key].mean()) ** 2).sum()) for key in np.unique(groups)
    )
    return 1 - inside / total
