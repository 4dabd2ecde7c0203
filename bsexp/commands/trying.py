"""An advice in the making: the machine, the minutes that it may take, its trials as they are made and kept.

The one rule: what was begun is made to its end, by whatever calls it takes, and all of it is read back from what was
kept.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bsexp.commands.advised_rate import constant_rates, fewest_trials
from bsexp.commands.measure import about
from bsexp.config import RunConfig
from bsexp.console import Meter, Talk, duration
from bsexp.errors import UsageError
from bsexp.options import COST_FIELDS, OPTIONS
from bsexp.records import TrialRow
from bsexp.store.files import plain, read_json
from bsexp.store.hardware import read_hardware, write_hardware
from bsexp.store.measured import Branches, trial_branches
from bsexp.store.paths import Experiment, about_table
from bsexp.store.trunks import Trunks
from bsexp.sweep.advising import (
    BRANCH,
    ENDING,
    EVALUATIONS,
    FIRST,
    RATE,
    WHAT,
    WHOLE,
    Growth,
    Question,
    Trial,
    by_trunk,
    key_of,
    make_trials,
    seeded,
)
from bsexp.sweep.branching import Making, begins, devices_for
from bsexp.sweep.configs import MODEL_SOURCE, kept_settings
from bsexp.sweep.devices import num_cores, on_gpu
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.measuring import Surroundings, config_of_size, measure_sizes

if TYPE_CHECKING:
    from bsexp.analysis.hardware import HardwareTable

REPEATS = 6
# Evaluations, data and processes come on top of updates.
ON_TOP = 1.15


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
        # A rate is each trial's own, and another one may be asked for.
        self.settings = kept_settings(question.run("fixed-small"), ("seed", "parameters", "schedule", "lr"))
        self.trunks = Trunks(place.trunks)
        self.table: HardwareTable | None = None
        # A trunk for each of the first seeds, and no more than these at a time.
        self.devices = devices_for(surroundings.device, values.get("jobs"))[: len(FIRST)]
        gpu = on_gpu(surroundings.device)
        # So many trunks advance as one alone would: two on one GPU share it.
        self.abreast = len(set(self.devices)) if gpu else len(self.devices)
        self.trying = surroundings
        self.pace = 1.0 / self.abreast
        if surroundings.threads is None and not gpu:
            # Always as many, for the same bytes; the machine was measured with all cores.
            cores = num_cores()
            threads = max(1, cores // len(FIRST))
            self.trying = replace(surroundings, threads=threads)
            self.pace *= cores / threads
        # Trials of one kind of machine are never compared with another's.
        made_with = {"gpu": gpu, "threads": self.trying.threads, "deterministic": surroundings.deterministic}
        made_with["torch"] = describe_machine()["torch"]
        made_with["evaluations"] = EVALUATIONS
        self.kept: Branches[TrialRow] = trial_branches(place.trials, {**self.settings, **made_with})
        self.metric = str(values.get("metric", OPTIONS["metric"].default))
        self.tolerance = float(values.get("tolerance", OPTIONS["tolerance"].default))

    # -- (a) the machine

    def _extremes(self) -> tuple[int, int]:
        """The smallest and the largest update that any candidate or trial may have.

        The last two updates of a run share what remains: at least half of a batch each.
        """
        every = self.question.candidates(self.question.default_lr, self.question.places()).values()
        return (self.question.batch_size + 1) // 2, max(max(self.question.updates(config)) for config in every)

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
        asked = {name: self.settings[name] for name in (*COST_FIELDS, MODEL_SOURCE) if name in self.settings}
        asked |= {"device_asked": self.surroundings.device, "threads_asked": self.surroundings.threads}
        machine = {name: value for name, value in describe_machine().items() if name in ("cpu", "cores")}
        needed = {**asked, **machine}
        stored = read_json(about_table(file), "restore it") if about_table(file).exists() else {}
        if file.exists() and all(stored.get(name, plain(value)) == plain(value) for name, value in needed.items()):
            found = HardwareTable.of(read_hardware(file))
            if found.sizes[0] <= low and found.sizes[-1] >= high:
                self.table = found
                return found
        costs = {name: value for name, value in self.question.options.items() if name in OPTIONS}
        configs = [config_of_size({**costs, "averaging": "ema"}, size) for size in sizes]
        self.talk.note(f"an update's time, batch {sizes[0]:,} to {sizes[-1]:,}")
        began = time.monotonic()
        rows, settled = measure_sizes(configs, self.surroundings, REPEATS, self.talk.note)
        spent = round(float(stored.get("seconds", 0.0)) + time.monotonic() - began, 1)
        write_hardware(file, rows, {**about(self.settings, settled, repeats=REPEATS), **asked, "seconds": spent})
        self.table = HardwareTable.of(rows)
        if (fits := self.table.sizes[-1]) < high:
            raise UsageError("batch size", f"{high:,} doesn't fit into memory here", f"give --max-batch {fits}")
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
        seconds = modelled_seconds(self.table, self.question.updates(trial.config, trial.share)).value
        return ON_TOP * self.pace * seconds

    def seconds_of(self, config: RunConfig, begun: float = 0.0) -> float:
        """What a run takes among the trials, about, from a share of the question's budget on."""
        return self.seconds(Trial(ENDING, "", begun, config))

    @property
    def _time_left(self) -> float:
        """Seconds that are left of the minutes, over all calls."""
        return 60 * self._minutes - self.seconds_spent

    @property
    def seconds_spent(self) -> float:
        """Seconds that measuring the machine, the range test and the trials took, over all calls."""
        table = about_table(self.place.hardware)
        measuring = read_json(table).get("seconds", 0.0) if table.exists() else 0.0
        return float(measuring) + self._seconds_trying

    @property
    def _seconds_trying(self) -> float:
        return float(self.stored().get("seconds", 0.0))

    @contextmanager
    def spending(self) -> Iterator[Callable[[], None]]:
        """What is done within counts as spent; what is yielded writes down how much of it has passed."""
        spent, began = self._seconds_trying, time.monotonic()

        def passed() -> None:
            self.begin(seconds=round(spent + time.monotonic() - began, 1))

        try:
            yield passed
        finally:
            passed()

    @property
    def _minutes(self) -> float:
        return float(self.values.get("minutes", OPTIONS["minutes"].default))

    def cost(self, lr: float, trials: Iterable[Trial], seeds: Sequence[int]) -> float:
        """About how many seconds those of `trials` take that are missing, with what their trunks at `lr` lack."""
        total, every, question = 0.0, self._missing(lr, trials, seeds), self.question
        for (seed, rate), missing in every.items():
            trunk = seeded(question.run("fixed-small", rate), seed)
            end = begins(trunk, max(trial.share for trial in missing), question.num_train)
            rest = end - self.trunks.reached(trunk.hash, end)
            total += sum(map(self.seconds, missing)) + rest / question.total_samples * self.seconds_of(trunk)
        # One trunk has nothing beside it.
        return total * self.abreast / min(self.abreast, len(every)) if every else 0.0

    def _missing(
        self, lr: float, trials: Iterable[Trial], seeds: Sequence[int]
    ) -> dict[tuple[int, float], list[Trial]]:
        """Those of `trials` that aren't made yet, for each seed and trunk's rate that has some."""
        made, every = {key_of(row) for row in self.kept.rows}, list(trials)
        return {(seed, rate): missing for seed in seeds for rate, missing in by_trunk(every, lr, seed, made).items()}

    def prepare(self, lr: float | None) -> None:
        """Say how long the first two seeds take; UsageError where that is longer than what is left of the minutes.

        A rate that was begun with is gone on with, whatever is left. Where one is still to be found, it is taken to lie
        within the rates that are tried first.
        """
        stored = self.stored()
        rates = stored.get("rates", [])
        if (stored.get("found_rate") if lr is None else lr) in rates:
            return
        question = self.question
        rate = lr if lr is not None else question.default_lr
        growths = [replace(growth, lr_rule="none") for growth in self.question.places()]
        trials = [*question.branches(rate), *question.endings(rate), *question.grown(rate, growths)]
        trials += question.constants(constant_rates(rate)[1:])
        needed = self.cost(rate, trials, FIRST)
        if lr is None:
            needed += len(FIRST) * sum(map(self.seconds, fewest_trials(question, rate)))
        if not rates:
            # Trials so far were all of the search that is gone on with.
            needed = max(0.0, needed - self._seconds_trying)
        self._require(needed)
        self.talk.note(f"two seeds take about {duration(needed)}, {len(self.devices)} at a time")

    def begin_with(self, lr: float, found: bool) -> None:
        """Remember that two seeds at the rate `lr` are made to their ends, and whether it was `found` by trials."""
        rates = self.stored().get("rates", [])
        more = {"found_rate": lr} if found else {}
        self.begin(rates=rates if lr in rates else [*rates, lr], **more)

    def _require(self, needed: float) -> None:
        if needed > self._time_left:
            epochs = self.question.run("fixed-small").epochs
            left, minutes = max(0.0, self._time_left) / 60, f"{self._minutes:g}"
            given = minutes if left == self._minutes else f"{left:.3g} of {minutes} are left"
            which = f"{given}, where trials take about {duration(needed)} here"
            enough = math.ceil((needed + self.seconds_spent) / 60)
            cure = f"allow {enough} in all, or advise for a shorter budget than {epochs:g} epochs (--epochs)"
            raise UsageError("--minutes", which, cure)

    # -- what was found

    def constant_lr(self, lr: float) -> float:
        """The rate without decay that what decaying `lr` brings is told over; `lr` itself as long as none was found."""
        return float(self.stored().get("constant_rates", {}).get(f"{lr:g}", lr))

    def candidates(self, lr: float, growths: Iterable[Growth]) -> dict[str, RunConfig]:
        """The candidates with the constant rate that was found for `lr`."""
        return self.question.candidates(lr, growths, self.constant_lr(lr))

    def endings(self, lr: float) -> list[Trial]:
        """What goes on from trunks at its end, with that rate."""
        return self.question.endings(lr, self.constant_lr(lr))

    # -- making them

    def stored(self) -> dict[str, Any]:
        """What was written down with the trials; empty before there are any."""
        stored = about_table(self.place.trials)
        return read_json(stored) if stored.exists() else {}

    def begin(self, **more: Any) -> None:
        """Write down what trials are made with."""
        self.kept.begin({**self.stored(), **describe_machine(), **more})

    def there_is_time(self, what: str, cost: float) -> bool:
        """Whether `what` may be made, which is remembered: begun once, it is made to its end."""
        allowed = self.stored().get("allowed", [])
        if what not in allowed:
            if cost > self._time_left:
                return False
            self.begin(allowed=[*allowed, what])
        return True

    def make(self, lr: float, trials: Sequence[Trial], seeds: Sequence[int]) -> None:
        """Make those of `trials` that are missing, with how much of them is done shown."""
        cost = self.cost(lr, trials, seeds)
        if not cost:
            return
        making = Making(WHAT, self.trying, None, self.trunks)
        done = 0.0
        # Trunks pass beside their trials, which alone are heard of.
        whole = sum(self.seconds(trial) for missing in self._missing(lr, trials, seeds).values() for trial in missing)
        self.begin()
        with self.spending() as passed, Meter(self.talk, WHAT, cost).shown() as meter:

            def keep(row: TrialRow, trial: Trial) -> None:
                nonlocal done
                self.kept.keep(row)
                # At once: whoever is killed has spent the time, too.
                passed()
                done += cost * self.seconds(trial) / whole
                meter.move(min(done, cost), _named(row))

            def tell(text: str) -> None:
                left = meter.time_left(min(done, cost))
                meter.line(f"{text}, {left}" if left else text)

            make_trials(self.question, lr, trials, self.kept.rows, seeds, making, self.devices, keep, tell)


def _named(row: TrialRow) -> str:
    if row.stage in (RATE, WHOLE):
        return f"lr {row.lr:g}"
    return f"batch {row.batch_size:,} at {100 * row.share:g} %" if row.stage == BRANCH else row.arm
