"""The expected calibration error: how far a network's confidence is from how often it is right.

The one rule: within a bin it compares two means, so errors of both signs may cancel there: few bins flatter a network.
"""

import math
from collections.abc import Sequence

BINS = 15


def calibration_error(confidences: Sequence[float], right: Sequence[bool], num_bins: int = BINS) -> float:
    """sum over bins of n_b / N |share right - mean confidence|, in [0, 1] (Guo et al. 2017, arXiv:1706.04599, eq. 3).

    `confidences`: the probability that each of N predictions was given, in [0, 1]; `right`: whether it was right. Bin k
    of M = `num_bins` is ((k - 1)/M, k/M], and 0 belongs to the first. Biased upwards where bins hold few predictions.
    Raises ValueError for no predictions, lists of different lengths, no bins, or a confidence outside [0, 1].

    >>> calibration_error([0.75, 0.75, 0.5, 0.5], [True, True, True, False])
    0.125
    """
    number = len(confidences)
    if not number or number != len(right) or num_bins < 1:
        raise ValueError(f"{number} confidences, {len(right)} predictions, {num_bins} bins: nothing to compare")
    if not all(0 <= confidence <= 1 for confidence in confidences):
        raise ValueError("a confidence is a probability: it must lie in [0, 1]")
    sums = [0.0] * num_bins
    for confidence, hit in zip(confidences, right, strict=True):
        sums[max(0, math.ceil(confidence * num_bins) - 1)] += bool(hit) - confidence
    return math.fsum(map(abs, sums)) / number
