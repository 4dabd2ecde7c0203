"""Means over seeds and paired differences between two arms, each with its t-interval.

The one rule: a point and its interval travel together, and no result is nan: one value has no interval (None), no value
has no estimate (None).

Missing values (None, nan) mean "not measured" and are left out; infinite ones are refused. The intervals speak of new
seeds on the same test set, not of new test examples.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean of `num` values with the interval [low, high] of its expectation, in the unit of the values.

    `low` and `high` are both None when there is a single value. With zero variance both equal the mean.
    """

    mean: float
    low: float | None
    high: float | None
    num: int

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval; None without one."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def t_quantile(num: int, level: float = LEVEL) -> float:
    """The two-sided Student t quantile with num - 1 degrees of freedom: 12.706 for two values at .95.

    Raises ValueError for fewer than two values or a level outside (0, 1).
    """
    if num < 2 or not 0 < level < 1:
        raise ValueError(f"a t-interval needs num >= 2 and 0 < level < 1, got {num} and {level}")
    return float(stdtrit(num - 1, (1 + level) / 2))


def _measured(values: Iterable[float | None]) -> np.ndarray:
    numbers = np.array([value for value in values if value is not None and not math.isnan(value)], dtype=float)
    if np.isinf(numbers).any():
        raise ValueError("an infinite value has no mean; compare such outcomes by ranks")
    return numbers


def mean_interval(values: Iterable[float | None], level: float = LEVEL) -> Estimate | None:
    """mean +- t(n - 1) * s / sqrt(n), s with divisor n - 1; None where nothing was measured.

    Raises ValueError for an infinite value.

    >>> mean_interval([1.0, 3.0]).high == 2.0 + t_quantile(2)
    True
    """
    numbers = _measured(values)
    if not len(numbers):
        return None
    if len(numbers) == 1 or (numbers == numbers[0]).all():
        # Equal values: the sum of n of them over n may be off in the last digit, and the interval must not be.
        value = float(numbers[0])
        edge = value if len(numbers) > 1 else None
        return Estimate(value, edge, edge, len(numbers))
    mean = float(numbers.mean())
    half = t_quantile(len(numbers), level) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Estimate(mean, mean - half, mean + half, len(numbers))


def paired_difference(
    first: Mapping[int, float | None], second: Mapping[int, float | None], level: float = LEVEL
) -> Estimate | None:
    """The mean of first - second over the seeds that both have, with its t-interval; `num` counts the pairs.

    Both map a seed to an outcome. None where no seed has both. Raises ValueError for an infinite value.

    >>> paired_difference({0: 5.0, 1: 7.0, 2: 1.0}, {0: 4.0, 1: 6.0})
    Estimate(mean=1.0, low=1.0, high=1.0, num=2)
    """
    differences: list[float] = []
    for seed in sorted(first.keys() & second.keys()):
        pair = _measured((first[seed], second[seed]))
        if len(pair) == 2:
            differences.append(float(pair[0] - pair[1]))
    return mean_interval(differences, level)


def mean_band(values: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The mean over axis 0 of (seeds, points) and the pointwise t-interval's low and high, each of shape (points,).

    Low and high are None for a single seed. Raises ValueError for no seed at all.
    """
    num = values.shape[0]
    if num < 1:
        raise ValueError("a mean needs at least one seed, got none")
    mean = values.mean(axis=0)
    if num == 1:
        return mean, None, None
    half = t_quantile(num, level) * values.std(axis=0, ddof=1) / math.sqrt(num)
    return mean, mean - half, mean + half
