"""results/advise, made again by `python -m tests.advised TASK... --work FOLDER` (hours): advice against a grid.

The one rule: the truth is made by ordinary sweeps of the same candidates, each with several rates and with seeds that
the advice hasn't seen; what is compared is read from files.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import tomli_w

from bsexp import load_results
from bsexp.analysis.hardware import HardwareTable, time_ratio
from bsexp.analysis.paired import mean_interval
from bsexp.commands.advised_rate import RAMP_SHARE, RAMP_UPDATES
from bsexp.records import HardwareRow
from bsexp.store.hardware import read_hardware, write_hardware
from bsexp.store.measured import read_trials
from bsexp.sweep.advising import (
    BRANCH,
    BRANCH_SHARE,
    CONSTANT,
    DECAY,
    ENDING,
    GROWN_AT,
    RATE,
    RATE_SHARE,
    SLOWER,
    WHOLE,
    Growth,
    Question,
)
from bsexp.sweep.critical import RULES
from tests.conftest import ROOT

PLACE = ROOT / "results" / "advise"
# All ten classes are too hard for so few samples: what a constant rate costs is hidden by noise there.
CIFAR, CLASSES = ROOT / "data" / "cifar10-jpg", ("airplane", "automobile", "frog", "horse")
CIFAR_4 = ROOT / "data" / "cifar10-jpg-4"
FASHION = {
    "dataset": "fashion-mnist",
    "model": "cnn-small",
    "train_size": 8192,
    "label_noise": 0.2,
    "val_fraction": 0.04,
    "epochs": 6.0,
    "batch_size": 16,
}
TASKS: dict[str, dict[str, Any]] = {
    # Of the few images many are left for validation: a tenth of them says little.
    "digits": {
        "dataset": "digits",
        "model": "mlp",
        "label_noise": 0.2,
        "val_fraction": 0.4,
        "epochs": 16.0,
        "batch_size": 16,
    },
    "fashion": FASHION,
    "fashion-adamw": {**FASHION, "optimizer": "adamw"},
    "cifar": {
        "dataset": f"folder:{CIFAR_4}",
        "model": "tests.advised_net:resnet8",
        "image_size": 16,
        "train_size": 8192,
        "label_noise": 0.2,
        # With it decaying brings less, and what is lost varies more over seeds.
        "augment": False,
        "val_fraction": 0.2,
        "epochs": 6.0,
        "batch_size": 16,
    },
}
# Made up: what is fixed of an update weighs as much as 500 samples.
PER_UPDATE, PER_SAMPLE = 1e-3, 2e-6
GPU_LIKE = PLACE / "gpu-like.csv"
# All arms are trained at these multiples of the advised rate (half of it is a candidate's own), then each at half or
# twice its best one as long as that has no neighbour on one side, within these limits.
FACTORS, LIMITS = (SLOWER, 1.0, 2.0), (1 / 64, 16.0)
# Candidates lie close to what is tolerated: fewer tell no more than the trials do.
GRID_SEEDS = range(1000, 1012)
TOLERANCE, METRIC = 0.25, "val_loss"
PICTURED = "fashion"
# An advice is good that takes no longer than this over the fastest.
NEAR = 1.1


def bsexp(*arguments: str) -> str:
    """Run the program: what it prints on stdout; what it says of its progress goes on to the terminal."""
    found = subprocess.run([sys.executable, "-m", "bsexp", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return found.stdout


def flags(options: dict[str, Any]) -> list[str]:
    """The options of a run as words."""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += ["--" + flag, str(value)] if not isinstance(value, bool) else [f"--{'' if value else 'no-'}{flag}"]
    return words


def write_gpu_like() -> None:
    """The made-up table, for sizes from 1 to 4,096."""
    rows = []
    for size in (2**k for k in range(13)):
        seconds = PER_UPDATE + PER_SAMPLE * size
        rows.append(HardwareRow("gpu-like", size, size, seconds, 0.01 * seconds, size / seconds, None))
    write_hardware(GPU_LIKE, rows, {"made_up": True, "per_update": PER_UPDATE, "per_sample": PER_SAMPLE})


def arms_of(question: Question, advice: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The grid's arms by name: every candidate, grown by each multiplier with each rule."""
    arms: dict[str, dict[str, Any]] = {}
    lr = advice["learning_rate"]
    growths = {
        question.arm_of(growth): growth
        for rule in RULES
        for share in GROWN_AT
        for multiplier in question.multipliers
        for growth in [Growth(share, multiplier, rule)]
    }
    found = question.candidates(lr, growths.values())
    for arm, config in found.items():
        settings: dict[str, Any] = {"schedule": config.schedule}
        if config.batch_size != question.batch_size:
            # The rate follows the grid's, by the rule.
            settings |= {"batch_size": config.batch_size, "reference_batch": question.batch_size}
            settings["lr_scaling"] = arm.rpartition("-")[2]
        if config.max_batch != found[DECAY].max_batch:
            settings["max_batch"] = config.max_batch
        arms[arm] = settings | {name: value for name, value in config.parameters.items() if value is not None}
    return arms


def link_classes() -> None:
    """Four classes of CIFAR, as links."""
    for part in ("train", "test"):
        (CIFAR_4 / part).mkdir(parents=True, exist_ok=True)
        for name in CLASSES:
            link = CIFAR_4 / part / name
            if not link.exists():
                # Wherever the folder lies.
                link.symlink_to(Path("..", "..", CIFAR.name, part, name))


def make(task: str, work: Path, grid: bool) -> None:
    """The advice of one task and, if asked for, what results/advise doesn't have of the grid."""
    options = TASKS[task]
    if options["dataset"] == f"folder:{CIFAR_4}":
        link_classes()
    bsexp(
        "advise", *flags(options), "--hardware", str(GPU_LIKE), "--minutes", "600", "--name", task, "--out", str(work)
    )
    advice = json.loads((work / task / "advice.json").read_text())
    arms = arms_of(Question(options), advice)
    lacking = {factor * advice["learning_rate"]: set(arms) for factor in FACTORS}
    lacking.setdefault(constant_rate(advice), set()).add(CONSTANT)
    while grid:
        runs = _grid(task) if _kept(task, "grid").exists() else pd.DataFrame(columns=["arm", "lr", "seed"])
        for rate, names in list(lacking.items()):
            lacking[rate] = {arm for arm in names if not _whole(runs, arm, rate)}
        if not any(lacking.values()):
            lacking = _wider(runs, arms, advice["learning_rate"])
            if not lacking:
                break
        for rate, names in lacking.items():
            if names:
                _train(task, work, rate, {arm: arms[arm] for arm in sorted(names)})


def _wider(runs: pd.DataFrame, arms: Iterable[str], lr: float) -> dict[float, set[str]]:
    """The arms by the rates that they lack since their best one is their least or largest."""
    found: dict[float, set[str]] = {}
    for arm in arms:
        rates = _rates(runs, arm)
        best = _best_rate(runs, arm)
        for end, factor in ((rates[0], 0.5), (rates[-1], 2.0)):
            if best == end and LIMITS[0] <= end * factor / lr <= LIMITS[1]:
                found.setdefault(end * factor, set()).add(arm)
    return found


def constant_rate(advice: dict[str, Any]) -> float:
    """The rate without decay over which the advice tells what decaying brings."""
    (found,) = (each["lr"] for each in advice["candidates"] if each["arm"] == CONSTANT)
    return float(found)


def _train(task: str, work: Path, rate: float, arms: dict[str, Any]) -> None:
    """All seeds of `arms` at a rate, into the grid."""
    name = f"{task}-grid-{rate:g}-{zlib.crc32(' '.join(arms).encode()):08x}"
    file = _write_grid(work, name, rate, arms, TASKS[task])
    bsexp("sweep", str(file), "--out", str(work), "--yes", "--no-report")
    _keep_grid(task, load_results(work / name).runs)


def _write_grid(work: Path, name: str, rate: float, arms: dict[str, Any], options: dict[str, Any]) -> Path:
    """NAME.toml: an experiment of `arms` at one rate."""
    run = {**options, "seeds": list(GRID_SEEDS), "evals": 1, "max_runs": 5000, "lr": rate}
    file = work / f"{name}.toml"
    file.write_text(tomli_w.dumps({"name": name, "run": run, "arms": arms}))
    return file


def _whole(runs: pd.DataFrame, arm: str, rate: float) -> bool:
    """Whether the grid has all seeds of an arm at a rate."""
    return set(GRID_SEEDS) <= set(_of(runs, arm, rate)["seed"])


def _rates(runs: pd.DataFrame, arm: str) -> list[float]:
    """The rates at which the grid has all seeds of an arm, rising."""
    return [rate for rate in sorted({*runs["lr"][runs["arm"] == arm]}) if _whole(runs, arm, rate)]


def _best_rate(runs: pd.DataFrame, arm: str) -> float:
    """The rate at which an arm ends best in the mean."""
    return min(_rates(runs, arm), key=lambda rate: _mean(_losses(runs, arm, rate)))


def _kept(task: str, what: str) -> Path:
    return PLACE / f"{task}-{what}.csv.gz"


def _grid(task: str) -> pd.DataFrame:
    return pd.read_csv(_kept(task, "grid"))


def _of(runs: pd.DataFrame, arm: str, rate: float) -> pd.DataFrame:
    """The runs of an arm at a rate, by seed."""
    return runs[(runs["arm"] == arm) & ((runs["lr"] / rate - 1).abs() < 1e-9)].sort_values("seed")


# -- what came of it


def judged(task: str, work: Path) -> dict[str, Any]:
    """The advice against the grid's truth."""
    advice = json.loads((work / task / "advice.json").read_text())
    question = Question(TASKS[task])
    runs = _grid(task)
    lr = advice["learning_rate"]
    arms = arms_of(question, advice)
    rates = {arm: _rates(runs, arm) for arm in arms}
    at = {arm: _best_rate(runs, arm) for arm in arms}
    ends = {arm: _losses(runs, arm, at[arm]) for arm in arms}
    best = {arm: _mean(values) for arm, values in ends.items()}
    margin = TOLERANCE * (best[CONSTANT] - best[DECAY])
    updates = _updates(question, arms, lr)
    held, intervals = [], []
    for each in advice["candidates"]:
        # No interval: not tried, or hardly stable.
        if each["worse"] is None or each["worse"]["low"] is None or each["arm"] == DECAY:
            continue
        name = each["arm"]
        rate = each["lr"] if name == CONSTANT else lr
        if not _whole(runs, *_in_grid(name, rate)):
            # Only without the grid's runs.
            continue
        its, decays = _losses(runs, *_in_grid(name, rate)), _losses(runs, DECAY, lr)
        truth = [one - two for one, two in zip(its, decays, strict=True)]
        inside = each["worse"]["low"] <= fmean(truth) <= each["worse"]["high"]
        held.append(inside)
        error = stdev(truth) / len(truth) ** 0.5
        intervals.append({"arm": name, "said": each["worse"], "truth": fmean(truth), "error": error, "held": inside})
    tables = {"here": HardwareTable.of(read_hardware(work / task / "hardware.csv"))}
    tables["gpu-like"] = HardwareTable.of(read_hardware(GPU_LIKE))
    machines = {}
    for label, table in tables.items():
        ratios = {arm: time_ratio(table, made, updates[DECAY]).value for arm, made in updates.items()}
        arm = _advised(advice, label)
        # Nothing recommended: the user stays with decay. What is faster and ends worse is no match for the advised one.
        loss = best[DECAY] if arm is None else _mean(_losses(runs, *_in_grid(arm, lr)))
        quality = min(best[DECAY], loss)
        equal = [each for each in best if each == DECAY or best[each] <= quality + margin]
        shown = [each for each in equal if each == DECAY or _at_most(ends[each], ends[DECAY]) <= margin]
        fastest, fastest_shown = (min(arms_, key=lambda each: ratios[each]) for arms_ in (equal, shown))
        machines[label] = {
            "advised": arm,
            "its_time": None if arm is None else ratios[_in_grid(arm, lr)[0]],
            "its_loss": None if arm is None else loss - best[DECAY],
            "fastest": fastest,
            "fastest_time": ratios[fastest],
            "shown": fastest_shown,
            "shown_time": ratios[fastest_shown],
        }
    return {
        "task": task,
        "arms": len(arms),
        "seeds": len(ends[DECAY]),
        "runs": len(GRID_SEEDS) * sum(map(len, rates.values())),
        "rates": [min(min(each) for each in rates.values()), max(max(each) for each in rates.values())],
        "at_an_end": sorted(arm for arm, rate in at.items() if rate in (rates[arm][0], rates[arm][-1])),
        "best_rates": {arm: at[arm] for arm in (DECAY, CONSTANT)},
        "learning_rate": lr,
        "constant_rate": constant_rate(advice),
        "seconds": advice["seconds"],
        "margin": margin,
        "effect": best[CONSTANT] - best[DECAY],
        "machines": machines,
        "intervals": intervals,
        "held": sum(held),
        "of": len(held),
        **_shares(task, work, arms, advice),
    }


def _shares(task: str, work: Path, arms: dict[str, Any], advice: dict[str, Any]) -> dict[str, float]:
    """Samples that the advice trained, over the grid's: as whole runs, and as a sweep that shares beginnings trains."""
    runs, whole, shared = _grid(task), 0.0, 0.0
    by_rate: dict[float, dict[str, Any]] = {}
    for arm, settings in arms.items():
        for rate in _rates(runs, arm):
            by_rate.setdefault(rate, {})[arm] = settings
    for rate, its in by_rate.items():
        # Beginnings are shared by runs of one rate only.
        file = _write_grid(work, f"{task}-planned", rate, its, TASKS[task])
        plan = json.loads(bsexp("plan", str(file), "--out", str(work / "planned"), "--json"))
        whole += plan["samples"]
        shared += plan["samples_shared"]
    spent = _spent(work / task, Question(TASKS[task]), advice["learning_rate"])
    return {"share_of_runs": spent / whole, "share_of_trained": spent / (whole - shared)}


def _in_grid(arm: str, lr: float) -> tuple[str, float]:
    """The grid's arm and rate of a candidate of the advice, which has some at half its rate."""
    whole = arm.removesuffix("-half")
    return whole, lr if arm == whole else lr * SLOWER


def _losses(runs: pd.DataFrame, arm: str, rate: float) -> list[float]:
    """The losses of an arm at a rate, by seed."""
    return [float(loss) for loss in _of(runs, arm, rate)[METRIC]]


def _updates(question: Question, arms: dict[str, Any], lr: float) -> dict[str, Any]:
    """The updates of each arm by batch size; they don't depend on the rate."""
    found = {}
    for arm, settings in arms.items():
        own = ("batch_size", "reference_batch", "lr_scaling", "max_batch")
        options = {name: settings[name] for name in own if name in settings}
        parameters = {name: value for name, value in settings.items() if name not in (*own, "schedule")}
        found[arm] = question.updates(question.run(settings["schedule"], lr, parameters, **options))
    return found


def _spent(place: Path, question: Question, lr: float) -> float:
    """Samples that the advice trained: its range test and its trunks, and what each trial added."""
    total = question.total_samples
    rows = read_trials(place / "trials.csv")
    low, high = RAMP_UPDATES
    ramp = min(high, max(low, round(RAMP_SHARE * total / question.batch_size))) * question.batch_size
    # Those that were begun with, all of which are gone on with to the last branches.
    trunks = {(row.seed, row.lr if (row.stage, row.arm) == (ENDING, CONSTANT) else lr) for row in rows if row.share}
    spent = ramp + len(trunks) * 0.8 * total
    for row in rows:
        length = {RATE: RATE_SHARE, WHOLE: 1.0, BRANCH: BRANCH_SHARE, ENDING: 1 - row.share}[row.stage]
        spent += length * total
    return spent


def _at_most(ends: list[float], decay: list[float]) -> float:
    """How much worse than decay with the same seeds they are at most, with 95 % confidence."""
    found = mean_interval([one - two for one, two in zip(ends, decay, strict=True)], 0.9)
    assert found is not None
    assert found.high is not None
    return found.high


def _mean(values: list[float]) -> float:
    """Their mean; infinite where a run diverged, and so has no loss."""
    return float("inf") if not values or any(value != value for value in values) else fmean(values)


def _advised(advice: dict[str, Any], label: str) -> str | None:
    if advice["for"] == label:
        return advice["recommendation"]["arm"] if advice["recommendation"] else None
    found = advice["elsewhere"][label]["arm"]
    return None if found is None else str(found)


# -- what is committed


def _keep_grid(task: str, runs: pd.DataFrame) -> None:
    """TASK-grid.csv.gz: how each run of the grid ended, of these and of those that were there."""
    runs = runs.assign(arm=runs["arm"].str.partition("[")[0])[["arm", "lr", "seed", METRIC]]
    if _kept(task, "grid").exists():
        runs = pd.concat([_grid(task), runs]).drop_duplicates(["arm", "lr", "seed"], keep="last")
    _pack(task, "grid", runs.sort_values(["arm", "lr", "seed"]).to_csv(index=False, float_format="%.7g"))


def keep_advice(task: str, work: Path) -> None:
    """TASK-trials.csv.gz, what the advice was made from; of the task that README tells of its picture, too."""
    _pack(task, "trials", (work / task / "trials.csv").read_text())
    if task == PICTURED:
        shutil.copyfile(work / task / "advice.png", PLACE / f"{task}.png")


def _pack(task: str, what: str, text: str) -> None:
    _kept(task, what).write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


HEAD = """# Does `bsexp advise` advise well?

{verdict}

Each task was advised for, and then all candidates were trained as whole runs: {arms} arms at half, once and twice the
advised rate, and each on at half or twice its best one until that had worse neighbours on both sides; all with
{seeds} seeds that the advice hadn't seen. Made again, in hours, by

```
python -m tests.advised {tasks} --work FOLDER
```

which for the advice runs `bsexp advise --hardware results/advise/gpu-like.csv --minutes 600` with

{settings}

`TASK-grid.csv.gz` has how each run ended (what is there is not made again), `TASK-trials.csv.gz` what the
advice was made from, `TASK.json` the numbers below. The first table:

- `here`: 2 cores of an Intel Xeon, measured; `gpu-like`: made up, {fixed:g} ms an update and {sample:g}
  microseconds a sample, where large batches pay. Times are relative to decay's.
- The loss of the advised schedule is that above decay at its best rate, in nats of validation loss; tolerated is a
  quarter of what decaying brings: of what the best constant rate loses on decay at its best.
- The fastest shown: of all arms that end, at their best rate, no more than that worse than decay at its best rate, with
  95 % confidence by the grid's seeds. That asks for less than an advice does, which counts with how sure what is
  tolerated is, too. By means: of those whose mean does, sure or not. An arm that ends that much worse than the advised
  one isn't its equal, and left out.
- `-half`: at half the advised rate, which the grid has of every arm.

Some of how `advise` works was changed after grids had been seen, whose seeds are others than the trials' all the same.
Half rates are tried since the first advice for cifar had missed its fastest schedule. A constant rate's end is the mean
of several evaluations, and what an advice hangs on is brought to its end in several orders, since 12 seeds of
`grow-64-at-50-linear` for fashion-adamw, +0.0096 [+0.0037, +0.0156], had not told it from what isn't tolerated (another
processor's had); `hybrid`, .94 and .90 of the time, was advised.

Smaller constant rates are tried since digits' grid had shown that one of them ends .14 better than one at the rate that
suits a decay: what decaying brings looked like four times as much as it is, and the schedule advised then
(`large-256-sqrt`, .11 and .09 of the time) lost more than a quarter of it.
"""


def write_tables() -> None:
    """README.md of results/advise, from the JSON files there."""
    found = [json.loads(path.read_text()) for path in sorted(PLACE.glob("*.json")) if path.stem in TASKS]
    head = HEAD.format(
        verdict=_verdict(found),
        arms=max(each["arms"] for each in found),
        seeds=len(GRID_SEEDS),
        tasks=" ".join(each["task"] for each in found),
        settings="\n".join(f"- {each['task']}: `{_asked(each['task'])}`" for each in found),
        fixed=1e3 * PER_UPDATE,
        sample=1e6 * PER_SAMPLE,
    )
    columns = ["task", "machine", "advised", "its time", "its loss", "tolerated"]
    columns += ["fastest shown", "its time", "by means", "its time"]
    lines = [head, f"| {' | '.join(columns)} |", "|---|---|---|---:|---:|---:|---|---:|---|---:|"]
    for each in found:
        for label, told in each["machines"].items():
            own = ["none", "", ""]
            if told["advised"] is not None:
                own = [f"`{told['advised']}`", f"{told['its_time']:.2f}", f"{told['its_loss']:+.4f}"]
            others = [(told[name], told[f"{name}_time"]) for name in ("shown", "fastest")]
            fastest = [word for arm, time in others for word in (f"`{arm}`", f"{time:.2f}")]
            cells = [each["task"], label, *own, f"{each['margin']:.4f}", *fastest]
            lines.append(f"| {' | '.join(cells)} |".replace("-0.", "−0."))
    lines += [
        "",
        "Samples that the advice trained, of the grid's: of its runs, each trained whole, and of what a sweep trains",
        "that makes a beginning once for all runs that share it. Constant: the rate without decay over which it tells",
        "what decaying brings, and the grid's best. At an end: arms whose best rate is the least or largest of theirs.",
        "No interval is stated for what ended worse than the constant rate.",
        "",
        "| task | learning rate | of the grid | constant | of the grid | its minutes | the grid's runs | its rates "
        "| at an end | 90 % intervals that held | of its runs | of what was trained |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in found:
        shares = [f"{100 * each[name]:.1f} %" for name in ("share_of_runs", "share_of_trained")]
        rates = [each["learning_rate"], each["best_rates"][DECAY], each["constant_rate"], each["best_rates"][CONSTANT]]
        reach = f"{each['rates'][0]:g} to {each['rates'][-1]:g}"
        own = [f"{each['seconds'] / 60:.1f}", f"{each['runs']:,}", reach, f"{len(each['at_an_end'])} of {each['arms']}"]
        cells = [each["task"], *(f"{rate:g}" for rate in rates), *own, f"{each['held']} of {each['of']}", *shares]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| task | candidate | said | truth ± standard error | held |", "|---|---|---:|---:|---|"]
    for each in found:
        for one in each["intervals"]:
            said = f"{one['said']['mean']:+.4f} [{one['said']['low']:+.4f}, {one['said']['high']:+.4f}]"
            truth = f"{one['truth']:+.4f} ± {one['error']:.4f}"
            cells = [each["task"], f"`{one['arm']}`", said.replace("-", "−"), truth.replace("-", "−")]
            lines.append(f"| {' | '.join([*cells, 'yes' if one['held'] else 'no'])} |")
    (PLACE / "README.md").write_text("\n".join(lines) + "\n")


def _asked(task: str) -> str:
    """The options of a task, from the repository's top."""
    return " ".join(flags(TASKS[task])).replace(f"{ROOT}/", "")


def _verdict(found: list[dict[str, Any]]) -> str:
    """What of it came out as an advice should: of all tasks and machines together."""
    told = [(machine, each["margin"]) for each in found for machine in each["machines"].values()]
    # Nothing recommended: the user stays with decay. What loses too much is no advice, however fast.
    kept = [machine for machine, margin in told if (machine["its_loss"] or 0.0) <= margin]
    near, nearer = (
        sum((machine["its_time"] or 1.0) <= NEAR * machine[f"{name}_time"] for machine in kept)
        for name in ("shown", "fastest")
    )
    held, of = (sum(each[name] for each in found) for name in ("held", "of"))
    text = (
        f"Of {len(told)} pieces of advice (a task on a machine) {len(kept)} lose no more than is tolerated, and {near} "
        f"of these take at most {100 * (NEAR - 1):.0f} % longer than the fastest schedule that the grid shows to "
        f"keep the quality ({nearer}: than the fastest whose mean does). Of the 90 % intervals {held} "
        f"of {of} held the truth."
    )
    return textwrap.fill(text, 120)


def main() -> None:
    """Make the tasks that are named, then the tables of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"none or some of {', '.join(TASKS)}")
    parser.add_argument("--work", type=Path, required=True)
    told = "make none of the grid's runs, judge by those that are kept"
    parser.add_argument("--no-grid", dest="grid", action="store_false", help=told)
    asked = parser.parse_args()
    if unknown := set(asked.tasks) - set(TASKS):
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    PLACE.mkdir(parents=True, exist_ok=True)
    asked.work.mkdir(parents=True, exist_ok=True)
    write_gpu_like()
    for task in asked.tasks:
        make(task, asked.work, asked.grid)
        found = judged(task, asked.work)
        (PLACE / f"{task}.json").write_text(json.dumps(found, indent=1) + "\n")
        keep_advice(task, asked.work)
    write_tables()


if __name__ == "__main__":
    main()
