"""A paired difference over seeds and test examples at once: what holds for new seeds on new test data.

The one rule: rows are seeds, columns are test examples, and every entry is a difference (or contrast) of the same
example under the same seed's arms; nothing is averaged before it comes in.

The mean of x_ij = mean + a_i + b_j + e_ij over n seeds and M examples has the variance var_a/n + var_b/M + var_e/(nM).
The first and last part are in the spread of the row means; var_b/M is what new test data add. Resampling rows and
columns together (the pigeonhole bootstrap, Owen 2007, doi 10.1214/07-AOAS122) counts var_e three times, and its
percentiles ignore that n is small: for 5 %, it misses 1 to 4 % where examples are noisy and 8 % where seeds matter most
(results/calibration). Words therefore use the variance components with a t-quantile.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from bsexp.analysis.exact import ROUNDING, Sides
from bsexp.analysis.paired import Estimate
from bsexp.store.products import Products

# Of the mean square of a table's numbers: what the variance of its columns' means is less of is rounding.
ROUNDING_SQUARED = 1e-13


@dataclass(frozen=True)
class Location:
    """An estimated mean with its standard error (0: every value is the same) and degrees of freedom."""

    mean: float
    error: float
    freedom: float
    num: int

    @property
    def sides(self) -> Sides:
        """One-sided t p about 0. Without spread the mean is known: p is 0 or 1."""
        if not self.error:
            return Sides(0.0 if self.mean > 0 else 1.0, 0.0 if self.mean < 0 else 1.0)
        ratio = self.mean / self.error
        return Sides(float(stdtr(self.freedom, -ratio)), float(stdtr(self.freedom, ratio)))

    def interval(self, level: float) -> Estimate:
        """mean +- t * error at a level in (0, 1)."""
        if not 0 < level < 1:
            raise ValueError(f"a level lies in (0, 1), got {level}")
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error
        return Estimate(self.mean, self.mean - half, self.mean + half, self.num)


def over_seeds(values: np.ndarray, scale: float | None = None) -> Location:
    """The mean of values of shape (n,), n >= 2, with s / sqrt(n) and n - 1 degrees of freedom.

    `scale`: the size of the numbers that were subtracted; spreads and means below 1e-12 of it are rounding and count
    as 0. Without it, the largest of the values themselves.
    """
    num = len(values)
    if num < 2:
        raise ValueError(f"a spread needs two values, got {num}")
    rounding = ROUNDING * (float(np.abs(values).max()) if scale is None else scale)
    mean = float(values.mean())
    mean = 0.0 if abs(mean) <= rounding else mean
    if float(np.ptp(values)) <= rounding:
        return Location(mean and float(values[0]), 0.0, num - 1.0, num)
    return Location(mean, float(values.std(ddof=1)) / math.sqrt(num), num - 1.0, num)


def two_way(table: Products) -> Location:
    """The mean over n seeds x M examples, both at least 2, for new seeds on new examples of the same kind.

    error^2 = s_rows^2 / n + max(0, var_b) / M with var_b = s_columns^2 - var_e / n from the two-way layout without
    replication; degrees of freedom by Satterthwaite, never below n - 1. `num` counts seeds.
    """
    num, examples = len(table.sums), table.num
    if num < 2 or examples < 2:
        raise ValueError(f"a two-way spread needs two seeds and two examples, got {(num, examples)}")
    rows, size = table.sums / examples, float(np.trace(table.products)) / (num * examples)
    mean = float(rows.mean())
    of_rows = float(rows.var(ddof=1))
    # Sums of squares of all numbers and of the columns' means, each about the mean.
    total = num * examples * (size - mean**2)
    of_columns = (float(table.products.sum()) / num**2 - examples * mean**2) / (examples - 1)
    left = total - examples * (num - 1) * of_rows - num * (examples - 1) * of_columns
    residual = max(0.0, left) / ((num - 1) * (examples - 1))
    seeds_part, data_part = of_rows / num, max(0.0, of_columns - residual / num) / examples
    variance = seeds_part + data_part
    if variance * examples <= ROUNDING_SQUARED * size:
        return Location(mean, 0.0, num - 1.0, num)
    freedom = variance**2 / (seeds_part**2 / (num - 1) + data_part**2 / (examples - 1))
    return Location(mean, math.sqrt(variance), max(num - 1.0, freedom), num)


def pigeonhole(matrix: np.ndarray, generator: np.random.Generator, level: float = 0.95, num: int = 2000) -> Estimate:
    """Percentiles of the mean over rows and columns drawn anew with replacement, both at once, `num` times.

    For comparison; words use `two_way` (see above). Shape (n, M), at least (1, 1).
    """
    if min(matrix.shape) < 1 or num < 1 or not 0 < level < 1:
        raise ValueError(f"needs a filled matrix, num >= 1 and 0 < level < 1, got {matrix.shape}, {num}, {level}")
    seeds, examples = matrix.shape
    rows = generator.multinomial(seeds, np.full(seeds, 1 / seeds), num) / seeds
    columns = generator.multinomial(examples, np.full(examples, 1 / examples), num) / examples
    means = np.einsum("bj,bj->b", rows @ matrix, columns)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(matrix.mean()), float(low), float(high), seeds)
