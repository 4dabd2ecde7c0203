"""The run of a range test: a ramp of the learning rate for the schedule that a rate is sought for.

The one rule: all that the rate depends on is that schedule's and the user's; only the rate is the ramp's own.
"""

import math
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import UsageError
from bsexp.planning import plan_run
from bsexp.schedules import simulate
from bsexp.schedules.closed import ClosedLoop
from bsexp.sweep.configs import build_config, num_trained

UPDATES, LEAST_UPDATES = 1000, 100


def ramp_config(options: dict[str, Any], seed: int, updates: int, lowest: float, highest: float) -> RunConfig:
    """A run whose rate rises from `lowest` to `highest` by equal factors, in `updates` updates.

    `options` are those of a run, with its `schedule` and `parameters`. Updates have the batch that `--lr` speaks of,
    and the momentum that the schedule has where its rate is highest. Raises UsageError.
    """
    ratio = highest / lowest
    if not 1 < ratio < math.inf:
        cure = f"it must be above --lowest-lr, {lowest:g}, by a factor that is a number"
        raise UsageError("--highest-lr", f"{highest:g}", cure)
    if updates < LEAST_UPDATES:
        raise UsageError("--updates", str(updates), f"a ramp is smoothed and needs {LEAST_UPDATES} at least")
    sought = build_config(options, seed)
    num_train = num_trained(sought)
    plan_run(sought, num_train)
    batch = sought.reference_batch
    ramp = {
        "schedule": "custom",
        "parameters": {"lr": {"curve": "exponential", "start": 1.0, "end": ratio}},
        "batch_size": batch,
        "reference_batch": batch,
        "lr": lowest,
        "momentum": _momentum(sought, num_train),
        "averaging": "none",
        "warmup_epochs": 0.0,
    }
    config = build_config({**options, **ramp}, seed, epochs=updates * batch / num_train)
    plan_run(config, num_train)
    return config


def _momentum(config: RunConfig, num_train: int) -> float:
    """The momentum of the update with the highest rate; a closed loop's is the run's own."""
    schedule = config.build_schedule()
    if isinstance(schedule, ClosedLoop):
        return 0.9 if config.momentum is None else float(config.momentum)
    updates = simulate(schedule, total_samples=config.total_samples(num_train), num_train=num_train)
    return max(updates, key=lambda update: update.lr).momentum
