"""The gain: how many steps of a small batch one step of a large one is worth.

The one rule: it is AdaScale's gain without AdaScale's clock, so it isn't called AdaScale.
"""


def gain(grad_sq_norm: float, grad_var: float, batch_size: int, reference_batch: int) -> float:
    """r = (var + sqr) / (var / S + sqr), S = batch_size / reference_batch, var = tr(Sigma) / reference_batch.

    Between 1 (no noise) and S (nothing but noise): Johnson et al. 2020, arXiv:2007.05105, section 3. There the schedule
    also advances by r. Raises ValueError where |G|^2 or tr(Sigma) is negative, or both are 0.

    >>> gain(1.0, 16.0, 64, 16)
    1.6
    """
    if not (grad_sq_norm >= 0 and grad_var >= 0 and grad_sq_norm + grad_var > 0):
        raise ValueError(f"|G|^2 {grad_sq_norm} and tr(Sigma) {grad_var} have no gain")
    var = grad_var / reference_batch
    return (var + grad_sq_norm) / (var * reference_batch / batch_size + grad_sq_norm)
