"""What a ramp of the learning rate says: where the loss falls fastest, where it diverges, which rate that suggests.

The one rule: nothing is suggested that was not seen inside the ramp. Where the loss never falls, or never diverges, or
a tenth of where it does lies below the ramp, there is a reason instead of a number.

The ramp is that of Smith 2017, arXiv:1506.01186, section 3.3. Two readings are in use: a tenth of the rate of
divergence, and the rate of the steepest fall. The latter is told, not suggested: it depends on how long the ramp is,
for a slow one has learned what is easy at low rates already.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bsexp.records import RampRow
from bsexp.signals.divergence import Course

# The smoothed loss's half-life, and the stretch over which a fall is measured, as shares of the whole ramp.
HALF_LIFE, STRETCH = 0.01, 0.05
TENTH = 0.1
RULE = "a tenth of the rate at which the smoothed loss had lost half of its fall again"


@dataclass(frozen=True)
class RangeTest:
    """A judged ramp from `lowest_lr` to `highest_lr`. Rates and losses (nats) are None where there is none.

    `start_loss` is the smoothed loss at the beginning, `lowest_loss` its minimum, at `lowest_at`. `steepest_at`: where
    it falls most within STRETCH of the ramp, the middle of that; None also where that is the ramp's beginning.
    `diverged_at`: the rate of the update after which it had diverged. `reason`: why nothing is suggested, as a
    sentence; empty where something is.
    """

    lowest_lr: float
    highest_lr: float
    start_loss: float | None
    lowest_loss: float | None
    lowest_at: float | None
    steepest_at: float | None
    diverged_at: float | None
    suggested_lr: float | None
    reason: str


def half_life(total_samples: int) -> float:
    """The half-life of a ramp's smoothed loss, in samples; it lags behind by 1.44 of it (an exponential average)."""
    return HALF_LIFE * total_samples


def judge_ramp(rows: Sequence[RampRow], total_samples: int, lowest_lr: float, highest_lr: float) -> RangeTest:
    """What the ramp `rows` says, of `total_samples` when whole. ValueError for none."""
    if not rows:
        raise ValueError("a ramp has rows, got none")
    courses = [Course(half_life(total_samples))]
    before = 0
    for row in rows:
        courses.append(courses[-1].follow(row.loss, row.samples - before))
        before = row.samples
    last = courses[-1]
    rates = np.array([row.lr for row in rows])
    losses = np.array([course.smoothed.value for course in courses[1:]])
    diverged_at = float(rates[-1]) if last.diverged else None
    lowest_at, steepest_at = None, None
    if last.fallen:
        begun = sum(math.isnan(course.start) for course in courses[1:])
        bottom = begun + int(np.argmin(losses[begun:]))
        lowest_at = float(rates[bottom])
        updates = total_samples / rows[0].samples
        steepest_at = _steepest(rates[begun : bottom + 1], losses[begun : bottom + 1], updates)
    suggested, reason = _suggest(lowest_lr, highest_lr, last.fallen, diverged_at)
    return RangeTest(
        lowest_lr,
        highest_lr,
        None if math.isnan(last.start) else last.start,
        None if math.isnan(last.lowest) else last.lowest,
        lowest_at,
        steepest_at,
        diverged_at,
        suggested,
        reason,
    )


def _steepest(rates: np.ndarray, losses: np.ndarray, updates: float) -> float | None:
    """The middle, in ratios, of the stretch with the greatest fall; None where that begins where the ramp does."""
    width = min(max(1, round(STRETCH * updates)), len(rates) - 1)
    falls = losses[: len(losses) - width] - losses[width:]
    first = int(np.argmax(falls))
    return float(np.sqrt(rates[first] * rates[first + width])) if first >= width else None


def _suggest(lowest: float, highest: float, fallen: bool, diverged: float | None) -> tuple[float | None, str]:
    begin_lower, end_higher = "begin lower (--lowest-lr)", "end higher (--highest-lr)"
    if diverged is None and not fallen:
        cure = f"{end_higher}, take more --updates, or look at data and model"
        return None, f"the loss never fell by a tenth up to {highest:g}: {cure}"
    if diverged is None:
        return None, f"the loss fell, but never diverged up to {highest:g}: {end_higher}"
    if not fallen:
        return None, f"the loss never fell by a tenth before it diverged at {diverged:.2g}: {begin_lower}"
    if TENTH * diverged < lowest:
        return None, f"a tenth of {diverged:.2g}, where it diverged, is below the ramp: {begin_lower}"
    return TENTH * diverged, ""
