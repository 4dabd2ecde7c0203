"""Sharpness: the largest eigenvalue of the loss's Hessian, and what learning rate it goes with.

The one rule: it is told together with the learning rate, which it follows: training drives lr x sharpness towards an
edge, so two networks that were trained at different rates differ in sharpness for that reason alone (edge of stability:
Cohen et al. 2021, arXiv:2103.00065; with batches: arXiv:2412.20553).
"""

import math


def lr_sharpness(sharpness: float, lr: float) -> float:
    """lr lambda_max, without unit. Raises ValueError for a rate below 0 or numbers that aren't finite.

    >>> lr_sharpness(40.0, 0.05)
    2.0
    """
    if not (math.isfinite(sharpness) and math.isfinite(lr) and lr >= 0):
        raise ValueError(f"sharpness {sharpness} at a learning rate of {lr}: both must be finite, the rate from 0")
    return lr * sharpness


def stability_edge(momentum: float = 0.0) -> float:
    """The lr lambda_max above which gradient descent with momentum m grows along that direction: 2 (1 + m).

    For a quadratic loss, the exact gradient and heavy-ball momentum as torch's SGD has it: x' = x - lr h x + m (x - x0)
    has the roots of z^2 - (1 + m - lr h) z + m, which leave the unit circle there. Batches lower it. Raises ValueError
    for a momentum outside [0, 1).

    >>> stability_edge(0.5)
    3.0
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"a momentum of {momentum}: it must lie in [0, 1)")
    return 2 * (1 + momentum)
