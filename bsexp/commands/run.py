"""`bsexp run`: one run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bsexp.commands.given import parameters_of, talk_of, values_of
from bsexp.commands.making import execution_of
from bsexp.config import RunConfig
from bsexp.console import Meter, Talk
from bsexp.errors import BsexpError, RunsFailed, UsageError
from bsexp.options import SETTINGS
from bsexp.store.files import check_results
from bsexp.store.paths import Experiment
from bsexp.store.runs import finished
from bsexp.sweep.budgets import settle
from bsexp.sweep.cells import refuse_lengths
from bsexp.sweep.configs import build_config, num_trained
from bsexp.sweep.devices import default_model
from bsexp.sweep.grid import PlannedRun, task_of
from bsexp.sweep.ranks import end_launched, follow_launched, launched
from bsexp.sweep.signals import StopSignals
from bsexp.sweep.tasks import Task


def main(schedule: str, given: dict[str, Any]) -> int:
    """Train `schedule` with the options given; 0, or 3 where the run failed. Started by torchrun: as one of several."""
    rank = launched()
    if rank is None:
        return _run(schedule, given)
    if rank.number:
        return follow_launched(rank)
    try:
        return _run(schedule, given, rank.count)
    finally:
        end_launched()


def _run(schedule: str, given: dict[str, Any], started: int | None = None) -> int:
    """The same, as the first of the `started` processes that a launcher has started, if one has."""
    talk = talk_of(given)
    values = values_of(given)
    if started is not None and values.setdefault("nproc", started) != started:
        raise UsageError("--nproc", f"{values['nproc']} of {started} started processes", "leave it out")
    if "hardware" in values and not values.get("budget", "").startswith("seconds:"):
        raise UsageError("--hardware", "without a budget in seconds", "add --budget seconds:S, or leave it out")
    run = planned_run(schedule, values, given.get("set", []))
    out = Path(values.get("out", "results"))
    place = Experiment(out / values.get("name", "runs"))
    task = task_of(run, place, place.name)
    if values.get("dry_run"):
        talk.result(describe(run))
        return 0
    summary = finished(task.folder) if values.get("resume", True) else None
    if summary is not None:
        talk.note("this run is finished already (--no-resume trains it anew)")
    else:
        check_results(out)
        anew = not values.get("resume", True)
        summary = _train(replace(task, anew=anew), run, values, talk)
    if values.get("json"):
        talk.document({"run_dir": str(task.folder.path), "summary": summary})
    else:
        _show(summary, task, talk)
    if summary["status"] in ("diverged", "collapsed"):
        talk.warn(f"the run {summary['status']}: {summary['reason']}")
    return 0


def planned_run(schedule: str, values: dict[str, Any], settings: list[str], num_train: int | None = None) -> PlannedRun:
    """The run that the options describe, checked. `num_train` replaces the data set's."""
    from bsexp.planning import plan_run

    options = {name: value for name, value in values.items() if name in SETTINGS}
    refuse_lengths(options, "--")
    options.setdefault("dataset", "digits")
    if options.get("reduce") == "sum" and values.get("nproc", 1) > 1:
        # A sum over the processes: their number then is part of what the run is.
        options.setdefault("virtual_workers", values["nproc"])
    if "model" not in options:
        options["model"] = default_model(options["dataset"], values.get("device", "auto"))
    seed = options.pop("seed", 0)
    parameters = parameters_of(schedule, settings)
    arm = settle({**options, "schedule": schedule, "parameters": parameters}, "--", values.get("hardware"), num_train)
    config: RunConfig = build_config(arm, seed) if num_train is None else RunConfig(**{**arm, "seed": seed})
    return PlannedRun(config.schedule, config, plan_run(config, num_train or num_trained(config)))


def describe(run: PlannedRun) -> str:
    """A run's outline in one line."""
    config, plan = run.config, run.plan
    workers = ""
    if config.virtual_workers > 1:
        how = "the sum of their means" if config.reduce == "sum" else "the mean over all samples"
        workers = f", divided over {config.virtual_workers} workers: {how}"
    batches = (
        f"{plan.first_batch}"
        if plan.largest_batch == plan.first_batch
        else f"{plan.first_batch} to {plan.largest_batch}"
    )
    updates = f"{plan.updates:,}"
    if plan.fewest_updates is not None:
        batches = f"{plan.first_batch} at first, decided along the run within {plan.smallest_batch} to {plan.max_batch}"
        if plan.smallest_batch == plan.max_batch:
            batches = f"{plan.first_batch}, the rate decided along the run"
        if plan.fewest_updates < plan.updates:
            updates = f"{plan.fewest_updates:,} to {plan.updates:,}"
    return (
        f"{config.schedule} on {config.dataset} with {config.model}, seed {config.seed}: "
        f"{plan.total_samples:,} samples ({config.epochs:g} epochs of {plan.num_train:,}) in {updates} updates, "
        f"batch {batches}, lr {config.lr:g}{workers}"
    )


def _train(task: Task, run: PlannedRun, values: dict[str, Any], talk: Talk) -> dict[str, Any]:
    from bsexp.engine.device import set_up
    from bsexp.records import EvalRow
    from bsexp.sweep.runner import make_run

    asked = replace(execution_of(values, threads=None), alone=True)
    found = set_up(asked.device, asked.threads, asked.deterministic, asked.keep_memory)
    execution = asked.on(asked.device, found)
    talk.note(describe(run))
    why = " (no GPU found)" if asked.device == "auto" and found["device"] == "cpu" else ""
    threads = found["threads"]
    talk.note(f"on {found['device']}{why}, {threads} thread{'s'[: threads != 1]}")
    with Meter(talk, run.config.schedule, run.plan.total_samples).shown() as meter, StopSignals() as stop:

        def tell(training: Any, row: Any) -> None:
            meter.move(
                training.samples, f"batch {getattr(row, 'batch_size', '')}" if hasattr(row, "batch_size") else None
            )
            if isinstance(row, EvalRow) and not talk.live:
                talk.note(_line(row, run))

        try:
            return make_run(task, execution, tell, stop).summary
        except BsexpError:
            raise
        except Exception as error:
            if values.get("debug"):
                raise
            raise RunsFailed("run", f"{type(error).__name__}: {error}", f"see {task.folder.failure}") from error


def _line(row: Any, run: PlannedRun) -> str:
    share = row.samples / run.plan.total_samples
    held_out = "val" if run.config.val_fraction else "test"
    return (
        f"{share:6.1%}  epoch {row.epoch:7.2f}  step {row.step:>7,}  train loss {row.train_loss:.4f}  "
        f"{held_out} loss {row.val_loss:.4f}  {held_out} accuracy {row.val_accuracy:.2%}"
    )


def _show(summary: dict[str, Any], task: Task, talk: Talk) -> None:
    def number(name: str, form: str) -> str:
        return "-" if summary[name] is None else format(summary[name], form)

    rows = [
        ("status", str(summary["status"])),
        ("updates", number("updates", ",")),
        ("samples", number("samples", ",")),
        ("training", f"{summary['train_seconds']:.1f} s (+ {summary['eval_seconds']:.1f} s evaluation)"),
        ("train accuracy", number("train_accuracy", ".2%")),
        ("validation accuracy", number("val_accuracy", ".2%")),
        ("test accuracy", f"{number('test_accuracy', '.2%')} (averaged weights {number('test_accuracy_ema', '.2%')})"),
        ("test loss", f"{number('test_loss', '.4f')} (averaged weights {number('test_loss_ema', '.4f')})"),
    ]
    if summary["memorised"] is not None:
        rows.append(("memorised", f"{summary['memorised']:.2%} of the changed labels"))
    talk.table(("run", str(summary["schedule"])), rows, wide=True)
    talk.result(f"files: {task.folder.path}")
