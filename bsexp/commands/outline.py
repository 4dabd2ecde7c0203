"""What an experiment would do, for `bsexp plan FILE.toml`: runs, time, what is shared, what its claims can come to.

The one rule: everything is worked out first, as one value; the table and the JSON then tell the same.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.commands.given import values_of
from bsexp.commands.machines import machine_of, planned_elastic, planned_times
from bsexp.commands.sweep import check_power, check_size, naming, read_sweep
from bsexp.console import Talk, duration
from bsexp.errors import UsageError
from bsexp.planning import estimate_seconds
from bsexp.store.paths import Experiment as Place
from bsexp.store.runs import finished
from bsexp.sweep.devices import shares_exactly, worker_devices
from bsexp.sweep.experiment import Experiment
from bsexp.sweep.grid import PlannedRun, is_tuned, plan_runs, task_of
from bsexp.sweep.prefix import Fork, find_forks

if TYPE_CHECKING:
    from bsexp.analysis.hardware import Elastic
    from bsexp.analysis.outlook import Outlook
    from bsexp.report.timing import Hardware

# Bytes on disk of one run apart from its predictions: 200 rows of steps.csv, 41 of evals.csv, four small JSON files.
BYTES_PER_RUN, BYTES_PER_TEST_IMAGE = 36_000, 8.0
ARM_COLUMNS = ("arm", "schedule", "lr", "batch_size", "updates", "samples", "runs")


@dataclass(frozen=True)
class Outline:
    """An experiment worked out. `forks`: (run, the run whose beginning it goes on from, where). `seconds`: or None.

    `arms`: ARM_COLUMNS of each arm as texts. `outlooks`: of each claim, with the effect that would be found. `times`:
    of each arm on the `hardware` asked for, `elastic` with as many workers as are useful, where there are several.
    """

    asked: Experiment
    trials: list[PlannedRun]
    runs: list[PlannedRun]
    forks: list[tuple[PlannedRun, PlannedRun, Fork]]
    seconds: float | None
    basis: str
    workers: int
    arms: list[list[str]]
    outlooks: "list[tuple[Outlook, float | None]]"
    times: dict[str, list[dict[str, Any]]]
    elastic: "dict[str, Elastic]"
    hardware: "Hardware | None"

    @property
    def samples(self) -> int:
        """What all runs train, each alone."""
        return sum(run.plan.total_samples for run in self.trials + self.runs)

    @property
    def shared(self) -> int:
        """Of these, what another run trains already."""
        return sum(fork.samples for _, _, fork in self.forks)

    @property
    def bytes(self) -> int:
        """What all runs take on disk, about."""
        return round(sum(BYTES_PER_RUN + BYTES_PER_TEST_IMAGE * _num_test(run) for run in self.trials + self.runs))


def outline_experiment(subject: str, given: dict[str, Any], talk: Talk) -> int:
    """Plan the experiment file `subject` and tell it. UsageError, for an underpowered design after telling it."""
    for name in ("num_train", "rows", "set", "seed"):
        if name in given:
            raise UsageError(f"--{name.replace('_', '-')}", "with an experiment file", "it is for a single schedule")
    outline = _outline(subject, given)
    if "figure" in given:
        _draw(outline, Path(given["figure"]), talk)
    if given.get("json"):
        talk.document(_document(outline))
    else:
        _show(outline, talk)
    check_power(outline.asked, subject)
    return 0


def _outline(subject: str, given: dict[str, Any]) -> Outline:
    own = ("json", "out", "workers", "all_reduce", "figure")
    asked = read_sweep(subject, {name: text for name, text in given.items() if name not in own})
    tuned = [arm for arm in asked.arms if is_tuned(asked, arm)]
    trials = []
    if asked.tune:
        arms = {arm: asked.arms[arm] for arm in tuned}
        tune = asked.tune
        check_size(len(arms) * tune.num_rates * len(tune.seeds), asked.execution)
        with naming(subject):
            trials = plan_runs(arms, tune.seeds, lambda arm: tune.rates(arms[arm]))
    check_size(len(asked.arms) * len(asked.seeds), asked.execution)
    with naming(subject):
        runs = plan_runs(asked.arms, asked.seeds)
    place = Place(Path(given.get("out", "results")) / asked.name)
    hardware = machine_of(
        values_of({name: given[name] for name in ("hardware", "workers", "all_reduce") if name in given}), place
    )
    execution = asked.execution
    devices = worker_devices(execution.get("device", "auto"), execution.get("jobs"), execution.get("per_gpu"))
    workers = max(1, len(devices))
    # Which rates tuned arms will get, and so what their reported runs have in common, isn't known before.
    settled = [run for run in runs if run.arm not in tuned and run.arm not in asked.rates]
    device, how = execution.get("device", "auto"), [execution.get(name, False) for name in ("deterministic", "compile")]
    sharing = execution.get("share_prefix", shares_exactly([device], *how))
    forks = [fork for part in (trials, settled) for fork in _forks(part)] if sharing else []
    seconds, basis = _seconds(trials + runs, place, workers, {id(run): fork.samples for run, _, fork in forks})
    times: dict[str, list[dict[str, Any]]] = {}
    useful: dict[str, Elastic] = {}
    if hardware:
        with naming(subject):
            # What [sensitivity] adds has other rates, and the same updates.
            timed = [arm for arm in asked.arms if arm not in asked.variants]
            times = {arm: _arm_times(arm, runs, hardware) for arm in timed}
        if len(hardware.workers) > 1:
            firsts = {arm: next(run for run in runs if run.arm == arm) for arm in timed}
            useful = {arm: planned_elastic(run, hardware) for arm, run in firsts.items()}
    arms_told = [_arm(asked, arm, [run for run in runs if run.arm == arm]) for arm in asked.arms]
    return Outline(
        asked, trials, runs, forks, seconds, basis, workers, arms_told, _outlooks(asked), times, useful, hardware
    )


def _outlooks(asked: Experiment) -> "list[tuple[Outlook, float | None]]":
    if not asked.claims:
        return []
    from bsexp.analysis.outlook import effect_found, outlooks

    declared = asked.declared()
    found = outlooks(declared)
    return [(one, effect_found(each.claim, one)) for each, one in zip(declared, found, strict=True)]


def _arm(asked: Experiment, arm: str, mine: list[PlannedRun]) -> list[str]:
    """ARM_COLUMNS of an arm whose runs are `mine`."""
    one = mine[0]
    grown = f" to {one.plan.largest_batch:,}" if one.plan.largest_batch > one.plan.first_batch else ""
    # Of what is decided along the run only bounds are known.
    fewest = one.plan.fewest_updates
    least = f"{fewest:,} to " if fewest is not None and fewest < one.plan.updates else ""
    counts = [f"{least}{one.plan.updates:,}", f"{one.plan.total_samples:,}", str(len(mine))]
    return [arm, one.config.schedule, _rates(asked, arm, one.config.lr), f"{one.plan.first_batch:,}{grown}", *counts]


def _document(outline: Outline) -> dict[str, Any]:
    times = [{"arm": arm, **time} for arm, found in outline.times.items() for time in found]
    return {
        "experiment": outline.asked.name,
        "runs": len(outline.runs),
        "tuning_runs": len(outline.trials),
        "samples": outline.samples,
        "samples_shared": outline.shared,
        "shared_beginnings": [
            {"arm": run.arm, "lr": run.config.lr, "seed": run.config.seed}
            | {"goes_on_from": parent.arm, "samples": fork.samples, "total_samples": run.plan.total_samples}
            for run, parent, fork in outline.forks
        ],
        "seconds": outline.seconds,
        "workers": outline.workers,
        "bytes": outline.bytes,
        "arms": [dict(zip(ARM_COLUMNS, row, strict=True)) for row in outline.arms],
        **(
            {"claims": [{**asdict(one), "effect": effect} for one, effect in outline.outlooks]}
            if outline.outlooks
            else {}
        ),
        **({"times": times} if outline.hardware else {}),
        **({"elastic": {arm: asdict(one) for arm, one in outline.elastic.items()}} if outline.elastic else {}),
    }


def _show(outline: Outline, talk: Talk) -> None:
    asked = outline.asked
    talk.result(f"{asked.name}: {' '.join(asked.question.split())}" if asked.question else asked.name)
    talk.table(("arm", "schedule", "lr", "batch size", "updates", "samples", "seeds"), outline.arms)
    if outline.hardware:
        _show_times(outline.times, outline.hardware, talk)
        _show_elastic(outline.elastic, outline.hardware, talk)
    if outline.outlooks:
        _show_claims(outline.outlooks, talk)
    for note in asked.notes:
        talk.note(f"note: {note}")
    samples = outline.samples
    talk.result(f"{len(outline.runs)} runs and {len(outline.trials)} tuning runs, {samples:,} samples")
    if outline.forks:
        first = outline.forks[0][0].config.seed
        talk.table(
            ("arm", "goes on from", "lr", "after samples", "of its budget"),
            [
                [run.arm, parent.arm, f"{run.config.lr:g}", f"{at:,}", f"{at / run.plan.total_samples:.0%}"]
                for run, parent, fork in outline.forks
                if run.config.seed == first and (at := fork.samples)
            ],
        )
        left = samples - outline.shared
        talk.result(f"beginnings are trained once: {left:,} of {samples:,} samples, {left / samples:.0%}")
    time = "unknown until a run has finished" if outline.seconds is None else f"about {duration(outline.seconds)}"
    disk = f"about {outline.bytes / 1e6:.0f} MB"
    talk.result(f"time: {time} with {outline.workers} workers ({outline.basis}); disk: {disk}")


def _show_claims(outlooks: "list[tuple[Outlook, float | None]]", talk: Talk) -> None:
    """What each claim can come to: the family's size, the smallest p, the effect that would be found."""
    family = f"{len(outlooks)} claim{'s'[: len(outlooks) > 1]}"
    rows = []
    for one, effect in outlooks:
        power = "-" if one.power is None else f"{one.power:.2f}"
        found = "-" if effect is None else f"{effect:.2f} sd"
        rows.append([one.claim, str(one.num_pairs), f"{one.min_p:.2g}", f"{one.alpha:.2g}", found, power])
    columns = ("claim", "pairs", "smallest p", "needed", "found with 80 %", "power as stated")
    talk.table(columns, rows, title=f"{family}, one family: what {outlooks[0][0].num_pairs} seeds can show")


def _arm_times(arm: str, runs: list[PlannedRun], hardware: "Hardware") -> list[dict[str, Any]]:
    try:
        return planned_times(next(run for run in runs if run.arm == arm), hardware)
    except UsageError as error:
        raise error.within(f"arms.{arm}") from None


def _show_times(times: dict[str, list[dict[str, Any]]], hardware: "Hardware", talk: Talk) -> None:
    from bsexp.report.timing import called, machine

    first = next(iter(times.values()), [])
    columns = ["arm", *("updates take" if n == 1 else f"with {called(n, hardware)}" for n in hardware.workers)]
    rows = []
    for arm, found in times.items():
        shares = [time["seconds"] / base["seconds"] for time, base in zip(found, first, strict=True)]
        cells = zip(found, shares, strict=True)
        rows.append([arm, *(f"{duration(time['seconds'])} ({share:.3f})" for time, share in cells)])
    talk.table(columns, rows, title=f"one run on {machine(hardware)}")
    talk.result("evaluation and set-up are not counted; in brackets: of the first arm's time")


def _show_elastic(useful: "dict[str, Elastic]", hardware: "Hardware", talk: Talk) -> None:
    """How many workers each arm has use for, and what it takes with as many at each update."""
    if not useful:
        return
    from bsexp.analysis.hardware import USEFUL
    from bsexp.report.timing import talking

    rows = []
    base = next(iter(useful.values())).seconds
    for arm, found in useful.items():
        workers = f"{found.fewest:,}" + (f" to {found.most:,}" if found.most != found.fewest else "")
        rows.append([arm, workers, f"{found.mean_workers:.1f}", duration(found.seconds), f"{found.seconds / base:.3f}"])
    talk.table(
        ("arm", "workers", "on average", "updates take", "of the first"),
        rows,
        title="as many workers at each update as are useful",
    )
    talk.result(f"useful: as long as {USEFUL:.0%} of the workers' time saves some")
    talk.result(f"P workers share each update, the busiest with B / P samples, rounded up; {talking(hardware)}")


def _draw(outline: Outline, file: Path, talk: Talk) -> None:
    """The figure of time against workers. UsageError where there is nothing to draw."""
    from bsexp.commands.plan import check_figure
    from bsexp.report.scaling import draw_scaling

    check_figure(file)
    hardware = outline.hardware
    if hardware is None or len(hardware.workers) < 2:
        cure = "add --hardware FILE and --workers, several numbers of them"
        raise UsageError("--figure", f"{file} without workers to draw times of", cure)
    draw_scaling(outline.times, outline.elastic, hardware, file)
    talk.note(f"figure: {file}")


def _rates(asked: Experiment, arm: str, own: float) -> str:
    """The learning rates of an arm: those that are tried, or whose it takes, or its own."""
    if arm in asked.rates:
        of, times = asked.rates[arm]
        return f"that of {of}" if times == 1 else f"{times:g} x that of {of}"
    if asked.tune and is_tuned(asked, arm):
        return ", ".join(f"{lr:g}" for lr in asked.tune.rates(asked.arms[arm]))
    return f"{own:g}"


def _forks(planned: list[PlannedRun]) -> list[tuple[PlannedRun, PlannedRun, Fork]]:
    """The runs that go on from another, the other, and from where; found as a sweep does, longest runs first."""
    ordered = sorted(planned, key=lambda run: -(estimate_seconds(run.config, run.plan) or float(run.plan.updates)))
    return [(ordered[number], ordered[fork.parent], fork) for number, fork in find_forks(ordered).items()]


def _num_test(run: PlannedRun) -> int:
    from bsexp import catalog

    return catalog.find_dataset(run.config.dataset).num_test or 10_000


def _seconds(planned: list[PlannedRun], place: Place, workers: int, shared: dict[int, int]) -> tuple[float | None, str]:
    """Seconds for all of `planned` with `workers`, and what that rests on: finished runs where there are some.

    `shared`: the samples that other runs train for a run, by its id().
    """
    costs: dict[str, list[float]] = {}
    measured: dict[str, list[float]] = {}
    for run in planned:
        cost = estimate_seconds(run.config, run.plan)
        left = 1 - shared.get(id(run), 0) / run.plan.total_samples
        costs.setdefault(run.arm, []).append(left * (cost if cost is not None else float(run.plan.updates)))
        summary = finished(task_of(run, place, place.name).folder)
        if summary and summary["status"] == "finished":
            measured.setdefault(run.arm, []).append(summary["wall_seconds"] / costs[run.arm][-1] * left)
    unknown = any(estimate_seconds(run.config, run.plan) is None for run in planned)
    ratios = [ratio for found in measured.values() for ratio in found]
    if not ratios and unknown:
        return None, "no measurements of this model"
    mean = sum(ratios) / len(ratios) if ratios else 1.0
    total = 0.0
    for arm, values in costs.items():
        mine = measured.get(arm)
        total += sum(values) * (sum(mine) / len(mine) if mine else mean)
    return total / workers, f"from {len(ratios)} finished runs here" if ratios else "measured on a 2-core x86-64"
