"""Advice: what is tried, trials made once, words and figure, and files that a person can go on with."""

import json
import math
import random
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tomli_w
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch.utils.data import DataLoader, TensorDataset

from bsexp.analysis.advice import Choice, Judgement, judge
from bsexp.analysis.hardware import HardwareTable, Modelled
from bsexp.analysis.local_critical import local_critical
from bsexp.analysis.paired import Estimate
from bsexp.commands.advice import _shown, _together, snippet
from bsexp.commands.advised_batches import add_seeds
from bsexp.commands.advised_rate import _best_of, _climb, find_constant
from bsexp.commands.sweep import check_power
from bsexp.commands.trying import Job
from bsexp.config import RunConfig
from bsexp.console import Talk
from bsexp.data.sources import load_images
from bsexp.data.splits import prepare
from bsexp.engine.loop import Training
from bsexp.errors import UsageError
from bsexp.records import EvalRow, HardwareRow, TrialRow, columns
from bsexp.report.advising import Machine, advice_figure, amount, critical_text, headline, saving
from bsexp.schedules import simulate
from bsexp.store.advised import alone
from bsexp.store.hardware import read_hardware, write_hardware
from bsexp.store.measured import read_trials
from bsexp.store.paths import Experiment
from bsexp.store.trunks import Trunks
from bsexp.sweep import branching
from bsexp.sweep.advising import LOOKS, RATE, Growth, Question, Trial, key_of, make_trials
from bsexp.sweep.branching import Making, Work, begins
from bsexp.sweep.experiment import read_experiment
from bsexp.sweep.measuring import Surroundings
from bsexp.sweep.verifying import num_seeds, verification
from tests.conftest import Bsexp
from tests.test_analysis_advice import ARMS, EVEN, branches, endings, ratio, row
from tests.test_figures import texts
from tests.test_find import interrupted

COLUMN = columns(TrialRow).index("seed")


# -- trials


def question(**options: Any) -> Question:
    return Question({"dataset": "digits", "train_size": 600, "batch_size": 8, "epochs": 4.0, **options})


def test_every_candidate_begins_as_the_trunk_does_and_ends_with_its_budget() -> None:
    asked = question(warmup_epochs=0.2)
    half = Growth(0.2, 4, "linear", base=0.5)
    growths = [Growth(0.0, 4, "sqrt"), Growth(0.2, 4, "linear"), Growth(0.5, 16, "none"), half]
    configs = asked.candidates(0.05, growths)
    plans = {
        arm: list(simulate(config.build_schedule(), total_samples=2400, num_train=600))
        for arm, config in configs.items()
    }
    # At its own rate it is another run from its beginning; all else is as at the trunk's.
    (alone,), slower = asked.grown(0.05, [half]), plans.pop(asked.arm_of(half))
    assert (alone.share, alone.arm, alone.config.lr) == (0.0, "grow-32-at-20-linear-half", 0.05)
    for own, whole in zip(slower, plans["grow-32-at-20-linear"], strict=True):
        assert (own.samples, own.batch_size, own.lr) == (whole.samples, whole.batch_size, pytest.approx(whole.lr / 2))
    trunk = plans["constant"]
    shares = {"grow-32-at-20-linear": 0.2, "grow-128-at-50-none": 0.5, "large-32-sqrt": 0.0, "one-cycle": 0.0}
    for arm, plan in plans.items():
        begin = begins(configs["constant"], shares.get(arm, 0.8), 600)
        before = [update for update in plan if update.samples < begin]
        assert [update[:6] for update in before] == [update[:6] for update in trunk[: len(before)]], arm
        assert plan[-1].samples + plan[-1].batch_size == 2400
    after = next(update for update in plans["grow-32-at-20-linear"] if update.samples >= 480)
    assert (after.batch_size, after.lr) == (32, pytest.approx(0.2))
    assert (plans["large-32-sqrt"][300 // 32].batch_size, configs["large-32-sqrt"].lr) == (32, pytest.approx(0.1))
    # The rate of decay begins to fall after .8 of the budget, whatever the warm-up.
    falls = next(update for update in plans["decay"] if update.samples > 0.8 * 2400)
    assert falls.lr < 0.05 == pytest.approx(plans["decay"][len(trunk) * 8 // 10 - 2].lr)


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "adamw"}, {"reference_batch": 64, "lr_scaling": "sqrt"}, {"max_batch": 40, "momentum": 0.8}],
    ids=["plain", "adamw", "a rate for another batch", "a low cap"],
)
def test_the_lines_for_a_loop_of_ones_own_train_as_the_candidate_does(options: dict[str, Any]) -> None:
    asked = question(warmup_epochs=0.2, **options)
    growths = [Growth(0.0, 4, "sqrt"), Growth(0.2, 4, "linear"), Growth(0.5, 16, "none", base=0.5)]
    configs = asked.candidates(0.05, growths)
    assert len(configs) >= 7
    for arm, config in configs.items():
        data = TensorDataset(torch.zeros(600, 1), torch.zeros(600))
        layer = torch.nn.Linear(1, 1)
        sgd = partial(torch.optim.SGD, momentum=options.get("momentum", 0.9))
        kinds: dict[str, Any] = {"sgd": sgd, "adamw": torch.optim.AdamW}
        optimizer = kinds[config.optimizer](layer.parameters(), lr=1.0)
        names: dict[str, Any] = {"data": data, "optimizer": optimizer, "DataLoader": DataLoader}
        exec(snippet(config), names)  # as somebody would who pastes it
        made = []
        while not names["sampler"].clock.finished:
            for images, labels in names["loader"]:
                optimizer.zero_grad()
                layer(images).sum().backward()
                made.append((len(labels), optimizer.param_groups[0]["lr"]))
                optimizer.step()
                names["rates"].step(len(labels))
        planned = simulate(config.build_schedule(), total_samples=2400, num_train=600)
        assert made == [(update.batch_size, pytest.approx(update.lr)) for update in planned], arm


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val_fraction": 0.0}, "val_fraction: 0; advice rests on a validation split"),
        (
            {"warmup_epochs": 1.0},
            "warmup_epochs: 1; it must have ended where the first branches begin, after 0.2 epochs",
        ),
        ({"batch_size": 200, "epochs": 40.0}, "batch_size: 200 of 600 samples; it can't grow fourfold"),
        (
            {"max_batch": 20},
            "batch_size: 8 of 600 samples, max_batch 20; it can't grow fourfold: use a smaller one, or raise --max-",
        ),
        ({"batch_size": 75, "epochs": 0.5}, "epochs: 0.5: 5 % of 300 samples hold no batch of 75; give more, or"),
    ],
)
def test_what_can_not_be_answered_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        question(**options)


def test_seeds_are_as_many_as_the_margin_needs() -> None:
    wide = Judgement("val_loss", Estimate(0.1, 0.05, 0.15, 2), 0.025, 0.03, ())
    narrow = Judgement("val_loss", Estimate(0.1, 0.05, 0.15, 2), 0.025, 0.002, ())
    assert num_seeds(narrow, 0.25, 1) == 8
    found = num_seeds(wide, 0.25, 1)
    assert found is not None
    assert 8 < found < 40
    assert num_seeds(Judgement("val_loss", Estimate(0.1, 0.05, 0.15, 2), 0.025, 0.2, ()), 0.25, 1) is None


@pytest.mark.parametrize("sd", [0.0, 0.002, 0.03, 0.0314, 0.2])
def test_the_experiment_that_would_settle_it_is_accepted_by_a_sweep(sd: float) -> None:
    configs = question().candidates(0.05, [Growth(0.2, 4, "linear", base=0.5), Growth(0.5, 16, "none")])
    configs = {arm: configs[arm] for arm in ("decay", "constant", "grow-32-at-20-linear-half", "grow-128-at-50-none")}
    judged = Judgement("val_loss", Estimate(0.1, 0.05, 0.15, 2), 0.025, sd, ())
    document, enough = verification("mine", {"dataset": "digits", "batch_size": 8}, configs, judged, 0.25)
    asked = read_experiment(tomllib.loads(tomli_w.dumps(document)), {}, "verify.toml", "mine")
    assert enough == (sd != 0.2)
    if enough:
        check_power(asked, "verify.toml")
    else:
        with pytest.raises(UsageError, match="power"):
            check_power(asked, "verify.toml")
    # A batch that grows beyond a tenth of the data has the cap that it was tried with.
    assert asked.arms["grow-128-at-50-none"]["max_batch"] == 128
    jump = asked.arms["grow-32-at-20-linear-half"]["parameters"]["lr"]["product"][0]
    assert (jump["start"], jump["factor"]) == (0.5, 4)


def test_whatever_may_be_tried_is_a_candidate_and_what_may_not_is_told() -> None:
    asked = question()
    growths = [Growth(share, multiplier, "none") for share in (0.0, 0.2, 0.5) for multiplier in (4, 16)]
    assert len(asked.candidates(0.05, growths)) == 12
    assert asked.left_out == {}
    capped = question(max_batch=40)
    assert "grow-32-at-20-none" in capped.candidates(0.05, [Growth(0.2, 4, "none")])
    assert capped.multipliers == (4,)
    assert capped.left_out == {"batch 128": "max_batch: 40"}


def test_the_state_kept_last_is_taken_unless_it_is_damaged(tmp_path: Path) -> None:
    trunks = Trunks(tmp_path / "trunks")
    assert trunks.latest("a" * 32, 100) is None
    for samples in (8, 40, 100):
        trunks.keep("a" * 32, samples, b"state %d" % samples)
    trunks.keep("b" * 32, 60, b"another's")
    assert [trunks.reached("a" * 32, samples) for samples in (7, 8, 99, 1000)] == [0, 8, 40, 100]
    assert trunks.latest("a" * 32, 99) == b"state 40"
    assert trunks.latest("a" * 32, 100) == b"state 100"
    damaged = next((tmp_path / "trunks").glob("a*-100.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"1")
    assert trunks.latest("a" * 32, 100) == b"state 40"
    assert trunks.latest("a" * 32, 7) is None


# -- words and figure


def test_numbers_are_told_with_interval_and_unit() -> None:
    assert amount(Estimate(0.0123, -0.001, 0.02, 2), "val_loss") == "+0.0123 [−0.0010, +0.0200]"
    assert amount(Estimate(-0.0123, -0.02, 0.001, 2), "val_accuracy") == "−1.23 [−2.00, +0.10]"
    assert amount(None, "val_loss") == "–"
    assert saving(Modelled(1.1, 1.05, 1.15)) == "−10 % [−15, −5]"


@pytest.mark.parametrize(
    ("at_64", "at_256", "said"),
    [
        (0.02, 1.0, "64 at 5 % (below 256, rate times its root or times as much)"),
        (-0.2, 1.0, "64 at 5 % (from 64 to below 256, rate as it is or times its root or times as much)"),
        (-0.2, -0.2, "256 at 5 % (at least 256, rate as it is or times its root or times as much)"),
        (0.2, 0.2, "16 at 5 % (not known)"),
    ],
)
def test_what_is_not_known_of_a_critical_batch_is_not_told(at_64: float, at_256: float, said: str) -> None:
    assert critical_text(local_critical(branches(at_64, at_256))) == said


def test_the_figure_shows_each_candidate_on_each_machine_and_rings_the_chosen() -> None:
    judged = judge(endings(), ARMS, "val_loss", 0.25, LOOKS)
    assert judged is not None
    ratios = {"decay": EVEN, "constant": EVEN, "growing": ratio(0.8)}
    machines = [Machine(label, 64, {}, ratios) for label in ("here", "there")]
    figure = advice_figure(judged, machines, Choice("growing", "", ()))
    assert len(figure.axes) == 2
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["here", "there"]
    assert {"growing", "constant"} <= set(texts(figure))
    rings = [line for axes in figure.axes for line in axes.lines if line.get_markersize() == 17]
    assert [float(line.get_xdata()[0]) for line in rings] == [0.8, 0.8]


def test_the_figure_names_what_nothing_beats_and_leaves_out_what_is_far_above() -> None:
    rows = endings()
    for arm, more in (("fast", 0.01), ("beaten", 0.02), ("wild", 0.5)):
        rows += [row(arm, seed, mean + more, share=0.2) for seed, mean in enumerate((0.51, 0.61))]
    arms = [*ARMS, "fast", "beaten", "wild"]
    judged = judge(rows, arms, "val_loss", 0.25, LOOKS)
    assert judged is not None
    ratios = {"decay": EVEN, "constant": EVEN, "growing": ratio(0.8), "fast": ratio(0.5), "beaten": ratio(0.6)}
    machine = Machine("here", 64, {}, ratios | {"wild": ratio(0.4)})
    figure = advice_figure(judged, [machine], Choice("fast", "", ()))
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {"decay", "constant", "growing", "fast"}
    places = {round(float(line.get_xdata()[0]), 2) for line in axes.lines if len(line.get_xdata()) == 1}
    assert 0.6 in places
    assert 0.4 not in places
    assert any("Far above the frame: 1." in text for text in texts(figure))


def test_the_figures_names_cover_no_mark_and_no_other_name() -> None:
    # Up and to the right of a mark, where a name is put first, is decay's; beside it a name that is put there, too.
    rows = endings()
    for arm, more in (("as-good", -0.008), ("fast", 0.012), ("faster", 0.016)):
        rows += [row(arm, seed, mean + more, share=0.2) for seed, mean in enumerate((0.51, 0.61))]
    judged = judge(rows, ["decay", "constant", "as-good", "fast", "faster"], "val_loss", 0.25, LOOKS)
    assert judged is not None
    ratios = {"as-good": ratio(0.95), "fast": ratio(0.52), "faster": ratio(0.5), "decay": EVEN, "constant": EVEN}
    figure = advice_figure(judged, [Machine("here", 64, {}, ratios)], Choice("fast", "", ()))
    renderer = FigureCanvasAgg(figure).get_renderer()
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == set(ratios)
    names = [text.get_window_extent(renderer) for text in axes.texts]
    marks = [axes.transData.transform(line.get_xydata()[0]) for line in axes.lines if len(line.get_xydata()) == 1]
    assert not [name for name in names for mark in marks if name.contains(*mark)]
    assert not [pair for pair in combinations(names, 2) if pair[0].overlaps(pair[1])]


@pytest.mark.parametrize("mean", [-0.02, 0.02])
def test_the_headline_says_better_for_what_is_better(mean: float) -> None:
    judged = judge(endings((mean, mean)), ARMS, "val_loss", 0.25, LOOKS)
    assert judged is not None
    machine = Machine("here", 64, {}, {"decay": EVEN, "constant": EVEN, "growing": ratio(0.8)})
    told = headline(Choice("growing", "", ()), judged, [machine], dict.fromkeys(ARMS, "so"))
    assert "and ends +0.0200 [" in told
    assert told.endswith(f"nats {'better' if mean < 0 else 'worse'} in validation loss")


def test_a_screen_shows_what_is_spoken_of_first() -> None:
    def told(arm: str, word: str, time: float, grown: bool = True) -> dict[str, Any]:
        return {"arm": arm, "word": word, "growth": {} if grown else None, "times": [{"ratio": {"value": time}}]}

    every = [told("decay", "reference", 1.0, grown=False)]
    every += [told(f"within-{k}", "within", 0.9 - k / 100) for k in range(6)]
    every += [told("lost", "beyond", 0.1), told("hidden", "unclear", 0.2)]
    document = {"candidates": every, "elsewhere": {"there": {"arm": "within-0"}}}
    shown = [each["arm"] for each in _shown(document, Choice("within-5", "", ("hidden",)))]
    assert shown == ["decay", "within-0", "within-2", "within-3", "within-4", "within-5", "hidden"]


def test_a_beginning_that_candidates_share_is_counted_once() -> None:
    asked = question()
    found = asked.candidates(0.05, ())

    def samples(config: RunConfig, begun: float = 0.0) -> float:
        return sum(size * number for size, number in asked.updates(config, begun).items())

    job = SimpleNamespace(question=asked, seconds_of=samples)
    whole = samples(found["decay"])
    together = _together(cast(Job, job), {arm: found[arm] for arm in ("decay", "constant")})
    # They part where the rate begins to fall, at .8 of the budget.
    assert together == pytest.approx(1.2 * whole, rel=0.02)
    assert _together(cast(Job, job), {"decay": found["decay"]}) == whole


# -- the program

QUICK = (
    "--dataset",
    "digits",
    "--train-size",
    "600",
    "--batch-size",
    "8",
    "--epochs",
    "2",
    "--lr",
    "0.05",
    "--threads",
    "1",
)


def put_table(folder: Path, about: dict[str, Any] | None = None) -> None:
    sizes = [2, 4, 8, 16, 32, 64, 128]
    rows = [
        HardwareRow("cpu", size, size, (size + 20) * 1e-5, 1e-7, size / ((size + 20) * 1e-5), None) for size in sizes
    ]
    write_hardware(folder / "hardware.csv", rows, about or {})


def test_the_program_advises_and_goes_on_where_it_was(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place)
    put_table(tmp_path / "other")
    arguments = ("advise", *QUICK, "--hardware", str(tmp_path / "other" / "hardware.csv"), "--tolerance", "0.9")
    first = bsexp(*arguments, "--json")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    trials = (place / "trials.csv").read_bytes()
    files = {"advice.json", "advice.png", "advice.svg", "hardware.csv", "hardware.json", "trials.csv", "trials.json"}
    assert files <= {path.name for path in place.iterdir()} <= {*files, "verify.toml", ".advise.lock"}
    arms = [each["arm"] for each in document["candidates"]]
    assert arms[:6] == ["decay", "constant", "growing", "hybrid", "late-switch", "one-cycle"]
    assert document["candidates"][2]["times"][0]["ratio"]["value"] < 1
    kept = json.loads((place / "advice.json").read_text())
    assert kept == {name: value for name, value in document.items() if name != "file"}
    if kept["verify"]:
        assert kept["verify"]["file"] == "verify.toml"
    # As if it had been interrupted.
    lines = trials.splitlines(keepends=True)
    (place / "trials.csv").write_bytes(b"".join(lines[:10] + lines[20:]))
    second = bsexp(*arguments)
    assert second.returncode == 0, second.stderr
    assert (place / "trials.csv").read_bytes() == trials
    assert "advice: " in second.stdout
    third = bsexp(*arguments)
    assert re.fullmatch(r"constant rate [\d.]+, of .+, 0\.05\n", third.stderr)
    assert third.stdout == second.stdout
    other = bsexp(*arguments, "--weight-decay", "0.1")
    assert (other.returncode, "weight_decay = 0.0005 there, 0.1 now; choose another --name" in other.stderr) == (
        5,
        True,
    )
    if (place / "verify.toml").exists():
        with open(place / "verify.toml", "rb") as file:
            assert tomllib.load(file)["claims"][0]["control"] == "constant"
        planned = bsexp("plan", str(place / "verify.toml"), "--underpowered")
        assert planned.returncode == 0, planned.stderr


OWN_NET = """
import torch

def net(image_shape, num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, {width}), torch.nn.ReLU(),
                               torch.nn.Linear({width}, num_classes))
"""


def test_a_network_of_ones_own_with_a_rate_looked_for_interrupted_and_then_edited(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_NET.format(width=16))
    settings = [word for word in QUICK if word not in ("--lr", "0.05", "--epochs", "2")] + ["--epochs", "1"]
    # Enough for two seeds as the table tells it, and for nothing else.
    settings += ["--minutes", "0.03"]
    asked = ["advise", "--model", "mine:net", *settings, "--metric", "val_accuracy", "--workers", "2"]
    for name in ("whole", "cut"):
        put_table(tmp_path / "results" / name)
    whole = bsexp(*asked, "--name", "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    document = json.loads(whole.stdout)
    rows = read_trials(tmp_path / "results" / "whole" / "trials.csv")
    tried = sorted({row.lr for row in rows if row.stage == "rate"})
    assert len(tried) >= 4
    assert document["learning_rate"] in tried
    assert document["metric"] == "val_accuracy"
    assert [time["machine"] for time in document["candidates"][0]["times"]] == ["here", "here, 2 workers"]
    assert document["for"] == "here, 2 workers"

    words = interrupted(tmp_path, [*asked, "--name", "cut"], lambda line: " at 0.2 of the budget" in line)
    assert "Traceback" not in words
    assert 0 < len(read_trials(tmp_path / "results" / "cut" / "trials.csv")) < len(rows)
    resumed = bsexp(*asked, "--name", "cut", "--json")
    assert resumed.returncode == 0, resumed.stderr
    found = json.loads(resumed.stdout)
    trials = [(tmp_path / "results" / name / "trials.csv").read_bytes() for name in ("whole", "cut")]
    assert trials[0] == trials[1]
    apart = {"file", "seconds"}
    assert {name: found[name] for name in found.keys() - apart} == {
        name: document[name] for name in document.keys() - apart
    }
    # Under the same name it is another network now.
    (tmp_path / "mine.py").write_text(OWN_NET.format(width=24))
    edited = bsexp(*asked, "--name", "cut")
    assert edited.returncode == 5
    assert "model_source" in edited.stderr
    assert (tmp_path / "results" / "cut" / "trials.csv").read_bytes() == trials[1]


def test_time_that_is_left_goes_to_other_rates_and_more_seeds(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place)
    asked = ("advise", *QUICK, "--lr", "0.02", "--epochs", "4", "--label-noise", "0.2", "--tolerance", "0.9", "--json")
    asked = (*asked, "--minutes", "60")
    found = bsexp(*asked)
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    rows = read_trials(place / "trials.csv")
    rules = {row.lr_rule for row in rows if row.arm.startswith("grow-32-at-20")}
    assert rules == {"none", "sqrt", "linear"}
    ends: dict[str, list[float]] = {}
    for each in rows:
        if each.stage == "ending" and each.seed in (0, 1) and each.order == 0:
            ends.setdefault(each.arm, []).append(each.val_loss or math.inf)
    # Of each place the rule that ended best is tried at half the rate, from the start on.
    halves = {row.arm: row for row in rows if row.arm.endswith("-half")}
    assert halves
    for arm, half in halves.items():
        grown = arm.removesuffix(f"-{half.lr_rule}-half")
        best = min((f"{grown}-{rule}" for rule in rules), key=lambda name: sum(ends.get(name, [math.inf])))
        assert (arm, half.share, half.lr) == (f"{best}-half", 0.0, document["learning_rate"])
        assert sum(ends[best]) <= sum(ends["constant"])
    seeds = {row.seed for row in rows if row.stage == "ending"}
    if seeds != {0, 1}:
        later = {row.arm for row in rows if row.seed == max(seeds)}
        # Only what the advice hangs on, with what it is compared with.
        assert {"decay", "constant"} < later < {row.arm for row in rows if row.seed == 0 and row.stage == "ending"}
    assert not (place / "trunks").exists()
    assert json.loads((place / "trials.json").read_text())["seconds"] > 0
    again = bsexp(*asked)
    assert json.loads(again.stdout) == document
    assert len(read_trials(place / "trials.csv")) == len(rows)
    # Killed in the last of its seeds, with the time used up: what was begun is made to its end, and nothing else.
    whole = (place / "trials.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    last = [line for line in lines if line.startswith(b"ending") and line.split(b",")[COLUMN] == b"%d" % max(seeds)]
    assert len(last) > 2
    (place / "trials.csv").write_bytes(b"".join(line for line in lines if line not in last[1:]))
    about = json.loads((place / "trials.json").read_text())
    (place / "trials.json").write_text(json.dumps({**about, "seconds": 3600.0}))
    resumed = bsexp(*asked)
    assert resumed.returncode == 0, resumed.stderr
    assert (place / "trials.csv").read_bytes() == whole
    assert json.loads(resumed.stdout) | {"seconds": 0} == document | {"seconds": 0}


def test_too_few_minutes_are_refused_before_anything_is_trained(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place)
    found = bsexp("advise", *QUICK, "--minutes", "0.001")
    assert found.returncode == 2
    assert re.search(r"--minutes: 0\.001, where trials take about [\d.]+ s here; allow 1 in all, or", found.stderr)
    # An hour went to the table.
    put_table(place, {"seconds": 3600})
    found = bsexp("advise", *QUICK, "--minutes", "60")
    assert found.returncode == 2
    assert re.search(
        r"--minutes: 0 of 60 are left, where trials take about [\d.]+ s here; allow 61 in all, or", found.stderr
    )
    assert not (place / "trials.csv").exists()


def test_a_table_of_another_network_is_not_taken_for_this_ones(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place, {"model": "cnn-small"})
    found = bsexp("advise", *QUICK, "--minutes", "0.001")
    assert found.returncode == 2
    assert "an update's time" in found.stderr
    assert json.loads((place / "hardware.json").read_text())["model"] == "mlp"
    # Measuring has used the minutes up, in this call and for the next one.
    spent = json.loads((place / "hardware.json").read_text())["seconds"]
    assert spent > 0.06
    again = bsexp("advise", *QUICK, "--minutes", "0.001")
    for said in (found.stderr, again.stderr):
        assert "--minutes: 0 of 0.001 are left, where trials take about" in said
    assert "an update's time" not in again.stderr


@pytest.mark.parametrize("command", [("advise", *QUICK), ("measure", "--critical")], ids=["advise", "critical"])
def test_no_job_at_a_time_is_refused(bsexp: Bsexp, command: tuple[str, ...]) -> None:
    found = bsexp(*command, "--jobs", "0", timeout=60)
    assert (found.returncode, found.stderr) == (2, "bsexp: --jobs: 0; it plans sweeps alone; give 1 or more here\n")


def test_one_folder_is_for_one_advice_at_a_time(bsexp: Bsexp, tmp_path: Path) -> None:
    with alone(Experiment(tmp_path / "results" / "advise")):
        found = bsexp("advise", *QUICK)
    assert found.returncode == 5
    assert "advise is being made by another process; wait for it, or choose another --name" in found.stderr


def test_trials_without_what_they_were_made_with_are_left_alone(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place)
    (place / "trials.csv").write_text("kept\n")
    found = bsexp("advise", *QUICK)
    assert found.returncode == 5
    assert "lies there without trials.json; restore trials.json, or choose another --name" in found.stderr
    assert (place / "trials.csv").read_text() == "kept\n"


def test_a_table_that_lacks_a_size_is_refused_before_anything_is_trained(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place)
    write_hardware(tmp_path / "small" / "hardware.csv", [HardwareRow("gpu", 8, 8, 1e-3, 1e-6, 8e3, None)], {})
    found = bsexp("advise", *QUICK, "--hardware", str(tmp_path / "small" / "hardware.csv"))
    assert found.returncode == 2
    assert "outside" in found.stderr or "not the measured 8" in found.stderr
    assert not (place / "trials.csv").exists()


# -- where, and for how long


def job(tmp_path: Path, device: str = "cpu", **values: Any) -> Job:
    surroundings = Surroundings(device, None, False, True)
    return Job(question(), Experiment(tmp_path / "advise"), surroundings, values, Talk(0))


def test_two_trunks_on_one_gpu_take_twice_as_long_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bsexp.commands.trying.on_gpu", lambda device: True)
    for devices, abreast in ((("cuda:0", "cuda:0"), 1), (("cuda:0", "cuda:1"), 2), (("cuda:0",), 1)):
        monkeypatch.setattr("bsexp.commands.trying.devices_for", lambda device, jobs, found=devices: found)
        made = job(tmp_path, "cuda")
        assert (made.devices, made.abreast, made.pace) == (devices, abreast, 1 / abreast)


def test_the_range_test_takes_of_the_minutes_and_so_does_what_was_cut_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, clock = job(tmp_path), iter([100.0, 107.0, 200.0, 202.0])
    monkeypatch.setattr("bsexp.commands.trying.time", SimpleNamespace(monotonic=lambda: next(clock)))

    def ramp(work: Any, config: dict[str, Any], *others: Any, **named: Any) -> tuple[list[Any], float]:
        if made.seconds_spent:
            raise KeyboardInterrupt
        return work(config, made.surroundings)  # type: ignore[no-any-return]

    monkeypatch.setattr("bsexp.sweep.apart.in_a_process", ramp)
    _climb(made)
    assert made.seconds_spent == 7.0
    with pytest.raises(KeyboardInterrupt):
        _climb(made)
    assert made.seconds_spent == 9.0


@pytest.mark.parametrize("plant", range(12))
def test_whatever_was_made_since_the_same_seeds_are_added_for_the_same_candidates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plant: int
) -> None:
    """What is chosen late gets the seeds that it lacks, of which an earlier look knew nothing."""
    made, lr = job(tmp_path), 0.05
    places = [Growth(share, multiplier, "none") for share in (0.0, 0.2, 0.5) for multiplier in (4, 16)]
    first = [*made.question.endings(lr), *made.question.grown(lr, places)]
    asked: list[tuple[list[str], int]] = []
    orders: dict[tuple[str, float], set[int]] = {}

    def make(_: float, trials: Sequence[Trial], seeds: Sequence[int]) -> None:
        for trial in trials if asked else ():
            orders.setdefault((trial.arm, trial.share), set()).add(trial.order)
        asked.append((sorted({trial.arm for trial in trials}), len(seeds)))
        done = {key_of(row) for row in made.kept.rows}
        for trial, seed in product(trials, seeds):
            if trial.key(seed) not in done:
                draw = random.Random(f"{plant} {trial.key(seed)}").gauss
                ends = {"decay": 0.5, "constant": 0.6}.get(trial.arm, 0.51) + draw(0, 0.02)
                made.kept.rows.append(trial_row(*trial.key(seed), ends))

    made.kept = SimpleNamespace(rows=[])  # type: ignore[assignment]
    monkeypatch.setattr(made, "make", make)
    monkeypatch.setattr(made, "cost", lambda lr, trials, seeds: 1.0)
    monkeypatch.setattr(made, "there_is_time", lambda what, cost: True)
    make(lr, first, (0, 1))
    put_table(tmp_path)
    table = HardwareTable.of(read_hardware(tmp_path / "hardware.csv"))
    add_seeds(made, lr, [table], [1])
    rows, again = len(made.kept.rows), asked[1:]
    assert {seeds for _, seeds in again} <= {4, 8, 12}
    # Whatever got more seeds went from look to look.
    for arm in {name for arms, _ in again for name in arms}:
        known = {row.seed for row in made.kept.rows if row.arm == arm}
        assert known == set(range(len(known)))
        assert len(known) in LOOKS
    # What goes on from the trunk in the orders of decay, what is trained from the start in one.
    for (_, share), known in orders.items():
        assert known == ({0, 1, 2} if share else {0})
    asked.clear()
    add_seeds(made, lr, [table], [1])
    assert (len(made.kept.rows), asked) == (rows, again)


@pytest.mark.parametrize(("batch_size", "number", "rate"), [(4, 5, None), (8, 4, None), (4, 5, 0.02)])
def test_a_constant_rate_ends_in_the_mean_of_its_last_evaluations(
    batch_size: int, number: int, rate: float | None
) -> None:
    """Five, or one after each update where these are fewer; at a rate of its own from a trunk of its own."""
    asked = question(batch_size=batch_size)
    rows: list[TrialRow] = []
    making = Making("advise", Surroundings("cpu", 1, False, True))
    trials = [each for each in asked.endings(0.05, rate) if each.arm in ("constant", "decay") and not each.order]
    make_trials(asked, 0.05, trials, (), [0], making, ["cpu"], lambda row, _: rows.append(row), str)
    assert {row.arm: row.lr for row in rows} == {"decay": 0.05, "constant": rate or 0.05}
    for each in rows:
        config = RunConfig(**{**asked.candidates(0.05, (), rate)[each.arm].model_dump(), "evals": 400})
        whole = Training(config, data=prepare(config, load_images("digits")), device="cpu")
        # After each six of 2,400 samples.
        every = [record for record in whole if isinstance(record, EvalRow)]
        last = [record for record in every if record.samples >= (2376 if each.arm == "constant" else 2400)]
        assert len(last) == (number if each.arm == "constant" else 1)
        for name in ("val_loss", "val_accuracy", "val_loss_ema", "val_accuracy_ema"):
            assert getattr(each, name) == pytest.approx(fmean(getattr(one, name) for one in last), rel=1e-6)


def test_what_is_kept_of_a_trunk_costs_no_time_again(tmp_path: Path) -> None:
    made, lr = job(tmp_path), 0.05
    put_table(tmp_path)
    made.table = HardwareTable.of(read_hardware(tmp_path / "hardware.csv"))
    trials = [each for each in made.question.endings(lr) if each.arm == "growing"]
    whole = made.cost(lr, trials, range(2))
    alone = sum(map(made.seconds, trials))
    trunk = made.seconds_of(made.question.run("fixed-small", lr))
    assert whole == pytest.approx(2 * (alone + 0.8 * trunk))
    # Half of one seed's trunk is there.
    config = RunConfig(**{**made.question.run("fixed-small", lr).model_dump(), "seed": 1})
    made.trunks.keep(config.hash, 1200, b"state")
    assert made.cost(lr, trials, range(2)) == pytest.approx(whole - 0.5 * trunk)
    # At another rate it is another trunk, and so is a constant rate of its own beside it.
    other = [each for each in made.question.endings(0.1, lr) if each.arm in ("growing", "constant") and not each.order]
    assert [(each.arm, each.trunk_lr(0.1)) for each in other] == [("constant", lr), ("growing", 0.1)]
    alone = sum(map(made.seconds, other))
    assert made.cost(0.1, other, range(2)) == pytest.approx(2 * (alone + 1.6 * trunk) - 0.5 * trunk)


@pytest.mark.parametrize(("lr", "trainings"), [(0.05, 26.4), (None, 33.2)], ids=["given", "looked for"])
def test_two_seeds_are_told_by_all_that_is_trained(tmp_path: Path, lr: float | None, trainings: float) -> None:
    """In trainings' worth of samples. Of a seed: 4 trunks of .8; 4 x 9 branches of .05; 9 endings of .2 and 3 x 3 of
    smaller constant rates; 2 x (1 + .8 + .5) of larger batches; where a rate is looked for 4 x .1 + 3, too.
    """
    made, needed = job(tmp_path), list[float]()

    def seconds(trial: Trial) -> float:
        sizes = made.question.updates(trial.config, trial.share)
        return sum(size * number for size, number in sizes.items()) / made.question.total_samples

    made.seconds = seconds  # type: ignore[method-assign]
    made._require = needed.append  # type: ignore[method-assign]
    made.prepare(lr)
    assert needed == [pytest.approx(trainings, rel=0.01)]


def trial_row(
    stage: str, arm: str, seed: int, share: float, order: int, size: int, rule: str, lr: float, loss: float
) -> TrialRow:
    return TrialRow(stage, arm, seed, share, order, size, rule, lr, 0, 1, loss, 0.5, loss, 0.5)


def test_rates_at_which_a_seed_learns_nothing_are_left_behind_for_smaller_ones() -> None:
    asked, kept = question(), SimpleNamespace(rows=[])
    making = Making("advise", Surroundings("cpu", 1, False, True))

    def make(lr: float, trials: Any, seeds: Any) -> None:
        make_trials(asked, lr, trials, kept.rows, seeds, making, ["cpu"], lambda row, _: kept.rows.append(row), str)

    def best(rates: list[float], **stored: float) -> tuple[float, list[float]]:
        talk = SimpleNamespace(warn=warned.append)
        job = SimpleNamespace(make=make, kept=kept, metric="val_loss", talk=talk, stored=lambda: stored)
        return _best_of(cast(Job, job), RATE, asked.rates, rates)

    warned: list[str] = []
    # All ended finite, at .25 and .5 at a loss above that of a guess.
    guess = math.log(10)
    assert best([0.25, 0.5], nothing_learned=0.95 * guess) == (0.03, [0.03, 0.06, 0.12, 0.25, 0.5])
    assert all(row.val_loss > guess for row in kept.rows if row.lr >= 0.25)
    assert warned.pop() == "the best rate, 0.03, lies at the end of those tried (0.03 to 0.5)"
    # Where no rate is enough the least loss decides, as it does where nothing is known of a guess.
    ended = {rate: fmean(row.val_loss for row in kept.rows if row.lr == rate) for rate in (0.03, 0.06, 0.12)}
    assert best([0.12, 0.25], nothing_learned=0.0)[0] == min(ended, key=lambda rate: ended[rate]) == 0.03
    assert warned.pop() == "at each rate of 0.015 to 0.25 the run of some seed learned nothing; 0.03 ended best"
    assert best([0.015, 0.03, 0.06]) == (0.03, [0.015, 0.03, 0.06])
    assert not warned


@pytest.mark.parametrize(
    ("ends", "found", "tried", "warned"),
    [
        # At least three halvings, whatever ends best.
        ({0.03: 0.1}, 0.03, [0.0037, 0.0075, 0.015, 0.03], ""),
        ({0.0075: 0.1}, 0.0075, [0.0037, 0.0075, 0.015, 0.03], ""),
        ({0.0019: 0.1, 0.0037: 0.2}, 0.0019, [0.00095, 0.0019, 0.0037, 0.0075, 0.015, 0.03], ""),
        # The mean over seeds and orders decides: .25 here, .4 elsewhere.
        ({0.015: (0.1, 0.4)}, 0.015, [0.0037, 0.0075, 0.015, 0.03], ""),
        (
            {0.0037: 0.3, 0.0019: 0.2, 0.00095: 0.1, 0.00047: 0.05},
            0.00047,
            [0.00047, 0.00095, 0.0019, 0.0037, 0.0075, 0.015, 0.03],
            "constant rates of 0.00047 to 0.03: 0.00047 ended best, smaller ones weren't tried",
        ),
        (
            dict.fromkeys((0.03, 0.015, 0.0075, 0.0037, 0.0019, 0.00095, 0.00047)),
            0.03,
            [0.00047, 0.00095, 0.0019, 0.0037, 0.0075, 0.015, 0.03],
            "constant rates of 0.00047 to 0.03: all diverged",
        ),
    ],
    ids=["its own", "smaller", "beyond the first", "in the mean", "at the end", "none"],
)
def test_the_best_constant_rate_is_looked_for_down_to_where_a_smaller_one_is_worse(
    tmp_path: Path, ends: dict[float, Any], found: float, tried: list[float], warned: str
) -> None:
    made, lr, rows, said = job(tmp_path), 0.03, list[TrialRow](), list[str]()

    def make(_: float, trials: Sequence[Trial], seeds: Sequence[int]) -> None:
        done = {key_of(row) for row in rows}
        for trial, seed in product(trials, seeds):
            if trial.key(seed) not in done:
                end = ends.get(trial.config.lr, 0.4)
                end = end[seed] if isinstance(end, tuple) else end
                rows.append(trial_row(*trial.key(seed), end))

    stored: dict[str, Any] = {}
    made.make = make  # type: ignore[method-assign]
    made.stored = lambda: stored  # type: ignore[method-assign]
    made.kept = SimpleNamespace(rows=rows, begin=stored.update)  # type: ignore[assignment]
    made.talk = SimpleNamespace(warn=said.append, note=lambda text: None)  # type: ignore[assignment]
    make(lr, [trial for trial in made.question.endings(lr) if trial.arm == "decay"], (0, 1))
    find_constant(made, lr)
    assert sorted({row.lr for row in rows if row.arm == "constant"}) == tried
    assert {(row.seed, row.order) for row in rows} == {(seed, order) for seed in (0, 1) for order in (0, 1, 2)}
    assert (made.constant_lr(lr), said) == (found, [warned] if warned else [])
    # What it was found for is that rate only; the candidates have it.
    assert made.constant_lr(0.1) == 0.1
    assert {arm: config.lr for arm, config in made.candidates(lr, ()).items() if arm in ("decay", "constant")} == {
        "decay": lr,
        "constant": found,
    }


def test_each_trunk_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def start(work: Work, making: Making) -> Any:
        begun.append((work.which, making.surroundings.device))
        return started(work, replace(making, surroundings=replace(making.surroundings, device="cpu")))

    started = branching._start
    monkeypatch.setattr(branching, "_start", start)
    asked = question(epochs=0.5)
    trials = asked.branches(0.05)[:1]
    making = Making("advise", Surroundings("cuda", 1, False, True))
    ended: list[Any] = []
    make_trials(
        asked, 0.05, trials, (), range(3), making, ("cuda:0", "cuda:1"), lambda row, _: ended.append(row), ended.append
    )
    assert [which for which, _ in begun] == ["seed 0", "seed 1", "seed 2"]
    assert [device for _, device in begun[:2]] == ["cuda:0", "cuda:1"]
    # The third has the device that is free first.
    first = next(each for each in ended if isinstance(each, TrialRow))
    assert begun[2][1] == f"cuda:{first.seed}"


def test_a_batch_that_memory_does_not_hold_is_told_with_the_cap_that_cures_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measured(configs: Any, *rest: Any) -> Any:
        sizes = [config.batch_size for config in configs][:-2]
        return [HardwareRow("cpu", size, size, 1e-3, 1e-6, size / 1e-3, None) for size in sizes], {}

    monkeypatch.setattr("bsexp.commands.trying.measure_sizes", measured)
    with pytest.raises(UsageError, match=r"batch size: 128 doesn't fit into memory here; give --max-batch 32"):
        job(tmp_path).measured((1,))


def test_a_table_of_another_network_is_warned_of(bsexp: Bsexp, tmp_path: Path) -> None:
    put_table(tmp_path / "results" / "advise")
    put_table(tmp_path / "other", {"model": "cnn-small", "dataset": "fashion-mnist"})
    table = str(tmp_path / "other" / "hardware.csv")
    found = bsexp("advise", *QUICK, "--minutes", "0.001", "--hardware", table)
    said = "bsexp: warning: Times rest on a table measured with cnn-small on fashion-mnist, not mlp on digits."
    assert said in found.stderr


def test_trials_of_another_number_of_threads_are_not_gone_on_with(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place)
    words = tuple(word for word in QUICK if word not in ("--threads",))[:-1]
    interrupted(tmp_path, ["advise", *QUICK], lambda line: " at 0.05 of the budget" in line)
    kept = (place / "trials.csv").read_bytes()
    found = bsexp("advise", *words, "--threads", "2")
    assert (found.returncode, "has threads = 1 there, 2 now; choose another --name" in found.stderr) == (5, True)
    assert (place / "trials.csv").read_bytes() == kept


def test_a_rate_that_is_still_to_be_found_has_to_fit_the_minutes_that_are_left(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place)
    words = [word for word in QUICK if word not in ("--lr", "0.05")]
    interrupted(tmp_path, ["advise", *words], lambda line: "from the start" in line)
    about = json.loads((place / "trials.json").read_text())
    assert "rates" not in about
    kept = (place / "trials.csv").read_bytes()
    for change, words_ in (({}, words), ({"rates": [0.05], "seconds": 3.0}, words), ({"seconds": 3.0}, QUICK)):
        (place / "trials.json").write_text(json.dumps({**about, **change}))
        found = bsexp("advise", *words_, "--minutes", "0.0001")
        assert (found.returncode, "--minutes: 0 of 0.0001 are left, where" in found.stderr) == (2, True), found.stderr
        assert (place / "trials.csv").read_bytes() == kept
