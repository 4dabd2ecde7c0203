"""What a schedule is, and how a budget of samples is cut into updates.

The one rule: a schedule is a pure function of progress, measured in samples. It owns no optimizer, no loader and no
counter; updates are an outcome.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bsexp.errors import UsageError


class Progress(NamedTuple):
    """Where training stands at the start of an update. `step` counts updates, everything else samples."""

    step: int
    samples: int
    total_samples: int
    num_train: int

    @property
    def fraction(self) -> float:
        """f = samples / total_samples, in [0, 1)."""
        return self.samples / self.total_samples


class Hyper(NamedTuple):
    """The values that one update uses: samples per update, learning rate, momentum (AdamW: beta_1)."""

    batch_size: int
    lr: float
    momentum: float


Schedule = Callable[[Progress], Hyper]


class Update(NamedTuple):
    """One planned update. `samples` and `epoch` are those *before* it; `batch_size` is what it really gets."""

    step: int
    samples: int
    epoch: float
    batch_size: int
    lr: float
    momentum: float


def share(wanted: int, remaining: int, closing: bool) -> tuple[int, bool]:
    """The size of the next update, and whether the one after it closes the budget.

    A whole batch while two or more remain. When between one and two remain, this update takes half of them (rounded
    up) and the closing one the rest: the budget is met exactly, the number of updates stays what it was, and neither
    of the two is smaller than half of `wanted`.

    >>> share(100, 250, False), share(100, 150, False), share(100, 75, True)
    ((100, False), (75, True), (75, True))
    """
    if closing or remaining <= wanted:
        return remaining, True
    if remaining < 2 * wanted:
        return (remaining + 1) // 2, True
    return wanted, False


def consult(schedule: Schedule, progress: Progress) -> Hyper:
    """The schedule's values at `progress`, refused where no update could be made with them.

    Raises UsageError for a batch size that is not a whole number in [1, num_train], a learning rate that is not finite
    and positive, or a momentum outside [0, 1).
    """
    hyper = schedule(progress)
    where = f"at {progress.fraction:.4f} of the budget (step {progress.step})"
    if type(hyper.batch_size) is not int or not 1 <= hyper.batch_size <= progress.num_train:
        raise UsageError(
            "schedule",
            f"batch size {hyper.batch_size!r} {where}",
            f"a batch size must be a whole number from 1 to num_train = {progress.num_train}",
        )
    if not (math.isfinite(hyper.lr) and hyper.lr > 0):
        raise UsageError("schedule", f"learning rate {hyper.lr!r} {where}", "it must be finite and above 0")
    if not 0 <= hyper.momentum < 1:
        raise UsageError("schedule", f"momentum {hyper.momentum!r} {where}", "it must lie in [0, 1)")
    return hyper


def simulate(schedule: Schedule, *, total_samples: int, num_train: int) -> Iterator[Update]:
    """Every update of a run, in order, without training anything.

    `total_samples` is the budget, `num_train` the number of samples trained on (one epoch). Raises UsageError where
    the schedule gives a value that no update could use.
    """
    step, samples, closing = 0, 0, False
    while samples < total_samples:
        hyper = consult(schedule, Progress(step, samples, total_samples, num_train))
        size, closing = share(hyper.batch_size, total_samples - samples, closing)
        yield Update(step, samples, samples / num_train, size, hyper.lr, hyper.momentum)
        step, samples = step + 1, samples + size


def noise_scale(lr: float, momentum: float, batch_size: int, num_train: int) -> float:
    """g = lr / (1 - m) * (N / B - 1), the scale of the noise in SGD's steps (Smith et al. 2018, eq. 3 and 5).

    >>> round(noise_scale(0.1, 0.9, 128, 50000), 4)
    389.625
    """
    return lr / (1 - momentum) * (num_train / batch_size - 1)
