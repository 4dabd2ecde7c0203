"""The norm test: how large a batch must be for its gradient to be right within a share of its length.

The one rule: it asks for b_simple / theta^2 samples: the same signal as the noise scale.
"""


def norm_test_batch(b_simple: float, theta: float) -> float:
    """The smallest B with tr(Sigma)/B <= theta^2 |G|^2, unrounded (Byrd et al. 2012, Math. Program. 134, section 3).

    De et al. 2017 (arXiv:1610.05792) use it for SGD. Raises ValueError for theta that isn't above 0.

    >>> norm_test_batch(64.0, 0.5)
    256.0
    """
    if not theta > 0:
        raise ValueError(f"theta {theta}: it must be above 0")
    return b_simple / theta**2
