"""The simple noise scale: the batch size at which a gradient is as much signal as noise.

The one rule: it is a ratio of two estimates, so both are averaged first; where the averages say nothing, it is nan.
"""

import math

from bsexp.signals.noise import Noise


def b_simple(noise: Noise) -> float:
    """tr(Sigma) / |G|^2, in samples (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.9).

    nan where |G|^2 isn't above 0: the noise hides the gradient, and more must be averaged. It equals the critical batch
    size only where the Hessian is a multiple of the identity (the same, section 2.2), and is no synonym of it.

    >>> b_simple(Noise(2.0, 128.0)), b_simple(Noise(-1.0, 128.0))
    (64.0, nan)
    """
    if not noise.grad_sq_norm > 0 or not math.isfinite(noise.grad_sq_norm):
        return math.nan
    return noise.grad_var / noise.grad_sq_norm
