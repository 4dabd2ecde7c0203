"""What a run's updates would cost on a machine whose seconds per update were measured.

The one rule: seconds(B) is interpolated between measured batch sizes and never beyond them, and what was uncertain in
the table is uncertain in every number made of it.

A schedule decides how many updates of each size a run makes, a machine what an update of each size costs. Kept apart,
the time of a run can be told for any machine with a table, without training anything on it.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from bsexp.errors import UsageError
from bsexp.records import HardwareRow

LEVEL = 0.95
NEAR_BEST = 0.9

# A worker is useful where at least this share of its time saves some.
USEFUL = 0.5

Updates = Mapping[int, float]
"""How many updates a run makes at each batch size; fractions of one where several runs were averaged."""


@dataclass(frozen=True)
class HardwareTable:
    """Seconds per update measured at `sizes` (samples per update, rising) on `device`.

    `spread` is the standard error of each, in seconds; sizes are taken to err independently. `peak_memory_bytes`: None
    where it was not measured.
    """

    device: str
    sizes: tuple[int, ...]
    seconds_per_update: tuple[float, ...]
    spread: tuple[float, ...]
    peak_memory_bytes: tuple[int | None, ...]

    @classmethod
    def of(cls, rows: Sequence[HardwareRow]) -> "HardwareTable":
        """The table of hardware.csv's rows, as `read_hardware` checked them. ValueError for none."""
        if not rows:
            raise ValueError("a hardware table has rows, got none")
        return cls(
            rows[0].device,
            tuple(row.batch_size for row in rows),
            tuple(row.seconds_per_update for row in rows),
            tuple(row.spread for row in rows),
            tuple(row.peak_memory_bytes for row in rows),
        )

    @property
    def samples_per_second(self) -> tuple[float, ...]:
        """Throughput at each measured size."""
        return tuple(size / seconds for size, seconds in zip(self.sizes, self.seconds_per_update, strict=True))

    def seconds(self, batch_size: int) -> float:
        """Seconds of one update of `batch_size` samples, linear between the two measured sizes around it.

        Raises UsageError outside the measured sizes.

        >>> table = HardwareTable("cpu", (1, 3), (0.2, 0.4), (0.0, 0.0), (None, None))
        >>> round(table.seconds(2), 9)
        0.3
        """
        return float(self._weights({batch_size: 1.0}) @ np.array(self.seconds_per_update))

    def _weights(self, updates: Updates, workers: int = 1) -> np.ndarray:
        """By how much each measured size enters the sum over `updates`: seconds are weights @ seconds_per_update."""
        weights = np.zeros(len(self.sizes))
        # The largest one is told first: with it measured, all smaller ones mostly are between two.
        for size in (max(updates), min(updates)):
            self._check(worker_share(size, workers), size, workers)
        for size, count in updates.items():
            part = worker_share(size, workers)
            place = bisect_left(self.sizes, part)
            if self.sizes[place] == part:
                weights[place] += count
                continue
            low, high = self.sizes[place - 1], self.sizes[place]
            share = (part - low) / (high - low)
            weights[place - 1] += count * (1 - share)
            weights[place] += count * share
        return weights

    def _check(self, part: int, size: int, workers: int) -> None:
        low, high = self.sizes[0], self.sizes[-1]
        if low <= part <= high:
            return
        which = f"batch size {part:,}"
        if workers > 1:
            which += f" ({size:,} over {workers:,} workers)"
        where = f"outside the measured {low:,} to {high:,}" if high > low else f"not the measured {low:,}"
        raise UsageError("hardware table", f"{which} is {where}", "measure it too: bsexp measure --batch-sizes")


def worker_share(batch_size: int, workers: int) -> int:
    """Samples on the busiest of `workers` ideal workers that share an update: ceil(B / P), at least one.

    More workers than samples leave some without any. Ideal: talking to each other costs them nothing.

    >>> worker_share(10, 4), worker_share(3, 8)
    (3, 1)
    """
    if batch_size < 1 or workers < 1:
        raise ValueError(f"needs a batch and workers of at least 1, got {batch_size} and {workers}")
    return -(-batch_size // workers)


@dataclass(frozen=True)
class AllReduce:
    """What it costs workers to add up their gradients of `num_bytes` bytes, by the alpha-beta model of a ring.

    2 (P - 1) messages of num_bytes / P bytes one after another, each `latency` (alpha) seconds and its bytes over
    `bandwidth` (1 / beta) in bytes/s: Thakur, Rabenseifner and Gropp 2005, 10.1177/1094342005051521, for long vectors.
    Nothing of it is hidden behind the backward pass.
    """

    latency: float
    bandwidth: float
    num_bytes: int

    def seconds(self, workers: int) -> float:
        """Seconds of one update's all-reduce.

        >>> AllReduce(latency=0.001, bandwidth=1e6, num_bytes=4000).seconds(4)
        0.012
        """
        return 2 * (workers - 1) * (self.latency + self.num_bytes / workers / self.bandwidth)


def count_sizes(batch_sizes: Iterable[int]) -> dict[int, float]:
    """The batch sizes of a run's updates, counted.

    >>> count_sizes([4, 4, 8])
    {4: 2.0, 8: 1.0}
    """
    sizes, counts = np.unique(np.fromiter(batch_sizes, dtype=np.int64), return_counts=True)
    return {int(size): float(count) for size, count in zip(sizes, counts, strict=True)}


def num_updates(updates: Updates) -> float:
    """Updates of a run."""
    return math.fsum(updates.values())


def num_samples(updates: Updates) -> float:
    """Samples that a run's updates take, all together."""
    return math.fsum(size * count for size, count in updates.items())


@dataclass(frozen=True)
class Modelled:
    """A time or a ratio of times above 0, within [low, high] by the table's spread: symmetric in its logarithm."""

    value: float
    low: float
    high: float


def modelled_seconds(
    table: HardwareTable,
    updates: Updates,
    workers: int = 1,
    level: float = LEVEL,
    all_reduce: AllReduce | None = None,
) -> Modelled:
    """Seconds of all `updates` on `table`, each shared by `workers` that talk as `all_reduce` says (None: for nothing).

    The sum is linear in the measured seconds s_i, so that its variance is the sum of (weight_i * spread_i)^2. Raises
    UsageError where an update's size was not measured, ValueError for a run without updates.

    >>> table = HardwareTable("cpu", (1, 3), (0.2, 0.4), (0.0, 0.0), (None, None))
    >>> round(modelled_seconds(table, {2: 10.0}).value, 9)
    3.0
    """
    if not updates:
        raise ValueError("a run has updates, got none")
    weights = table._weights(updates, workers)
    value = float(weights @ np.array(table.seconds_per_update)) + _talking(updates, workers, all_reduce)
    error = float(np.linalg.norm(weights * np.array(table.spread)))
    return _around(value, error / value, level)


def time_ratio(
    table: HardwareTable,
    first: Updates,
    second: Updates,
    workers: int = 1,
    level: float = LEVEL,
    all_reduce: AllReduce | None = None,
) -> Modelled:
    """Seconds of `first` over those of `second` on `table`, each update shared by `workers` as in `modelled_seconds`.

    Both times are made of the same measured seconds: to first order log(T1 / T2) moves with s_i by w1_i / T1 - w2_i /
    T2, so that what both need alike cancels. Equal updates have a ratio of exactly 1. Raises UsageError where an
    update's size was not measured.
    """
    seconds, spread = np.array(table.seconds_per_update), np.array(table.spread)
    one, two = table._weights(first, workers), table._weights(second, workers)
    above = float(one @ seconds) + _talking(first, workers, all_reduce)
    below = float(two @ seconds) + _talking(second, workers, all_reduce)
    error = float(np.linalg.norm((one / above - two / below) * spread))
    return _around(above / below, error, level)


def _talking(updates: Updates, workers: int, all_reduce: AllReduce | None) -> float:
    return num_updates(updates) * all_reduce.seconds(workers) if all_reduce else 0.0


@dataclass(frozen=True)
class Elastic:
    """A run whose every update has as many workers as are useful: at its smallest and its largest batch, its seconds,
    and the mean number of workers over them."""

    fewest: int
    most: int
    seconds: float
    mean_workers: float


def elastic(
    table: HardwareTable, updates: Updates, choice: Sequence[int], all_reduce: AllReduce | None = None
) -> Elastic:
    """A run whose updates have the most workers of `choice` (1 among them) that are useful at their batch size.

    Useful: each has a sample, and an update of B samples takes at most seconds(B) / (USEFUL P). Raises UsageError where
    a size was not measured.

    >>> table = HardwareTable("cpu", (1, 3), (0.2, 0.4), (0.0, 0.0), (None, None))
    >>> found = elastic(table, {1: 1.0, 3: 2.0}, (1, 3))
    >>> found.fewest, found.most, round(found.seconds, 9), round(found.mean_workers, 9)
    (1, 3, 0.6, 2.333333333)
    """
    total = spent = 0.0
    used = {}
    for size, count in updates.items():
        alone = table.seconds(size)
        for workers in sorted(choice, reverse=True):
            seconds = modelled_seconds(table, {size: 1.0}, workers, all_reduce=all_reduce).value
            if workers == 1 or (workers <= size and seconds * workers * USEFUL <= alone):
                break
        used[size] = workers
        total += count * seconds
        spent += count * seconds * workers
    return Elastic(used[min(used)], used[max(used)], total, spent / total)


def _around(value: float, relative_error: float, level: float) -> Modelled:
    reach = math.exp(float(ndtri((1 + level) / 2)) * relative_error)
    return Modelled(value, value / reach, value * reach)


# -- where growing a batch begins to save time


@dataclass(frozen=True)
class Cost:
    """An update of B samples as `per_update` + `per_sample` * B seconds."""

    per_update: float
    per_sample: float

    @property
    def fixed_samples(self) -> float:
        """k: the fixed cost of an update in samples' worth of work. Infinite where samples cost nothing.

        Negative where a sample costs more in a large batch than in a small one.
        """
        return self.per_update / self.per_sample if self.per_sample > 0 else math.inf


def fit_cost(table: HardwareTable) -> Cost | None:
    """The line through the table with the least sum of squared *relative* errors; None for fewer than two sizes.

    Relative, because seconds span several powers of ten and the fixed cost is seen at the small sizes only.
    """
    if len(table.sizes) < 2:
        return None
    sizes, seconds = np.array(table.sizes, dtype=float), np.array(table.seconds_per_update)
    design = np.stack([1 / seconds, sizes / seconds], axis=1)
    (per_update, per_sample), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
    return Cost(float(per_update), float(per_sample))


def relative_time(first: Updates, second: Updates, fixed_samples: float) -> float:
    """Serial time of `first` over that of `second` where an update's fixed cost is `fixed_samples` k samples' worth.

    (k U1 + S1) / (k U2 + S2) with U updates and S samples. At k = 0, where throughput is the same at any batch size,
    it is S1 / S2: equal samples take equal time and growing saves nothing. For k = infinity it is U1 / U2: only updates
    cost, and all that they promise is saved. P ideal workers turn k into P k.

    >>> relative_time({40: 10.0}, {10: 40.0}, 0), relative_time({40: 10.0}, {10: 40.0}, math.inf)
    (1.0, 0.25)
    """
    if not fixed_samples >= 0:
        raise ValueError(f"a fixed cost is at least 0 samples' worth, got {fixed_samples}")
    ups, downs = num_updates(first), num_updates(second)
    if math.isinf(fixed_samples):
        return ups / downs
    return (fixed_samples * ups + num_samples(first)) / (fixed_samples * downs + num_samples(second))


def half_saved_at(second: Updates) -> float:
    """The fixed cost k, in samples' worth, at which any other arm has half of its way from S1 / S2 to U1 / U2.

    relative_time - U1 / U2 falls as S2 / (k U2 + S2): to a half at k = S2 / U2, the mean batch of `second`.

    >>> half_saved_at({10: 40.0})
    10.0
    """
    return num_samples(second) / num_updates(second)


def knee(table: HardwareTable) -> int:
    """The smallest measured batch whose samples/s are within 10 % of the table's best."""
    best = max(table.samples_per_second)
    return next(
        size for size, rate in zip(table.sizes, table.samples_per_second, strict=True) if rate >= NEAR_BEST * best
    )
