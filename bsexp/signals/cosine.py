"""The cosine between the gradients of a batch's halves.

The one rule: it is b_simple in another dress: about 1 / (1 + 2 b / B) for a batch of B.

SimiGrad (Qin et al. 2021, NeurIPS) keeps it at a target by changing the batch.
"""

import math


def half_batch_cosine(sq_norm_first: float, sq_norm_second: float, sq_norm_whole: float) -> float:
    """The cosine of the gradients of two equal halves, from their squared norms and that of their mean.

    The product of the two is (4 |mean|^2 - |first|^2 - |second|^2) / 2. Raises ValueError where a half has no gradient,
    which has no direction, and for a negative squared norm.

    >>> half_batch_cosine(4.0, 4.0, 3.0)
    0.5
    """
    if not (sq_norm_first > 0 and sq_norm_second > 0 and sq_norm_whole >= 0):
        raise ValueError(f"squared norms {sq_norm_first}, {sq_norm_second} and {sq_norm_whole} have no cosine")
    product = (4 * sq_norm_whole - sq_norm_first - sq_norm_second) / 2
    return product / math.sqrt(sq_norm_first * sq_norm_second)


def expected_cosine(b_simple: float, batch_size: int) -> float:
    """1 / (1 + 2 b / B): the mean product of the halves of a batch of B over their mean squared norm.

    That is the cosine where the halves' norms hardly vary (many parameters). `b_simple` nan gives nan. Raises
    ValueError for a batch below 2, which has no halves, or a negative `b_simple`.

    >>> expected_cosine(64.0, 128)
    0.5
    """
    if batch_size < 2 or b_simple < 0:
        raise ValueError(f"b_simple {b_simple} and a batch of {batch_size}: they must be from 0 and from 2")
    return 1 / (1 + 2 * b_simple / batch_size)


def batch_for_cosine(b_simple: float, target: float) -> float:
    """The batch whose halves have the cosine `target`: 2 b t / (1 - t), unrounded. ValueError for t outside (0, 1).

    >>> batch_for_cosine(64.0, 0.5)
    128.0
    """
    if not 0 < target < 1:
        raise ValueError(f"a target of {target}: it must lie in (0, 1)")
    return 2 * b_simple * target / (1 - target)
