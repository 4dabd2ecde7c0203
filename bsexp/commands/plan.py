"""`bsexp plan`: what a schedule or an experiment would do."""

from pathlib import Path
from typing import Any

from bsexp.commands.given import talk_of, values_of
from bsexp.commands.machines import machine_of, planned_times, tell_times
from bsexp.commands.run import describe, planned_run
from bsexp.console import Talk
from bsexp.errors import UsageError
from bsexp.planning import times_mean
from bsexp.schedules import noise_scale, simulate
from bsexp.sweep.grid import PlannedRun

COLUMNS = ("step", "samples", "epoch", "batch_size", "lr", "momentum", "noise_scale")
TABLE_ROWS = 20


def main(subject: str, given: dict[str, Any]) -> int:
    """Plan a schedule or, where `subject` is a file, an experiment."""
    talk = talk_of(given)
    if subject.endswith(".toml") or Path(subject).is_file():
        from bsexp.commands.outline import outline_experiment

        return outline_experiment(subject, given, talk)
    return _schedule(subject, given, talk)


def _schedule(subject: str, given: dict[str, Any], talk: Talk) -> int:
    values = values_of({name: text for name, text in given.items() if name != "seeds"})
    num_train = values.get("num_train")
    run = planned_run(subject, values, given.get("set", []), num_train)
    hardware = machine_of(values)
    times = planned_times(run, hardware) if hardware else []
    plan = run.plan
    rows = []
    if plan.fewest_updates is not None:
        return _bounds(run, values, talk)
    schedule = run.config.build_schedule()
    for update in simulate(schedule, total_samples=plan.total_samples, num_train=plan.num_train):
        rate = update.lr * times_mean(update.batch_size, run.config)
        g = noise_scale(rate, update.momentum, update.batch_size, plan.num_train)
        rows.append({**update._asdict(), "noise_scale": g if run.config.optimizer == "sgd" else None})
    document: dict[str, Any] = {"num_train": plan.num_train, "samples": plan.total_samples, "updates": plan.updates}
    if hardware:
        document["times"] = times
    if values.get("figure"):
        _draw(rows, run, values["figure"])
        talk.note(f"figure: {values['figure']}")
    if values.get("json"):
        talk.document({**document, "rows": thinned(rows, values.get("rows"))})
        return 0
    talk.result(describe(run))
    if hardware:
        tell_times(times, hardware, talk)
    cap = run.plan.max_batch
    if cap > plan.num_train / 10 and plan.largest_batch > plan.num_train / 10:
        talk.warn(f"max_batch {cap} is above num_train / 10: matching noise is not expected to hold there")
    talk.table(COLUMNS, [_shown(row) for row in thinned(rows, values.get("rows", TABLE_ROWS))])
    return 0


def _bounds(run: PlannedRun, values: dict[str, Any], talk: Talk) -> int:
    """Tell what is known of a closed loop beforehand: its bounds, and no row."""
    plan = run.plan
    if values.get("figure"):
        raise UsageError("--figure", f"with {run.config.schedule}", "what it will decide isn't known before a run")
    if values.get("json"):
        bounds = {"updates": plan.updates, "fewest_updates": plan.fewest_updates}
        batches = {"smallest_batch": plan.smallest_batch, "largest_batch": plan.max_batch}
        talk.document({"num_train": plan.num_train, "samples": plan.total_samples, **bounds, **batches, "rows": []})
        return 0
    talk.result(describe(run))
    return 0


def thinned(rows: list[dict[str, Any]], number: int | None) -> list[dict[str, Any]]:
    """`number` of the rows, evenly spaced in samples, the first and the last among them; all for None."""
    if number is None or number >= len(rows):
        return rows
    last = rows[-1]["samples"]
    chosen: list[int] = []
    position = 0
    for k in range(number):
        while rows[position]["samples"] < last * k / (number - 1):
            position += 1
        if not chosen or position > chosen[-1]:
            chosen.append(position)
    return [rows[k] for k in chosen]


def _shown(row: dict[str, Any]) -> list[str]:
    g = "" if row["noise_scale"] is None else f"{row['noise_scale']:.4g}"
    numbers = [f"{row['step']:,}", f"{row['samples']:,}", f"{row['epoch']:.3f}", f"{row['batch_size']:,}"]
    return [*numbers, f"{row['lr']:.6g}", f"{row['momentum']:.4g}", g]


def _draw(rows: list[dict[str, Any]], run: PlannedRun, file: str) -> None:
    from bsexp.report import draw_plan

    check_figure(Path(file))
    draw_plan(rows, run.config.schedule, run.plan.num_train, Path(file))


def check_figure(file: Path) -> None:
    """UsageError for a file of a kind that isn't drawn."""
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError("--figure", repr(str(file)), "name a .png, .svg or .pdf file")
