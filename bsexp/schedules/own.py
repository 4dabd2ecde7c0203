"""The user's own schedule: `package.module:factory` with `factory(**parameters) -> callable(Progress) -> Hyper`.

The one rule: the factory also gets those of the run's values (batch_size, lr, momentum, max_batch, optimizer) that it
names; what it returns is checked at every update like any other schedule.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bsexp import plugins
from bsexp.errors import UsageError
from bsexp.schedules.base import Hyper, Progress, Schedule

if TYPE_CHECKING:
    from bsexp.schedules.planned import Setting


def load_factory(name: str, setting: "Setting", parameters: Mapping[str, Any]) -> Schedule:
    """The schedule that the user's factory returns. Raises UsageError where it can't be loaded or called."""
    factory = plugins.load("schedule", name)
    offered = plugins.named_arguments(factory, asdict(setting))
    try:
        schedule = factory(**{**offered, **parameters})
    except (TypeError, ValueError) as error:
        raise UsageError("schedule", name, f"its factory refused the parameters: {error}") from error
    if not callable(schedule):
        raise UsageError("schedule", name, "its factory must return a callable Progress -> Hyper")

    def checked(progress: Progress) -> Hyper:
        values = schedule(progress)
        try:
            batch_size, lr, momentum = values
            return Hyper(batch_size, float(lr), float(momentum))
        except (TypeError, ValueError):
            raise UsageError(
                "schedule", f"{name} returned {values!r}", "return Hyper(batch_size, lr, momentum)"
            ) from None

    return checked
