"""What was asked for: a schedule by name, as a RunConfig or as a function, with a budget that is known beforehand.

The one rule: everything is said once. A RunConfig brings its own budget and parameters; a name needs both; whatever is
said twice, or not at all, is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bsexp.errors import UsageError, shown
from bsexp.schedules import Schedule
from bsexp.schedules.planned import Planned
from bsexp.schedules.python import make_schedule

if TYPE_CHECKING:
    from bsexp.config import RunConfig


@dataclass(frozen=True)
class Asked:
    """A schedule with its budget in samples. `reference` is the batch size that a rate or a weight decay speaks of.

    `momentum_told`: whether somebody gave the momentum, so that an optimizer with another one contradicts.
    """

    schedule: Schedule
    num_train: int
    total_samples: int
    seed: int
    momentum_told: bool
    reference: int | None
    weight_decay_clock: str

    @property
    def optimizer(self) -> str | None:
        """What the schedule's rules were made for, sgd or adamw; None where it doesn't say."""
        return self.schedule.setting.optimizer if isinstance(self.schedule, Planned) else None


def read_schedule(
    schedule: "str | RunConfig | Schedule",
    num_train: int,
    epochs: float | None,
    total_samples: int | None,
    seed: int | None,
    parameters: Mapping[str, Any],
) -> Asked:
    """What the arguments of a sampler ask for. Raises UsageError where they ask for nothing, or twice."""
    if type(num_train) is not int or num_train < 2:
        raise UsageError("num_train", shown(num_train), "give the number of samples in the data set: len(dataset)")
    config: Any = schedule
    if hasattr(schedule, "build_schedule"):
        given = [name for name, value in (("epochs", epochs), ("total_samples", total_samples)) if value is not None]
        _refuse([*given, *parameters], "a RunConfig says it already")
        if config.order:
            raise UsageError("order", f"{config.order} in a RunConfig", "a loop of one's own is shuffled by seed alone")
        built = config.build_schedule()
        total = config.total_samples(num_train)
        seed = config.seed if seed is None else seed
        return Asked(built, num_train, total, seed, True, config.reference_batch, config.weight_decay_clock)
    total = _budget(num_train, epochs, total_samples)
    if isinstance(schedule, str):
        for name in ("batch_size", "lr"):
            if name not in parameters:
                raise UsageError(name, "not given", f"{schedule} by name needs batch_size and lr")
        built = make_schedule(schedule, **parameters)
    elif callable(schedule):
        _refuse([*parameters], "the schedule is made already")
        built = schedule
    else:
        raise UsageError("schedule", shown(schedule), "give a name, a RunConfig or a function Progress -> Hyper")
    reference = built.reference if isinstance(built, Planned) else None
    told = not isinstance(schedule, str) or ":" in schedule or "momentum" in parameters
    return Asked(built, num_train, total, seed or 0, told, reference, "update")


def _budget(num_train: int, epochs: float | None, total_samples: int | None) -> int:
    if (epochs is None) == (total_samples is None):
        which = "none" if epochs is None else "both epochs and total_samples"
        raise UsageError("budget", which, "give epochs or total_samples: a schedule is placed along a known budget")
    if total_samples is not None:
        if type(total_samples) is not int or total_samples < 1:
            raise UsageError("total_samples", shown(total_samples), "give a whole number from 1")
        return total_samples
    if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not (math.isfinite(epochs) and epochs > 0):
        raise UsageError("epochs", shown(epochs), "give a number above 0")
    total = round(epochs * num_train)
    if total < 1:
        raise UsageError("epochs", f"{epochs:g}", f"less than one sample of {num_train}")
    return total


def _refuse(names: list[str], why: str) -> None:
    if names:
        raise UsageError("schedule", f"with {', '.join(names)}", f"leave it out: {why}")
