"""Beginnings that runs have in common: which, and how long.

The one rule: two runs begin alike as long as each update of theirs has the same batch size, learning rate and momentum,
to the last bit, reads the same order of samples, and nothing else that makes numbers differs. Whatever their budgets,
they are the same training so far, so that it can be trained once and gone on with from there.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

from bsexp.config import RunConfig
from bsexp.schedules import simulate
from bsexp.sweep.grid import PlannedRun

# What acts on a run through its schedule only; all else must be the same.
THROUGH_THE_SCHEDULE = (
    "schedule",
    "parameters",
    "epochs",
    "batch_size",
    "max_batch",
    "lr",
    "lr_scaling",
    "warmup_epochs",
    "momentum",
    "allow_unstable",
)
# What two runs may differ in up to a place that it tells.
ORDERS = ("order", "order_from")
# A shorter beginning saves less than it costs to hand on.
WORTH = 0.02
# Numbers that tell an update.
WIDTH = 3


@dataclass(frozen=True)
class Fork:
    """A run goes on from what run number `parent` has trained up to `samples`."""

    parent: int
    samples: int


def find_forks(planned: Sequence[PlannedRun]) -> dict[int, Fork]:
    """For each of `planned` that begins like an earlier one: from where it goes on, by its place in `planned`.

    The earlier one is that with the longest common beginning, so all of them together are trained as a tree.
    """
    forks: dict[int, Fork] = {}
    earlier: dict[tuple[Any, ...], list[int]] = {}
    for number, run in enumerate(planned):
        if run.config.closed_loop:
            # What it will do isn't known before it is made.
            continue
        alike = earlier.setdefault(_key(run.config), [])
        longest = max((_common(planned[other], run) for other in alike), default=0)
        if longest >= WORTH * run.plan.total_samples:
            parent = next(other for other in alike if _common(planned[other], run) == longest)
            forks[number] = Fork(parent, longest)
        alike.append(number)
    return forks


def _key(config: RunConfig) -> tuple[Any, ...]:
    rest = {name: value for name, value in config.model_dump().items() if name not in (*THROUGH_THE_SCHEDULE, *ORDERS)}
    if config.weight_decay_clock != "samples":
        del rest["reference_batch"]
    if config.measures_noise:
        # Which updates are measured depends on the budget.
        rest["epochs"] = config.epochs
    return tuple(sorted((name, repr(value)) for name, value in rest.items()))


def _common(one: PlannedRun, other: PlannedRun) -> int:
    """The samples up to which two runs are the same training."""
    first, second = sorted((_Course(run.config, run.plan.num_train) for run in (one, other)), key=hash)
    epoch = _other_order(one.config, other.config)
    return _common_samples(first, second, None if epoch is None else epoch * one.plan.num_train)


def _other_order(one: RunConfig, other: RunConfig) -> int | None:
    """The epoch from which two runs read different orders; None where they never do."""
    orders = {(run.order, run.order_from) for run in (one, other)}
    return min(first for order, first in orders if order) if len(orders) > 1 else None


class _Course:
    """The updates of a run, whatever its seed."""

    def __init__(self, config: RunConfig, num_train: int) -> None:
        self.config, self.num_train = config, num_train
        through = tuple(repr(getattr(config, name)) for name in THROUGH_THE_SCHEDULE)
        self._key = (*through, config.reference_batch, config.optimizer, num_train)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Course) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=65536)
def _common_samples(one: _Course, other: _Course, limit: int | None) -> int:
    """Samples of the updates that are alike and, where there is a `limit`, lie wholly before it."""
    mine, theirs = _updates(one), _updates(other)
    # Equality of two beginnings is one comparison of memory, and falls only once as they grow.
    number = bisect_left(
        range(1, min(len(mine), len(theirs)) // WIDTH + 1),
        True,
        key=lambda k: mine[: WIDTH * k] != theirs[: WIDTH * k],
    )
    if limit is None:
        return int(sum(mine[: WIDTH * number : WIDTH]))
    ends = list(accumulate(mine[: WIDTH * number : WIDTH]))
    before = bisect_right(ends, limit)
    return int(ends[before - 1]) if before else 0


@lru_cache(maxsize=64)
def _updates(course: _Course) -> "array[float]":
    """Batch size, learning rate and momentum of each update, WIDTH numbers apiece, without the last two.

    Those may share a rest: only from there on does it matter where the budget ends.
    """
    total = course.config.total_samples(course.num_train)
    updates = array("d")
    for update in simulate(course.config.build_schedule(), total_samples=total, num_train=course.num_train):
        updates.extend((update.batch_size, update.lr, update.momentum))
    return updates[: -2 * WIDTH]
