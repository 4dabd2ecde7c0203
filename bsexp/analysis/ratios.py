"""A ratio of two means with its interval: what b_simple is where it was measured several times over.

The one rule: a ratio whose divisor may be zero has no upper end, and says so; it is never cut off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bsexp.analysis.paired import LEVEL, t_quantile


@dataclass(frozen=True)
class Ratio:
    """A ratio of means within [low, high]; nan for the value where the mean divisor isn't above 0.

    `high` is infinite where the divisor may be zero; then `low` still holds. Both None for fewer than two pairs.
    """

    value: float
    low: float | None
    high: float | None
    num: int


def ratio_of_means(above: Sequence[float], below: Sequence[float], level: float = LEVEL) -> Ratio:
    """mean(above) / mean(below), of values that were measured in pairs and are above 0 in the mean.

    The interval is Fieller's (1954, J. R. Stat. Soc. B 16, 175-185): the r for which the pairs' above - r below could
    have mean 0 by a t-test. Negative r are left out: both means are of what can't be negative. Raises ValueError for
    unequal numbers of values, none, or one that isn't finite.

    >>> ratio_of_means([4.0, 4.0], [2.0, 2.0]).value
    2.0
    """
    tops, bottoms = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    if tops.shape != bottoms.shape or tops.ndim != 1 or not len(tops):
        raise ValueError(f"a ratio takes as many values above as below, got {len(above)} and {len(below)}")
    if not (np.isfinite(tops).all() and np.isfinite(bottoms).all()):
        raise ValueError("a ratio takes finite values")
    top, bottom, num = float(tops.mean()), float(bottoms.mean()), len(tops)
    value = top / bottom if bottom > 0 else math.nan
    if num < 2:
        return Ratio(value, None, None, num)
    (top_var, both), (_, bottom_var) = np.cov(tops, bottoms) / num
    reach = t_quantile(num, level) ** 2
    # (top - r bottom)^2 <= t^2 (top_var - 2 r both + r^2 bottom_var) is a r^2 - 2 b r + c <= 0.
    a, b, c = bottom**2 - reach * bottom_var, top * bottom - reach * both, top**2 - reach * top_var
    root = math.sqrt(max(0.0, b * b - a * c))
    if a > 0 and bottom > 0:
        return Ratio(value, max(0.0, (b - root) / a), (b + root) / a, num)
    # The divisor may be 0: outside of both roots or, where there are none or only negative ones, any ratio at all.
    bounded = a <= 0 and bottom > 0 and c > 0 and b * b > a * c
    low = (c / (2 * b) if a == 0 else (b - root) / a) if bounded else 0.0
    return Ratio(value, max(0.0, low), math.inf, num)
