"""`bsexp.make_schedule`: a schedule from keyword arguments, for use outside a run.

The one rule: the values that every schedule has and the schedule's own parameters are told apart by name, here only.
"""

from dataclasses import fields
from typing import Any

from bsexp.schedules.base import Schedule
from bsexp.schedules.planned import Setting
from bsexp.schedules.strategies import make_schedule as build


def make_schedule(name: str, *, batch_size: int, lr: float, **parameters: Any) -> Schedule:
    """The schedule called `name`, a pure function Progress -> Hyper.

    `batch_size` is the first batch in samples, `lr` the rate at `reference_batch` (default: batch_size). `parameters`
    are the other values of `Setting` (momentum, optimizer, max_batch, reference_batch, lr_scaling, warmup_epochs,
    allow_unstable) and the schedule's own. Raises UsageError.

    >>> from bsexp.schedules import Progress
    >>> schedule = make_schedule("growing-batch", batch_size=16, lr=0.1, max_batch=256, milestones=[0.5], factor=4)
    >>> schedule(Progress(step=0, samples=600, total_samples=1000, num_train=1000))
    Hyper(batch_size=64, lr=0.1, momentum=0.9)
    """
    shared = {field.name for field in fields(Setting)}
    setting = Setting(batch_size, lr, **{key: value for key, value in parameters.items() if key in shared})
    return build(name, setting, {key: value for key, value in parameters.items() if key not in shared})
