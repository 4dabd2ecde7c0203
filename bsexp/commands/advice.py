"""What `bsexp advise` says once its trials are made: advice.json, the figure, verify.toml, the screen.

The one rule: everything is worked out first, as one document; screen, file and `--json` then tell the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bsexp.analysis.advice import CONSTANT, DECAY, Choice, Judgement, choose
from bsexp.analysis.hardware import HardwareTable, Updates, knee, modelled_seconds, time_ratio
from bsexp.analysis.local_critical import Local
from bsexp.analysis.trials import LEVEL
from bsexp.commands.advised_batches import growths_of, judged_by
from bsexp.config import RunConfig
from bsexp.console import Talk, duration
from bsexp.planning import plan_run
from bsexp.records import SCHEMA_VERSION
from bsexp.report.advising import (
    UNITS,
    WORDS,
    Machine,
    advice_figure,
    amount,
    at,
    confidence,
    critical_text,
    described,
    headline,
    margin_text,
    saving,
)
from bsexp.report.drawing import png_bytes, svg_bytes
from bsexp.store.advised import write_advice
from bsexp.sweep.advising import UNJUDGED, Growth, Question
from bsexp.sweep.grid import PlannedRun
from bsexp.sweep.prefix import find_forks
from bsexp.sweep.verifying import verification

if TYPE_CHECKING:
    from bsexp.commands.trying import Job

# As many candidates are verified, beside the usual decay and the constant rate.
VERIFIED = 3
# As many larger batches fit on a screen, beside the planned schedules: those that could be taken, then the fastest.
SHOWN = 6
RANK = ("within", "unclear", "beyond", "diverged", "unjudged")


def tell_advice(
    job: "Job",
    lr: float,
    points: Sequence[Local],
    tables: Mapping[str, HardwareTable],
    workers: Sequence[int],
    notes: Sequence[str],
) -> int:
    """Judge the trials at the rate `lr`, write the files, print what is advised for the last of the machines.

    `notes`: what was warned of, for advice.json.
    """
    question, values, talk = job.question, job.values, job.talk
    metric, tolerance, growths = job.metric, job.tolerance, growths_of(job, lr)
    configs = job.candidates(lr, growths)
    judged = judged_by(job, lr)
    updates = {arm: question.updates(config) for arm, config in configs.items()}
    machines = _machines(tables, workers, updates)
    choices = [choose(judged, machine.ratios) for machine in machines]
    what = {arm: described(arm, config, max(updates[arm])) for arm, config in configs.items()}
    document: dict[str, Any] = {
        "recommendation": None,
        "why": choices[-1].why,
        "for": machines[-1].label,
        "elsewhere": {m.label: {"arm": c.arm, "why": c.why} for m, c in zip(machines[:-1], choices[:-1], strict=True)},
        "unclear": list(choices[-1].unclear),
        "metric": metric,
        "tolerance": tolerance,
        "margin": judged.margin if judged else None,
        "effect": asdict(judged.effect) if judged else None,
        "learning_rate": lr,
        "batch_size": question.batch_size,
        "settings": job.settings,
        "knees": {machine.label: machine.knee for machine in machines},
        "critical": [_point(point) for point in points],
        "candidates": _candidates(question, configs, judged, machines, what, growths),
        "left_out": question.left_out,
        "notes": list(notes),
    }
    chosen = choices[-1].arm
    if chosen is not None:
        found = next(each for each in document["candidates"] if each["arm"] == chosen)
        document["recommendation"] = {**found, "snippet": snippet(configs[chosen])}
    verify = _verify(job, configs, judged, choices, tolerance) if judged and judged.margin else None
    document["verify"] = verify["about"] if verify else None
    document["seconds"] = round(job.seconds_spent, 1)
    figures: dict[str, bytes] = {}
    said = headline(choices[-1], judged, machines, what)
    if judged:
        figure = advice_figure(judged, machines, choices[-1])
        figures = {"png": png_bytes(figure, said), "svg": svg_bytes(figure, said)}
    document = {"advice": said, **document}
    kept = {"schema_version": SCHEMA_VERSION, **document}
    write_advice(job.place, kept, verify["document"] if verify else None, figures)
    if values.get("json"):
        talk.document({"file": str(job.place.advice("json")), **document})
        return 0
    _show(document, said, judged, choices[-1], machines, points, tolerance, job, talk)
    return 0


def _machines(
    tables: Mapping[str, HardwareTable], workers: Sequence[int], updates: Mapping[str, Updates]
) -> list[Machine]:
    """Each table with each number of workers; the one that is advised for comes last."""
    found = []
    for label, table in tables.items():
        for number in workers:
            times = {arm: modelled_seconds(table, made, number, LEVEL) for arm, made in updates.items()}
            ratios = {arm: time_ratio(table, made, updates[DECAY], number, LEVEL) for arm, made in updates.items()}
            name = label if number == 1 else f"{label}, {number:,} workers"
            found.append(Machine(name, knee(table), times, ratios))
    return found


def _point(point: Local) -> dict[str, Any]:
    sizes = [
        {
            "batch_size": size.batch_size,
            "lr_rule": size.lr_rule,
            "difference": asdict(size.difference) if size.difference else None,
            "usable": list(size.usable),
        }
        for size in point.sizes
    ]
    high = None if point.high == float("inf") else point.high
    told = {"share": point.share, "critical": point.critical, "low": point.low, "high": high}
    return {**told, "spread": point.spread.value, "sizes": sizes}


def _candidates(
    question: Question,
    configs: Mapping[str, RunConfig],
    judged: Judgement | None,
    machines: Sequence[Machine],
    what: Mapping[str, str],
    growths: Sequence[Growth],
) -> list[dict[str, Any]]:
    known = {each.arm: each for each in judged.candidates} if judged else {}
    grown = {question.arm_of(growth): asdict(growth) for growth in growths}
    found = []
    for arm, config in configs.items():
        each = known.get(arm)
        times = [
            {"machine": m.label, "seconds": asdict(m.seconds[arm]), "ratio": asdict(m.ratios[arm])} for m in machines
        ]
        found.append(
            {
                "arm": arm,
                "what": what[arm],
                "schedule": config.schedule,
                "parameters": {name: value for name, value in config.parameters.items() if value is not None},
                "batch_size": config.batch_size,
                "lr": config.lr,
                "growth": grown.get(arm),
                "updates": plan_run(config, question.num_train).updates,
                "worse": asdict(each.worse) if each and each.worse else None,
                "word": each.word if each else "unjudged",
                "times": times,
            }
        )
    return found


# What else of a run decides about its batch sizes and rates.
STEERING = (
    "max_batch",
    "reference_batch",
    "lr_scaling",
    "warmup_epochs",
    "momentum",
    "optimizer",
    "weight_decay_clock",
)


def snippet(config: RunConfig) -> str:
    """Lines for a training loop of one's own: see README, Taking it home."""
    settings: dict[str, Any] = {"schedule": config.schedule}
    settings["parameters"] = {name: _listed(value) for name, value in config.parameters.items() if value is not None}
    settings |= {name: getattr(config, name) for name in ("epochs", "batch_size", "lr")}
    plain = RunConfig.model_validate(settings)
    for name in STEERING:
        if getattr(config, name) != getattr(plain, name):
            settings[name] = getattr(config, name)
    given = "".join(f"    {name}={value!r},\n" for name, value in settings.items())
    return (
        "from bsexp import RunConfig\n"
        "from bsexp.torch import ScheduledBatchSampler, ScheduledRates\n\n"
        f"schedule = RunConfig(\n{given})\n"
        "sampler = ScheduledBatchSampler(schedule, len(data))\n"
        "loader = DataLoader(data, batch_sampler=sampler)\n"
        "rates = ScheduledRates(optimizer, sampler)  # rates.step(len(labels)) after each optimizer.step()\n"
    )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _verify(
    job: "Job",
    configs: Mapping[str, RunConfig],
    judged: Judgement,
    choices: Sequence[Choice],
    tolerance: float,
) -> dict[str, Any]:
    """The experiment that would settle it, and what running that takes."""
    wanted = [choice.arm for choice in choices] + [arm for choice in choices for arm in choice.unclear]
    claimed = [arm for arm in dict.fromkeys(wanted) if arm not in (None, DECAY, CONSTANT)]
    if not claimed:
        known = {each.arm: each.word for each in judged.candidates}
        claimed = [arm for arm in configs if known.get(arm) in ("within", "unclear") and arm not in (DECAY, CONSTANT)]
    claimed = claimed[:VERIFIED] or [UNJUDGED]
    arms = {arm: configs[arm] for arm in (DECAY, CONSTANT, *claimed) if arm is not None}
    given = {name: value for name, value in job.question.options.items() if name != "averaging"}
    document, enough = verification(f"{job.place.name}-verify", given, arms, judged, tolerance)
    first, _, last = document["run"]["seeds"].partition("-")
    seeds = int(last) - int(first) + 1
    seconds = seeds * _together(job, arms)
    about = {
        "file": job.place.verify.name,
        "arms": list(arms),
        "runs": seeds * len(arms),
        "seconds": round(seconds, 1),
        "enough_seeds": enough,
    }
    return {"document": document, "about": about}


def _together(job: "Job", arms: Mapping[str, RunConfig]) -> float:
    """Seconds of a run of each of `arms`, about, where a sweep trains what they begin with alike once."""
    planned = [PlannedRun(arm, config, plan_run(config, job.question.num_train)) for arm, config in arms.items()]
    forks = find_forks(planned)
    seconds = 0.0
    for number, run in enumerate(planned):
        begun = forks[number].samples / run.plan.total_samples if number in forks else 0.0
        seconds += job.seconds_of(run.config, begun)
    return seconds


def _show(
    document: Mapping[str, Any],
    said: str,
    judged: Judgement | None,
    choice: Choice,
    machines: Sequence[Machine],
    points: Sequence[Local],
    tolerance: float,
    job: "Job",
    talk: Talk,
) -> None:
    if judged:
        unit = UNITS[judged.metric][1]
        columns = ["candidate", f"worse, {unit}", "", *(f"saved {at(machine.label)}" for machine in machines)]
        known = {each.arm: each for each in judged.candidates}
        rows = []
        shown = _shown(document, choice)
        for each in shown:
            arm = each["arm"]
            found = known.get(arm)
            words = [amount(found.worse if found else None, judged.metric), WORDS[each["word"]]]
            rows.append([arm, *words, *(saving(machine.ratios[arm]) for machine in machines)])
        talk.table(columns, rows)
        rest = Counter(WORDS[each["word"]] for each in document["candidates"] if each not in shown)
        if rest:
            counts = ", ".join(f"{word}: {number}" for word, number in rest.items())
            talk.result(f"{rest.total()} more in {job.place.advice('json').name}: {counts}")
    talk.result(said, heading="advice: ")
    for label, other in document["elsewhere"].items():
        if other["arm"] != choice.arm:
            talk.result(f"{label}: {other['arm'] or 'no recommendation'}: {other['why']}")
    for arm, why in job.question.left_out.items():
        talk.result(f"not among them: {arm} ({why})")
    if (sure := confidence(choice, judged)) != "":
        talk.result(sure)
    if judged:
        talk.result(margin_text(judged, tolerance, job.constant_lr(document["learning_rate"])))
    rate = f"learning rate {document['learning_rate']:g} at batch {document['batch_size']:,}"
    talk.result(f"{rate}; knee of throughput: {', '.join(f'batch {m.knee:,} {at(m.label)}' for m in machines)}")
    if points:
        talk.result(f"critical batch, with the best of three rates: {critical_text(points)}")
    if verify := document["verify"]:
        command, note = f"bsexp sweep {job.place.verify}", ""
        if not verify["enough_seeds"]:
            command, note = f"{command} --underpowered", ", whose seeds are still too few for a power of .8"
        talk.result(f"to settle it: {command} ({verify['runs']} runs, about {duration(verify['seconds'])}{note})")
    if document["recommendation"]:
        talk.result("", heading="in a loop of your own:")
        for line in document["recommendation"]["snippet"].splitlines():
            talk.result(f"    {line}" if line else "")
    files = [str(job.place.advice("json"))] + ([job.place.advice("png").name] if judged else [])
    talk.result(f"files: {', '.join(files)}; seconds and memory by batch size: {job.place.hardware.name}")


def _shown(document: Mapping[str, Any], choice: Choice) -> list[Mapping[str, Any]]:
    """The candidates that a screen has room for, in their order; those that are spoken of among them."""
    candidates = document["candidates"]
    told = {choice.arm, *choice.unclear[:1], *(other["arm"] for other in document["elsewhere"].values())}
    grown = [each for each in candidates if each["growth"] is not None]
    times = {each["arm"]: each["times"][-1]["ratio"]["value"] for each in grown}
    grown.sort(key=lambda each: (each["arm"] not in told, RANK.index(each["word"]), times[each["arm"]]))
    return [each for each in candidates if each["growth"] is None or each in grown[:SHOWN]]
