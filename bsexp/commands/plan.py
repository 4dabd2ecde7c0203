"""`bsexp plan`: what a schedule or an experiment would do."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.commands.given import talk_of, values_of
from bsexp.commands.machines import machine_of, planned_times, tell_times
from bsexp.commands.run import describe, planned_run
from bsexp.commands.sweep import check_size, naming, read_sweep
from bsexp.console import Talk, duration
from bsexp.errors import UsageError
from bsexp.planning import estimate_seconds
from bsexp.schedules import noise_scale, simulate
from bsexp.store.paths import Experiment as Place
from bsexp.store.runs import finished
from bsexp.sweep.devices import shares_exactly, worker_devices
from bsexp.sweep.experiment import Experiment
from bsexp.sweep.grid import PlannedRun, is_tuned, plan_runs, task_of
from bsexp.sweep.prefix import Fork, find_forks

if TYPE_CHECKING:
    from bsexp.report.timing import Hardware

COLUMNS = ("step", "samples", "epoch", "batch_size", "lr", "momentum", "noise_scale")
TABLE_ROWS = 20
# Bytes on disk of one run apart from its predictions: 200 rows of steps.csv, 41 of evals.csv, four small JSON files.
BYTES_PER_RUN, BYTES_PER_TEST_IMAGE = 36_000, 8.0


def main(subject: str, given: dict[str, Any]) -> int:
    """Plan a schedule or, where `subject` is a file, an experiment."""
    talk = talk_of(given)
    if subject.endswith(".toml") or Path(subject).is_file():
        return _experiment(subject, given, talk)
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
        g = noise_scale(update.lr, update.momentum, update.batch_size, plan.num_train)
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

    if Path(file).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError("--figure", repr(file), "name a .png, .svg or .pdf file")
    draw_plan(rows, run.config.schedule, run.plan.num_train, Path(file))


def _experiment(subject: str, given: dict[str, Any], talk: Talk) -> int:
    own = ("num_train", "rows", "figure", "json", "set", "seed", "out", "hardware", "workers")
    for name in ("num_train", "rows", "figure", "set", "seed"):
        if name in given:
            raise UsageError(f"--{name.replace('_', '-')}", "with an experiment file", "it is for a single schedule")
    asked = read_sweep(subject, {name: text for name, text in given.items() if name not in own})
    tuned = [arm for arm in asked.arms if is_tuned(asked, arm)]
    trials = []
    if asked.tune:
        arms = {arm: asked.arms[arm] for arm in tuned}
        check_size(len(arms) * len(asked.tune.lr) * len(asked.tune.seeds), asked.execution)
        grid = list(asked.tune.lr)
        with naming(subject):
            trials = plan_runs(arms, asked.tune.seeds, lambda arm: grid)
    check_size(len(asked.arms) * len(asked.seeds), asked.execution)
    with naming(subject):
        runs = plan_runs(asked.arms, asked.seeds)
    place = Place(Path(given.get("out", "results")) / asked.name)
    hardware = machine_of(values_of({name: given[name] for name in ("hardware", "workers") if name in given}), place)
    execution = asked.execution
    devices = worker_devices(execution.get("device", "auto"), execution.get("jobs"), execution.get("per_gpu"))
    workers = max(1, len(devices))
    # Which rates tuned arms will get, and so what their reported runs have in common, isn't known before.
    settled = [run for run in runs if run.arm not in tuned and run.arm not in asked.rates]
    device, how = execution.get("device", "auto"), [execution.get(name, False) for name in ("deterministic", "compile")]
    sharing = execution.get("share_prefix", shares_exactly([device], *how))
    forks = [fork for part in (trials, settled) for fork in _forks(part)] if sharing else []
    shared = sum(fork.samples for _, _, fork in forks)
    estimate, basis = _seconds(trials + runs, place, workers, {id(run): fork.samples for run, _, fork in forks})
    size = sum(BYTES_PER_RUN + BYTES_PER_TEST_IMAGE * _num_test(run) for run in trials + runs)
    rows = []
    for arm in asked.arms:
        mine = [run for run in runs if run.arm == arm]
        one = mine[0]
        batches = f"{one.plan.first_batch:,}" + (
            f" to {one.plan.largest_batch:,}" if one.plan.largest_batch > one.plan.first_batch else ""
        )
        rates = _rates(asked, arm, one.config.lr)
        rows.append(
            [
                arm,
                one.config.schedule,
                rates,
                batches,
                f"{one.plan.updates:,}",
                f"{one.plan.total_samples:,}",
                str(len(mine)),
            ]
        )
    times = {}
    if hardware:
        with naming(subject):
            times = {arm: _arm_times(arm, runs, hardware) for arm in asked.arms}
    if given.get("json"):
        names = ("arm", "schedule", "lr", "batch_size", "updates", "samples", "runs")
        talk.document(
            {
                "experiment": asked.name,
                "runs": len(runs),
                "tuning_runs": len(trials),
                "samples": sum(run.plan.total_samples for run in trials + runs),
                "samples_shared": shared,
                "shared_beginnings": [
                    {"arm": run.arm, "lr": run.config.lr, "seed": run.config.seed}
                    | {"goes_on_from": parent.arm, "samples": fork.samples, "total_samples": run.plan.total_samples}
                    for run, parent, fork in forks
                ],
                "seconds": estimate,
                "workers": workers,
                "bytes": round(size),
                "arms": [dict(zip(names, row, strict=True)) for row in rows],
                **({"times": [{"arm": arm, **time} for arm in times for time in times[arm]]} if hardware else {}),
            }
        )
        return 0
    talk.result(f"{asked.name}: {' '.join(asked.question.split())}" if asked.question else asked.name)
    talk.table(("arm", "schedule", "lr", "batch size", "updates", "samples", "seeds"), rows)
    if hardware:
        _show_times(times, hardware, talk)
    for note in asked.notes:
        talk.note(f"note: {note}")
    samples = sum(run.plan.total_samples for run in trials + runs)
    talk.result(f"{len(runs)} runs and {len(trials)} tuning runs, {samples:,} samples")
    if forks:
        first = forks[0][0].config.seed
        talk.table(
            ("arm", "goes on from", "lr", "after samples", "of its budget"),
            [
                [run.arm, parent.arm, f"{run.config.lr:g}", f"{at:,}", f"{at / run.plan.total_samples:.0%}"]
                for run, parent, fork in forks
                if run.config.seed == first and (at := fork.samples)
            ],
        )
        left = samples - shared
        talk.result(f"beginnings are trained once: {left:,} of {samples:,} samples, {left / samples:.0%}")
    time = "unknown until a run has finished" if estimate is None else f"about {duration(estimate)}"
    talk.result(f"time: {time} with {workers} workers ({basis}); disk: about {size / 1e6:.0f} MB")
    return 0


def _arm_times(arm: str, runs: list[PlannedRun], hardware: "Hardware") -> list[dict[str, Any]]:
    try:
        return planned_times(next(run for run in runs if run.arm == arm), hardware)
    except UsageError as error:
        raise error.within(f"arms.{arm}") from None


def _show_times(times: dict[str, list[dict[str, Any]]], hardware: "Hardware", talk: Talk) -> None:
    from bsexp.report.timing import machine

    first = next(iter(times.values()), [])
    columns = ["arm"]
    for workers in hardware.workers:
        columns += ["updates take" if workers == 1 else f"with {workers:,} ideal workers", "of the first"]
    rows = []
    for arm, found in times.items():
        rows.append([arm])
        for time, base in zip(found, first, strict=True):
            rows[-1] += [duration(time["seconds"]), f"{time['seconds'] / base['seconds']:.3f}"]
    talk.table(columns, rows, title=f"one run on {machine(hardware)}, evaluation and set-up not counted")


def _rates(asked: Experiment, arm: str, own: float) -> str:
    """The learning rates of an arm: those that are tried, or whose it takes, or its own."""
    if arm in asked.rates:
        of, times = asked.rates[arm]
        return f"that of {of}" if times == 1 else f"{times:g} x that of {of}"
    return ", ".join(f"{lr:g}" for lr in asked.tune.lr) if asked.tune and is_tuned(asked, arm) else f"{own:g}"


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
