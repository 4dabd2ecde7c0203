"""Seeds for everything random, each from its own name.

The one rule: no generator is shared between two purposes. A draw is keyed by the run's seed and by what it is for, so
that adding a new kind of draw, or skipping one, changes no other.
"""

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: the head of SHA-256 over the seed and the purpose's parts.

    >>> derive(0, "stream", 3) == derive(0, "stream", 3) != derive(0, "stream", 4)
    True
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def order_seed(seed: int, order: int, order_from: int, epoch: int) -> int:
    """What stands for the seed in all draws that come with the order of samples in `epoch`, counted from 0.

    Those are the order itself, augmentation and dropout masks. In order 0, and in the first `order_from` epochs of any
    other, it is the seed: so runs of one seed in two orders are the same run up to there.

    >>> order_seed(3, 0, 0, 5), order_seed(3, 1, 2, 1), order_seed(3, 1, 2, 2) == order_seed(3, 1, 0, 0)
    (3, 3, True)
    """
    return derive(seed, "another order", order) if order and epoch >= order_from else seed
