"""`bsexp sweep`: a grid of runs, then the report."""

import time
import tomllib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from bsexp.commands.given import axes_of, parameters_of, talk_of
from bsexp.commands.machines import machine_of
from bsexp.commands.making import Engine, tell_end, watched
from bsexp.console import Talk
from bsexp.errors import UsageError
from bsexp.options import OPTIONS, SETTINGS
from bsexp.schedules import find_strategy
from bsexp.store.files import check_results
from bsexp.store.paths import Experiment as Place
from bsexp.sweep.axes import num_cells
from bsexp.sweep.conduct import Tally, conduct, plan_first
from bsexp.sweep.devices import default_model
from bsexp.sweep.experiment import Experiment, at_full_size, read_experiment, read_toml, run_options
from bsexp.sweep.queue import Event
from bsexp.sweep.signals import StopSignals
from bsexp.sweep.tasks import Execution, Task


def main(experiment: str | None, given: dict[str, Any]) -> int:
    """Make what is missing of the sweep; 0, or 3 where runs failed."""
    began = time.monotonic()
    talk = talk_of(given)
    asked = read_sweep(experiment, given)
    options = {**asked.execution}
    for name, engine in OF_ENGINE.items():
        if name in options and options.get("engine", "local") != engine:
            raise UsageError(OPTIONS[name].flag, f"without --engine {engine}", "it has no effect there: leave it out")
    runs = len(asked.arms) * len(asked.seeds)
    trials = len(asked.arms) * asked.tune.num_rates * len(asked.tune.seeds) if asked.tune else 0
    check_size(runs + trials, options)
    for note in asked.notes:
        talk.note(f"note: {note}")
    check_power(asked, experiment)
    # Told before anything is trained: a table that can't be read, or isn't there.
    machine_of(options)
    if options.get("dry_run"):
        with naming(experiment):
            plan_first(asked)
        talk.result(f"{asked.name}: {runs} runs and {trials} tuning runs; nothing was written")
        return 0
    out = Path(options.get("out", "results"))
    check_results(out)
    place = Place(out / asked.name)
    with naming(experiment):
        make = ENGINES[options.get("engine", "local")]
        tally = make(asked, place, options, talk)
    if options.get("report", True) and tally.finished:
        from bsexp.commands.report import report_experiment

        if asked.inspected:
            from bsexp.commands.inspect import inspect_experiment

            inspect_experiment(place, options, talk)
        machine = machine_of(options, place)
        # What was trained is reported, also where the table lacks a batch size: that is a note.
        hardware = replace(machine, asked=False) if machine else None
        report_experiment(place, talk, show=not options.get("json"), hardware=hardware)
    return tell_end(tally, place.path, options, talk, time.monotonic() - began)


def _here(asked: Experiment, place: Place, options: dict[str, Any], talk: Talk) -> Tally:
    return watched(talk, options, lambda means, watch: conduct(asked, place, means, watch))


def _on_ray(asked: Experiment, place: Place, options: dict[str, Any], talk: Talk) -> Tally:
    """Have a Ray cluster make it, while this process looks on."""
    from bsexp.sweep.ray_nodes import check_ray, checked, connected
    from bsexp.sweep.ray_tasks import run_ray

    if options.get("jobs") == 0:
        return _here(asked, place, options, talk)
    device, per_gpu, jobs = options.get("device", "auto"), options.get("per_gpu"), options.get("jobs")
    jobs = None if jobs == "auto" else jobs
    cpus = options.get("threads", 1)
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError("--device", f"{device} with --engine ray", "Ray chooses the GPU: cuda, cpu or auto")
    if jobs and per_gpu:
        raise UsageError("--per-gpu", f"{per_gpu} with --jobs {jobs}", "--jobs counts all runs at a time: give one")
    check_ray()
    # Everything is refused before a cluster is asked for, or started.
    plan_first(asked)
    address = options.get("ray_address")
    with connected(address, jobs and jobs * cpus), checked(place.path, cpus, per_gpu, device) as cluster:
        number = jobs or cluster.slots
        nodes = f"{cluster.nodes} Ray node{'s'[: cluster.nodes != 1]}"
        described = f" with {number} worker{'s'[: number != 1]} on {nodes}{' (GPU)' if cluster.on_gpu else ''}"
        steady = options.get("deterministic", False) or not cluster.on_gpu
        exact = steady and cluster.alike and not options.get("compile", False)

        def run(tasks: Sequence[Task], execution: Execution, stop: StopSignals) -> Generator[Event, None, None]:
            return run_ray(tasks, cluster, number, cpus, per_gpu, execution, stop)

        engine = Engine(number, described, exact, run)
        return watched(talk, options, lambda means, watch: conduct(asked, place, means, watch), engine)


def _on_slurm(asked: Experiment, place: Place, options: dict[str, Any], talk: Talk) -> Tally:
    """Plan here, have jobs of a cluster make it, and count what came of it."""
    from bsexp.sweep.slurm import check_slurm, run_workers, slurm_settings, worker_command

    number = options.get("jobs")
    if not isinstance(number, int) or number < 1:
        raise UsageError(
            "--jobs", f"{number or 'auto'} with --engine slurm", "say how many workers the cluster is to run"
        )
    settings = slurm_settings(options.get("slurm", ""))
    check_slurm(settings)
    planning = {**options, "jobs": 0}
    before = _here(asked, place, planning, talk)
    if before.planned == before.finished + before.diverged + before.collapsed:
        return before
    talk.note(f"{number} workers are submitted; bsexp status {place.path} shows how far they are")
    with StopSignals() as stop:
        run_workers(worker_command(place.path, options), number, place.path / "slurm", settings, stop)
    tally = _here(asked, place, planning, talk)
    tally.failed = tally.planned - tally.finished - tally.diverged - tally.collapsed
    tally.made = tally.finished - before.finished
    return tally


ENGINES = {"local": _here, "ray": _on_ray, "slurm": _on_slurm}
# Options of one engine only.
OF_ENGINE = {"ray_address": "ray", "slurm": "slurm"}


def read_sweep(experiment: str | None, given: dict[str, Any]) -> Experiment:
    """The experiment that a file and options ask for; the quickstart where neither says what."""
    full = given.get("full", False)
    single, axes, notes = axes_of({name: value for name, value in given.items() if name != "full"})
    overrides = dict(single)
    if "seeds" in given:
        overrides["seeds"] = given["seeds"]
    if experiment is not None:
        for name in ("schedule", "set"):
            if name in given:
                raise UsageError(OPTIONS[name].flag, "with an experiment file", "the file's arms have their schedules")
        path = Path(experiment)
        document = read_toml(path)
        what, name = str(path), path.stem
    elif not any(key in SETTINGS or key in ("schedule", "set", "seeds") for key in given):
        document = tomllib.loads(resources.files("bsexp").joinpath("quickstart.toml").read_text(encoding="utf-8"))
        what, name = "", "quickstart"
    else:
        document, what, name = {"arms": _arms_from_options(given)}, "", "runs"
    if full:
        with naming(what):
            document = at_full_size(document, name)
    if not given.get("tune", True):
        document.pop("tune", None)
    if axes:
        document["grid"] = _with_axes(document.get("grid", {}), axes, what)
    with naming(what):
        if isinstance(document.get("arms"), dict):
            check_size(num_cells(document), {**run_options(document), **overrides})
    asked = read_experiment(document, overrides, what, name)
    device = asked.execution.get("device", "auto")
    for arm, settings in asked.arms.items():
        with naming(f"{what}: arms.{arm}" if what else ""):
            settings.setdefault("model", default_model(settings.get("dataset", "digits"), device))
    return replace(asked, notes=(*notes, *asked.notes))


@contextmanager
def naming(file: str | None) -> Iterator[None]:
    """Puts the file, if there is one, in front of what is refused."""
    try:
        yield
    except UsageError as error:
        raise (error.within(file) if file else error) from None


def check_size(runs: int, options: dict[str, Any]) -> None:
    """UsageError for more runs than --max-runs without --yes."""
    limit = options.get("max_runs", OPTIONS["max_runs"].default)
    if runs > limit and not options.get("yes"):
        raise UsageError(
            "sweep", f"{runs:,} runs are more than --max-runs {limit:,}", "add --yes to go on, or raise it"
        )


def check_power(asked: Experiment, file: str | None) -> None:
    """UsageError for the first claim that its design can hardly settle, unless --underpowered."""
    if not asked.claims or asked.execution.get("underpowered"):
        return
    from bsexp.analysis.outlook import outlooks

    with naming(file):
        for number, outlook in enumerate(outlooks(asked.declared())):
            if outlook.lacking:
                raise UsageError(f"claims[{number}]", outlook.lacking, "declare more seeds, or add --underpowered")


def _with_axes(grid: Any, axes: dict[str, list[Any]], what: str) -> dict[str, Any]:
    for name in axes:
        if isinstance(grid, dict) and name in grid:
            raise UsageError(f"{what}: grid.{name}", f"also set by {OPTIONS[name].flag}", "drop one of them")
    return {**grid, **axes} if isinstance(grid, dict) else axes


def _arms_from_options(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One arm per schedule; --set goes to those that know the parameter."""
    names = [name.strip() for name in given.get("schedule", "").split(",") if name.strip()] or _quickstart_arms()
    texts = given.get("set", [])
    arms = {}
    known_to_some: set[str] = set()
    for name in names:
        keys = {text.partition("=")[0]: text for text in texts}
        if ":" not in name:
            known = {
                parameter.name
                for parameter in find_strategy(name).parameters(
                    dict(item.split("=", 1) for item in texts if "=" in item)
                )
            }
            keys = {key: text for key, text in keys.items() if key in known}
        known_to_some |= set(keys)
        arms[name] = {"schedule": name, **parameters_of(name, list(keys.values()))}
    for text in texts:
        if text.partition("=")[0] not in known_to_some:
            raise UsageError("--set", repr(text), "none of the schedules has this parameter")
    return arms


def _quickstart_arms() -> list[str]:
    return ["fixed-small", "fixed-large", "growing-batch", "lr-decay", "one-cycle"]
