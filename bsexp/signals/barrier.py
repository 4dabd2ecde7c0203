"""The loss barrier between two networks: how high the straight way from one to the other climbs.

The one rule: it is measured against the line between the two losses, so that one network being worse is no barrier.
"""

import math
from collections.abc import Sequence


def loss_barrier(losses: Sequence[float]) -> float:
    """max over t of loss(t) - ((1 - t) loss(0) + t loss(1)), from the losses at equally spaced t in [0, 1].

    Entezari et al. 2022 (arXiv:2110.06296, eq. 1), as a finite grid sees it: a narrow peak between two of its points is
    missed. In units of the loss, from 0 up, as both ends lie on the line; about 0: the two are linearly connected
    (Frankle et al. 2020, arXiv:1912.05671). Valid where a network between the two is one at all: batch statistics of
    networks in between would have to be measured anew. Raises ValueError for fewer than three losses, which have none
    in between, or ends that aren't finite.

    >>> loss_barrier([1.0, 4.0, 2.0])
    2.5
    """
    if len(losses) < 3:
        raise ValueError(f"{len(losses)} losses: a way has a point between its ends, 3 at least")
    first, last = losses[0], losses[-1]
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"losses {first} and {last} at the ends: they must be finite")
    steps = len(losses) - 1
    above = [loss - ((steps - k) * first + k * last) / steps for k, loss in enumerate(losses)]
    # A loss that isn't a number is one that grew out of all bounds.
    return max(0.0, *(math.inf if math.isnan(each) else each for each in above[1:-1]))
