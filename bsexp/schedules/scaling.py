"""How a learning rate given at one batch size is carried to another.

The one rule: nothing is scaled unless the run says so; `lr` is the rate at `reference_batch`.
"""

from collections.abc import Callable

from bsexp.errors import UsageError, nearest

RULES = ("none", "linear", "sqrt", "auto")


def scaling_rule(name: str, optimizer: str) -> Callable[[float], float]:
    """The factor on the learning rate as a function of batch_size / reference_batch.

    `none` 1, `linear` r (Goyal et al. 2017), `sqrt` r^1/2 (Hoffer et al. 2017), a number p: r^p; `auto` is linear for
    SGD and sqrt for AdamW. Raises UsageError for anything else.

    >>> scaling_rule("sqrt", "sgd")(4.0)
    2.0
    """
    if name == "auto":
        name = "linear" if optimizer == "sgd" else "sqrt"
    powers = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}
    try:
        power = powers[name] if name in powers else float(name)
    except ValueError:
        raise UsageError("lr_scaling", repr(name), nearest(name, RULES) + " (or a power such as 0.75)") from None
    if not 0 <= power <= 2:
        raise UsageError("lr_scaling", repr(name), "a power must lie in [0, 2]")
    return lambda ratio: ratio**power
