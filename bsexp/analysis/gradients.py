"""How the error of a batch's gradient falls with the batch: a slope that is -1 if batches are drawn as they should be.

The one rule: an identity is tested, not a model fitted: E|g_B - g|^2 = (1 - B/N) tr(Sigma)/B for batches without
replacement (Cochran 1977, theorem 2.2), tr(Sigma)/B with it.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from bsexp.analysis.paired import LEVEL, Estimate
from bsexp.records import GradientRow

EXPECTED = -1.0


def error_slope(rows: Sequence[GradientRow], num_train: int, level: float = LEVEL) -> Estimate | None:
    """The slope of log(error / (1 - B/N)) on log B by least squares; without the factor for draws with replacement.

    `rows`: of one point of training and one way to draw. The interval carries each row's standard error; `num` counts
    the sizes. None for fewer than two sizes. Raises ValueError for a batch of all samples, whose error is 0.
    """
    if len({row.batch_size for row in rows}) < 2:
        return None
    if any(not row.replacement and row.batch_size >= num_train for row in rows):
        raise ValueError(f"a batch of all {num_train} samples has no error")
    places = np.log([row.batch_size for row in rows])
    heights = np.log([row.gradient_error / left_over(row, num_train) for row in rows])
    weights = (places - places.mean()) / float(((places - places.mean()) ** 2).sum())
    slope = float(weights @ heights)
    relative = np.array([row.error_spread / row.gradient_error for row in rows])
    half = float(ndtri((1 + level) / 2)) * math.sqrt(float((weights**2) @ relative**2))
    return Estimate(slope, slope - half, slope + half, len(rows))


def left_over(row: GradientRow, num_train: int) -> float:
    """1 - B/N, by which drawing without replacement is more exact; 1 for draws with it."""
    return 1.0 if row.replacement else 1 - row.batch_size / num_train
