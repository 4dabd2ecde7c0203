"""Tests and intervals that assume no distribution: sign flips, counts of failures, and Holm's step-down.

The one rule: a p is that of the null hypothesis's edge, counts the observed outcome itself, and is never nan: where
nothing speaks against the null hypothesis, it is 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaincinv

EXACT_LIMIT = 20
SAMPLED_FLIPS = 99_999
ROUNDING = 1e-12


@dataclass(frozen=True)
class Sides:
    """The two one-sided p of a location: `above` speaks for "it is above 0" where small, `below` for "below 0"."""

    above: float
    below: float

    @property
    def two_sided(self) -> float:
        """Twice the smaller one, at most 1."""
        return min(1.0, 2 * min(self.above, self.below))


def sign_flip(values: np.ndarray, generator: np.random.Generator | None = None) -> Sides:
    """The sign-flip (Fisher's paired randomisation) test of a mean of 0, for values of shape (n,), n >= 1.

    All 2^n signs for n <= 20. Above, 99,999 random ones drawn from `generator` and the observed one count, so that the
    test stays valid and p is at least 1e-5; ValueError without a generator. Exact where the values are symmetric
    around 0. Sums that differ by rounding only are ties.

    >>> sign_flip(np.array([1.0, 2.0, 3.0])).above
    0.125
    """
    num = len(values)
    if num < 1:
        raise ValueError("a sign-flip test needs at least one value, got none")
    total = float(values.sum())
    slack = ROUNDING * float(np.abs(values).sum())
    if num <= EXACT_LIMIT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate((sums + value, sums - value))
        return Sides(float((sums >= total - slack).mean()), float((sums <= total + slack).mean()))
    if generator is None:
        raise ValueError(f"{num} values have too many sign flips to count; pass a generator to sample them")
    more = less = 1
    for size in [SAMPLED_FLIPS // 9] * 9:
        sums = (generator.integers(0, 2, (size, num), dtype=np.int8) * 2 - 1) @ values
        more += int((sums >= total - slack).sum())
        less += int((sums <= total + slack).sum())
    return Sides(more / (SAMPLED_FLIPS + 1), less / (SAMPLED_FLIPS + 1))


def smallest_sign_flip_p(num: int) -> float:
    """The smallest two-sided sign-flip p that `num` pairs can reach: 2 / 2^num (sampled: 2e-5), 1 for none or one pair.

    >>> smallest_sign_flip_p(8)
    0.0078125
    """
    if num < 0:
        raise ValueError(f"a number of pairs is 0 or more, got {num}")
    return min(1.0, 2.0 * max(0.5**num, 1 / (SAMPLED_FLIPS + 1) if num > EXACT_LIMIT else 0.0))


def sign_test(values: np.ndarray) -> Sides:
    """The sign test of "as many above 0 as below"; zeros are ties and say nothing; infinities count by their sign."""
    above, below = int((values > 0).sum()), int((values < 0).sum())
    return Sides(_at_least(above, above + below), _at_least(below, above + below))


def _at_least(count: int, num: int) -> float:
    """P(X >= count) for num fair coins."""
    return 1.0 if count == 0 else float(bdtr(num - count, num, 0.5))


def mcnemar(first_only: int, second_only: int) -> Sides:
    """Exact McNemar: of the pairs where one arm failed alone, how many were the first's. `above`: the first fails more.

    >>> mcnemar(5, 0).above
    0.03125
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"counts are 0 or more, got {first_only} and {second_only}")
    num = first_only + second_only
    return Sides(_at_least(first_only, num), _at_least(second_only, num))


def clopper_pearson(count: int, num: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share of which `count` of `num` were seen; (0, 1) where nothing was seen.

    Clopper & Pearson 1934. ValueError unless 0 <= count <= num and 0 < level < 1.
    """
    if not (0 <= count <= num and 0 < level < 1):
        raise ValueError(f"needs 0 <= count <= num and 0 < level < 1, got {count}, {num}, {level}")
    tail = (1 - level) / 2
    low = float(betaincinv(count, num - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, num - count, 1 - tail)) if count < num else 1.0
    return low, high


@dataclass(frozen=True)
class Stepdown:
    """Holm's levels and adjusted p, in the order of the p given."""

    alphas: tuple[float, ...]
    adjusted: tuple[float, ...]


def holm(p_values: Sequence[float], alpha: float = 0.05) -> Stepdown:
    """Holm 1979: the j-th smallest of k p is held against alpha / (k - j + 1), until the first that misses.

    `alphas`: the level each hypothesis is tested at; those behind the first miss share its level, at which none of
    them can be rejected. `adjusted`: max over the smaller ones of (k - j + 1) p, at most 1; hypothesis i is rejected
    exactly where adjusted[i] <= alpha. ValueError for a p outside [0, 1] or an alpha outside (0, 1).

    >>> holm([0.03, 0.001]).adjusted
    (0.03, 0.002)
    """
    if not 0 < alpha < 1 or any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"needs p in [0, 1] and alpha in (0, 1), got {list(p_values)} and {alpha}")
    num = len(p_values)
    alphas, adjusted = [0.0] * num, [0.0] * num
    level, largest, missed = alpha, 0.0, False
    for rank, place in enumerate(sorted(range(num), key=lambda place: p_values[place])):
        level = level if missed else alpha / (num - rank)
        largest = max(largest, min(1.0, (num - rank) * p_values[place]))
        missed = missed or p_values[place] > level
        alphas[place], adjusted[place] = level, largest
    return Stepdown(tuple(alphas), tuple(adjusted))


def order_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """The interval of a median between two order statistics, and the level it holds: (low, high, level held).

    The narrowest [x_(k), x_(n+1-k)] with 1 - 2 P(Bin(n, 1/2) < k) >= level. With too few values (5 at .95) it is the
    whole line. Values of shape (n,), n >= 1; infinities are values like others. ValueError for none or a nan.
    """
    if not len(values) or np.isnan(values).any() or not 0 < level < 1:
        raise ValueError(f"a median needs values that are not nan and 0 < level < 1, got {values} and {level}")
    ordered, num = np.sort(values), len(values)
    rank = 0
    while rank < num // 2 and 1 - 2 * float(bdtr(rank, num, 0.5)) >= level:
        rank += 1
    if not rank:
        return -math.inf, math.inf, 1.0
    return float(ordered[rank - 1]), float(ordered[num - rank]), 1 - 2 * float(bdtr(rank - 1, num, 0.5))
