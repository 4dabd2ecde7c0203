"""What a run will do, worked out without training: its updates, its batch sizes, its micro-batches.

The one rule: everything that a run could be refused for is found here, before anything is trained or written.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from bsexp import catalog
from bsexp.config import RunConfig
from bsexp.errors import MemoryExhausted, UsageError
from bsexp.schedules import Hyper, Schedule, simulate
from bsexp.schedules.closed import DECISIONS, ClosedLoop
from bsexp.schedules.planned import Planned

# Planning one update takes 3 microseconds, making one at least 200: hours to plan would be weeks to train.
MOST_UPDATES = 100_000_000
# Compiling for a size takes as long as hundreds of updates, ten seconds and more: for few sizes, and for none that is
# hardly used.
MOST_COMPILED, LEAST_COMPILED = 8, 0.02
# More parts would tell little more of a batch's noise (its error falls as 1 + 1 / (n - 1)), in ever smaller pieces.
NOISE_PARTS = 4


@dataclass(frozen=True)
class Plan:
    """A run's outline. Batch sizes are in samples; `largest_batch` is the largest one that an update really gets,
    `max_batch` the cap on what a schedule may want.

    Of a closed loop only bounds are known: `updates` is then the most and `fewest_updates` the fewest there can be, and
    batches lie between `smallest_batch` and `largest_batch`.
    """

    num_train: int
    total_samples: int
    updates: int
    first_batch: int
    largest_batch: int
    smallest_batch: int
    max_batch: int
    fewest_updates: int | None = None


def plan_run(config: RunConfig, num_train: int) -> Plan:
    """The outline of `config` on `num_train` samples; UsageError for whatever can't be trained."""
    # The same for every seed, and found once for all of them.
    return _plan(config.model_copy(update={"seed": 0}), num_train)


@lru_cache(maxsize=4096)
def _plan(config: RunConfig, num_train: int) -> Plan:
    total = config.total_samples(num_train)
    schedule = config.build_schedule()
    if config.nesterov and config.momentum == 0 and config.optimizer == "sgd":
        raise UsageError("momentum", "0 with nesterov", "Nesterov momentum needs some: above 0 and below 1")
    if config.evals and config.evals > total:
        raise UsageError("evals", str(config.evals), f"at most one per sample: {total:,}")
    if isinstance(schedule, ClosedLoop) and not schedule.others:
        return _plan_closed(config, schedule, total, num_train)
    planned = schedule.ground if isinstance(schedule, ClosedLoop) else schedule
    cap = planned.largest(num_train) if isinstance(planned, Planned) else config.max_batch
    # Known before it is counted: no update is larger than the cap.
    _check_updates(config, total // (cap or num_train))
    sizes: dict[int, int] = {}
    for update in simulate(schedule, total_samples=total, num_train=num_train):
        sizes[update.batch_size] = sizes.get(update.batch_size, 0) + 1
        _check_updates(config, update.step + 1)
    _check_statistics(config, set(sizes))
    _check_noise(config, max(sizes))
    return Plan(num_train, total, sum(sizes.values()), next(iter(sizes)), max(sizes), min(sizes), cap or max(sizes))


def _plan_closed(config: RunConfig, schedule: ClosedLoop, total: int, num_train: int) -> Plan:
    """The bounds of what a closed loop can do: each decision may double the batch, or halve it."""
    least, most = schedule.bounds(num_train)
    _check_updates(config, total // most)
    first = schedule.ground.setting.batch_size
    counts = {}
    for name, extreme in (
        ("most", lambda k: max(least, -(-first // 2**k))),
        ("fewest", lambda k: min(most, first * 2**k)),
    ):
        counts[name] = sum(1 for _ in simulate(_deciding(extreme), total_samples=total, num_train=num_train))
        _check_updates(config, counts[name])
    # When between one and two batches remain, the last two are of half as many samples at least.
    smallest = min((least + 1) // 2, total) if most > least else least
    _check_statistics(config, set(range(smallest, most + 1)) if config.norm == "batch" else {most})
    _check_noise(config, least if config.steered_by("noise") else most)
    return Plan(num_train, total, counts["most"], first, min(most, total), least, most, counts["fewest"])


def _deciding(batch_after: Callable[[int], int]) -> Schedule:
    """A schedule of nothing but batches: `batch_after` so many decisions."""
    return lambda progress: Hyper(batch_after(DECISIONS * progress.samples // progress.total_samples), 1.0, 0.0)


def _check_updates(config: RunConfig, updates: int) -> None:
    if updates > MOST_UPDATES:
        raise UsageError("epochs", f"{config.epochs:g}", f"more than {MOST_UPDATES:,} updates; give fewer epochs")


def estimate_seconds(config: RunConfig, plan: Plan) -> float | None:
    """Seconds that the run will take on one core, from the catalogue's measurements; None for a model of one's own."""
    model = catalog.find_model(config.model)
    dataset = catalog.find_dataset(config.dataset)
    if not model.cost_pixels:
        return None
    per_update, per_sample, per_evaluation = model.cost
    _, height, width = dataset.image_shape or (3, config.image_size or 32, config.image_size or 32)
    size = height * width / model.cost_pixels
    weights = 2 if config.averaging == "ema" else 1
    held_out = round((dataset.num_train or 5 * plan.num_train) * config.val_fraction)
    seen = (config.evals or 40) * (min(1000, plan.num_train) + weights * held_out) + weights * (
        dataset.num_test or 10_000
    )
    return plan.updates * per_update + size * (plan.total_samples * per_sample + seen * per_evaluation)


def worker_shares(batch_size: int, config: RunConfig, workers: int) -> list[int]:
    """The samples of a batch that each of `workers` gets, in order: as equal as can be, 0 where there are too few.

    With ghost statistics the cuts lie between ghost batches and the last worker gets what is left over.

    >>> worker_shares(10, RunConfig(schedule="fixed-small"), 4)
    [2, 3, 2, 3]
    """
    unit = config.ghost_batch if config.norm == "batch" and config.ghost_batch else 1
    units = batch_size // unit
    edges = [unit * (units * k // workers) for k in range(workers)] + [batch_size]
    return [end - start for start, end in pairwise(edges)]


def micro_batch_sizes(batch_size: int, config: RunConfig, memory: int | None = None, ranks: int = 1) -> list[int]:
    """The parts that a batch is run in, by rule: cut between workers and between ranks, then none above the limit.

    The limit is the one given, or the model's own; plain batch statistics are never split unless told. With ghost
    statistics the cuts lie between ghost batches. `memory`: the largest part that memory was found to allow.
    """
    if config.virtual_workers == 1 and ranks == 1:
        return _within_limit(batch_size, config, memory)
    cuts = {
        edge for of in (config.virtual_workers, ranks) for edge in accumulate(worker_shares(batch_size, config, of))
    }
    pieces = [end - start for start, end in pairwise(sorted({0, *cuts}))]
    return [size for piece in pieces for size in _within_limit(piece, config, memory)]


def _within_limit(samples: int, config: RunConfig, memory: int | None) -> list[int]:
    """Parts of `samples`, as equal as can be, none above the limit."""
    limit = config.micro_batch
    if limit in (None, "auto"):
        limit = samples if _plain_statistics(config) else catalog.find_model(config.model).micro_batch
    limit = min(limit, memory or limit)
    if samples <= limit:
        return [samples]
    ghost = config.ghost_batch if config.norm == "batch" else 0
    unit = ghost if ghost and limit >= ghost else 1
    units = -(-samples // unit)
    parts = -(-units // (limit // unit))
    edges = [min(samples, unit * (units * k // parts)) for k in range(parts + 1)]
    return [end - start for start, end in pairwise(edges)]


def divisors(batch_size: int, sizes: list[int], config: RunConfig) -> list[int]:
    """For each of the parts `sizes` of a batch what its sum of losses is divided by before the parts are added up.

    `reduce` mean: the batch's samples, so that the update's gradient is the mean over all of them, whoever has them.
    `reduce` sum: the samples of the part's worker, so that it is the sum over workers of each one's own mean, as an
    all-reduce that adds instead of averaging would have it; workers without samples add nothing.
    """
    if config.reduce == "mean":
        return [batch_size] * len(sizes)
    shares = [share for share in worker_shares(batch_size, config, config.virtual_workers) if share]
    ends = list(accumulate(shares))
    return [shares[bisect_right(ends, end - size)] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def times_mean(batch_size: int, config: RunConfig) -> int:
    """By how much an update's gradient is larger than the mean over its batch, where shares are equal: the workers that
    have samples with `reduce` sum, else 1. The learning rate has the effect of so many times itself.
    """
    if config.reduce == "mean":
        return 1
    return sum(1 for share in worker_shares(batch_size, config, config.virtual_workers) if share)


def check_ranks(config: RunConfig, ranks: int) -> None:
    """UsageError where a run's numbers would depend on the number of `ranks` beyond rounding."""
    if _plain_statistics(config) and config.virtual_workers % ranks:
        which = f"{ranks}, with statistics over all that a worker has of a batch and {config.virtual_workers} worker"
        cure = f"use --virtual-workers {ranks} (statistics of its own for each), --norm group or --ghost-batch N"
        raise UsageError("nproc", which + "s" * (config.virtual_workers > 1), cure)


def noise_parts(batch_size: int, config: RunConfig, memory: int | None = None) -> list[int]:
    """The parts of a batch that tell its noise: those that it is run in or, where it is run whole, NOISE_PARTS of it.

    None smaller than a ghost batch, or than 2 samples with statistics over a whole part. Empty for a batch that can't
    be cut so. `memory` as in `micro_batch_sizes`. The same for any number of ranks: what is measured may decide.
    """
    sizes = micro_batch_sizes(batch_size, config, memory)
    if len(sizes) > 1:
        return sizes
    unit = config.ghost_batch if config.norm == "batch" and config.ghost_batch else 1
    units = batch_size // unit
    parts = min(NOISE_PARTS, units // 2 if _plain_statistics(config) else units)
    if parts < 2:
        return []
    edges = [unit * (units * k // parts) for k in range(parts)] + [batch_size]
    return [end - start for start, end in pairwise(edges)]


def frequent_parts(config: RunConfig, num_train: int) -> tuple[int, ...]:
    """The sizes worth compiling for, ascending: the MOST_COMPILED micro-batch sizes that most samples go through.

    One that fewer than LEAST_COMPILED of the samples go through isn't among them: remainders, and each of the many
    sizes of a batch that grows little by little. What isn't among them is to be run as it is.
    """
    if config.closed_loop:
        # Which sizes a closed loop will decide for nobody knows.
        return ()
    total = config.total_samples(num_train)
    through: dict[int, int] = {}
    for update in simulate(config.build_schedule(), total_samples=total, num_train=num_train):
        for size in micro_batch_sizes(update.batch_size, config):
            through[size] = through.get(size, 0) + size
    worth = [size for size, samples in through.items() if samples >= LEAST_COMPILED * total]
    return tuple(sorted(sorted(worth, key=lambda size: (-through[size], size))[:MOST_COMPILED]))


def smaller_part(size: int, config: RunConfig) -> int:
    """Half of a micro-batch of `size` samples that memory doesn't hold, ghost batches kept whole.

    Raises MemoryExhausted where a smaller part doesn't exist, or would change the batch statistics.
    """
    if _plain_statistics(config):
        cure = "use --norm group, --ghost-batch N or smaller batches"
        raise MemoryExhausted("out of memory", f"a batch of {size} with statistics over all of it", cure)
    unit = config.ghost_batch if config.norm == "batch" else 1
    half = size // 2 // unit * unit
    if not half:
        cure = "use a smaller model or image size, or a device with more memory"
        raise MemoryExhausted("out of memory", f"also with {size} sample{'s'[: size > 1]} at a time", cure)
    return int(half)


def _plain_statistics(config: RunConfig) -> bool:
    return config.norm == "batch" and not config.ghost_batch


def _check_noise(config: RunConfig, largest: int) -> None:
    if config.measures_noise and not noise_parts(largest, config):
        what = f"ghost batches of {config.ghost_batch}" if config.ghost_batch else "its samples"
        which = f"a batch of {largest} can't be cut between {what} into parts with gradients of their own"
        raise UsageError("measuring noise", which, "use larger batches")


def _check_statistics(config: RunConfig, sizes: set[int]) -> None:
    """Batch statistics of one sample don't exist, those of ghost batches not without batch normalisation."""
    if config.norm != "batch":
        if config.ghost_batch and ":" not in config.model:
            which = f"{config.ghost_batch} with norm {config.norm!r}"
            raise UsageError("ghost_batch", which, "it has no batch statistics: use --norm batch")
        return
    for size in sizes:
        if min(micro_batch_sizes(size, config)) < 2:
            cure = f"use --norm group or larger {'batches' if size < 2 else 'parts (--micro-batch)'}"
            raise UsageError("batch normalisation", f"a batch of {size} in parts of 1 sample", cure)
    if config.ghost_batch == 1:
        raise UsageError("ghost_batch", "1", "a statistic needs at least 2 samples")
