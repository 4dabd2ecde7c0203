"""CABS: the batch that goes with a learning rate.

The one rule: it holds for SGD without momentum; whoever puts lr / (1 - momentum) for lr says that it is their own.
"""


def cabs_batch(lr: float, grad_var: float, loss: float, floor: float = 0.0) -> float:
    """lr tr(Sigma) / (loss - floor), unrounded (Balles, Romero, Hennig 2017, arXiv:1612.05086, eq. 22).

    `floor` is the loss that can't be gone below, which the paper takes for 0; label smoothing and wrong labels lift it.
    Raises ValueError for a loss that isn't above the floor, or a rate that isn't above 0.

    >>> cabs_batch(0.1, 640.0, 1.5, 0.5)
    64.0
    """
    if not loss > floor:
        raise ValueError(f"loss {loss} is not above its floor {floor}")
    if not lr > 0:
        raise ValueError(f"learning rate {lr}: it must be above 0")
    return lr * grad_var / (loss - floor)
