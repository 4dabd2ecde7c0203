"""|G|^2 and tr(Sigma) from the gradients of a batch's parts, without bias.

The one rule: the two are estimated apart, and only afterwards divided: neither of them is ever clamped, so |G|^2 may
come out negative where noise hides the gradient, and averages of many estimates stay right.

McCandlish et al. 2018, arXiv:1812.06162, appendix A.1, for two batch sizes; here for n parts of one batch.
"""

from typing import NamedTuple


class Noise(NamedTuple):
    """The squared norm of the mean gradient, |G|^2, and the trace of the covariance of samples' gradients, tr(Sigma).

    Both of one sample, in squared units of the loss per unit of weight. `grad_sq_norm` may be negative.
    """

    grad_sq_norm: float
    grad_var: float


def unbiased_noise(part_sq_norm: float, batch_sq_norm: float, num_parts: int, batch_size: int) -> Noise:
    """|G|^2 and tr(Sigma) from n = `num_parts` parts of a batch of B = `batch_size` samples.

    `part_sq_norm` is the mean of |g_j|^2 over the parts, `batch_sq_norm` is |g|^2 of the whole batch, g the mean of
    the g_j. With E|g_j|^2 = |G|^2 + n tr(Sigma)/B and E|g|^2 = |G|^2 + tr(Sigma)/B:

        |G|^2 = (n |g|^2 - mean |g_j|^2) / (n - 1),   tr(Sigma) = (mean |g_j|^2 - |g|^2) B / (n - 1).

    Parts need not be equal: where both means are weighted by the parts' samples the same holds, exactly. Valid for a
    loss that is a mean over samples; where samples share statistics (batch normalisation) it is the noise with
    statistics over a part. Numbers that aren't finite stay so. Raises ValueError for fewer than two parts, a batch
    smaller than its number of parts, or a negative squared norm.

    >>> unbiased_noise(10.0, 4.0, 4, 64)
    Noise(grad_sq_norm=2.0, grad_var=128.0)
    """
    if num_parts < 2:
        raise ValueError(f"noise can't be told from {num_parts} part: it takes at least 2")
    if batch_size < num_parts:
        raise ValueError(f"a batch of {batch_size} samples has no {num_parts} parts")
    if part_sq_norm < 0 or batch_sq_norm < 0:
        raise ValueError(f"squared norms are from 0, not {min(part_sq_norm, batch_sq_norm)}")
    excess = (part_sq_norm - batch_sq_norm) / (num_parts - 1)
    return Noise(batch_sq_norm - excess, excess * batch_size)


def within_epoch(noise: Noise, num_train: int) -> Noise:
    """`noise` for the training set itself: |G|^2 + tr(Sigma)/N, for batches drawn without replacement within an epoch.

    The samples of a batch then differ, so that the mean product of two of their gradients is |G|^2 - tr(Sigma)/N, with
    G the gradient of the N = `num_train` samples and Sigma their covariance (divided by N - 1): the sampling theorem
    for finite populations (Cochran 1977, theorem 2.2). Valid where a sample always looks the same, without augmentation
    and dropout; with them batches are draws from a larger population and nothing is to be corrected. Raises ValueError
    for fewer than two samples.

    >>> within_epoch(Noise(-0.5, 128.0), 64)
    Noise(grad_sq_norm=1.5, grad_var=128.0)
    """
    if num_train < 2:
        raise ValueError(f"a training set of {num_train} sample has no covariance")
    return Noise(noise.grad_sq_norm + noise.grad_var / num_train, noise.grad_var)
