"""Seconds per update of the engine's own training, and the memory that it takes.

The one rule: what is timed is `Training` itself, one update after another with augmentation and gather; what a run does
once (set-up, first updates) or beside its updates (evaluation, rows of its log) lies outside.
"""

import math
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from bsexp.config import RunConfig
from bsexp.engine.clock import Clock
from bsexp.engine.device import describe_device, process_peak_memory, synchronizer
from bsexp.engine.loop import Training
from bsexp.engine.unwatched import Unwatched

# Long enough for the clock, short enough that a table takes minutes.
REPEAT_SECONDS = 0.25
LEAST_UPDATES = 2


@dataclass(frozen=True)
class Timing:
    """Repeats of one measurement: seconds per update, each a mean over many; memory in bytes, as in HardwareRow."""

    device: str
    micro_batch_size: int
    seconds: tuple[float, ...]
    peak_memory_bytes: int | None


def time_updates(config: RunConfig, repeats: int, device: str = "auto") -> Timing:
    """Time `repeats` stretches of at least REPEAT_SECONDS and LEAST_UPDATES updates each, after warming up as long.

    All updates are of one size: `config` has a fixed batch, and a budget that is never used up: no stretch is longer
    than a share 1 / (repeats + 4) of it. Raises what training raises, MemoryExhausted among it.
    """
    training = Unwatched(config, device=device)
    clock = Clock(synchronize=synchronizer(training.device))
    _forget_peak(training.device)
    most = training.plan.updates // (repeats + 4)
    next(training)  # Libraries choose their kernels, allocators grow.
    _stretch(training, clock, _updates_for(_stretch(training, clock, 1), most))
    number = _updates_for(_stretch(training, clock, LEAST_UPDATES), most)
    seconds = tuple(_stretch(training, clock, number) for _ in range(repeats))
    return Timing(describe_device(training.device), training.part, seconds, peak_memory(training.device))


@dataclass(frozen=True)
class Trial:
    """Whether a batch went through in the parts that it was to be run in, and the memory that took, in bytes."""

    device: str
    fits: bool
    peak_memory_bytes: int | None


def try_updates(config: RunConfig, device: str = "auto") -> Trial:
    """Make two updates: the second one has what the first one leaves in memory, the optimizer's momentum.

    Raises what training raises; that memory holds only smaller parts of the batch is told by `fits`.
    """
    training = Unwatched(config, device=device)
    _forget_peak(training.device)
    for _ in range(2):
        next(training)
    if synchronize := synchronizer(training.device):
        synchronize()
    return Trial(describe_device(training.device), not training.cut, peak_memory(training.device))


def _stretch(training: Training, clock: Clock, updates: int) -> float:
    before = clock.seconds
    clock.start()
    for _ in range(updates):
        next(training)
    clock.stop()
    return (clock.seconds - before) / updates


def _updates_for(seconds: float, most: int) -> int:
    return min(most, max(LEAST_UPDATES, math.ceil(REPEAT_SECONDS / max(seconds, 1e-9))))


def peak_memory(device: torch.device) -> int | None:
    """The most memory in use so far: of tensors on a CUDA device, else of this process; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_peak_memory()


def _forget_peak(device: torch.device) -> None:
    """Leave out what reading the data took for a moment, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform.startswith("linux"):
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
