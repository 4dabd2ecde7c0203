"""How a loss fares while the learning rate rises: whether it has fallen, and whether it has diverged.

The one rule: a loss is judged by its smoothed value, against where it began; a fall counts from a stated share of that
on, and from what noise can't do.

The smoothed loss of a ramp begins level (the rate is too small to do anything), falls, and rises again where the rate
is more than the training bears: the range test of Smith 2017, arXiv:1506.01186, section 3.3. How many times its minimum
it then has says little: a classifier that goes back to guessing between ten classes has 1.5 times a minimum of 1.5 nats
and 46 times one of .05. What share of its fall is lost again is the same for both.
"""

import math
from dataclasses import dataclass, field, replace

from bsexp.signals.smoothing import Average

# A fall counts from a tenth of the start on, and from so many standard errors of a smoothed loss: the start and the
# lowest err both, and the latter is the least of many.
LEAST_FALL, LEAST_ERRORS = 0.1, 8.0
# Half of a fall lost again is no noise either; without a fall, twice the loss of the beginning.
LOST, GROWN = 0.5, 2.0
# From so many half-lives on, the smoothed loss is hardly less certain than it will be later.
BEGUN = 3.0
# The noise is averaged over so many times the half-life: of a few updates it would be too small by chance.
LONGER = 10.0


@dataclass(frozen=True)
class Course:
    """Where a loss stands after `samples` samples, as the average `smoothed` with `half_life`, both in samples.

    `squares` is the average of its squared distance from the smoothed loss before it, with LONGER of a memory. `start`
    is the smoothed loss after the first BEGUN half-lives, `lowest` the least since then; both nan before. `fallen`:
    whether the smoothed loss has been below its start by LEAST_FALL of that and by LEAST_ERRORS. `broken`: whether a
    loss wasn't finite.

    >>> course = Course(half_life=1.0)
    >>> for loss in 20 * [2.0] + 20 * [1.0] + [9.0]:
    ...     course = course.follow(loss, 1)
    >>> course.start, course.fallen, course.diverged
    (2.0, True, True)
    """

    half_life: float
    smoothed: Average = field(default_factory=Average)
    squares: Average = field(default_factory=Average)
    samples: int = 0
    start: float = math.nan
    lowest: float = math.nan
    fallen: bool = False
    broken: bool = False

    def follow(self, loss: float, samples: int) -> "Course":
        """The course after an update of `samples` more samples with a mean loss of `loss`."""
        seen = self.samples + samples
        if not math.isfinite(loss):
            return replace(self, samples=seen, broken=True)
        smoothed = self.smoothed.follow(loss, samples, self.half_life)
        squares = self.squares
        if self.samples:
            squares = squares.follow((loss - self.smoothed.value) ** 2, samples, LONGER * self.half_life)
        course = replace(self, smoothed=smoothed, squares=squares, samples=seen)
        return course._compared(samples) if seen >= BEGUN * self.half_life else course

    def _compared(self, samples: int) -> "Course":
        value = self.smoothed.value
        start = value if math.isnan(self.start) else self.start
        lowest = value if math.isnan(self.lowest) else min(self.lowest, value)
        fall = start - lowest
        enough = fall >= LEAST_FALL * start and fall >= LEAST_ERRORS * self.error(samples)
        return replace(self, start=start, lowest=lowest, fallen=self.fallen or enough)

    def error(self, samples: int) -> float:
        """The standard error of the smoothed loss where updates of `samples` samples err independently, in nats.

        The weights of an exponential average fall by k from update to update; their squares sum to (1 - k) / (1 + k).
        """
        kept = 0.5 ** (samples / self.half_life)
        return math.sqrt(self.squares.value * (1 - kept) / (1 + kept)) if self.squares.weight else math.inf

    @property
    def limit(self) -> float:
        """What the smoothed loss must not exceed: half of the way back from its lowest, or GROWN times its start."""
        if self.fallen:
            return self.lowest + LOST * (self.start - self.lowest)
        return GROWN * self.start

    @property
    def diverged(self) -> bool:
        """Whether a loss wasn't finite, or the smoothed one is above `limit`."""
        return self.broken or self.smoothed.value > self.limit
