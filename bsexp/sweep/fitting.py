"""The largest batch that memory holds at once, found by trying.

The one rule: each size is tried by real updates in a process of its own, held to a limit, so that one that is too large
costs nothing but its seconds. Whatever ends a try means that the size doesn't fit, and is told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import BsexpError, MemoryExhausted, RunsFailed
from bsexp.records import FitRow, HardwareRow
from bsexp.sweep.apart import in_a_process
from bsexp.sweep.measuring import Surroundings, config_of_size, smallest_size

# The search ends where what fits and what doesn't are this share of the former apart: memory isn't known better.
CLOSE = 1 / 32
CURE = "give it more (--memory), or use a smaller model or image size"


@dataclass(frozen=True)
class Fit:
    """What the search found: `largest` fits; `smallest_refused` doesn't, None where nothing was refused up to `bound`.

    `rows`: the tries, in their order.
    """

    largest: int
    smallest_refused: int | None
    bound: int
    rows: list[FitRow]


def bisect(fits: Callable[[int], bool], low: int, high: int) -> tuple[int, int | None]:
    """The largest size known to fit, and the smallest known not to; the latter None where `high` fits.

    `low` is known to fit. Doubles until a size doesn't fit, then halves the distance until that is CLOSE, or 1. With
    `fits` not monotone they are still a size that fitted and a larger one that didn't.

    >>> bisect(lambda size: size <= 300, 4, 10_000)
    (296, 304)
    """
    known, refused = low, None
    while refused is None and known < high:
        size = min(2 * known, high)
        known, refused = (size, None) if fits(size) else (known, size)
    while refused is not None and refused - known > max(1.0, CLOSE * known):
        middle = (known + refused) // 2
        known, refused = (middle, refused) if fits(middle) else (known, middle)
    return known, refused


def largest_that_fits(
    options: dict[str, Any],
    timed: Sequence[HardwareRow],
    bound: int,
    surroundings: Surroundings,
    tell: Callable[[str], None],
) -> Fit:
    """The largest batch, of at most `bound` samples, that two updates go through with, each batch run as one part.

    `timed` are sizes that were timed in the same surroundings: the largest that ran whole need not be tried again.
    Raises MemoryExhausted where not even the smallest size fits.
    """
    rows: list[FitRow] = []

    def fits(size: int) -> bool:
        try:
            rows.append(_try(options, size, surroundings))
        except (MemoryExhausted, RunsFailed) as error:
            rows.append(_refused(timed[0].device, size, error))
        tell(f"batch {size:>6,}  {'fits' if rows[-1].fits else f'does not fit: {rows[-1].reason}'}")
        return rows[-1].fits

    whole = [row.batch_size for row in timed if row.micro_batch_size == row.batch_size]
    low = whole[-1] if whole else smallest_size(options)
    if not whole and not fits(low):
        raise MemoryExhausted("out of memory", f"batch size {low:,}: {rows[-1].reason}", CURE)
    largest, refused = bisect(fits, low, bound)
    return Fit(largest, refused, bound, rows)


def _try(options: dict[str, Any], size: int, surroundings: Surroundings) -> FitRow:
    config = config_of_size({**options, "micro_batch": size}, size)
    which = f"batch size {size:,}"
    trial = in_a_process(_trial, config.model_dump(), surroundings, which=which, cure=CURE, held=True)
    reason = "" if trial.fits else "out of memory"
    return FitRow(trial.device, size, size, None, None, None, trial.peak_memory_bytes, trial.fits, reason)


def _trial(config: dict[str, Any], surroundings: Surroundings) -> Any:
    from bsexp.engine.device import find_device, hold_to
    from bsexp.engine.timing import try_updates

    surroundings.settle()
    held = hold_to(surroundings.memory, find_device(surroundings.device))
    trial = try_updates(RunConfig(**config), surroundings.device)
    if not held:
        # Nobody stopped it: what it took decides.
        assert trial.peak_memory_bytes is not None and surroundings.memory is not None  # noqa: PT018
        return replace(trial, fits=trial.fits and trial.peak_memory_bytes <= surroundings.memory)
    return trial


def _refused(device: str, size: int, error: BsexpError) -> FitRow:
    reason = error.which if error.what == "out of memory" else f"{error.what}: {error.which}"
    return FitRow(device, size, size, None, None, None, None, False, reason)


def joined(timed: Sequence[HardwareRow], tried: Sequence[FitRow]) -> list[FitRow]:
    """One table of what was timed and what was tried, by rising batch size, timings first."""
    rows = [
        FitRow(
            row.device,
            row.batch_size,
            row.micro_batch_size,
            row.seconds_per_update,
            row.spread,
            row.samples_per_second,
            row.peak_memory_bytes,
            True,
        )
        for row in timed
    ]
    return sorted([*rows, *tried], key=lambda row: row.batch_size)
