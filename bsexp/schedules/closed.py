"""Closed loop: schedules that look at how the training goes before they decide.

The one rule: a decision is a pure function of a frozen state and an observation. Batch size, learning rate and momentum
of an update follow from the state and the progress; the engine makes observations and decides nothing.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from bsexp.errors import UsageError
from bsexp.schedules.base import Hyper, Progress, Schedule
from bsexp.schedules.patience import Patience
from bsexp.schedules.planned import Planned, Wanted
from bsexp.signals.noise import Noise

# So many decisions a run, equally spaced in samples.
DECISIONS = 100


def decision_due(samples_before: int, samples: int, total_samples: int) -> bool:
    """Whether a decision follows the update between two counts of samples: it passes a point k/100, not the last one.

    >>> [decision_due(at, at + 16, 3200) for at in (0, 16, 3184)]
    [False, True, False]
    """
    passed = DECISIONS * samples_before // total_samples != DECISIONS * samples // total_samples
    return passed and samples < total_samples


def replayed(first: int, decisions: Sequence[tuple[int, int]]) -> Schedule:
    """The batch sizes that a closed loop decided for, as an open loop: `first`, and from each (samples, batch) on that.

    `decisions` by rising samples. Of its values only the batch size means anything.

    >>> schedule = replayed(16, [(64, 32)])
    >>> [schedule(Progress(0, at, 200, 100)).batch_size for at in (0, 48, 64)]
    [16, 16, 32]
    """
    starts = [samples for samples, _ in decisions]
    batches = [first, *(batch for _, batch in decisions)]
    return lambda progress: Hyper(batches[bisect_right(starts, progress.samples)], 1.0, 0.0)


class Score(NamedTuple):
    """An evaluation on the validation split."""

    val_loss: float
    val_accuracy: float


class Observation(NamedTuple):
    """What is known at a decision. `progress`: of the update to come; `lr`, `momentum`: of the one before it.

    `loss` is the training loss in nats, `noise` |G|^2 and tr(Sigma) of one sample, all smoothed (signals.smoothing);
    nan where not measured. `first_loss` is that of the run's first update. `scores`: evaluations since the last
    decision, oldest first.
    """

    progress: Progress
    lr: float
    momentum: float
    loss: float
    first_loss: float
    noise: Noise
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class State:
    """What holds until the next decision: the batch size, and a factor on the learning rate.

    `wanted` is what the last decision's rule asked for before limits, None where it held; `reason` says why it came
    out so. `others`: the states of policies that are only asked (shadow).
    """

    batch_size: int
    lr_factor: float = 1.0
    patience: Patience = field(default_factory=Patience)
    wanted: float | None = None
    reason: str = ""
    others: tuple["State", ...] = ()

    def plain(self) -> dict[str, Any]:
        """As numbers, texts, dicts and lists."""
        return asdict(self) | {"others": [other.plain() for other in self.others]}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "State":
        """The state that `plain` returned."""
        others = tuple(cls.of(other) for other in plain["others"])
        return cls(**{**plain, "patience": Patience(**plain["patience"]), "others": others})


class Wish(NamedTuple):
    """A policy's answer: the batch before rounding and limits, or the factor on the rate; None: leave it as it is.

    `keep`: the batch is told, but stays what it is.
    """

    reason: str
    batch: float | None = None
    lr_factor: float | None = None
    patience: Patience | None = None
    keep: bool = False


Decide = Callable[[State, Observation], Wish]


def limited(wanted: float, batch: int, least: int, most: int) -> tuple[int, str]:
    """The batch that `wanted` comes to from `batch`, and what held it back, if anything.

    Rounded half to even, at most doubled or halved, then within [least, most].

    >>> limited(40.4, 32, 16, 128), limited(1e9, 32, 16, 128), limited(3.0, 32, 24, 128)
    ((40, ''), (64, 'at most doubled'), (24, 'min_batch'))
    """
    low, high = -(-batch // 2), 2 * batch
    if wanted > high:
        size, limit = high, "at most doubled"
    elif wanted < low:
        size, limit = low, "at most halved"
    else:
        size, limit = round(wanted), ""
    if size > most:
        return most, "max_batch"
    return (least, "min_batch") if size < least else (size, limit)


@dataclass(frozen=True)
class ClosedLoop:
    """A policy at work: `init`, `update` at each decision, `hyper` for each update.

    `ground` gives all that isn't decided: scaling, warm-up, momentum, the cap. `others` are policies that are only
    asked: then `ground` is followed as it is, and its values are known beforehand.
    """

    name: str
    policy: str
    ground: Planned
    decide: Decide
    moves_batch: bool
    min_batch: int
    others: tuple[tuple[str, Decide], ...] = ()

    def bounds(self, num_train: int) -> tuple[int, int]:
        """The smallest and the largest batch that may be decided."""
        first = self.ground.setting.batch_size
        most = self.ground.largest(num_train)
        return (self.min_batch, most) if self.moves_batch else (first, first)

    def init(self) -> State:
        """The state at the start of a run."""
        first = State(self.ground.setting.batch_size)
        return replace(first, others=(first,) * len(self.others))

    def update(self, state: State, seen: Observation) -> State:
        """The state after a decision."""
        if not self.others:
            return self._decided(self.decide, state, seen)
        pairs = zip(self.others, state.others, strict=True)
        others = tuple(self._decided(decide, other, seen) for (_, decide), other in pairs)
        batch = self.ground(seen.progress).batch_size
        return replace(state, batch_size=batch, reason=f"follows {self.ground.strategy.name}", others=others)

    def hyper(self, state: State, progress: Progress) -> Hyper:
        """Values for the update that starts at `progress`."""
        if self.others:
            return self.ground(progress)
        wanted = Wanted(state.batch_size, state.lr_factor)
        return replace(self.ground, rule=lambda at: wanted)(progress)

    def __call__(self, progress: Progress) -> Hyper:
        """Raises UsageError: what will be decided isn't known before the run is made. Fine where nothing is decided."""
        if self.others:
            return self.ground(progress)
        cure = "only a run can tell, by its decisions.csv"
        raise UsageError(self.name, "its batch size and rate are decided along the run", cure)

    def _decided(self, decide: Decide, state: State, seen: Observation) -> State:
        wish = decide(state, seen)
        batch, limit = state.batch_size, ""
        if wish.batch is not None and not wish.keep:
            assert not math.isnan(wish.batch), "policies hold where there is nothing to tell"
            batch, limit = limited(wish.batch, state.batch_size, *self.bounds(seen.progress.num_train))
        return State(
            batch_size=batch,
            lr_factor=state.lr_factor if wish.lr_factor is None else wish.lr_factor,
            patience=wish.patience or state.patience,
            wanted=wish.lr_factor if wish.batch is None else wish.batch,
            reason=f"{wish.reason}; {limit}" if limit else wish.reason,
        )
