"""Conducting a sweep: what is asked for, less what is there, tuning first.

The one rule: finished runs are found by their folders and never made again; the plan is complete and checked before
the first of them starts.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import RunsFailed
from bsexp.planning import estimate_seconds
from bsexp.store.definition import merge_definition
from bsexp.store.files import ensure_folder
from bsexp.store.lock import declaration, declare
from bsexp.store.paths import Experiment as Place
from bsexp.store.runs import announce, finished
from bsexp.store.tables import load_results, read_definition, write_runs_table
from bsexp.sweep.experiment import Experiment
from bsexp.sweep.grid import PlannedRun, arm_definition, is_tuned, plan_runs, planned_runs, task_of
from bsexp.sweep.prefix import find_forks
from bsexp.sweep.queue import Event
from bsexp.sweep.tasks import Task
from bsexp.sweep.tuning import choose, rates_beyond, write_choice

# So many runs that fail alike, before any has finished, are not bad luck.
ALIKE = 3
# A rate 2^10 times another is not a matter of tuning: something else is wrong.
EXTENSIONS = 10


Maker = Callable[[Sequence[Task]], Generator[Event, None, None]]


@dataclass(frozen=True)
class Means:
    """With what a sweep is made: `maker` makes tasks and yields what happens; None to plan only.

    `retry` (failed, diverged, all or None): which runs that ended without a result are made again. `fail_fast`: the
    first failure ends everything. `share_prefix`: what several runs have in common is trained once. `extend_grid`:
    tuning goes on beyond the ends of the given grid.
    """

    maker: Maker | None
    retry: str | None = None
    fail_fast: bool = False
    share_prefix: bool = True
    extend_grid: bool = False


@dataclass
class Tally:
    """How a sweep ended. Sample counts: of the runs made now, and of all runs of the plan.

    `left`: runs that failed in an earlier call and weren't made again. `changed_claims`: what is claimed otherwise than
    before the data.
    """

    planned: int = 0
    finished: int = 0
    diverged: int = 0
    collapsed: int = 0
    failed: int = 0
    left: int = 0
    made: int = 0
    samples_trained: int = 0
    samples_total: int = 0
    changed_claims: list[str] = field(default_factory=list)


Watch = Callable[[str, Sequence[Task], Sequence[float], Event | None], None]


def conduct(experiment: Experiment, place: Place, means: Means, watch: Watch) -> Tally:
    """Make the runs of `experiment` that are missing; how it ended.

    `watch(phase, tasks, costs, event)` hears of everything, with event None when a phase ("tuning", "runs") begins.
    """
    trials = plan_first(experiment)
    ensure_folder(place.path)
    tally = Tally()
    if place.name != "runs":
        _define(experiment, place, tally)
    chosen: dict[str, float] | None = {}
    if trials:
        ensure_folder(place.tuning.path)
        chosen = _tune(experiment, trials, place, means, watch, tally)
    if chosen is None:
        return tally
    rates = chosen | {arm: chosen[rate.of] * rate.times for arm, rate in experiment.rates.items()}
    for look in experiment.looks or (len(experiment.seeds),):
        planned = plan_runs(experiment.arms, experiment.seeds[:look], lambda arm: [rates.get(arm)])
        tally = _reported(planned, place, means, watch, tally)
        if tally.failed or means.maker is None or (look < len(experiment.seeds) and _settled(place)):
            break
    return tally


def _settled(place: Place) -> bool:
    """Whether this look has given every claim a word. Only sweeps with looks need statistics."""
    from bsexp.analysis.verdicts import settled

    return settled(load_results(place.path))


def _define(experiment: Experiment, place: Place, tally: Tally) -> None:
    """Keep what was asked for, and what was claimed."""
    given = experiment.arms.items()
    free = {arm for arm, _ in given if is_tuned(experiment, arm) or arm in experiment.rates}
    definition = _definition(experiment, {arm: arm_definition(settings, arm in free) for arm, settings in given})
    merge_definition(place, definition)
    if experiment.claims:
        # What is kept, not what is asked for now: a call for some of the seeds takes none away.
        tally.changed_claims = declare(place, declaration(read_definition(place)))


def _tune(
    experiment: Experiment, trials: list[PlannedRun], place: Place, means: Means, watch: Watch, tally: Tally
) -> dict[str, float] | None:
    """The rate chosen for each tuned arm; None where tuning runs are missing, which `tally` then counts.

    With `extend_grid` the grid of an arm whose best rate lies at its end grows there, until it has a neighbour.
    """
    assert experiment.tune is not None, "there are trials"
    for _ in range(1 + (EXTENSIONS if means.extend_grid else 0)):
        tasks, summaries = _make("tuning", trials, place.tuning, place.name, means, watch, tally)
        if len(summaries) < len(tasks):
            tally.planned = len(tasks)
            tally.failed = len(tasks) - len(summaries) if means.maker else 0
            return None
        rows = choose(summaries, experiment.tune.metric)
        beyond = rates_beyond(rows)
        if not means.extend_grid or not beyond:
            break
        arms = {arm: experiment.arms[arm] for arm in beyond}
        trials = trials + plan_runs(arms, experiment.tune.seeds, lambda arm: beyond[arm])  # noqa: B023
    return write_choice(place, rows)


def plan_first(experiment: Experiment) -> list[PlannedRun]:
    """The tuning runs. Everything is planned before anything starts: UsageError for what can't be run.

    Tuned arms are planned again once their rate is known.
    """
    tuned = [arm for arm in experiment.arms if is_tuned(experiment, arm)]
    fixed = {arm: settings for arm, settings in experiment.arms.items() if arm not in tuned}
    trials = _trials(experiment, tuned)
    plan_runs(fixed, experiment.seeds)
    return trials


def conduct_waiting(place: Place, means: Means, watch: Watch) -> Tally:
    """Make what waits in a collection without a definition, which `runs` is: every run that a folder announces."""
    return _reported(planned_runs(place), place, means, watch, Tally())


def _reported(planned: list[PlannedRun], place: Place, means: Means, watch: Watch, tally: Tally) -> Tally:
    """Make the reported runs, and count how everything ended."""
    tasks, summaries = _make("runs", planned, place, place.name, means, watch, tally)
    write_runs_table(place)
    tally.planned = len(tasks)
    tally.failed = len(tasks) - len(summaries) if means.maker else 0
    tally.samples_total = sum(run.plan.total_samples for run in planned)
    for status in ("finished", "diverged", "collapsed"):
        setattr(tally, status, sum(summary["status"] == status for summary in summaries))
    return tally


def _definition(experiment: Experiment, arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    asked = {
        "question": experiment.question,
        "demonstration": experiment.demonstration,
        "seeds": list(experiment.seeds),
        "arms": arms,
    }
    if experiment.tune:
        asked["tune"] = experiment.tune.stored()
    told = {
        "rates": {arm: rate._asdict() for arm, rate in experiment.rates.items()},
        "variants": {arm: {"of": of, "what": what} for arm, (of, what) in experiment.variants.items()},
        "looks": list(experiment.looks),
        "target": experiment.target,
        "claims": [dict(claim) for claim in experiment.claims],
    }
    return asked | {key: value for key, value in told.items() if value}


def _trials(experiment: Experiment, tuned: list[str]) -> list[PlannedRun]:
    tune = experiment.tune
    if tune is None:
        return []
    return plan_runs(
        {arm: experiment.arms[arm] for arm in tuned}, tune.seeds, lambda arm: tune.rates(experiment.arms[arm])
    )


def _make(
    phase: str, planned: list[PlannedRun], place: Place, name: str, means: Means, watch: Watch, tally: Tally
) -> tuple[list[Task], list[dict[str, Any]]]:
    """Make those of `planned` that are missing, longest first; all tasks and the summaries of those now finished."""
    everything = [task_of(run, place, name) for run in planned]
    costs = {
        task.folder.path: estimate_seconds(run.config, run.plan) or float(run.plan.updates)
        for task, run in zip(everything, planned, strict=True)
    }
    unique = {task.folder.path: task for task in everything}.values()
    missing = [found for task in unique if (found := _missing(task, means.retry, tally)) is not None]
    tasks = sorted(missing, key=lambda task: -costs[task.folder.path])
    for task in tasks:
        announce(task.folder, RunConfig(**task.config), task.arm)
    if means.share_prefix:
        runs = {task.folder.path: run for task, run in zip(everything, planned, strict=True)}
        tasks = _with_heirs(tasks, [runs[task.folder.path] for task in tasks], costs)
    watch(phase, tasks, [costs[task.folder.path] for task in tasks], None)
    if means.maker and tasks:
        failures: list[str] = []
        with closing(means.maker(tasks)) as events:
            for event in events:
                watch(phase, tasks, [], event)
                if event.kind == "done":
                    tally.made += event.content.samples > 0
                    tally.samples_trained += event.content.samples
                elif event.kind == "failed":
                    failures.append(event.content)
                    _give_up(failures, tally, means)
    return everything, [summary for task in everything if (summary := finished(task.folder))]


def _with_heirs(tasks: list[Task], runs: list[PlannedRun], costs: dict[Path, float]) -> list[Task]:
    """The tasks, each with those that go on from it, whose `costs` become what is left of them."""
    heirs: dict[int, list[tuple[int, Task]]] = {}
    # A run that is made anew is made from its start.
    sharing = [number for number, task in enumerate(tasks) if not task.anew]
    for place, fork in find_forks([runs[number] for number in sharing]).items():
        number, parent = sharing[place], sharing[fork.parent]
        heirs.setdefault(parent, []).append((fork.samples, tasks[number]))
        costs[tasks[number].folder.path] *= 1 - fork.samples / runs[number].plan.total_samples
    ordered = {number: tuple(sorted(mine, key=lambda heir: heir[0])) for number, mine in heirs.items()}
    return [replace(task, heirs=ordered.get(number, ())) for number, task in enumerate(tasks)]


def _missing(task: Task, retry: str | None, tally: Tally) -> Task | None:
    """The task if its run is to be made: it isn't finished, or ended in a way that `retry` names."""
    summary = finished(task.folder)
    if summary is not None:
        again = summary["status"] in ("diverged", "collapsed") and retry in ("diverged", "all")
        return replace(task, anew=True) if again else None
    if task.folder.failure.exists() and retry not in ("failed", "all"):
        tally.left += 1
        return None
    return task


def _give_up(failures: list[str], tally: Tally, means: Means) -> None:
    """Raise RunsFailed where going on makes no sense."""
    cure = "mend it, then run the same command with --retry failed"
    if means.fail_fast:
        raise RunsFailed("sweep", f"a run failed: {failures[-1]}", cure)
    if not tally.made and len(failures) >= ALIKE and len(set(failures)) == 1:
        raise RunsFailed("sweep", f"the first {len(failures)} runs all failed alike: {failures[-1]}", cure)
