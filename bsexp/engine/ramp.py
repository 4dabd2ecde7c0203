"""A ramp of the learning rate: the engine's own training at rates that rise until it breaks.

The one rule: it is `Training` with a schedule like any other. It trains a network of its own and draws from generators
of its own, so that nothing of the caller's is changed, and it stops by the rule of `signals.divergence` alone.
"""

import math
from collections.abc import Callable

import torch

from bsexp.config import RunConfig
from bsexp.data.splits import TrainingData
from bsexp.engine.device import find_device
from bsexp.engine.unwatched import Unwatched
from bsexp.records import RampRow, StepRecord
from bsexp.signals.divergence import Course


def climb(
    config: RunConfig,
    tell: Callable[[RampRow], None] = lambda row: None,
    *,
    half_life: float,
    data: TrainingData | None = None,
    device: str = "auto",
) -> list[RampRow]:
    """The updates of `config`, whose schedule raises the rate, up to the one at which the loss has diverged.

    `half_life` is that of the smoothed loss, in samples. `tell` hears of each row. Weights, buffers and torch's
    generators are what they were afterwards, also where a factory of the user's returns a network that somebody else
    has too. Raises what training raises.
    """
    found = find_device(device)
    rows: list[RampRow] = []
    with torch.random.fork_rng([found] if found.type == "cuda" else []):
        training = _Apart(config, data=data, device=device)
        course = Course(half_life)
        while not course.diverged and len(rows) < training.plan.updates:
            record = next(training)
            assert isinstance(record, StepRecord), "an unwatched training yields nothing else"
            loss = float(record.loss)
            course = course.follow(loss, record.batch_size)
            smoothed = course.smoothed.value
            kept = smoothed if math.isfinite(smoothed) and not course.broken else None
            rows.append(RampRow(record.step, record.samples, record.lr, loss, kept))
            tell(rows[-1])
    return rows


class _Apart(Unwatched):
    """A training of a network that nobody else has."""

    apart = True
