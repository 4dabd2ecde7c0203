"""Advice: hand-worked judgements, intervals that hold, trials made once, and files that a person can go on with."""

import json
import math
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import scipy.stats
import tomli_w
import torch
from torch.utils.data import DataLoader, TensorDataset

from bsexp.analysis.advice import (
    Candidate,
    Choice,
    Judgement,
    Spread,
    best_rate,
    choose,
    contenders,
    hopeful,
    judge,
    local_critical,
    rule_for,
)
from bsexp.analysis.hardware import Modelled
from bsexp.analysis.paired import Estimate
from bsexp.commands.advice import _shown, _together, snippet
from bsexp.commands.sweep import check_power
from bsexp.commands.trying import Job
from bsexp.config import RunConfig
from bsexp.console import Talk
from bsexp.errors import UsageError
from bsexp.records import HardwareRow, TrialRow, columns
from bsexp.report.advising import Machine, advice_figure, amount, critical_text, headline, saving
from bsexp.schedules import simulate
from bsexp.store.advised import alone
from bsexp.store.hardware import write_hardware
from bsexp.store.measured import read_trials
from bsexp.store.paths import Experiment
from bsexp.store.trunks import Trunks
from bsexp.sweep import branching
from bsexp.sweep.advising import LOOKS, Growth, Question, make_trials
from bsexp.sweep.branching import Making, Work, begins
from bsexp.sweep.experiment import read_experiment
from bsexp.sweep.measuring import Surroundings
from bsexp.sweep.verifying import num_seeds, verification
from tests.conftest import Bsexp
from tests.test_figures import texts
from tests.test_find import interrupted

ARMS = ["decay", "constant", "growing"]
COLUMN = columns(TrialRow).index("seed")


def row(arm: str, seed: int, loss: float | None, **changes: Any) -> TrialRow:
    values: dict[str, Any] = {
        "stage": "ending",
        "share": 0.8,
        "order": 0,
        "batch_size": 16,
        "lr_rule": "none",
        "lr": 0.1,
    }
    values |= {"samples": 800, "updates": 10, "val_loss": loss, "val_loss_ema": loss}
    accuracy = None if loss is None else 1 - loss
    return TrialRow(**{**values, "val_accuracy": accuracy, "val_accuracy_ema": accuracy, **changes}, arm=arm, seed=seed)


def endings(growing: tuple[float | None, ...] = (0.002, 0.002), effect: float = 0.1) -> list[TrialRow]:
    """Two seeds whose decay ends at .51 and .61 on average, .01 apart from order to order; the constant rate above."""
    rows = []
    for seed, mean in ((0, 0.51), (1, 0.61)):
        for order, shift in ((0, -0.01), (1, 0.0), (2, 0.01)):
            rows.append(row("decay", seed, mean + shift, order=order))
            rows.append(row("constant", seed, mean + effect + shift, order=order))
    means = (0.51, 0.61)[: len(growing)]
    rows += [
        row("growing", seed, None if more is None else mean + more)
        for seed, (mean, more) in enumerate(zip(means, growing, strict=True))
    ]
    return rows


# -- candidates


def test_a_candidate_is_judged_by_a_spread_that_orders_steady() -> None:
    judged = judge(endings(), ARMS, "val_loss", 0.25, LOOKS)
    assert judged is not None
    # By orders a training varies by .01^2 and the mean of three by a third of it; over the two seeds nothing varies.
    spread = math.sqrt(2 * (0.01**2 * 4 / 3) / 3)
    growing = judged.candidates[2]
    assert growing.worse is not None
    half = 2.3533634348018233 * spread / math.sqrt(2)
    assert (growing.worse.mean, growing.worse.high) == (pytest.approx(0.002), pytest.approx(0.002 + half))
    reach = 2.3533634348018233 * math.sqrt(2 * (0.01**2 * 2 / 3) / 3) / math.sqrt(2)
    assert (judged.effect.mean, judged.effect.low) == (pytest.approx(0.1), pytest.approx(0.1 - reach))
    assert judged.margin == pytest.approx(0.025)
    assert judged.sd == pytest.approx(math.sqrt(2 * (2 * 0.01**2) / 3))
    assert [(each.arm, each.word) for each in judged.candidates] == [
        ("decay", "reference"),
        ("constant", "beyond"),
        ("growing", "unclear"),
    ]


@pytest.mark.parametrize(
    ("growing", "word"),
    [
        ((0.02, 0.02), "unclear"),
        ((0.06, 0.06), "beyond"),
        ((-0.05, -0.05), "within"),
        ((0.0, None), "diverged"),
        ((0.0,), "unjudged"),
    ],
)
def test_words_follow_from_interval_and_margin(growing: tuple[float | None, ...], word: str) -> None:
    judged = judge(endings(growing), ARMS, "val_loss", 0.25, LOOKS)
    assert judged is not None
    assert judged.candidates[2].word == word


def test_accuracy_lost_is_what_loss_gained_is() -> None:
    by_loss, by_accuracy = (judge(endings(), ARMS, metric, 0.25, LOOKS) for metric in ("val_loss", "val_accuracy"))
    assert by_loss is not None
    assert by_accuracy is not None
    assert by_accuracy.effect.mean == pytest.approx(by_loss.effect.mean)
    first, second = by_accuracy.candidates[2].worse, by_loss.candidates[2].worse
    assert first is not None
    assert second is not None
    assert (first.mean, first.high) == (pytest.approx(second.mean), pytest.approx(second.high))


def test_without_an_effect_there_is_no_margin_and_without_a_decay_no_judgement() -> None:
    judged = judge(endings(effect=0.005), ARMS, "val_loss", 0.25, LOOKS)
    assert judged is not None
    assert judged.margin is None
    assert {each.word for each in judged.candidates[1:]} == {"unclear"}
    rows = endings()
    rows[0] = row("decay", 0, None)
    assert judge(rows, ARMS, "val_loss", 0.25, LOOKS) is None


def test_the_spread_over_seeds_counts_for_its_degrees_of_freedom() -> None:
    judged = judge(endings((0.002 - 0.03, 0.002 + 0.03)), ARMS, "val_loss", 0.25, LOOKS)
    assert judged is not None
    worse = judged.candidates[2].worse
    assert worse is not None
    # (2 * .000133 + 1 * .0018) / 3.
    half = 2.3533634348018233 * math.sqrt((2 * 0.01**2 * 4 / 3 + 0.03**2 * 2) / 3 / 2)
    assert worse.high == pytest.approx(0.002 + half)


@pytest.mark.parametrize(("seeds", "over_seeds"), [(2, 0.0), (2, 0.5), (5, 0.0), (5, 1.0)])
def test_intervals_hold_as_often_as_they_say(seeds: int, over_seeds: float) -> None:
    """Noise of 1 from order to order, and differences between arms that themselves vary over seeds."""
    draw = np.random.default_rng(7)
    arms = ["decay", "constant", *(f"candidate {k}" for k in range(6))]
    held = []
    for _ in range(400):
        rows = []
        for seed in range(seeds):
            level = draw.normal(0, 3)
            for arm in arms:
                own = draw.normal(0, over_seeds) if arm not in ("decay", "constant") else 0.0
                for order in (0, 1, 2) if arm in ("decay", "constant") else (0,):
                    loss = level + own + draw.normal() + (20 if arm == "constant" else 0)
                    rows.append(row(arm, seed, loss, order=order))
        judged = judge(rows, arms, "val_loss", 0.25, LOOKS)
        assert judged is not None
        held += [each.worse.low <= 0 <= each.worse.high for each in judged.candidates[2:]]  # type: ignore[union-attr, operator]
    # 2,400 intervals in 400 experiments: three standard errors of a share of .9 in 400 are .045.
    assert 0.855 < np.mean(held) < 0.96


def test_the_tolerance_is_a_share_of_the_effect_of_the_same_seeds() -> None:
    # A training of the candidate, .75 of a mean of three of decay and .25 of one of the constant rate.
    spread = math.sqrt(2 * 0.01**2 * (1 + 0.75**2 / 3 + 0.25**2 / 3) / 3)
    # Of 5 % over looks at 2, 4, 8 and 12 seeds 1.2592 % are for the first: ln(1 + (e - 1) / 6) of it.
    level = 0.05 * math.log(1 + (math.e - 1) / 6)
    edge = 0.025 - float(scipy.stats.t.isf(level, 3)) * spread / math.sqrt(2)
    for more, word in ((edge - 1e-5, "within"), (edge + 1e-5, "unclear")):
        judged = judge(endings((more, more)), ARMS, "val_loss", 0.25, LOOKS)
        assert judged is not None
        assert judged.candidates[2].word == word


def experiment(draw: np.random.Generator, num: int, worse: float, over_seeds: float) -> list[TrialRow]:
    """Seeds of decay, a constant rate that ends 20 above it and a candidate; noise of 1 from order to order."""
    rows = []
    for seed in range(num):
        level, own = draw.normal(0, 3), draw.normal(0, over_seeds)
        for arm, above, orders in (("decay", 0.0, 3), ("constant", 20.0, 3), ("growing", worse + own, 1)):
            rows += [row(arm, seed, level + above + draw.normal(), order=order) for order in range(orders)]
    return rows


def word_in_the_end(rows: list[TrialRow]) -> str:
    """With seeds added as long as more are asked for."""
    for look in LOOKS:
        judged = judge([row for row in rows if row.seed < look], ARMS, "val_loss", 0.25, LOOKS)
        assert judged is not None
        if not contenders(judged, [{"decay": EVEN, "constant": EVEN, "growing": ratio(0.5)}]):
            break
    return judged.candidates[2].word


@pytest.mark.parametrize("over_seeds", [0.0, 1.0])
def test_looking_again_and_again_finds_no_more_than_was_allowed(over_seeds: float) -> None:
    """What loses exactly what is tolerated is called within in 5 % of the advice, however many seeds are asked for."""
    draw = np.random.default_rng(3)
    words = [word_in_the_end(experiment(draw, LOOKS[-1], 5.0, over_seeds)) for _ in range(400)]
    # Three standard errors of .05 in 400 are .033.
    assert words.count("within") / 400 < 0.083
    assert words.count("within") + words.count("beyond") < 80
    alike = [word_in_the_end(experiment(draw, LOOKS[-1], 0.0, over_seeds)) for _ in range(100)]
    assert alike.count("within") > 90


def test_the_first_look_that_tells_decides_unless_later_seeds_are_on_the_other_side() -> None:
    rows = endings((-0.05, -0.05))
    later = []
    for seed, mean in ((2, 0.51), (3, 0.61)):
        for order, shift in ((0, -0.01), (1, 0.0), (2, 0.01)):
            later += [row("decay", seed, mean + shift, order=order), row("constant", seed, mean + 0.1, order=order)]
    words = {}
    for more in (0.05, 0.08, 0.2):
        every = [*rows, *later, row("growing", 2, 0.51 + more), row("growing", 3, 0.61 + more)]
        judged = judge(every, ARMS, "val_loss", 0.25, LOOKS)
        assert judged is not None
        words[more] = judged.candidates[2].word
    # The means of four seeds: 0, .015 and .075, where .025 is tolerated.
    assert words == {0.05: "within", 0.08: "within", 0.2: "unclear"}


def test_a_margin_is_lost_where_later_seeds_show_no_effect() -> None:
    rows = endings((-0.05, -0.05))
    for seed, mean in ((2, 0.51), (3, 0.61)):
        rows += [row("decay", seed, mean, order=order) for order in (0, 1, 2)]
        rows += [row("constant", seed, mean - 0.3, order=order) for order in (0, 1, 2)]
    judged = judge(rows, ARMS, "val_loss", 0.25, LOOKS)
    assert judged is not None
    # .1 on the first two seeds, -.3 on the next ones.
    assert judged.effect.mean == pytest.approx(-0.1)
    assert judged.margin is None
    assert {each.word for each in judged.candidates[1:]} == {"unclear"}


def test_what_seemed_hardly_stable_is_tested_once_decaying_turns_out_to_bring_more() -> None:
    rows = endings((0.01, 0.21))
    first = judge(rows, ARMS, "val_loss", 0.25, LOOKS)
    assert first is not None
    # Decaying brings .1 on the first two seeds, .15 on four.
    assert first.candidates[2] == Candidate("growing", Estimate(pytest.approx(0.11), None, None, 2), "beyond")
    for seed, mean in ((2, 0.51), (3, 0.61)):
        for order, shift in ((0, -0.01), (1, 0.0), (2, 0.01)):
            rows += [row("decay", seed, mean + shift, order=order), row("constant", seed, mean + 0.2, order=order)]
    judged = judge(rows, ARMS, "val_loss", 0.25, LOOKS)
    assert judged is not None
    assert judged.candidates[2].worse is not None
    # .1 above and below its mean on two seeds.
    assert judged.candidates[2].worse.low is not None
    assert judged.candidates[2].word == "unclear"


# -- what to do


def judged_as(words: dict[str, str], margin: float | None = 0.025) -> Judgement:
    worse = Estimate(0.0, -0.01, 0.01, 2)
    candidates = tuple(Candidate(arm, worse, word) for arm, word in {"decay": "reference", **words}.items())
    return Judgement("val_loss", Estimate(0.1, 0.05, 0.15, 2), margin, 0.01, candidates)


def ratio(value: float, reach: float = 0.02) -> Modelled:
    return Modelled(value, value - reach, value + reach)


EVEN = Modelled(1.0, 1.0, 1.0)


def test_the_fastest_that_keeps_the_quality_is_recommended() -> None:
    ratios = {"decay": EVEN, "a": ratio(0.8), "b": ratio(0.7), "c": ratio(0.5), "d": ratio(0.6)}
    judged = judged_as({"a": "within", "b": "within", "c": "beyond", "d": "unclear"})
    assert choose(judged, ratios) == Choice("b", "the least time of all that are within the tolerance", ("d",))


def test_what_saves_nothing_for_sure_is_no_reason_to_leave_decay() -> None:
    ratios = {"decay": EVEN, "a": ratio(0.99), "b": ratio(0.995, 0.001)}
    found = choose(judged_as({"a": "within", "b": "within"}), ratios)
    assert (found.arm, found.why) == ("decay", "nothing that is within the tolerance takes less time")


def test_nothing_is_recommended_where_noise_could_hide_a_saving() -> None:
    ratios = {"decay": EVEN, "a": ratio(0.6), "b": ratio(0.5)}
    found = choose(judged_as({"a": "unclear", "b": "unclear"}), ratios)
    assert (found.arm, found.unclear) == (None, ("b", "a"))
    assert choose(judged_as({"a": "within"}, margin=None), ratios).arm is None
    assert choose(None, ratios) == Choice(None, "the trunk diverged: use a smaller --lr", ())


# -- the critical batch and the rate


def branch(seed: int, size: int, rule: str, loss: float | None, order: int = 0, share: float = 0.05) -> TrialRow:
    return row("constant", seed, loss, stage="branch", batch_size=size, lr_rule=rule, order=order, share=share)


def branches(at_64: float, at_256: float | None, share: float = 0.05) -> list[TrialRow]:
    """Own batches .1 apart from order to order; larger ones that much above them with the root of the rate."""
    rows = []
    for seed in (0, 1):
        rows += [branch(seed, 16, "none", 5.0 * seed + shift, k, share) for k, shift in enumerate((-0.1, 0.0, 0.1))]
        for size, above in ((64, at_64), (256, at_256)):
            for rule, more in (("none", 0.3), ("sqrt", 0.0), ("linear", 0.05)):
                rows.append(branch(seed, size, rule, None if above is None else 5.0 * seed + above + more, 0, share))
    return rows


def test_the_local_critical_batch_is_worked_out_by_hand() -> None:
    (point,) = local_critical(branches(0.02, 1.0))
    assert point.spread == Spread(pytest.approx(0.1), 4)  # type: ignore[arg-type]
    first, second = point.sizes
    assert first.difference is not None
    half = 2.1318467863266504 * 0.1 * math.sqrt((1 + 1 / 3) / 2)
    assert (first.difference.mean, first.difference.high) == (pytest.approx(0.02), pytest.approx(0.02 + half))
    assert (first.lr_rule, first.usable) == ("sqrt", ("sqrt", "linear"))
    # .02 + .174 is beyond .1: that 64 is within isn't sure; that 256 isn't, is.
    assert (point.critical, point.low, point.high) == (64, 16, 256)
    assert second.usable == ()
    (all_diverged,) = local_critical(branches(-0.2, None))
    assert (all_diverged.critical, all_diverged.low, all_diverged.high) == (64, 64, 256)
    assert local_critical([*branches(0.0, 0.0)[1:], branch(0, 16, "none", None)]) == []


def test_the_rule_that_was_best_most_often_goes_on() -> None:
    """At .05 the root of the rate suits 64 best; later its own rate does, as a third of the losses are raised."""
    rows = branches(0.0, None, 0.05)
    for share in (0.2, 0.5):
        swapped = {"none": "sqrt", "sqrt": "none", "linear": "linear"}
        rows += [
            replace(each, lr_rule=swapped[each.lr_rule]) if each.batch_size > 16 else each
            for each in branches(0.0, 0.0, share)
        ]
    points = local_critical(rows)
    assert rule_for(points, 0.0, 64) == "none"
    assert rule_for(points, 0.5, 256) == "none"
    assert rule_for(points[:1], 0.0, 64) == "sqrt"
    assert rule_for(points[:2], 0.0, 64) == "sqrt"
    # All rules diverged where it would begin; nothing is known of 128.
    assert rule_for(points, 0.0, 256) is None
    assert rule_for(points, 0.0, 128) is None


def test_the_best_rate_has_the_least_mean_and_diverged_on_no_seed() -> None:
    rates = {0.1: (0.5, 0.7), 0.2: (0.4, 0.6), 0.4: (0.1, None)}
    rows = [row("decay", s, loss, lr=lr, stage="rate") for lr, losses in rates.items() for s, loss in enumerate(losses)]
    assert best_rate(rows, "val_loss") == 0.2
    assert best_rate(rows[-2:], "val_loss") is None
    assert best_rate([], "val_loss") is None


# -- trials


def question(**options: Any) -> Question:
    return Question({"dataset": "digits", "train_size": 600, "batch_size": 8, "epochs": 4.0, **options})


def test_every_candidate_begins_as_the_trunk_does_and_ends_with_its_budget() -> None:
    asked = question(warmup_epochs=0.2)
    growths = [Growth(0.0, 4, "sqrt"), Growth(0.2, 4, "linear"), Growth(0.5, 16, "none")]
    configs = asked.candidates(0.05, growths)
    plans = {
        arm: list(simulate(config.build_schedule(), total_samples=2400, num_train=600))
        for arm, config in configs.items()
    }
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
    growths = [Growth(0.0, 4, "sqrt"), Growth(0.2, 4, "linear"), Growth(0.5, 16, "none")]
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
    configs = question().candidates(0.05, [Growth(0.2, 4, "linear"), Growth(0.5, 16, "none")])
    configs = {arm: configs[arm] for arm in ("decay", "constant", "grow-32-at-20-linear", "grow-128-at-50-none")}
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
    assert trunks.latest("a" * 32, 99) == b"state 40"
    assert trunks.latest("a" * 32, 100) == b"state 100"
    damaged = next((tmp_path / "trunks").glob("a*-100.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"1")
    assert trunks.latest("a" * 32, 100) == b"state 40"
    assert trunks.latest("a" * 32, 7) is None


def test_what_parted_early_is_as_uncertain_as_all_that_parted_there() -> None:
    rows = endings()
    for arm, difference in (("one", 0.08), ("two", -0.08), ("three", 0.0)):
        # From .2 of the budget on: seeds differ by .08 and -.08, where orders of decay differ by .01.
        rows += [row(arm, 0, 0.51 + difference, share=0.2), row(arm, 1, 0.61 - difference, share=0.2)]
    judged = judge(rows, [*ARMS, "one", "two", "three"], "val_loss", 0.25, LOOKS)
    assert judged is not None
    known = {each.arm: each.worse for each in judged.candidates}
    # Variances over two seeds .0128, .0128 and 0: pooled .0256 / 3. With two degrees of freedom of that, and one of
    # its own with 0, the spread of "three" is sqrt((2 (.0256 / 3 + .0001 / 3) + 0) / 3); t(3) at 95 % is 2.353.
    spread = math.sqrt((2 * (0.0256 / 3 + 0.0001 / 3)) / 3)
    assert known["three"] is not None
    assert known["three"].high == pytest.approx(2.3533634 * spread / math.sqrt(2), rel=1e-6)
    assert known["growing"] is not None
    assert known["growing"].high < 0.1 * known["three"].high + 0.02


def test_what_ends_worse_than_the_constant_rate_has_no_interval_and_tells_nothing_of_what_ends_well() -> None:
    rows = endings()
    good = ["a", "b"]
    for arm in good:
        rows += [row(arm, 0, 0.51 + 0.01, share=0.2), row(arm, 1, 0.61 - 0.01, share=0.2)]
    rows += [row("wild", 0, 0.51 + 0.3, share=0.2), row("wild", 1, 0.61 + 0.7, share=0.2)]
    judged = judge(rows, [*ARMS, *good, "wild"], "val_loss", 0.25, LOOKS)
    assert judged is not None
    known = {each.arm: each for each in judged.candidates}
    # Two variances of .0002; that of "wild", which ends .5 worse where decaying brings .1, is .08.
    spread = math.sqrt((2 * (0.0002 + 0.0001 / 3) + 0.0002) / 3)
    found = known["a"].worse
    assert found is not None
    assert found.high is not None
    assert found.high - found.mean == pytest.approx(2.3533634 * spread / math.sqrt(2), rel=1e-6)
    assert known["wild"] == Candidate("wild", Estimate(pytest.approx(0.5), None, None, 2), "beyond")


def test_a_single_candidate_that_ends_well_is_not_its_own_pool() -> None:
    rows = endings()
    rows += [row("a", 0, 0.51 + 0.01, share=0.2), row("a", 1, 0.61 - 0.01, share=0.2)]
    rows += [row("wild", 0, 0.51 + 0.3, share=0.2), row("wild", 1, 0.61 + 0.7, share=0.2)]
    judged = judge(rows, [*ARMS, "a", "wild"], "val_loss", 0.25, LOOKS)
    assert judged is not None
    found = {each.arm: each.worse for each in judged.candidates}["a"]
    assert found is not None
    assert found.high is not None
    # Its variance over two seeds is .0002; that of both is (.0002 + .08) / 2.
    spread = math.sqrt((2 * (0.0401 + 0.0001 / 3) + 0.0002) / 3)
    assert found.high - found.mean == pytest.approx(2.3533634 * spread / math.sqrt(2), rel=1e-6)


def test_other_rates_are_tried_where_the_first_gave_hope() -> None:
    rows = endings((0.05, 0.05))
    for arm, more in (("wild", 0.5), ("lost", None)):
        rows += [row(arm, seed, None if more is None else mean + more) for seed, mean in enumerate((0.51, 0.61))]
    judged = judge(rows, [*ARMS, "wild", "lost"], "val_loss", 0.25, LOOKS)
    assert judged is not None
    known = {each.arm: each for each in judged.candidates}
    # Decaying brings .1. What diverged may do at a smaller rate.
    assert [hopeful(known[arm], judged, smaller=True) for arm in ("growing", "wild", "lost")] == [True, False, True]
    assert [hopeful(known[arm], judged, smaller=False) for arm in ("growing", "wild", "lost")] == [True, False, False]


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
    assert third.stderr == ""
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
    found = bsexp("advise", *QUICK, "--minutes", "60", "--tolerance", "0.9", "--json")
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    rows = read_trials(place / "trials.csv")
    rules = {row.lr_rule for row in rows if row.arm.startswith("grow-32-at-20")}
    assert rules == {"none", "sqrt", "linear"}
    seeds = {row.seed for row in rows if row.stage == "ending"}
    if seeds != {0, 1}:
        later = {row.arm for row in rows if row.seed == max(seeds)}
        # Only what the advice hangs on, with what it is compared with.
        assert {"decay", "constant"} < later < {row.arm for row in rows if row.seed == 0 and row.stage == "ending"}
    assert not (place / "trunks").exists()
    assert json.loads((place / "trials.json").read_text())["seconds"] > 0
    again = bsexp("advise", *QUICK, "--minutes", "60", "--tolerance", "0.9", "--json")
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
    resumed = bsexp("advise", *QUICK, "--minutes", "60", "--tolerance", "0.9", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert (place / "trials.csv").read_bytes() == whole
    assert json.loads(resumed.stdout) | {"seconds": 0} == document | {"seconds": 0}


@pytest.mark.parametrize(
    ("words", "means", "wanted"),
    [
        ({"a": "unclear", "b": "within"}, {"a": 0.0}, {"a", "b"}),
        ({"a": "unclear"}, {"a": 0.0}, {"a", "decay"}),
        # Slower than what is within already; more lost than is tolerated; told from noise.
        ({"a": "within", "b": "unclear"}, {"b": 0.0}, set()),
        ({"a": "unclear"}, {"a": 0.03}, set()),
        ({"a": "beyond", "b": "within"}, {}, set()),
    ],
)
def test_more_seeds_go_to_what_could_be_faster(
    words: dict[str, str], means: dict[str, float], wanted: set[str]
) -> None:
    judged = judged_as(words)
    candidates = tuple(
        replace(each, worse=Estimate(means.get(each.arm, 0.0), -0.1, 0.1, 2)) for each in judged.candidates
    )
    times = [{"decay": EVEN, "a": ratio(0.5), "b": ratio(0.7)}]
    assert contenders(replace(judged, candidates=candidates), times) == wanted
    # Faster, but not for sure, or by less than a schedule of one's own is worth.
    times = [{"decay": EVEN, "a": ratio(0.98, 0.03), "b": ratio(0.995, 0.001)}]
    assert contenders(replace(judged, candidates=candidates), times) == set()


def test_without_a_margin_more_seeds_go_to_what_ends_no_worse_than_the_constant_rate() -> None:
    judged = judged_as({"a": "unclear", "b": "unclear"}, margin=None)
    means = {"a": 0.12, "b": 0.05}
    candidates = tuple(
        replace(each, worse=Estimate(means.get(each.arm, 0.0), -0.1, 0.2, 2)) for each in judged.candidates
    )
    # Decaying brings .1, for all that is known.
    times = [{"decay": EVEN, "a": ratio(0.5), "b": ratio(0.7)}]
    assert contenders(replace(judged, candidates=candidates), times) == {"b", "decay"}


def test_too_few_minutes_are_refused_before_anything_is_trained(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place)
    found = bsexp("advise", *QUICK, "--minutes", "0.001")
    assert found.returncode == 2
    assert "--minutes: 0.001, where trials take about" in found.stderr
    assert not (place / "trials.csv").exists()


def test_a_table_of_another_network_is_not_taken_for_this_ones(bsexp: Bsexp, tmp_path: Path) -> None:
    place = tmp_path / "results" / "advise"
    put_table(place, {"model": "cnn-small"})
    found = bsexp("advise", *QUICK, "--minutes", "0.001")
    assert found.returncode == 2
    assert "an update's time" in found.stderr
    assert json.loads((place / "hardware.json").read_text())["model"] == "mlp"
    again = bsexp("advise", *QUICK, "--minutes", "0.001")
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
