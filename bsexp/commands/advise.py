"""`bsexp advise`: which schedule suits this model, data set and machine, found out by trials.

The one rule: everything is refused before anything is trained, each trial is kept as it ends, and what is said is made
from the kept files alone; run again, the command goes on where it was.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.commands.given import numbers_of, talk_of, values_of
from bsexp.commands.machines import machine_of
from bsexp.commands.measure import about, options_of, place_of, surroundings_of
from bsexp.config import RunConfig
from bsexp.console import Meter, Talk, duration
from bsexp.errors import UsageError
from bsexp.options import OPTIONS
from bsexp.records import TrialRow
from bsexp.store.files import read_json
from bsexp.store.hardware import read_hardware, write_hardware
from bsexp.store.measured import Branches, trial_branches
from bsexp.store.paths import Experiment, about_table
from bsexp.store.trunks import Trunks
from bsexp.sweep.advising import (
    BRANCH,
    ENDING,
    FEWEST_SEEDS,
    GROWN_AT,
    MOST_SEEDS,
    RATE,
    RATE_SEEDS,
    WHAT,
    Growth,
    Question,
    Trial,
    key_of,
    make_trials,
)
from bsexp.sweep.branching import Making
from bsexp.sweep.devices import default_model, on_gpu, worker_devices
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.measuring import Surroundings, config_of_size, measure_sizes
from bsexp.sweep.ramps import ramp_config
from bsexp.sweep.signals import StopSignals

if TYPE_CHECKING:
    from bsexp.analysis.hardware import HardwareTable

REPEATS = 6
# A range test takes this share of the budget, within a range of updates.
RAMP_SHARE, RAMP_UPDATES, LOWEST, HIGHEST = 0.05, (100, 1000), 1e-5, 10.0
# Rates around the one that the range test suggests, and how often the grid is made longer where the best is at its end.
FACTORS, EXTENSIONS, STEP = (0.5, 1.0, 2.0, 4.0), 3, 2.0
# Evaluations, data and processes come on top of updates.
ON_TOP = 1.15


def main(given: dict[str, Any]) -> int:
    """Make what trials are missing, judge them, write advice.json and its files, print what is advised.

    UsageError where the minutes don't suffice, or a table lacks a batch size; nothing was trained then.
    """
    began = time.monotonic()
    talk = talk_of(given)
    values = values_of(given)
    surroundings = surroundings_of(values)
    options = options_of(values)
    options.setdefault("model", default_model(options["dataset"], surroundings.device))
    lr = options.pop("lr", None)
    question = Question(options)
    machine = machine_of({name: values[name] for name in ("hardware",) if name in values})
    workers = tuple(sorted({1, *numbers_of(values.get("workers", "1"))}))
    place = place_of(values, "advise")
    job = Job(question, place, surroundings, values, talk)
    with StopSignals():
        here = job.measured(workers)
        tables = {"here": here}
        if machine:
            # Two CPUs are both called cpu; then the file tells them apart.
            label = machine.table.device
            tables[Path(values["hardware"]).stem if label == here.device else label] = machine.table
        job.check_tables(tables, workers)
        job.prepare(lr)
        rate = lr if lr is not None else job.find_rate()
        points, growths = job.try_batches(rate)
        job.make(rate, question.grown(rate, growths))
    job.trunks.forget()
    from bsexp.commands.advice import tell_advice

    return tell_advice(job, rate, points, growths, tables, workers, began)


@dataclass
class _Progress:
    """Seconds of work that were planned, and of these done."""

    planned: float = 0.0
    done: float = 0.0


class Job:
    """One advice in the making: what is asked, where it is kept, how its trials are made."""

    def __init__(
        self, question: Question, place: Experiment, surroundings: Surroundings, values: dict[str, Any], talk: Talk
    ) -> None:
        self.question, self.place, self.surroundings, self.values, self.talk = (
            question,
            place,
            surroundings,
            values,
            talk,
        )
        settings = question.run("fixed-small").model_dump()
        for name in ("seed", "parameters", "schedule", "lr"):
            del settings[name]
        kind, colon, path = str(settings["dataset"]).partition(":")
        if kind == "folder" and colon:
            settings["dataset"] = f"folder:{Path(path).name}"
        self.settings = settings
        self.kept: Branches[TrialRow] = trial_branches(place.trials, {**settings, "lr": values.get("lr")})
        self.trunks = Trunks(place.trunks)
        self.table: HardwareTable | None = None
        self.jobs = len(worker_devices(surroundings.device, values.get("jobs")))
        self.progress = _Progress()
        self.seeds = range(FEWEST_SEEDS)

    # -- (a) the machine

    def _extremes(self) -> tuple[int, int]:
        """The smallest and the largest update that any candidate or trial may have.

        The last two updates of a run share what remains: at least half of a batch each.
        """
        every = self.question.candidates(self.question.default_lr, self._growths()).values()
        return (self.question.batch_size + 1) // 2, max(max(self.question.updates(config)) for config in every)

    def _growths(self) -> list[Growth]:
        """All growth that is tried, with any rule."""
        return [Growth(share, multiplier, "none") for share in GROWN_AT for multiplier in self.question.multipliers]

    def measured(self, workers: tuple[int, ...]) -> "HardwareTable":
        """Seconds per update here, measured or, where that was done before, read."""
        from bsexp.analysis.hardware import HardwareTable

        low, high = self._extremes()
        low = -(-low // max(workers))
        if self.settings["norm"] == "batch":
            # One sample has no batch statistics.
            low = max(low, 2)
        sizes = sorted({low, high, *(2**k for k in range(1, 24) if low < 2**k < high)})
        file = self.place.hardware
        if file.exists():
            found = HardwareTable.of(read_hardware(file))
            if found.sizes[0] <= low and found.sizes[-1] >= high:
                self.table = found
                return found
        costs = {name: value for name, value in self.question.options.items() if name in OPTIONS}
        configs = [config_of_size({**costs, "averaging": "ema"}, size) for size in sizes]
        self.talk.note(f"an update's time, batch {sizes[0]:,} to {sizes[-1]:,}")
        rows, settled = measure_sizes(configs, self.surroundings, REPEATS, self.talk.note)
        write_hardware(file, rows, about(self.settings, settled, repeats=REPEATS))
        self.table = HardwareTable.of(rows)
        return self.table

    def check_tables(self, tables: Mapping[str, "HardwareTable"], workers: tuple[int, ...]) -> None:
        """UsageError where a table lacks a batch size that a candidate has."""
        from bsexp.analysis.hardware import modelled_seconds

        low, high = self._extremes()
        for table in tables.values():
            for number in workers:
                modelled_seconds(table, {low: 1.0, high: 1.0}, number)

    # -- how long it takes

    def seconds(self, trial: Trial) -> float:
        """What one seed of a trial takes, about."""
        from bsexp.analysis.hardware import modelled_seconds

        assert self.table is not None
        return ON_TOP * modelled_seconds(self.table, self.question.updates(trial.config, trial.share)).value

    def seconds_of(self, config: RunConfig) -> float:
        """What a run takes, about."""
        return self.seconds(Trial(ENDING, "", 0.0, config))

    def prepare(self, lr: float | None) -> None:
        """Settle with how many seeds, and say how long it will take; UsageError where two are too many."""
        allowed = 60 * float(self.values.get("minutes", OPTIONS["minutes"].default))
        kept = max((row.seed + 1 for row in self.kept.rows), default=0)
        fewest = max(FEWEST_SEEDS, kept)
        times = {num: self._left(num, lr) for num in range(fewest, max(fewest, MOST_SEEDS) + 1)}
        if times[fewest] > allowed:
            epochs = self.question.run("fixed-small").epochs
            which = f"{allowed / 60:g}, where trials take about {math.ceil(times[fewest] / 60):.0f} minutes here"
            cure = f"allow them, or advise for a shorter budget than {epochs:g} epochs (--epochs)"
            raise UsageError("--minutes", which, cure)
        num = max(num for num, seconds in times.items() if seconds <= allowed)
        self.seeds = range(num)
        self.progress = _Progress(times[num])
        told = (
            f"about {duration(times[num])} of trials, {self.jobs} at a time" if times[num] else "all trials are there"
        )
        self.talk.note(f"{num} seeds: {told}")

    def _left(self, num: int, lr: float | None) -> float:
        """Seconds of the trials of `num` seeds that are missing, about."""
        question = self.question
        rate = lr if lr is not None else question.default_lr
        # Where an advice stands, what could grow has grown.
        seen = read_json(self.place.advice("json")) if self.place.advice("json").exists() else None
        growths = self._growths() if seen is None else [Growth(**each) for each in seen["growths"]]
        left = self._missing(BRANCH, num, question.branches(rate))
        left += self._missing(ENDING, num, [*question.endings(rate), *question.grown(rate, growths)])
        if lr is None:
            left += self._missing(RATE, RATE_SEEDS, question.rates([rate] * len(FACTORS)))
        if left:
            # Trunks are trained as far as the last branch.
            left += num * self.seconds(Trial(ENDING, "trunk", 0.2, question.run("fixed-small", rate)))
        return left

    def _missing(self, stage: str, num: int, trials: list[Trial]) -> float:
        """Seconds of what is missing of a stage, as many of its trials being made as it has rows."""
        made = sum(row.stage == stage for row in self.kept.rows)
        return max(0.0, 1 - made / (num * len(trials))) * num * sum(map(self.seconds, trials))

    # -- (b) the rate

    def find_rate(self) -> float:
        """The learning rate for the first batch: short runs at rates around what a range test suggests."""
        from bsexp.analysis.advice import best_rate

        kept = self.kept
        stored = about_table(self.place.trials)
        middle = read_json(stored).get("first_rate") if stored.exists() else None
        if middle is None:
            middle = self._climb()
            self.begin(first_rate=middle)
        metric = self.values.get("metric", OPTIONS["metric"].default)
        rates = [_rounded(middle * factor) for factor in FACTORS]
        for _ in range(EXTENSIONS + 1):
            self.make(rates[0], self.question.rates(rates), range(RATE_SEEDS))
            rows = [row for row in kept.rows if row.stage == RATE and row.lr in rates]
            best = best_rate(rows, metric)
            if best is None:
                which = f"all runs at {min(rates):g} to {max(rates):g} diverged"
                raise UsageError("learning rate", which, "give one: --lr")
            if best == max(rates):
                rates.append(_rounded(best * STEP))
            elif best == min(rates):
                rates.insert(0, _rounded(best / STEP))
            else:
                break
        else:
            rates = [rate for rate in rates if any(row.lr == rate for row in rows)]
            self.talk.warn(
                f"the best rate, {best:g}, lies at the end of those tried ({min(rates):g} to {max(rates):g})"
            )
        assert best is not None
        self.talk.note(f"learning rate {best:g}, of {', '.join(f'{rate:g}' for rate in rates)}")
        return best

    def _climb(self) -> float:
        """Where a range test says that the rate might be; the data set's own where it says nothing."""
        from bsexp.analysis.range_test import judge_ramp
        from bsexp.sweep.apart import in_a_process

        question = self.question
        low, high = RAMP_UPDATES
        updates = min(high, max(low, round(RAMP_SHARE * question.total_samples / question.batch_size)))
        options = {**question.options, "schedule": "fixed-small", "parameters": {}}
        config = ramp_config({**options, "epochs": None}, 0, updates, LOWEST, HIGHEST)
        self.talk.note(f"range test of the learning rate, {updates:,} updates")
        rows = in_a_process(_ramp, config.model_dump(), self.surroundings, which="range test", cure="give --lr")
        total = config.total_samples(question.num_train)
        return judge_ramp(rows, total, LOWEST, HIGHEST).suggested_lr or question.default_lr

    # -- (c) to (e): branches and candidates

    def try_batches(self, lr: float) -> tuple[list[Any], list[Growth]]:
        """The local critical batches, and with what batch and rate to go on from where."""
        from bsexp.analysis.advice import local_critical, rule_for

        question = self.question
        self.make(lr, [*question.branches(lr), *question.endings(lr)])
        wanted = {trial.key(seed) for trial in question.branches(lr) for seed in self.seeds}
        points = local_critical([row for row in self.kept.rows if row.stage == BRANCH and key_of(row) in wanted])
        growths = []
        for each in self._growths():
            rule = rule_for(points, each.share, each.multiplier * question.batch_size)
            if rule is not None:
                growths.append(replace(each, lr_rule=rule))
        return points, growths

    def begin(self, **more: Any) -> None:
        """Write down what trials are made with."""
        stored = about_table(self.place.trials)
        before = read_json(stored) if stored.exists() else {}
        self.kept.begin({**before, "seeds": list(self.seeds), **describe_machine(), **more})

    def make(self, lr: float, trials: list[Trial], seeds: Sequence[int] | None = None) -> None:
        """Make those of `trials` that are missing, with what is done of the whole shown."""
        seeds = self.seeds if seeds is None else seeds
        made = {key_of(row) for row in self.kept.rows}
        if all(trial.key(seed) in made for trial in trials for seed in seeds):
            return
        surroundings = self.surroundings
        if surroundings.threads is None and not on_gpu(surroundings.device):
            surroundings = replace(surroundings, threads=1)
        self.begin()
        making = Making(WHAT, surroundings, None, self.trunks)
        with Meter(self.talk, WHAT, max(self.progress.planned, 1e-9)).shown() as meter:

            def keep(row: TrialRow, trial: Trial) -> None:
                self.kept.keep(row)
                self.progress.done = min(self.progress.planned, self.progress.done + self.seconds(trial))
                meter.move(self.progress.done, _named(row))

            make_trials(self.question, lr, trials, self.kept.rows, seeds, making, self.jobs, keep, meter.line)


def _named(row: TrialRow) -> str:
    if row.stage == RATE:
        return f"lr {row.lr:g}"
    return f"batch {row.batch_size:,} at {100 * row.share:g} %" if row.stage == BRANCH else row.arm


def _rounded(rate: float) -> float:
    """Two digits: a rate isn't known better, and shall be the same when it is read again."""
    return float(f"{rate:.2g}")


def _ramp(config: dict[str, Any], surroundings: Surroundings) -> list[Any]:
    from bsexp.analysis.range_test import half_life
    from bsexp.config import RunConfig
    from bsexp.data.sources import load_images
    from bsexp.data.splits import prepare
    from bsexp.engine.ramp import climb

    surroundings.settle()
    run = RunConfig(**config)
    data = prepare(run, load_images(run.dataset, run.image_size))
    total = run.total_samples(len(data.train))
    return climb(run, half_life=half_life(total), data=data, device=surroundings.device)
