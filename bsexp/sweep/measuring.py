"""Measuring a machine: seconds per update and memory at several batch sizes, each in processes of its own.

The one rule: a size is measured in a fresh process that does nothing else, and in rounds, up and down the sizes, so
that what slows the machine for a while doesn't fall on one of them. The parent never imports torch.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import MemoryExhausted, UsageError
from bsexp.planning import plan_run
from bsexp.records import HardwareRow
from bsexp.sweep.apart import in_a_process
from bsexp.sweep.configs import build_config, num_trained

SMALLER = "measure smaller sizes (--batch-sizes)"
PER_PROCESS = 3
# Enough for stretches of a quarter of a second with updates of 60 microseconds; a process plans them all at its start.
UPDATES = 4000 * (PER_PROCESS + 4)
DEFAULT_SIZES = tuple(2**k for k in range(12))
# Weights must stay what they are: a training that diverges or settles may cost other times.
STILL = 1e-6
# The standard error of a median of n normal values is this much of their interquartile range over sqrt(n).
MEDIAN_ERROR = 1.2533 / 1.349


@dataclass(frozen=True)
class Surroundings:
    """Where and with what a process measures; `threads` None: torch's choice.

    `memory`: the most bytes that it may have, None for what there is.
    """

    device: str
    threads: int | None
    deterministic: bool
    keep_memory: bool
    memory: int | None = None

    def settle(self) -> dict[str, Any]:
        """Settle all but the memory in this process; what is to be recorded of it."""
        from bsexp.engine.device import set_up

        return set_up(self.device, self.threads, self.deterministic, self.keep_memory)


def sizes_to_measure(options: dict[str, Any], sizes: Sequence[int] | None) -> list[RunConfig]:
    """A configuration for each of `sizes`, checked, with a budget that measuring won't use up.

    Without `sizes` the powers of two from 1 to 2048 that can be trained. Raises UsageError.
    """
    if sizes is not None:
        return [config_of_size(options, size) for size in sizes]
    found, refusal = [], None
    for size in DEFAULT_SIZES:
        try:
            found.append(config_of_size(options, size))
        except UsageError as error:
            refusal = error
    if not found:
        assert refusal is not None, "each default size is found or refused"
        raise refusal
    return found


def config_of_size(options: dict[str, Any], size: int) -> RunConfig:
    """The configuration in which batches of `size` are measured, checked. Raises UsageError."""
    arm = {**options, "schedule": "fixed-small", "batch_size": size, "lr": STILL}
    num_train = num_trained(build_config(arm, 0))
    config = build_config(arm, 0, epochs=UPDATES * size / num_train)
    try:
        plan_run(config, num_train)
    except UsageError as error:
        raise error.within("--batch-sizes") from None
    return config


def smallest_size(options: dict[str, Any]) -> int:
    """The smallest batch that can be trained: 1, or 2 with batch statistics. Raises UsageError where neither can."""
    try:
        return config_of_size(options, 1).batch_size
    except UsageError:
        return config_of_size(options, 2).batch_size


def measure_sizes(
    configs: Sequence[RunConfig], surroundings: Surroundings, repeats: int, tell: Callable[[str], None]
) -> tuple[list[HardwareRow], dict[str, Any]]:
    """A row for each configuration's batch size, in their order; `repeats` timings each, alternating. And what the
    processes settled on: device, threads, allocator, determinism.

    A size that memory doesn't hold ends the table before it, which is told. Raises MemoryExhausted where none fits,
    RunsFailed where a process dies or fails otherwise.
    """
    timings: dict[int, list[Any]] = {config.batch_size: [] for config in configs}
    todo, settled = list(configs), {}
    for number, part in enumerate(_rounds(repeats)):
        for config in todo if number % 2 == 0 else reversed(todo):
            size = config.batch_size
            if size not in timings:
                continue
            try:
                timing, settled = _in_a_process(config, surroundings, part)
            except MemoryExhausted as error:
                timings = {other: found for other, found in timings.items() if other < size}
                if not timings:
                    raise
                tell(f"batch {size:,} and above are left out: {error}")
                if number % 2 == 0:
                    break
                continue
            timings[size].append(timing)
            tell(f"batch {size:>6,}  {size / statistics.median(timing.seconds):>12,.0f} samples/s")
    return [_row(size, found) for size, found in timings.items()], settled


def _rounds(repeats: int) -> list[int]:
    whole, rest = divmod(repeats, PER_PROCESS)
    return [PER_PROCESS] * whole + [rest] * bool(rest)


def _row(size: int, timings: Sequence[Any]) -> HardwareRow:
    seconds = [value for timing in timings for value in timing.seconds]
    peaks = [timing.peak_memory_bytes for timing in timings if timing.peak_memory_bytes is not None]
    median = statistics.median(seconds)
    return HardwareRow(
        timings[0].device,
        size,
        min(timing.micro_batch_size for timing in timings),
        median,
        median_error(seconds),
        size / median,
        max(peaks) if peaks else None,
    )


def median_error(values: Sequence[float]) -> float:
    """The standard error of the median of `values`, at least 3: 1.2533 sigma / sqrt(n), sigma = quartile range / 1.349.

    By quartiles, for a timing that something interrupted is far away from the others. A machine that is slower at all
    sizes alike isn't in it.

    >>> round(median_error([1.0, 2.0, 3.0, 4.0]), 4)
    0.6968
    """
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return MEDIAN_ERROR * (high - low) / float(len(values)) ** 0.5


def _in_a_process(config: RunConfig, surroundings: Surroundings, repeats: int) -> Any:
    """What `time_updates` says in a fresh process, and what that settled on. Raises as `in_a_process` does."""
    which = f"batch size {config.batch_size:,}"
    held = surroundings.memory is not None
    return in_a_process(_time, config.model_dump(), surroundings, repeats, which=which, cure=SMALLER, held=held)


def _time(config: dict[str, Any], surroundings: Surroundings, repeats: int) -> Any:
    from bsexp.engine.device import find_device, hold_to
    from bsexp.engine.timing import time_updates

    settled, memory = surroundings.settle(), surroundings.memory
    held = memory is None or hold_to(memory, find_device(surroundings.device))
    timing = time_updates(RunConfig(**config), repeats, surroundings.device)
    if memory is not None and not held and (timing.peak_memory_bytes or 0) > memory:
        # Nobody stopped it: what it took decides.
        which = f"batch size {config['batch_size']:,} takes {timing.peak_memory_bytes:,} bytes"
        raise MemoryExhausted("out of memory", which, SMALLER)
    return timing, settled
