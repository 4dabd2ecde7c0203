"""Waiting for a plateau: how often a score has failed to get better.

The one rule: the counting is that of torch's ReduceLROnPlateau, evaluation by evaluation; what follows from it is the
policy's business.
"""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Patience:
    """What has been seen so far. `bad`: evaluations in a row without getting better; `fired`: plateaus so far.

    `best` is nan before the first evaluation; `resting` evaluations after a plateau are not counted.
    """

    best: float = math.nan
    bad: int = 0
    resting: int = 0
    fired: int = 0


@dataclass(frozen=True)
class Plateau:
    """When a score counts as stuck: more than `patience` evaluations in a row that aren't better than the best one.

    Better, for `mode` min: below best (1 - threshold) with `threshold_mode` rel, below best - threshold with abs; max
    mirrored. After a plateau `cooldown` evaluations go by uncounted.
    """

    mode: str = "min"
    patience: int = 4
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0

    def seen(self, before: Patience, score: float) -> Patience:
        """What is known after an evaluation with `score`; a score that is nan is not better.

        >>> waiting = Plateau(patience=1).seen(Plateau(patience=1).seen(Patience(), 2.0), 2.0)
        >>> waiting.bad, Plateau(patience=1).seen(waiting, 2.0).fired
        (1, 1)
        """
        if self._better(score, before.best):
            after = replace(before, best=score, bad=0)
        else:
            after = replace(before, bad=before.bad + 1)
        if before.resting:
            after = replace(after, resting=before.resting - 1, bad=0)
        if after.bad > self.patience:
            return replace(after, bad=0, resting=self.cooldown, fired=after.fired + 1)
        return after

    def _better(self, score: float, best: float) -> bool:
        if math.isnan(best):
            return not math.isnan(score)
        sign = 1 if self.mode == "min" else -1
        margin = best * self.threshold if self.threshold_mode == "rel" else self.threshold
        return sign * score < sign * best - margin
