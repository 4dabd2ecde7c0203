"""Conducting a sweep: what is asked for, less what is there, tuning first.

The one rule: finished runs are found by their folders and never made again; the plan is complete and checked before
the first of them starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bsexp.planning import estimate_seconds
from bsexp.records import SCHEMA_VERSION
from bsexp.store.definition import merge_definition
from bsexp.store.files import ensure_folder, write_json
from bsexp.store.paths import Experiment as Place
from bsexp.store.runs import read_summary
from bsexp.store.tables import write_runs_table
from bsexp.sweep.executors import Event, ProcessSettings, run_local
from bsexp.sweep.experiment import Experiment
from bsexp.sweep.grid import PlannedRun, arm_definition, is_tuned, plan_runs, task_of
from bsexp.sweep.tasks import Execution, Task
from bsexp.sweep.tuning import choose, write_choice


@dataclass(frozen=True)
class Means:
    """With what a sweep is made: one worker per entry of `devices`, none to plan only."""

    devices: tuple[str, ...]
    execution: Execution
    settings: ProcessSettings


@dataclass
class Tally:
    """How a sweep ended. Sample counts: of the runs made now, and of all runs of the plan."""

    planned: int = 0
    finished: int = 0
    diverged: int = 0
    collapsed: int = 0
    failed: int = 0
    made: int = 0
    samples_trained: int = 0
    samples_total: int = 0


Watch = Callable[[str, Sequence[Task], Sequence[float], Event | None], None]


def conduct(experiment: Experiment, place: Place, means: Means, watch: Watch) -> Tally:
    """Make the runs of `experiment` that are missing; how it ended.

    `watch(phase, tasks, costs, event)` hears of everything, with event None when a phase ("tuning", "runs") begins.
    """
    tuned = [arm for arm in experiment.arms if is_tuned(experiment, arm)]
    trials = _trials(experiment, tuned)
    fixed = {arm: settings for arm, settings in experiment.arms.items() if arm not in tuned}
    # Everything is planned before anything starts; tuned arms are planned again once their rate is known.
    plan_runs(fixed, experiment.seeds)
    ensure_folder(place.path)
    if place.name != "runs":
        definitions = {arm: arm_definition(settings, arm in tuned) for arm, settings in experiment.arms.items()}
        merge_definition(place, _definition(experiment, definitions))
    chosen: dict[str, float] = {}
    tally = Tally()
    if trials:
        ensure_folder(place.tuning.path)
        tasks, summaries = _make("tuning", trials, place.tuning, place.name, means, watch, tally)
        if len(summaries) < len(tasks):
            tally.planned, tally.failed = len(tasks), len(tasks) - len(summaries)
            return tally
        chosen = write_choice(place, choose(summaries))
    planned = plan_runs(experiment.arms, experiment.seeds, lambda arm: [chosen.get(arm)])
    tasks, summaries = _make("runs", planned, place, place.name, means, watch, tally)
    write_runs_table(place)
    tally.planned = len(tasks)
    tally.failed = len(tasks) - len(summaries) if means.devices else 0
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
        asked["tune"] = {"lr": list(experiment.tune.lr), "seeds": list(experiment.tune.seeds)}
    return asked


def _trials(experiment: Experiment, tuned: list[str]) -> list[PlannedRun]:
    tune = experiment.tune
    if tune is None:
        return []
    return plan_runs({arm: experiment.arms[arm] for arm in tuned}, tune.seeds, lambda arm: list(tune.lr))


def _make(
    phase: str, planned: list[PlannedRun], place: Place, name: str, means: Means, watch: Watch, tally: Tally
) -> tuple[list[Task], list[dict[str, Any]]]:
    """Make those of `planned` that are missing, longest first; all tasks and the summaries of those now finished."""
    everything = [task_of(run, place, name) for run in planned]
    costs = {
        task.folder.path: estimate_seconds(run.config, run.plan) or float(run.plan.updates)
        for task, run in zip(everything, planned, strict=True)
    }
    missing = {task.folder.path: task for task in everything if read_summary(task.folder) is None}
    tasks = sorted(missing.values(), key=lambda task: -costs[task.folder.path])
    for task in tasks:
        _announce(task)
    watch(phase, tasks, [costs[task.folder.path] for task in tasks], None)
    if means.devices and tasks:
        for event in run_local(tasks, means.devices, means.execution, means.settings):
            watch(phase, tasks, [], event)
            if event.kind == "done":
                tally.made += 1
                tally.samples_trained += event.content["samples"]
    return everything, [summary for task in everything if (summary := read_summary(task.folder))]


def _announce(task: Task) -> None:
    """A planned run is a folder with its config: whoever comes later knows what is waiting."""
    from bsexp.config import RunConfig

    ensure_folder(task.folder.path)
    if not task.folder.config.exists():
        document = {
            "schema_version": SCHEMA_VERSION,
            "config_hash": RunConfig(**task.config).hash,
            "arm": task.arm,
            "config": task.config,
        }
        write_json(task.folder.config, document)
