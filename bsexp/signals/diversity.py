"""Gradient diversity: how different the gradients of samples are.

The one rule: N D = 1 + b_simple, with the covariance divided by N: the same signal as the noise scale.
"""


def gradient_diversity(sum_of_sq_norms: float, sq_norm_of_sum: float) -> float:
    """D = sum |g_i|^2 / |sum g_i|^2 over N samples (Yin et al. 2018, arXiv:1706.05699, who name it).

    From 1/N, all alike, without an upper end. Raises ValueError where the sum has no length, or for negative numbers.

    >>> gradient_diversity(4.0, 16.0)
    0.25
    """
    if not (sum_of_sq_norms >= 0 and sq_norm_of_sum > 0):
        raise ValueError(f"sums {sum_of_sq_norms} and {sq_norm_of_sum} have no diversity")
    return sum_of_sq_norms / sq_norm_of_sum


def diversity_batch(b_simple: float, delta: float) -> float:
    """delta N D = delta (1 + b_simple), unrounded: mini-batches up to N D lose little (Yin et al. 2018).

    DiveBatch (2025) sets the batch to delta N D once an epoch. Raises ValueError for a delta that isn't above 0.

    >>> diversity_batch(63.0, 1.0)
    64.0
    """
    if not delta > 0:
        raise ValueError(f"delta {delta}: it must be above 0")
    return delta * (1 + b_simple)
