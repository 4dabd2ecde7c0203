"""What a strategy is, and how its wishes become values.

The one rule: a strategy states what it *wants* (a real batch size, factors); rounding, the cap's refusal, scaling and
warm-up are applied in one place, `Planned.__call__`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bsexp.errors import UsageError
from bsexp.schedules import curves
from bsexp.schedules.base import Hyper, Progress
from bsexp.schedules.parameters import Parameter, fraction


@dataclass(frozen=True)
class Setting:
    """What a run gives to any schedule; None stands for the strategy's own default (or the rule named below).

    `lr` is the rate at `reference_batch` (default: batch_size). `max_batch` defaults to max(batch_size,
    num_train // 10). `warmup_epochs` is a float, in epochs. `noisy_labels`: the loss can't fall to 0, for label noise
    or label smoothing; `validated`: there is a validation split. Only closed loops look at these two.
    """

    batch_size: int
    lr: float
    momentum: float = 0.9
    optimizer: str = "sgd"
    max_batch: int | None = None
    reference_batch: int | None = None
    lr_scaling: str | None = None
    warmup_epochs: float | None = None
    allow_unstable: bool = False
    noisy_labels: bool = False
    validated: bool = True


class Point(NamedTuple):
    """Where a rule is asked: f, the warm-up's share w, N, B0 and Bm."""

    f: float
    w: float
    num_train: int
    first: int
    largest: int


class Wanted(NamedTuple):
    """A rule's answer: the batch before rounding, the factor on the learning rate, the momentum (None: the run's)."""

    batch: float
    lr: float = 1.0
    momentum: float | None = None


Rule = Callable[[Point], Wanted]


@dataclass(frozen=True)
class Strategy:
    """A named family of schedules. `shapes` maps a parameter ("shape", "match") to the table its values come from.

    `closed`: in a closed loop, by the policy that the parameter "policy" names; `rule` is then what nothing is decided
    about.
    """

    name: str
    batch: str
    lr: str
    source: str
    rule: Callable[[Setting, dict[str, Any]], Rule]
    own: tuple[Parameter, ...] = ()
    shapes: Mapping[str, Mapping[str, Any]] | None = None
    lr_scaling: str = "none"
    warmup_share: float = 0.0
    large: bool = False
    closed: bool = False

    def parameters(self, given: Mapping[str, Any]) -> tuple[Parameter, ...]:
        """All parameters, those of the shape that `given` chooses included."""
        found = {parameter.name: parameter for parameter in self.own}
        for selector, table in (self.shapes or {}).items():
            chosen = given.get(selector, None if given.get("match") else found[selector].default)
            if chosen is not None:
                found[selector].check(chosen)
                for parameter in table[chosen].parameters:
                    found.setdefault(parameter.name, parameter)
        found["warmup_start"] = _WARMUP_START
        return tuple(found.values())

    def overflow(self, where: str) -> UsageError:
        """The error for parameters whose formula leaves the floating-point numbers."""
        return UsageError(self.name, f"a value too large to compute {where}", "choose less extreme parameters")


_WARMUP_START = fraction(
    "warmup_start", None, "factor on the rate at the first update of a warm-up (0.1)", open_high=False
)


@dataclass(frozen=True)
class Planned:
    """A strategy with all its values: the pure function Progress -> Hyper."""

    strategy: Strategy
    setting: Setting
    parameters: dict[str, Any]
    rule: Rule
    scale: Callable[[float], float]
    reference: int
    warmup_start: float

    def largest(self, num_train: int) -> int:
        """The cap on the batch size, in samples; UsageError where the data cannot carry it."""
        first = self.setting.batch_size
        largest = self.setting.max_batch or max(first, num_train // 10)
        if largest < first:
            raise UsageError("max_batch", str(largest), f"it must be at least batch_size = {first}")
        if largest > num_train // 2:
            what = "max_batch" if self.setting.max_batch and largest > first else "batch_size"
            raise UsageError(what, str(largest), f"at most num_train // 2 = {num_train // 2} of {num_train} samples")
        return largest

    def warmup_share(self, total_samples: int, num_train: int) -> float:
        """The warm-up's share w of the budget, in [0, 1)."""
        epochs = self.setting.warmup_epochs
        share = self.strategy.warmup_share if epochs is None else epochs * num_train / total_samples
        if share >= 1:
            raise UsageError("warmup_epochs", f"{epochs:g}", f"the whole run has {total_samples / num_train:g} epochs")
        return share

    def _warm_up(self, progress: Progress, w: float) -> float:
        """The factor on the rate. A warm-up of so many epochs is the same, to the last bit, whatever the budget."""
        if self.setting.warmup_epochs is None:
            return curves.warm_up(w, self.warmup_start)(progress.fraction)
        return curves.warm_up(self.setting.warmup_epochs * progress.num_train, self.warmup_start)(progress.samples)

    def __call__(self, progress: Progress) -> Hyper:
        """Values for the update that starts at `progress`. Raises UsageError where they leave their range."""
        largest = self.largest(progress.num_train)
        w = self.warmup_share(progress.total_samples, progress.num_train)
        f = progress.fraction
        try:
            wanted = self.rule(Point(f, w, progress.num_train, self.setting.batch_size, largest))
        except OverflowError:
            raise self.strategy.overflow(f"at {f:.4f} of the budget") from None
        batch = round(wanted.batch) if math.isfinite(wanted.batch) else 0
        if not 1 <= batch <= largest:
            raise UsageError(
                self.strategy.name,
                f"wants a batch of {wanted.batch:g} at {f:.4f} of the budget",
                f"it must lie in [1, max_batch = {largest}]; change batch_size, max_batch or the schedule's parameters",
            )
        lr = self.setting.lr * wanted.lr * self.scale(batch / self.reference)
        lr *= self._warm_up(progress, w)
        return Hyper(batch, lr, self.setting.momentum if wanted.momentum is None else wanted.momentum)
