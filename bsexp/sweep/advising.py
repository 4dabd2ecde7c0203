"""What `advise` trains: short runs for the rate, branches for the critical batch, candidates to their ends.

The one rule: each candidate is an ordinary run whose beginning is the trunk's, so that what is measured of it is what
that run would have been, and all of them are compared at equal samples.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import UsageError
from bsexp.planning import plan_run
from bsexp.records import TrialRow
from bsexp.schedules import Progress, consult
from bsexp.schedules import share as cut
from bsexp.sweep.branching import Branch, Ended, Making, Work, begins, make_branches
from bsexp.sweep.configs import build_config, num_trained
from bsexp.sweep.critical import RULES

WHAT = "advise"
# Numbers of seeds at which the trials are looked at: the first of all trials, later ones of what the advice hangs on.
LOOKS = (2, 4, 8, 12)
FIRST = range(LOOKS[0])
# Shares of the budget at which branches begin, and the share that each of them takes.
SHARES, BRANCH_SHARE = (0.05, 0.2, 0.5, 0.8), 0.05
MULTIPLIERS = (4, 16)
# Orders of samples in which some trainings are repeated: what decay does in them tells the noise of all.
ORDERS = (0, 1, 2)
# A constant rate's loss jumps from update to update, by more than what may be lost: so many evaluations say its end.
EVALUATIONS = 5
# Where the rate begins to fall, or the batch to grow instead of it.
COOLDOWN = 0.2
# A rate is judged by runs of this share of the budget.
RATE_SHARE = 0.1
RATE, WHOLE, BRANCH, ENDING = "rate", "whole", "branch", "ending"
CONSTANT, DECAY = "constant", "decay"
# Where the batch may grow for good, while the rate falls at the end all the same.
GROWN_AT = (0.0, 0.2, 0.5)
# What suits a decay may be too much for a beginning that is soon followed by a larger batch and rate.
SLOWER = 0.5
# Known by its schedule, not by trials: its rate has a peak of its own, which other trials say nothing of.
UNJUDGED = "one-cycle"


@dataclass(frozen=True)
class Trial:
    """A training that is to be made for each seed: a row of trials.csv without its end. `config` with any seed."""

    stage: str
    arm: str
    share: float
    config: RunConfig
    lr_rule: str = "none"
    order: int = 0

    def trunk_lr(self, lr: float) -> float:
        """The rate of the trunk that it goes on from, where that of most is `lr`: an ending has that trunk's own."""
        return self.config.lr if self.stage == ENDING and self.share else lr

    @property
    def evaluations(self) -> int:
        """How many evaluations its end is the mean of."""
        return EVALUATIONS if (self.stage, self.arm) == (ENDING, CONSTANT) else 1

    def key(self, seed: int) -> tuple[Any, ...]:
        """What tells it from all others."""
        config = self.config
        return (self.stage, self.arm, seed, self.share, self.order, config.batch_size, self.lr_rule, config.lr)


def key_of(row: TrialRow) -> tuple[Any, ...]:
    """The key of the trial that `row` is the end of."""
    return (row.stage, row.arm, row.seed, row.share, row.order, row.batch_size, row.lr_rule, row.lr)


@dataclass(frozen=True)
class Growth:
    """From `share` of the budget on a batch `multiplier` times the first one, with a rate that grows by `lr_rule`.

    `base`: 1, or SLOWER times the rate all along.
    """

    share: float
    multiplier: int
    lr_rule: str
    base: float = 1.0

    @property
    def lr_factor(self) -> float:
        """What the rate is multiplied by."""
        return float(self.multiplier ** RULES[self.lr_rule])


class Question:
    """What is asked: `options` of a run, without schedule and rate. Makes the runs that answer it.

    Raises UsageError for what can't be answered: without validation, with a warm-up that hasn't ended where the first
    branches begin, or with a first batch that can't grow fourfold.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = {"averaging": "ema", **options}
        first = self.run("fixed-small")
        self.batch_size, self.default_lr = first.batch_size, first.lr
        self.num_train = num_trained(first)
        self.total_samples = first.total_samples(self.num_train)
        if not first.val_fraction:
            raise UsageError("val_fraction", "0", "advice rests on a validation split: leave some for it")
        warmup = first.warmup_epochs or 0.0
        if warmup > SHARES[0] * first.epochs:
            cure = f"it must have ended where the first branches begin, after {SHARES[0] * first.epochs:g} epochs"
            raise UsageError("warmup_epochs", f"{warmup:g}", cure)
        self._warmup_share = warmup / first.epochs
        plan_run(first, self.num_train)
        if BRANCH_SHARE * self.total_samples < self.batch_size:
            share = f"{100 * BRANCH_SHARE:g} % of {self.total_samples:,} samples hold no batch of {self.batch_size:,}"
            raise UsageError("epochs", f"{first.epochs:g}: {share}", "give more, or a smaller --batch-size")
        # What can't be trained or isn't worth it, with why, by name.
        self.left_out: dict[str, str] = {}
        self.multipliers = tuple(size for size in MULTIPLIERS if self._possible(size))
        if not self.multipliers:
            which = f"{self.batch_size} of {self.num_train:,} samples"
            cure = "use a smaller one"
            if "max_batch" in self.options:
                which, cure = f"{which}, max_batch {self.options['max_batch']:,}", f"{cure}, or raise --max-batch"
            raise UsageError("batch_size", which, f"it can't grow fourfold: {cure}")

    def run(
        self,
        schedule: str,
        lr: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> RunConfig:
        """A run of the question's with a schedule of its own, and `settings` that differ."""
        rate = {} if lr is None else {"lr": lr}
        own = {"schedule": schedule, "parameters": dict(parameters or {}), "evals": 1}
        return build_config({**self.options, **rate, **settings, **own}, 0)

    def _possible(self, multiplier: int) -> bool:
        batch = multiplier * self.batch_size
        return self._planned(self.run("fixed-small", batch_size=batch), f"batch {batch:,}")

    # -- trials

    def rates(self, lrs: Iterable[float]) -> list[Trial]:
        """Short decayed runs at each rate."""
        short = RATE_SHARE * self.run("fixed-small").epochs
        wsd = {"shape": "wsd", "cooldown_fraction": COOLDOWN}
        return [Trial(RATE, DECAY, 0.0, self.run("lr-decay", lr, wsd, epochs=short)) for lr in lrs]

    def wholes(self, lrs: Iterable[float]) -> list[Trial]:
        """Decayed runs of the whole budget at each rate."""
        return [Trial(WHOLE, DECAY, 0.0, self.candidates(lr, ())[DECAY]) for lr in lrs]

    def branches(self, lr: float) -> list[Trial]:
        """From each point of the trunk: its own batch in several orders, larger ones with several rates."""
        found = []
        for share in SHARES:
            own = self._branch(Growth(share, 1, "none"), lr)
            found += [Trial(BRANCH, CONSTANT, share, own, order=order) for order in ORDERS]
            for multiplier in self.multipliers:
                for rule in RULES:
                    config = self._branch(Growth(share, multiplier, rule), lr)
                    found.append(Trial(BRANCH, CONSTANT, share, config, rule))
        return found

    def _branch(self, growth: Growth, lr: float) -> RunConfig:
        batch = growth.multiplier * self.batch_size
        trunk = self.run("fixed-small", lr)
        end = begins(trunk, growth.share, self.num_train) + round(BRANCH_SHARE * self.total_samples)
        epochs = end / self.num_train
        return self.run("fixed-small", lr * growth.lr_factor, batch_size=batch, epochs=epochs)

    def constants(self, lrs: Iterable[float]) -> list[Trial]:
        """Constant rates to the end of the budget, each with a trunk of its own, in several orders."""
        configs = [self.run("fixed-small", lr) for lr in lrs]
        return [Trial(ENDING, CONSTANT, 1 - COOLDOWN, each, order=order) for each in configs for order in ORDERS]

    def endings(self, lr: float, constant: float | None = None) -> list[Trial]:
        """What goes on from the trunk where its rate would begin to fall; decay and no decay in several orders.

        `constant`: the rate without decay where it isn't `lr`; with a trunk of its own.
        """
        every = self.candidates(lr, (), constant)
        found = []
        for arm, config in every.items():
            if arm != UNJUDGED:
                orders = ORDERS if arm in (CONSTANT, DECAY) else ORDERS[:1]
                found += [Trial(ENDING, arm, 1 - COOLDOWN, config, order=order) for order in orders]
        return found

    def places(self) -> list[Growth]:
        """Where and to what the batch may grow, with the same rate."""
        return [Growth(share, multiplier, "none") for share in GROWN_AT for multiplier in self.multipliers]

    def grown(self, lr: float, growths: Iterable[Growth]) -> list[Trial]:
        """What goes on with a larger batch from where that grows; at another rate than the trunk's, from the start."""
        found = [(growth, self._grown(lr, growth)) for growth in growths]
        return [
            Trial(ENDING, self.arm_of(growth), growth.share if growth.base == 1 else 0.0, each, growth.lr_rule)
            for growth, each in found
            if self._planned(each, self.arm_of(growth))
        ]

    def repeated(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those of `trials` that go on from the trunk, in the other orders: cheaper than another seed of them.

        What is trained from the start costs as much as that seed.
        """
        going_on = [trial for trial in trials if trial.share]
        return [replace(trial, order=order) for trial in going_on for order in ORDERS if order != trial.order]

    def arm_of(self, growth: Growth) -> str:
        """The name of a candidate that grows: `large-64-sqrt`, `grow-64-at-20-none`, `grow-64-at-20-linear-half`."""
        batch = growth.multiplier * self.batch_size
        where = f"grow-{batch}-at-{100 * growth.share:g}" if growth.share else f"large-{batch}"
        return f"{where}-{growth.lr_rule}{'' if growth.base == 1 else '-half'}"

    def candidates(self, lr: float, growths: Iterable[Growth], constant: float | None = None) -> dict[str, RunConfig]:
        """All runs that may be recommended, by name, the usual decay first; what can't be planned is left out.

        `constant`: the rate of the one without decay, where it isn't `lr`.
        """
        # Positions of these shapes count from the end of the warm-up.
        wsd = {"cooldown_fraction": COOLDOWN / (1 - self._warmup_share)}
        found = {
            DECAY: self.run("lr-decay", lr, {"shape": "wsd", **wsd}),
            CONSTANT: self.run("fixed-small", lr if constant is None else constant),
            "growing": self.run("growing-batch", lr, {"match": "wsd", **wsd}),
            "hybrid": self.run("hybrid", lr, {"shape": "wsd", **wsd}),
            "late-switch": self.run("late-switch", lr, {"switch": 1 - COOLDOWN}),
            # A momentum that was given is nobody's to move.
            UNJUDGED: self.run("one-cycle", lr, {"cycle_momentum": False} if "momentum" in self.options else {}),
        }
        found |= {self.arm_of(growth): self._grown(lr, growth) for growth in growths}
        return {arm: config for arm, config in found.items() if self._planned(config, arm)}

    def _grown(self, lr: float, growth: Growth) -> RunConfig:
        if not growth.share:
            batch, rate = growth.multiplier * self.batch_size, lr * growth.lr_factor
            wsd = {"shape": "wsd", "cooldown_fraction": COOLDOWN / (1 - self._warmup_share)}
            return self.run("lr-decay", rate, wsd, batch_size=batch)
        batches = {"curve": "step", "milestones": [growth.share], "factor": growth.multiplier}
        rates: dict[str, Any] = {"curve": "wsd", "cooldown_fraction": COOLDOWN}
        if growth.lr_factor != 1 or growth.base != 1:
            jump = {"curve": "step", "milestones": [growth.share], "factor": growth.lr_factor}
            start = {"start": growth.base} if growth.base != 1 else {}
            rates = {"product": [{**jump, **start}, rates]}
        # A cap that nobody gave is no reason to leave out what is to be tried.
        batch = growth.multiplier * self.batch_size
        cap = {} if "max_batch" in self.options else {"max_batch": max(batch, self.num_train // 10)}
        return self.run("custom", lr, {"batch": batches, "lr": rates}, **cap)

    def _planned(self, config: RunConfig, arm: str) -> bool:
        try:
            plan_run(config, self.num_train)
        except UsageError as error:
            self.left_out[arm] = f"{error.what}: {error.which}"
            return False
        return True

    # -- how much there is to do

    def updates(self, config: RunConfig, share: float = 0.0) -> dict[int, float]:
        """The updates of a run by batch size, from a share of the question's budget on."""
        from bsexp.analysis.hardware import count_sizes

        samples = begins(self.run("fixed-small"), share, self.num_train) if share else 0
        total, schedule = config.total_samples(self.num_train), config.build_schedule()
        sizes: list[int] = []
        closing = False
        while samples < total:
            # Not `simulate`: another batch's updates wouldn't begin where the trunk stands.
            hyper = consult(schedule, Progress(len(sizes), samples, total, self.num_train))
            size, closing = cut(hyper.batch_size, total - samples, closing)
            sizes.append(size)
            samples += size
        return count_sizes(sizes)


def make_trials(
    question: Question,
    lr: float,
    trials: Sequence[Trial],
    done: Iterable[TrialRow],
    seeds: Sequence[int],
    making: Making,
    devices: Sequence[str],
    keep: Callable[[TrialRow, Trial], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Make `trials` for each of `seeds` that are not `done`, from trunks at the rate `lr` or at their own (see
    Trial.trunk_lr); `keep` hears of each.

    What the processes settled on, and what is raised: see branching.make_branches.
    """
    made = {key_of(row) for row in done}
    works = []
    for seed in seeds:
        for rate, missing in by_trunk(trials, lr, seed, made).items():
            branches = [
                Branch(each.share, seeded(each.config, seed), each.order, (each,), each.evaluations)
                for each in sorted(missing, key=lambda trial: trial.share)
            ]
            name = f"seed {seed}" if rate == lr else f"seed {seed}, rate {rate:g}"
            works.append(Work(name, seeded(question.run("fixed-small", rate), seed), tuple(branches)))

    def ended(trunk: RunConfig, found: Ended) -> None:
        trial = found.branch.mark[0]
        keep(_row(trial, trunk.seed, found), trial)

    return make_branches(works, making, devices, ended, tell)


def by_trunk(
    trials: Iterable[Trial], lr: float, seed: int, made: Container[tuple[Any, ...]]
) -> dict[float, list[Trial]]:
    """Those of `trials` that aren't `made` for a seed, by the rate of their trunks, where that of most is `lr`."""
    found: dict[float, list[Trial]] = {}
    for trial in trials:
        if trial.key(seed) not in made:
            found.setdefault(trial.trunk_lr(lr), []).append(trial)
    return found


def seeded(config: RunConfig, seed: int) -> RunConfig:
    """The same run with another seed."""
    return RunConfig(**{**config.model_dump(), "seed": seed})


def _row(trial: Trial, seed: int, ended: Ended) -> TrialRow:
    end = ended.end
    measured = ("val_loss", "val_accuracy", "val_loss_ema", "val_accuracy_ema")
    return TrialRow(
        stage=trial.stage,
        arm=trial.arm,
        seed=seed,
        share=trial.share,
        order=trial.order,
        batch_size=trial.config.batch_size,
        lr_rule=trial.lr_rule,
        lr=trial.config.lr,
        samples=ended.samples,
        updates=ended.updates,
        **{name: None if end is None else getattr(end, name) for name in measured},
    )
