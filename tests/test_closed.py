"""Closed loops as pure functions: decisions worked out by hand, problems whose right batch is known, what can fail."""

import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from bsexp import RunConfig
from bsexp.errors import UsageError
from bsexp.planning import frequent_parts, plan_run
from bsexp.schedules import Hyper, Progress, Setting, make_schedule, simulate
from bsexp.schedules.closed import ClosedLoop, Observation, Score, State, decision_due, limited
from bsexp.schedules.patience import Patience, Plateau
from bsexp.schedules.policies import BATCH_POLICIES, LR_POLICIES
from bsexp.signals.noise import Noise, unbiased_noise
from bsexp.signals.smoothing import Average, half_life
from bsexp.sweep.prefix import find_forks
from tests.test_prefix import arm, planned

NUM_TRAIN, TOTAL = 10_000, 100_000
NAN = Noise(math.nan, math.nan)


def loop(policy: str, schedule: str = "adaptive-batch", momentum: float = 0.0, **values: Any) -> ClosedLoop:
    known = {
        name: values.pop(name) for name in ("batch_size", "lr_scaling", "optimizer", "noisy_labels") if name in values
    }
    setting = Setting(**{"batch_size": 16, "lr": 0.1, "momentum": momentum, "max_batch": 1000, **known})
    made = make_schedule(schedule, setting, {"policy": policy, **values})
    assert isinstance(made, ClosedLoop)
    return made


def seen(**given: Any) -> Observation:
    values: dict[str, Any] = {"lr": 0.1, "momentum": 0.0, "loss": 1.0, "first_loss": 2.0, "noise": NAN}
    return Observation(**{"progress": Progress(9, 5000, TOTAL, NUM_TRAIN), **values, **given})


def losses(*values: float) -> Observation:
    return seen(scores=tuple(Score(value, -value) for value in values))


def after(closed: ClosedLoop, batch: int, observation: Observation) -> tuple[int, str]:
    state = closed.update(State(batch), observation)
    return state.batch_size, state.reason


# -- by hand


@pytest.mark.parametrize(
    ("policy", "values", "batch", "given", "expected"),
    [
        # b = 128 / 2 = 64
        ("gns", {}, 40, {"noise": Noise(2.0, 128.0)}, (64, "by noise")),
        ("gns", {}, 30, {"noise": Noise(2.0, 128.0)}, (60, "by noise; at most doubled")),
        ("gns", {}, 200, {"noise": Noise(2.0, 128.0)}, (100, "by noise; at most halved")),
        ("gns", {}, 20, {"noise": Noise(16.0, 128.0)}, (16, "by noise; min_batch")),
        ("gns", {"min_batch": 4}, 10, {"noise": Noise(16.0, 128.0)}, (8, "by noise")),
        ("gns", {}, 900, {"noise": Noise(2.0, 4000.0)}, (1000, "by noise; max_batch")),
        ("noise", {"c": 0.5}, 40, {"noise": Noise(2.0, 128.0)}, (32, "by noise")),
        # 10 / .5^2 = 40, and 10 / .25 again where the batch is larger
        ("norm-test", {}, 32, {"noise": Noise(1.0, 10.0)}, (40, "by noise")),
        ("norm-test", {}, 64, {"noise": Noise(1.0, 10.0)}, (64, "held: it only grows")),
        ("norm-test", {"theta": 1.0}, 64, {"noise": Noise(1.0, 100.0)}, (100, "by noise")),
        # 2 (1 + 19)
        ("diversity", {"delta": 2.0}, 32, {"noise": Noise(1.0, 19.0)}, (40, "by noise")),
        # 2 * 10 * .8 / .2 = 80
        ("cosine", {"target": 0.8}, 50, {"noise": Noise(1.0, 10.0)}, (80, "by noise")),
        # .05 * 3200 / (2.1 - .1) = 80, whatever |G|^2
        ("cabs", {"floor": 0.1}, 64, {"noise": Noise(-1.0, 3200.0), "loss": 2.1, "lr": 0.05}, (80, "by lr and noise")),
        # 16 * (2.3 - .3) / (.8 - .3) = 64; and back
        ("loss", {"floor": 0.3}, 40, {"loss": 0.8, "first_loss": 2.3}, (64, "by loss")),
        ("loss", {}, 60, {"loss": 1.0, "first_loss": 2.5}, (40, "by loss")),
    ],
)
def test_decisions_by_hand(
    policy: str, values: dict[str, Any], batch: int, given: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert after(loop(policy, **values), batch, seen(**given)) == expected


def test_what_was_wanted_is_told_before_limits() -> None:
    state = loop("gns").update(State(16), seen(noise=Noise(1e-9, 100.0)))
    assert (state.batch_size, state.wanted) == (32, pytest.approx(1e11))
    held = loop("norm-test").update(State(64), seen(noise=Noise(1.0, 10.0)))
    assert (held.batch_size, held.wanted) == (64, 40.0)


def test_cabs_with_momentum_is_refused_or_told_to_take_the_effective_rate() -> None:
    with pytest.raises(UsageError, match=r"cabs: with momentum 0.9; .*effective_lr"):
        loop("cabs", momentum=0.9)
    told = loop("cabs", momentum=0.9, effective_lr=True)
    observation = seen(noise=Noise(1.0, 100.0), loss=1.0, lr=0.05, momentum=0.9)
    assert after(told, 40, observation) == (50, "by lr and noise")  # .05 / .1 * 100


@pytest.mark.parametrize("policy", ["gns", "norm-test", "diversity", "cosine", "noise"])
@pytest.mark.parametrize(
    ("noise", "why"),
    [
        (NAN, "held: not measured yet"),
        (Noise(0.0, 5.0), "held: |G|^2 is not above 0"),
        (Noise(-1.0, 5.0), "held: |G|^2 is not above 0"),
        (Noise(math.inf, 5.0), "held: |G|^2 is not above 0"),
    ],
)
def test_noise_that_says_nothing_holds(policy: str, noise: Noise, why: str) -> None:
    assert after(loop(policy), 48, seen(noise=noise)) == (48, why)


@pytest.mark.parametrize(
    ("policy", "given"),
    [
        ("cabs", {"noise": Noise(1.0, 5.0), "loss": 0.5}),
        ("cabs", {"noise": Noise(1.0, 5.0), "loss": math.nan}),
        ("cabs", {"noise": Noise(1.0, 5.0), "loss": math.inf}),
        ("cabs", {"noise": NAN}),
        ("loss", {"loss": 0.5}),
        ("loss", {"loss": math.nan}),
        ("loss", {"loss": 1.0, "first_loss": 0.4}),
        ("loss", {"loss": 1.0, "first_loss": math.inf}),
    ],
)
def test_a_loss_at_its_floor_or_none_holds(policy: str, given: dict[str, Any]) -> None:
    batch, why = after(loop(policy, floor=0.5), 48, seen(**given))
    assert batch == 48
    assert why.startswith("held: ")


def test_a_plateau_of_validation_grows_the_batch_from_the_closed_form() -> None:
    closed = loop("plateau", patience=2, factor=1.5, batch_size=15)
    state = closed.init()
    sizes = []
    for value in (2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        state = closed.update(state, losses(value))
        sizes.append(state.batch_size)
    # The third evaluation in a row that is no better is one too many: 15 * 1.5 = 22.5 -> 22, then 15 * 2.25 = 33.75.
    assert sizes == [15, 15, 15, 15, 22, 22, 22, 34, 34]
    assert state.reason == "held: 1 evaluations without getting better"


def test_evaluations_between_two_decisions_all_count_and_none_is_fine() -> None:
    closed = loop("plateau", patience=2)
    state = closed.update(closed.init(), losses(1.0, 1.0, 1.0))
    assert state.batch_size == 16
    assert closed.update(state, seen()).batch_size == 16
    assert closed.update(state, losses(1.0)).batch_size == 32
    assert closed.update(state, losses(0.9, 0.9, 0.9)).batch_size == 16


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("cooldown", [0, 2])
def test_plateaus_are_those_of_torch(mode: str, threshold_mode: str, cooldown: int) -> None:
    """The learning rate of adaptive-lr after each evaluation, against torch's own ReduceLROnPlateau."""
    values: dict[str, Any] = {"mode": mode, "threshold_mode": threshold_mode, "cooldown": cooldown, "patience": 2}
    closed = loop("plateau", "adaptive-lr", threshold=0.02, factor=0.5, **values)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, threshold=0.02, factor=0.5, eps=0.0, **values)
    state, draw = closed.init(), random.Random(5)
    rates = []
    for k in range(80):
        score = max(0.4, 1 / (1 + 0.1 * k)) + draw.choice([0.0, 0.0, 0.3 * draw.random()])
        oracle.step(score)
        state = closed.update(state, seen(scores=(Score(score, score),)))
        hyper = closed.hyper(state, Progress(0, 1000, TOTAL, NUM_TRAIN))
        assert hyper.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        assert hyper.batch_size == 16
        rates.append(hyper.lr)
    assert len(set(rates)) > 3


def test_an_evaluation_that_is_nan_is_not_better() -> None:
    plateau = Plateau(patience=1)
    assert math.isnan(plateau.seen(Patience(), math.nan).best)
    assert plateau.seen(Patience(best=1.0, bad=1), math.nan).fired == 1


def test_the_gain_scales_the_rate_by_hand() -> None:
    setting = Setting(batch_size=64, lr=0.1, momentum=0.0, reference_batch=16)
    made = make_schedule("adaptive-lr", setting, {"policy": "gain"})
    assert isinstance(made, ClosedLoop)
    # var = 80 / 16 = 5, S = 4: (5 + 3) / (1.25 + 3)
    state = made.update(made.init(), seen(noise=Noise(3.0, 80.0)))
    assert made.hyper(state, Progress(0, 1000, TOTAL, NUM_TRAIN)) == Hyper(64, pytest.approx(0.1 * 8 / 4.25), 0.0)
    for noise in (NAN, Noise(-1.0, 80.0)):
        kept = made.update(state, seen(noise=noise))
        assert kept.lr_factor == state.lr_factor
        assert kept.reason.startswith("held: ")
    with pytest.raises(UsageError, match="lr_scaling: linear with policy gain"):
        make_schedule("adaptive-lr", replace(setting, lr_scaling="linear"), {"policy": "gain"})


@pytest.mark.parametrize(
    ("policy", "factor"),
    [
        ("gns", 2),
        ("noise", 2),
        ("cosine", 2),
        ("norm-test", 1),
        ("diversity", 4),
        ("cabs", 1),
        ("loss", 1),
        ("plateau", 1),
    ],
)
def test_each_policy_has_its_rule_for_the_rate(policy: str, factor: float) -> None:
    # 64 is 4 times the reference: sqrt 2, linear 4.
    hyper = loop(policy).hyper(State(64), Progress(0, 1000, TOTAL, NUM_TRAIN))
    assert hyper == Hyper(64, pytest.approx(0.1 * factor), 0.0)
    config = RunConfig(schedule="adaptive-batch", parameters={"policy": policy}, momentum=0.0)
    assert config.lr_scaling == {1: "none", 2: "sqrt", 4: "linear"}[factor]
    told = loop(policy, lr_scaling="none").hyper(State(64), Progress(0, 1000, TOTAL, NUM_TRAIN))
    assert told.lr == pytest.approx(0.1)


# -- problems whose right batch is known


def settle(closed: ClosedLoop, truth: Any, decisions: int = 60, seed: int = 0) -> list[State]:
    """Run a loop on made-up gradients: `truth(k)` is (|G|^2, tr(Sigma), loss) at decision k, measured in the loop's own
    batches of 4 parts with 50 weights, and smoothed as in a run."""
    generator = torch.Generator().manual_seed(seed)
    state, states = closed.init(), []
    averages = [Average(), Average()]
    for k in range(1, decisions + 1):
        sq, trace, loss = truth(k)
        samples = k * TOTAL // 100
        for part in range(4):
            at = samples - (3 - part) * TOTAL // 400
            size = state.batch_size // 4 * 4
            noise = torch.randn(4, 50, generator=generator, dtype=torch.float64) * math.sqrt(trace / 50 / (size / 4))
            parts = math.sqrt(sq / 50) + noise
            whole = parts.mean(0)
            found = unbiased_noise(float(parts.square().sum(1).mean()), float(whole @ whole), 4, size)
            averages = [
                average.follow(value, TOTAL // 400, half_life(at, TOTAL))
                for average, value in zip(averages, found, strict=True)
            ]
        observation = seen(
            progress=Progress(k, samples, TOTAL, NUM_TRAIN),
            noise=Noise(*(average.value for average in averages)),
            loss=loss,
            first_loss=2.4,
            scores=(Score(loss, -loss),),
        )
        state = closed.update(state, observation)
        states.append(state)
    return states


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("gns", 80),  # tr / |G|^2 = 40 / .5
        ("norm-test", 320),
        ("diversity", 81),
        ("cosine", 160),
        ("cabs", 100),  # .1 * 40 / .04
        ("loss", 960),  # 16 * 2.4 / .04
    ],
)
def test_each_policy_finds_the_right_batch_and_stays_there(policy: str, expected: int) -> None:
    states = settle(loop(policy), lambda k: (0.5, 40.0, 0.04))
    sizes = [state.batch_size for state in states]
    # Doubling from 16, it can't be there before so many decisions.
    assert sizes[0] <= 32
    tail = sizes[20:]
    mean = sum(tail) / len(tail)
    # norm-test keeps the largest that it was ever told; the others follow their estimates.
    assert mean == pytest.approx(expected, rel=0.6 if policy == "norm-test" else 0.15)
    assert mean > 0.9 * expected


def test_the_noise_scale_is_followed_when_it_changes_up_and_down() -> None:
    states = settle(loop("gns"), lambda k: (0.5, 40.0, 1.0) if 20 < k <= 40 else (2.0, 40.0, 1.0), 80)
    means = [sum(s.batch_size for s in states[a:b]) / (b - a) for a, b in ((10, 20), (32, 40), (70, 80))]
    assert means[0] == pytest.approx(20, rel=0.25)
    assert means[1] > 50
    assert means[2] == pytest.approx(20, rel=0.35)


def test_plateau_grows_while_nothing_gets_better_and_stops_when_it_does() -> None:
    states = settle(loop("plateau", patience=4), lambda k: (1.0, 1.0, 2.0 if k <= 21 else 2.0 - 0.01 * k))
    sizes = [state.batch_size for state in states]
    # The first evaluation is the best, then each fifth one is a plateau: after 6, 11, 16 and 21.
    assert [sizes[k] for k in (4, 5, 9, 10, 15, 20, 59)] == [16, 32, 32, 64, 128, 256, 256]


def test_a_batch_that_feeds_its_own_growth_ends_at_the_cap_a_doubling_at_a_time() -> None:
    """Where |G|^2 is what the noise of the steps itself leaves, as in a bowl's bottom, it falls as 1/B: b grows with B,
    and asking for c b asks for more each time. Limits keep that finite."""
    closed = loop("gns")
    state, sizes = closed.init(), []
    for _ in range(10):
        state = closed.update(state, seen(noise=Noise(40.0 / (3 * state.batch_size), 40.0)))
        sizes.append(state.batch_size)
    assert sizes == [32, 64, 128, 256, 512, 1000, 1000, 1000, 1000, 1000]
    assert state.reason == "by noise; max_batch"


def test_a_gradient_that_vanishes_never_leaves_the_bounds() -> None:
    draw = random.Random(0)
    for policy in ("gns", "norm-test", "diversity", "cosine", "cabs", "loss"):
        closed = loop(policy, min_batch=3)
        state = closed.init()
        for _ in range(200):
            noise = Noise(draw.choice([1e-300, 1e-12, 0.0, -1e-9, 1.0, 1e12]), draw.choice([0.0, 1e-9, 1.0, 1e300]))
            before = state.batch_size
            state = closed.update(state, seen(noise=noise, loss=draw.choice([1e-300, 1e-9, 1.0, 1e9])))
            assert 3 <= state.batch_size <= 1000
            assert state.batch_size <= 2 * before
            assert 2 * state.batch_size >= before


# -- frozen states, decisions, plans


def test_an_update_changes_no_state_and_says_the_same_again() -> None:
    closed = loop("shadow", effective_lr=True)
    first = closed.init()
    observation = seen(noise=Noise(1.0, 100.0), scores=(Score(1.0, 0.5),))
    one, two = closed.update(first, observation), closed.update(first, observation)
    assert one == two
    assert first == closed.init()
    assert State.of(one.plain()) == one


def test_decisions_come_at_each_percent_and_not_at_the_end() -> None:
    ends = range(0, TOTAL + 1, 37)
    due = [b for a, b in pairwise(ends) if decision_due(a, b, TOTAL)]
    assert due == [next(end for end in ends if end >= 1000 * k) for k in range(1, 100)]
    assert not decision_due(TOTAL - 10, TOTAL, TOTAL)


def test_limits_round_half_to_even_and_keep_to_twofold() -> None:
    assert [limited(x, 17, 1, 100)[0] for x in (8.4, 9.5, 10.5, 33.9, 34.0, 35.0)] == [9, 10, 10, 34, 34, 34]
    assert limited(math.inf, 60, 1, 100) == (100, "max_batch")
    assert limited(0.0, 1, 1, 100) == (1, "at most halved")


def test_shadow_follows_and_asks_all_the_others() -> None:
    given = {"shape": "exponential"}
    closed = loop("shadow", follow="growing-batch", follow_parameters=given, effective_lr=True)
    plain = make_schedule("growing-batch", Setting(16, 0.1, 0.0, max_batch=1000), given)
    for samples in (0, 40_000, 99_000):
        progress = Progress(0, samples, TOTAL, NUM_TRAIN)
        assert closed.hyper(closed.init(), progress) == closed(progress) == plain(progress)
    assert [name for name, _ in closed.others] == [p for p in BATCH_POLICIES if p not in ("shadow", "noise")]
    state = closed.update(closed.init(), seen(noise=Noise(2.0, 64.0), loss=1.0, first_loss=2.0))
    told = dict(zip((name for name, _ in closed.others), (s.batch_size for s in state.others), strict=True))
    assert told == {
        "gns": 32, "norm-test": 32, "diversity": 32, "cosine": 32, "cabs": 16, "loss": 32, "plateau": 16
    }  # fmt: skip
    # b = 32, of which norm-test and cosine want 128 and 64; cabs wants .1 * 64 / 1 = 6.4, below min_batch.
    assert state.others[1].wanted == 128
    refused = loop("shadow", momentum=0.9)
    rows = refused.update(refused.init(), seen()).others
    assert [s.reason.startswith("held: refused: cabs: with momentum 0.9") for s in rows] == [p == "cabs" for p in told]


def test_what_will_be_decided_is_not_guessed() -> None:
    with pytest.raises(UsageError, match="adaptive-batch: its batch size and rate are decided along the run"):
        next(simulate(loop("gns"), total_samples=TOTAL, num_train=NUM_TRAIN))
    config = RunConfig(schedule="adaptive-batch")
    assert frequent_parts(config, 1000) == ()
    assert config.measures_noise
    assert not RunConfig(schedule="adaptive-batch", parameters={"policy": "loss"}).measures_noise
    assert not RunConfig(schedule="growing-batch").closed_loop


def test_a_plan_tells_bounds() -> None:
    config = RunConfig(schedule="adaptive-batch", batch_size=10, max_batch=100, parameters={"min_batch": 5}, epochs=1.0)
    plan = plan_run(config, 10_000)
    assert (plan.first_batch, plan.smallest_batch, plan.largest_batch, plan.max_batch) == (10, 5, 100, 100)
    # Halved after the first 100 samples: 10 updates of 10, then 9,900 / 5.
    assert plan.updates == 10 + 1980
    # Doubled at 100, 200 and 300: 10 of 10, 5 of 20, then 3 of 40 to 320, then 9,680 samples by 80 and more.
    assert plan.fewest_updates is not None
    assert 97 + 18 <= plan.fewest_updates <= 97 + 22
    steady = plan_run(RunConfig(schedule="adaptive-lr", epochs=1.0), 1600)
    assert (steady.updates, steady.fewest_updates, steady.max_batch) == (100, 100, 16)


def test_no_beginning_is_shared_by_what_decides_along_the_run() -> None:
    runs = planned(a=arm("adaptive-batch"), b=arm("adaptive-batch", {"policy": "loss"}), c=arm("adaptive-lr"))
    assert not find_forks(runs)
    assert len(find_forks([*runs, *planned(d=arm("fixed-small"), e=arm("lr-decay"))])) == 1


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"parameters": {"policy": "gnss"}}, "policy: 'gnss'; did you mean 'gns'"),
        ({"parameters": {"policy": "gns", "theta": 0.5}}, "unknown name 'theta'"),
        ({"parameters": {"policy": "plateau", "factor": 3.0}}, r"factor: 3.0; give a number in \(1, 2\]"),
        ({"parameters": {"min_batch": 17}}, "min_batch: 17; at most batch_size = 16"),
        ({"parameters": {"policy": "cabs"}}, "cabs: with momentum 0.9"),
        ({"parameters": {"policy": "cabs"}, "optimizer": "adamw"}, "cabs: with adamw"),
        ({"parameters": {"policy": "cabs"}, "momentum": 0.0, "label_noise": 0.2}, "floor: cabs with label noise"),
        ({"parameters": {"policy": "loss"}, "label_smoothing": 0.1}, "floor: loss with label noise or label smoothing"),
        ({"parameters": {"policy": "plateau"}, "val_fraction": 0.0}, "val_fraction: 0 with policy plateau"),
        ({"parameters": {"policy": "shadow", "follow": "one-cycle"}}, "follow: 'one-cycle'"),
        ({"parameters": {"policy": "shadow", "follow_parameters": {"shap": "cosine"}}}, "unknown name 'shap'"),
        ({"norm": "batch", "batch_size": 2}, "a batch of 1 in parts of 1 sample"),
        ({"batch_size": 1}, "measuring noise: a batch of 1 can't be cut"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_trained(given: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        plan_run(RunConfig(**{"schedule": "adaptive-batch", **given}), 1000)


def test_the_gain_speaks_of_the_data_sets_own_batch() -> None:
    config = RunConfig(schedule="adaptive-lr", parameters={"policy": "gain"}, batch_size=64)
    assert config.reference_batch == 16
    assert RunConfig(schedule="adaptive-lr", batch_size=64).reference_batch == 64
    assert set(LR_POLICIES) == {"plateau", "gain"}
