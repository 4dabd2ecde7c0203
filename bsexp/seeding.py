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
