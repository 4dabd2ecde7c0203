"""Results as DataFrames: from run folders, or from the CSVs of a packed folder.

The one rule: a file that a person may have edited is checked where it is read; what is wrong is told with file and
line, never guessed.
"""

import json
import tomllib
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.errors import BsexpError, StoreError
from bsexp.options import OPTIONS, RUN_FIELDS
from bsexp.records import SUMMARY_COLUMNS, DecisionRow, EvalRow, StepRow, columns, eval_columns
from bsexp.schedules import SCHEDULES
from bsexp.store import decided, reading
from bsexp.store.files import csv_text, read_json, write_text
from bsexp.store.lease import holder
from bsexp.store.paths import Experiment, RunFolder
from bsexp.store.runs import finished, read_summary

if TYPE_CHECKING:
    import numpy
    import pandas

    Columns = dict[str, numpy.ndarray]

SKIPPED = Callable[[BsexpError], None]
TEXTS = ("experiment", "arm", "schedule", "dataset", "model", "status", "device", "config_hash", "reason")


@dataclass(frozen=True)
class Results:
    """All that a report needs of one experiment.

    `arms` maps an arm's name to its resolved settings, in the experiment's order. `runs` has one row per run with
    SUMMARY_COLUMNS; `evals` and `steps` have arm, seed, lr, config_hash before the columns of their CSVs. `tuning` has
    a row per tried value. `planned` counts the runs asked for, `left_out` names what was damaged and is not in here.
    `configs` has the resolved settings of each run by config_hash; empty for a packed folder, which keeps only `arms`.
    `place` is where they lie, `definition` what is kept there of the experiment; empty for results of no experiment.
    `decisions` has arm, seed, config_hash before the columns of decisions.csv; None where no run decided anything.
    """

    name: str
    question: str
    demonstration: bool
    arms: dict[str, dict[str, Any]]
    runs: "pandas.DataFrame"
    evals: "pandas.DataFrame"
    steps: "pandas.DataFrame"
    tuning: "pandas.DataFrame | None"
    planned: int
    environments: list[dict[str, Any]]
    left_out: tuple[str, ...] = ()
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    place: Experiment = field(default_factory=lambda: Experiment(Path("results")))
    definition: dict[str, Any] = field(default_factory=dict)
    decisions: "pandas.DataFrame | None" = None


def read_definition(experiment: Experiment) -> dict[str, Any]:
    """experiment.toml as stored beside the results; empty where there is none."""
    if not experiment.definition.exists():
        return {}
    try:
        document = tomllib.loads(experiment.definition.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StoreError(
            "results", f"{experiment.definition}: {error}", "restore it or choose another --name"
        ) from None
    return reading.check_definition(experiment.definition, document)


def load_results(folder: str | Path, skipped: SKIPPED | None = None) -> Results:
    """The results of one experiment.

    `skipped` is called with the error of each damaged run, which is then left out; without it the first one is raised
    (StoreError with file and line).
    """
    experiment = Experiment(Path(folder))
    if not experiment.path.is_dir():
        raise StoreError("results", f"{folder}: no such folder", "name a folder below results/")
    definition = read_definition(experiment)
    if experiment.runs_table.exists() and not (experiment.has_runs or experiment.packed):
        raise StoreError("results", f"{experiment.evals_table}: missing beside runs.csv", "restore it")
    left_out: list[str] = []

    def leave_out(error: BsexpError) -> None:
        if skipped is None:
            raise error
        left_out.append(error.which.removeprefix(f"{experiment.path}/"))
        skipped(error)

    if experiment.packed:
        frames = _packed(experiment, definition.get("variants", {}), leave_out)
        planned = len(frames.runs)
    else:
        frames = _unpacked(experiment, leave_out)
        planned = len(experiment.run_folders()) - len(left_out)
    tuning = None
    if experiment.tuning_table.exists():
        tuning = _kept(lambda: reading.read_tuning(experiment.tuning_table), None, leave_out)
    arms = dict(definition.get("arms", {}))
    for arm in frames.runs["arm"].unique():
        arms.setdefault(arm, {})
    return Results(
        name=experiment.title,
        question=definition.get("question", ""),
        demonstration=bool(definition.get("demonstration", False)),
        arms=arms,
        runs=frames.runs,
        evals=frames.evals,
        steps=frames.steps,
        tuning=tuning,
        planned=planned,
        environments=frames.environments,
        left_out=tuple(left_out),
        configs=frames.configs,
        place=experiment,
        definition=definition,
        decisions=frames.decisions,
    )


@dataclass(frozen=True)
class _Frames:
    runs: "pandas.DataFrame"
    evals: "pandas.DataFrame"
    steps: "pandas.DataFrame"
    environments: list[dict[str, Any]]
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    decisions: "pandas.DataFrame | None" = None


def _unpacked(experiment: Experiment, skipped: SKIPPED) -> _Frames:
    import pandas

    summaries: list[dict[str, Any]] = []
    configs: list[dict[str, Any]] = []
    evals: list[Columns] = []
    steps: list[Columns] = []
    decisions: list[Columns] = []
    deciders: list[dict[str, Any]] = []
    environments: dict[str, dict[str, Any]] = {}
    for folder in experiment.run_folders():
        try:
            summary = read_summary(folder)
            if summary is None:
                continue
            reading.check_summary(folder.summary, summary)
            config = reading.config_of(folder.config, read_json(folder.config))
            # A run that diverged may have done so before its last evaluation.
            end = None if summary["status"] == "diverged" else summary["samples"]
            parts = [
                reading.read_columns(folder.evals, eval_columns(config["val_fraction"]), end),
                reading.read_columns(folder.steps, columns(StepRow), summary["samples"]),
            ]
            found = decided.read_decisions(folder.decisions, summary["samples"]) if _decides(config) else None
            environment = read_json(folder.environment)
        except BsexpError as error:
            skipped(error)
            continue
        if found is not None:
            decisions.append({str(name): found[name].to_numpy() for name in found})
            deciders.append(summary)
        summaries.append(summary)
        configs.append(config)
        evals.append(parts[0])
        steps.append(parts[1])
        environments.setdefault(json.dumps(environment, sort_keys=True), environment)
    for summary, label in zip(summaries, _labels(summaries, configs), strict=True):
        summary["arm"] = label
    runs = pandas.DataFrame(summaries, columns=list(SUMMARY_COLUMNS))
    numbers = [name for name in SUMMARY_COLUMNS if name not in TEXTS]
    runs[numbers] = runs[numbers].apply(pandas.to_numeric)
    runs = runs.sort_values(["arm", "lr", "seed", "config_hash"], ignore_index=True)
    return _Frames(
        runs,
        _joined(evals, summaries, EVAL_KEY, EvalRow),
        _joined(steps, summaries, STEP_KEY, StepRow),
        list(environments.values()),
        {summary["config_hash"]: config for summary, config in zip(summaries, configs, strict=True)},
        _joined(decisions, deciders, STEP_KEY, DecisionRow) if decisions else None,
    )


def _decides(config: dict[str, Any]) -> bool:
    """Whether a run with these settings decides along its way."""
    schedule = config.get("schedule")
    return schedule in SCHEDULES and SCHEDULES[schedule].closed


def _labels(summaries: list[dict[str, Any]], configs: list[dict[str, Any]]) -> list[str]:
    """Each run's arm; runs of one arm that differ in more than their seed get what sets them apart behind its name.

    Under `runs` everything collects, and averages over different settings would mean nothing.
    """
    settings: dict[str, list[dict[str, Any]]] = {}
    # A run made before there was an option is one with the option's default.
    defaults = {name: OPTIONS[name].default for name in RUN_FIELDS}
    flat = [
        {**{k: v for k, v in {**defaults, **config}.items() if k not in ("seed", "parameters")}, **config["parameters"]}
        for config in configs
    ]
    for summary, values in zip(summaries, flat, strict=True):
        settings.setdefault(summary["arm"], []).append(values)
    apart: dict[str, set[str]] = {}
    for arm, members in settings.items():
        # What differs from the first differs between some two: then each member differs from one of them.
        first = members[0]
        apart[arm] = {key for each in members for key in {*each, *first} if each.get(key) != first.get(key)}
    labels = []
    for summary, values in zip(summaries, flat, strict=True):
        arm = summary["arm"]
        kept = [key for key in values if key in apart[arm] and key not in ("dataset", "model")]
        shown = ", ".join(f"{key}={values[key]}" for key in kept)
        labels.append(f"{arm} ({shown})" if shown else arm)
    return labels


EVAL_KEY = ("arm", "seed", "lr", "config_hash")
STEP_KEY = ("arm", "seed", "config_hash")


def _joined(
    parts: "Sequence[Columns]", summaries: Sequence[dict[str, Any]], key: tuple[str, ...], row: type
) -> "pandas.DataFrame":
    """The columns of all runs one below another, with those of `key` from their summaries before them.

    Runs with and without a validation split have columns that the others lack: these are then nan.
    """
    import numpy
    import pandas

    if not parts:
        return pandas.DataFrame(columns=[*key, *columns(row)])
    lengths = [len(part["step"]) for part in parts]
    found: dict[str, Any] = {}
    for name in key:
        each = pandas.Series([summary[name] for summary in summaries])
        found[name] = each.repeat(lengths).reset_index(drop=True)
    for name in dict.fromkeys(name for part in parts for name in part):
        pieces = [part.get(name, numpy.full(length, numpy.nan)) for part, length in zip(parts, lengths, strict=True)]
        found[name] = numpy.concatenate(pieces)
    return pandas.DataFrame(found).sort_values(["arm", "seed", "config_hash", "step"], ignore_index=True)


def _packed(experiment: Experiment, variants: Container[str], skipped: SKIPPED) -> _Frames:
    runs = reading.read_runs_table(experiment.runs_table)
    evals, steps = (
        _kept(partial(reading.read_packed_rows, path, row, runs, variants), _joined([], [], key, row), skipped)
        for path, key, row in (
            (experiment.evals_table, EVAL_KEY, EvalRow),
            (experiment.steps_table, STEP_KEY, StepRow),
        )
    )
    path, table = experiment.environments, experiment.decisions_table
    environments = _kept(lambda: reading.environments_of(path, read_json(path)), [], skipped)
    decisions = None
    if table.exists():
        decisions = _kept(lambda: decided.read_packed_decisions(table, runs), None, skipped)
    return _Frames(runs, evals, steps, environments, decisions=decisions)


def _kept(read: Callable[[], Any], otherwise: Any, skipped: SKIPPED) -> Any:
    """What `read` gives; `otherwise` where it is damaged and damaged files are left out."""
    try:
        return read()
    except BsexpError as error:
        skipped(error)
        return otherwise


def write_runs_table(experiment: Experiment) -> list[dict[str, Any]]:
    """Rebuild runs.csv from the run folders; the summaries, in its order."""
    summaries = [summary for folder in experiment.run_folders() if (summary := read_summary(folder))]
    summaries.sort(key=lambda summary: (summary["arm"], summary["lr"], summary["seed"], summary["config_hash"]))
    write_text(experiment.runs_table, csv_text(SUMMARY_COLUMNS, summaries))
    return summaries


def counts(experiment: Experiment) -> dict[str, int]:
    """Runs by state, as `run_state` tells them."""
    found: dict[str, int] = {}
    for folder in experiment.run_folders():
        state = run_state(folder)
        found[state] = found.get(state, 0) + 1
    return found


def run_state(folder: RunFolder) -> str:
    """finished, collapsed, diverged; running (a process holds it), failed, or waiting: to be begun or gone on with."""
    summary = finished(folder)
    if summary is not None:
        return str(summary["status"])
    if holder(folder.path) is not None:
        return "running"
    return "failed" if folder.failure.exists() else "waiting"
