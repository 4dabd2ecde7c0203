"""The named strategies: rows worked out by hand, then properties that hold for every strategy and every shape."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsexp.errors import UsageError
from bsexp.schedules import Hyper, Progress, Schedule, Setting, make_schedule, noise_scale, simulate
from bsexp.schedules.shapes import BATCH_SHAPES, LR_SHAPES
from bsexp.schedules.strategies import SCHEDULES

OPEN_LOOPS = [name for name, strategy in SCHEDULES.items() if not strategy.closed]
NUM_TRAIN, TOTAL = 50_000, 10_000_000  # 200 epochs; max_batch is 5000 unless given


def plan(name: str, parameters: dict[str, Any] | None = None, **setting: Any) -> Schedule:
    return make_schedule(name, Setting(**{"batch_size": 128, "lr": 0.1, **setting}), parameters or {})


def at(schedule: Schedule, f: float) -> Hyper:
    return schedule(Progress(0, round(f * TOTAL), TOTAL, NUM_TRAIN))


def rows(schedule: Schedule, *positions: float) -> list[tuple[int, float]]:
    return [(hyper.batch_size, hyper.lr) for hyper in (at(schedule, f) for f in positions)]


def near(*expected: tuple[int, float]) -> list[Any]:
    return [(batch, pytest.approx(lr, rel=1e-9)) for batch, lr in expected]


# ---- by hand


def test_fixed_small_is_the_same_everywhere() -> None:
    assert [at(plan("fixed-small"), f) for f in (0, 0.5, 0.999)] == [Hyper(128, 0.1, 0.9)] * 3


def test_fixed_large_scales_linearly_and_warms_up_from_the_reference_rate() -> None:
    schedule = plan("fixed-large", batch_size=1024, reference_batch=128)
    # 8 x the rate; the warm-up is the first 5 % and begins at the reference rate: .1 + (.8 - .1) / 2 half-way
    assert rows(schedule, 0, 0.025, 0.05, 0.9) == near((1024, 0.1), (1024, 0.45), (1024, 0.8), (1024, 0.8))


def test_fixed_large_with_another_scaling_still_warms_up_from_the_reference_rate() -> None:
    schedule = plan("fixed-large", batch_size=2048, reference_batch=128, lr_scaling="sqrt")
    assert rows(schedule, 0, 0.5) == near((2048, 0.1), (2048, 0.4))


def test_fixed_large_without_warm_up_starts_at_the_scaled_rate() -> None:
    schedule = plan("fixed-large", batch_size=1024, reference_batch=128, warmup_epochs=0.0)
    assert rows(schedule, 0) == near((1024, 0.8))


def test_lr_decay_by_default_divides_by_five_at_its_milestones() -> None:
    assert rows(plan("lr-decay"), 0, 0.29999, 0.3, 0.59999, 0.6, 0.8, 0.99999) == near(
        (128, 0.1), (128, 0.1), (128, 0.02), (128, 0.02), (128, 0.004), (128, 0.0008), (128, 0.0008)
    )


@pytest.mark.parametrize(
    ("parameters", "f", "factor"),
    [
        ({"shape": "constant"}, 0.9, 1.0),
        ({"shape": "step", "milestones": [0.5], "factor": 10}, 0.5, 0.1),
        ({"shape": "linear"}, 0.75, 0.25),
        ({"shape": "linear", "final_lr_fraction": 0.2}, 0.75, 0.4),
        ({"shape": "polynomial"}, 0.5, 0.25),
        ({"shape": "polynomial", "power": 3, "final_lr_fraction": 0.2}, 0.5, 0.3),
        ({"shape": "cosine"}, 1 / 3, 0.75),
        ({"shape": "cosine", "final_lr_fraction": 0.2}, 0.5, 0.6),
        ({"shape": "exponential"}, 0.5, 0.1),
        ({"shape": "exponential", "final_lr_fraction": 0.0625}, 0.25, 0.5),
        ({"shape": "inverse-sqrt"}, 0.05, 1.0),
        ({"shape": "inverse-sqrt"}, 0.2, 0.5),
        ({"shape": "wsd"}, 0.8, 1.0),
        ({"shape": "wsd"}, 0.95, 0.25),
        ({"shape": "wsd", "cooldown": "sqrt"}, 0.85, 0.5),
        ({"shape": "one-cycle"}, 0.0, 0.04),
        ({"shape": "one-cycle"}, 0.3, 1.0),
        ({"shape": "triangular"}, 0.0625, 0.625),
        ({"shape": "triangular2"}, 0.375, 0.625),
        ({"shape": "exp-range", "gamma": 0.0625}, 0.5 + 0.125, 0.25 + 0.75 * 0.1767766952966369),  # 2^-2.5
        ({"shape": "cosine-restarts"}, 0.125, 0.625),
        ({"shape": "cosine-restarts", "cycles": 2, "cycle_mult": 3}, 0.25, 1.0),
    ],
)
def test_an_lr_shape_has_the_factor_of_its_formula(parameters: dict[str, Any], f: float, factor: float) -> None:
    assert rows(plan("lr-decay", parameters), f) == [(128, pytest.approx(0.1 * factor, rel=1e-6))]


def test_growing_batch_with_the_published_setting() -> None:
    schedule = plan("growing-batch", max_batch=5120)
    updates = list(simulate(schedule, total_samples=TOTAL, num_train=NUM_TRAIN))
    sizes = [update.batch_size for update in updates]
    # up to 3,000,000 samples: 23437.5 updates of 128, so 23,438, reaching 3,000,064;
    # 2,999,936 / 640 = 4687.4, so 4,688, reaching 6,000,384; 1,999,616 / 3200 = 624.88, so 625, reaching 8,000,384;
    # 1,999,616 / 5120 = 390.55, so 391: 389 whole ones, and 7,936 left for the last two.
    assert sizes == [128] * 23_438 + [640] * 4_688 + [3200] * 625 + [5120] * 389 + [3968] * 2
    assert len(updates) == 29_142
    assert sum(sizes) == TOTAL
    # a fourth factor would want 16000: the rate takes over what the cap of 5120 leaves
    assert {(u.batch_size, round(u.lr, 12)) for u in updates} == {
        (128, 0.1),
        (640, 0.1),
        (3200, 0.1),
        (5120, 0.032),
        (3968, 0.032),
    }
    assert [updates[k].samples for k in (0, 23_438, 28_126, 28_751)] == [0, 3_000_064, 6_000_384, 8_000_384]
    assert updates[23_438].epoch == pytest.approx(60.00128)


def test_growing_batch_may_keep_its_rate_at_the_cap() -> None:
    schedule = plan("growing-batch", {"at_cap": "hold"}, max_batch=5120)
    assert rows(schedule, 0.7, 0.8) == near((3200, 0.1), (5120, 0.1))


def test_the_sham_arm_grows_the_batch_and_keeps_lr_per_sample() -> None:
    schedule = plan("growing-batch", {"at_cap": "hold"}, lr_scaling="linear")
    assert rows(schedule, 0, 0.3, 0.6, 0.8) == near((128, 0.1), (640, 0.5), (3200, 2.5), (5000, 3.90625))


@pytest.mark.parametrize(
    ("parameters", "f", "batch"),
    [
        ({"shape": "linear"}, 0.5, 2564),  # 128 + 4872 / 2
        ({"shape": "polynomial"}, 0.5, 1346),  # 128 + 4872 / 4
        ({"shape": "polynomial", "power": 3}, 0.5, 737),  # 128 + 4872 / 8
        ({"shape": "cosine"}, 1 / 3, 1346),  # (1 - cos 60 deg) / 2 = 1 / 4
        ({"shape": "exponential"}, 0.5, 800),  # sqrt(128 * 5000)
        ({"shape": "step", "milestones": [0.1, 0.2], "factor": 3}, 0.2, 1152),
    ],
)
def test_a_batch_shape_has_the_value_of_its_formula(parameters: dict[str, Any], f: float, batch: int) -> None:
    assert rows(plan("growing-batch", parameters), 0, f) == near((128, 0.1), (batch, 0.1))


def test_batches_are_rounded_half_to_even_from_the_closed_form() -> None:
    halfway = [plan("growing-batch", {"shape": "linear"}, batch_size=10, max_batch=top) for top in (19, 21)]
    assert [at(schedule, 0.5).batch_size for schedule in halfway] == [14, 16]  # of 14.5 and 15.5


@pytest.mark.parametrize(
    ("shape", "f", "batch"),
    [
        # N / (1 + c (N / B0 - 1)) with N / B0 - 1 = 389.625
        ("linear", 0.5, 255),  # 50000 / 195.8125 = 255.35
        ("cosine", 1 / 3, 171),  # 50000 / 293.21875 = 170.52
        ("step", 0.3, 634),  # 50000 / 78.925 = 633.51
        ("step", 0.6, 3015),  # 50000 / 16.585 = 3014.77
        ("one-cycle", 0.0, 3015),  # the same c, 1/25
    ],
)
def test_a_matched_batch_gives_the_noise_of_the_shape(shape: str, f: float, batch: int) -> None:
    assert rows(plan("growing-batch", {"match": shape}), f) == near((batch, 0.1))


def test_past_the_cap_a_matched_arm_decays_its_rate_or_holds_it() -> None:
    # c = .008 wants 12,145; at 5000: lr .1 * .008 * 389.625 / (50000 / 5000 - 1)
    assert rows(plan("growing-batch", {"match": "step"}), 0.8) == near((5000, 0.1 * 3.117 / 9))
    assert rows(plan("growing-batch", {"match": "step", "at_cap": "hold"}), 0.8) == near((5000, 0.1))


def test_a_matched_arm_takes_parameters_and_warm_up_of_the_shape_it_matches() -> None:
    schedule = plan("growing-batch", {"match": "linear", "final_lr_fraction": 0.2}, warmup_epochs=20.0)
    # warm-up over the first tenth, f = .05: .1 + .9 / 2; f = .55: u = .5, c = .6, 50000 / 234.775 = 212.97
    assert rows(schedule, 0, 0.05, 0.55) == near((128, 0.01), (128, 0.055), (213, 0.1))


def test_late_switch_jumps_once() -> None:
    assert rows(plan("late-switch"), 0, 0.79999, 0.8, 0.99) == near((128, 0.1), (128, 0.1), (2048, 0.1), (2048, 0.1))
    # 500 * 16 = 8000, capped at 5000
    assert rows(plan("late-switch", batch_size=500), 0.8) == near((5000, 0.0625))
    assert rows(plan("late-switch", {"at_cap": "hold"}, batch_size=500), 0.8) == near((5000, 0.1))
    assert rows(plan("late-switch", {"switch": 0.5, "factor": 3}), 0.5) == near((384, 0.1))


def test_batch_warmup_ramps_up_from_an_eighth_with_the_root_of_the_rate() -> None:
    # f .1: 128 (1/8 + 7/8 / 2) = 72, lr .1 * .9 * sqrt(72 / 128 = .5625)
    assert rows(plan("batch-warmup"), 0, 0.1, 0.2, 0.5) == near(
        (16, 0.1 * math.sqrt(0.125)), (72, 0.0675), (128, 0.08), (128, 0.05)
    )
    assert rows(plan("batch-warmup", {"ramp": 0.5, "shape": "constant"}), 0.25) == near((72, 0.075))


def test_hybrid_splits_each_factor_between_rate_and_batch() -> None:
    quarter = {"factor": 4}
    # share .5 of 1/4: the rate halves, the batch doubles
    assert rows(plan("hybrid", quarter), 0, 0.3, 0.6, 0.8) == near(
        (128, 0.1), (256, 0.05), (512, 0.025), (1024, 0.0125)
    )
    # past the cap lr / B stays: .1 / 64 / 128 = lr / 800
    assert rows(plan("hybrid", quarter, max_batch=800), 0.8) == near((800, 0.009765625))
    assert rows(plan("hybrid", {**quarter, "share": 0}), 0.8) == near((128, 0.1 / 64))
    assert rows(plan("hybrid", {**quarter, "share": 1}), 0.6) == near((2048, 0.1))


def test_hybrid_for_adamw_grows_the_batch_by_the_square() -> None:
    schedule = plan("hybrid", {"factor": 4}, optimizer="adamw")
    # Seesaw: the rate halves, the batch quadruples; 8192 is capped at 5000: lr .1 / 64 * sqrt(5000 / 128 = 6.25^2)
    assert rows(schedule, 0, 0.3, 0.6, 0.8) == near((128, 0.1), (512, 0.05), (2048, 0.025), (5000, 0.009765625))
    quarter_share = plan("hybrid", {"factor": 16, "share": 0.25}, optimizer="adamw")
    assert rows(quarter_share, 0.3) == near((512, 0.0125))  # lr 16^-.75, batch 16^.5


@pytest.mark.parametrize(
    ("stages", "max_batch", "expected"),
    [
        (0, None, [(128, 0.1), (128, 0.02), (128, 0.004), (128, 0.0008)]),
        (1, None, [(128, 0.1), (640, 0.1), (640, 0.02), (640, 0.004)]),
        (2, None, [(128, 0.1), (640, 0.1), (3200, 0.1), (3200, 0.02)]),
        (3, None, [(128, 0.1), (640, 0.1), (3200, 0.1), (5000, 0.03125)]),
        (2, 2000, [(128, 0.1), (640, 0.1), (2000, 0.0625), (2000, 0.0125)]),
    ],
)
def test_grow_stages_grows_the_batch_first_and_decays_the_rate_after(
    stages: int, max_batch: int | None, expected: list[tuple[int, float]]
) -> None:
    schedule = plan("hybrid", {"grow_stages": stages}, max_batch=max_batch)
    assert rows(schedule, 0, 0.3, 0.6, 0.8) == near(*expected)


@pytest.mark.parametrize("name", ["one-cycle", "super-convergence"])
def test_one_cycle_at_its_beginning_peak_and_end(name: str) -> None:
    schedule = plan(name)
    expected = {0: (0.004, 0.95), 0.15: (0.052, 0.9), 0.3: (0.1, 0.85), 0.65: (0.0500002, 0.9)}
    for f, (lr, momentum) in expected.items():
        assert at(schedule, f) == (128, pytest.approx(lr, rel=1e-9), pytest.approx(momentum))
    last = schedule(Progress(0, 10**12 - 1, 10**12, NUM_TRAIN))
    assert last == (128, pytest.approx(4e-7, rel=1e-3), pytest.approx(0.95))


def test_one_cycle_can_leave_the_momentum_alone() -> None:
    schedule = plan("one-cycle", {"cycle_momentum": False}, momentum=0.8)
    assert {at(schedule, f).momentum for f in (0, 0.3, 0.9)} == {0.8}


def test_cyclic_goes_up_and_down_between_a_quarter_and_the_rate() -> None:
    schedule = plan("cyclic")
    assert rows(schedule, 0, 0.0625, 0.125, 0.1875, 0.25, 0.375) == near(
        (128, 0.025), (128, 0.0625), (128, 0.1), (128, 0.0625), (128, 0.025), (128, 0.1)
    )
    assert at(schedule, 0.1).momentum == 0.9


def test_cyclic_moves_the_momentum_against_the_rate_when_asked() -> None:
    schedule = plan("cyclic", {"cycle_momentum": True})
    assert [at(schedule, f).momentum for f in (0, 0.0625, 0.125)] == pytest.approx([0.95, 0.9, 0.85])


def test_custom_multiplies_batch_and_rate_by_curves_and_sets_the_momentum() -> None:
    schedule = plan(
        "custom",
        {
            "batch": {"curve": "piecewise", "boundaries": [0.5], "values": [1, 4]},
            "lr": {
                "product": [
                    {
                        "sequence": [{"curve": "linear", "start": 0.2, "end": 1}, {"curve": "cosine"}],
                        "boundaries": [0.2],
                    },
                    {"curve": "constant", "value": 3},
                ]
            },
            "momentum": {"curve": "linear", "start": 0.5, "end": 0.9},
        },
    )
    # f .1: 3 x (.2 + .8 / 2); f .6: 3 x the middle of the cosine
    assert [at(schedule, f) for f in (0.1, 0.6)] == [
        (128, pytest.approx(0.18), pytest.approx(0.54)),
        (512, pytest.approx(0.15), pytest.approx(0.74)),
    ]


def test_custom_without_curves_is_constant() -> None:
    assert at(plan("custom"), 0.7) == Hyper(128, 0.1, 0.9)


def test_warm_up_multiplies_the_rate_and_shifts_continuous_shapes_only() -> None:
    # 20 of 200 epochs: w = .1. f .55 is the middle of what is left for the cosine, f .3 still a milestone
    cosine = plan("lr-decay", {"shape": "cosine"}, warmup_epochs=20.0)
    assert rows(cosine, 0, 0.05, 0.1, 0.55) == near((128, 0.01), (128, 0.055), (128, 0.1), (128, 0.05))
    step = plan("lr-decay", warmup_epochs=20.0)
    assert rows(step, 0.05, 0.29999, 0.3) == near((128, 0.055), (128, 0.1), (128, 0.02))
    late_step = plan("lr-decay", {"milestones": [0.05]}, warmup_epochs=20.0)
    assert rows(late_step, 0.05) == near((128, 0.011))
    # wsd: u = .9 at f = .91
    assert rows(plan("lr-decay", {"shape": "wsd"}, warmup_epochs=20.0), 0.82, 0.91) == near((128, 0.1), (128, 0.05))


def test_warm_up_starts_where_it_is_told_to_and_leaves_the_batch_alone() -> None:
    schedule = plan("growing-batch", {"shape": "linear", "warmup_start": 0.5}, warmup_epochs=100.0)
    assert rows(schedule, 0, 0.25, 0.5) == near((128, 0.05), (1346, 0.075), (2564, 0.1))


def test_adamw_takes_the_root_where_sgd_takes_the_ratio() -> None:
    growing = plan("growing-batch", max_batch=5120, optimizer="adamw")
    assert rows(growing, 0.6, 0.8) == near((3200, 0.1), (5120, 0.1 * math.sqrt(0.32)))
    switch = plan("late-switch", batch_size=500, optimizer="adamw")
    assert rows(switch, 0.8) == near((5000, 0.1 * math.sqrt(0.625)))
    matched = plan("growing-batch", {"match": "step"}, optimizer="adamw", allow_unstable=True)
    # c .2: 128 * 25; c .008 is past the cap: .1 * .008 * sqrt(5000 / 128)
    assert rows(matched, 0.3, 0.8) == near((3200, 0.1), (5000, 0.005))
    held = plan("growing-batch", {"match": "step", "at_cap": "hold"}, optimizer="adamw", allow_unstable=True)
    assert rows(held, 0.8) == near((5000, 0.1))


@pytest.mark.parametrize(
    ("rule", "optimizer", "factor"),
    [
        ("none", "sgd", 1),
        ("linear", "sgd", 4),
        ("sqrt", "sgd", 2),
        ("auto", "sgd", 4),
        ("auto", "adamw", 2),
        ("linear", "adamw", 4),
        ("1.5", "sgd", 8),
        ("0", "sgd", 1),
    ],
)
def test_the_rate_is_carried_from_the_reference_batch_by_the_rule(rule: str, optimizer: str, factor: float) -> None:
    schedule = plan("fixed-small", batch_size=512, reference_batch=128, lr_scaling=rule, optimizer=optimizer)
    assert rows(schedule, 0.5) == near((512, 0.1 * factor))


def test_a_decay_too_steep_for_floating_point_ends_at_the_cap_not_in_an_overflow() -> None:
    steep = {"shape": "polynomial", "power": 40}  # c = 1e-200 near the end; its square is below any float
    near_end = Progress(0, 10**10 - 10**5, 10**10, NUM_TRAIN)
    matched = plan("growing-batch", {"match": "polynomial", "power": 40}, optimizer="adamw", allow_unstable=True)
    for schedule in (matched, plan("hybrid", steep, optimizer="adamw"), plan("hybrid", {**steep, "share": 1})):
        hyper = schedule(near_end)
        assert hyper.batch_size == 5000
        assert 0 < hyper.lr < 1e-190


@pytest.mark.parametrize("name", [n for n in OPEN_LOOPS if n != "fixed-large"])
def test_the_data_decide_the_cap_when_none_is_given(name: str) -> None:
    # max(batch_size, num_train // 10) with a batch of 128 of 1000, and the largest one allowed, a half
    for batch_size in (96, 500):
        schedule = plan(name, batch_size=batch_size)
        largest = max(schedule(Progress(0, s, 1000, 1000)).batch_size for s in range(0, 1000, 10))
        assert largest <= max(batch_size, 100)


# ---- the user's own


OWN = """
def factory(batch_size, lr, max_batch, factor=2):
    def schedule(progress):
        grown = factor if progress.fraction >= 0.5 else 1
        return min(batch_size * grown, max_batch or 10**9), lr / grown, 0.5
    return schedule

def everything(**named):
    return lambda progress: (len(named), 0.1, 0.9)

def constant(value):
    return lambda progress: value

def picky(size):
    if size > 3:
        raise ValueError("size is at most 3")
    return lambda progress: (size, 0.1, 0.9)

def not_a_schedule():
    return 3

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of schedules in the current folder."""
    name = f"own_schedules_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return name


def test_a_schedule_of_ones_own_gets_its_parameters_and_the_values_it_names(own: str) -> None:
    schedule = plan(f"{own}:factory", {"factor": 4}, max_batch=300)
    assert [at(schedule, f) for f in (0, 0.5)] == [Hyper(128, 0.1, 0.5), Hyper(300, 0.025, 0.5)]
    sizes = [u.batch_size for u in simulate(schedule, total_samples=1000, num_train=1000)]
    # 512 is the first multiple of 128 in the second half; 488 are left, more than 300
    assert sizes == [128] * 4 + [244, 244]
    assert at(plan(f"{own}:everything", {"a": 1, "b": 2}), 0).batch_size == 2


@pytest.mark.parametrize(
    ("tail", "parameters", "words"),
    [
        (":missing", {}, ["schedule", "has no 'missing'"]),
        (":number", {}, ["schedule", "not callable", "factory"]),
        (":not_a_schedule", {}, ["schedule", "not_a_schedule", "must return a callable"]),
        (":picky", {"size": 9}, ["schedule", "picky", "refused the parameters", "size is at most 3"]),
        (":picky", {"siez": 1}, ["schedule", "picky", "refused the parameters", "siez"]),
        (":constant", {"value": 7}, ["returned 7", "return Hyper(batch_size, lr, momentum)"]),
        (":constant", {"value": [8, None, 0.9]}, ["returned [8, None, 0.9]", "return Hyper(batch_size, lr, momentum)"]),
        (":constant", {"value": [8.0, 0.1, 0.9]}, ["batch size 8.0", "whole number from 1 to num_train = 100"]),
        (":constant", {"value": [0, 0.1, 0.9]}, ["batch size 0", "whole number"]),
        (":constant", {"value": [101, 0.1, 0.9]}, ["batch size 101", "num_train = 100"]),
        (":constant", {"value": [8, 0.0, 0.9]}, ["learning rate 0.0", "finite and above 0"]),
        (":constant", {"value": [8, math.nan, 0.9]}, ["learning rate nan", "finite and above 0"]),
        (":constant", {"value": [8, 0.1, 1.0]}, ["momentum 1.0", "[0, 1)"]),
    ],
)
def test_what_a_schedule_of_ones_own_gets_wrong_is_told(
    own: str, tail: str, parameters: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UsageError) as refusal:
        list(simulate(plan(own + tail, parameters), total_samples=200, num_train=100))
    for word in words:
        assert word in str(refusal.value)


def test_a_schedule_of_ones_own_that_is_not_there_is_told(own: str) -> None:
    with pytest.raises(UsageError, match="no such module in the current folder"):
        plan("nowhere_to_be_found:factory")


# ---- properties

EVERY: list[tuple[str, dict[str, Any]]] = [
    ("fixed-small", {}),
    ("fixed-large", {}),
    ("late-switch", {}),
    ("late-switch", {"factor": 1000, "at_cap": "hold"}),
    *(("lr-decay", {"shape": shape}) for shape in LR_SHAPES),
    *(("growing-batch", {"shape": shape}) for shape in BATCH_SHAPES),
    *(("growing-batch", {"match": shape}) for shape in LR_SHAPES),
    *(("batch-warmup", {"shape": shape}) for shape in LR_SHAPES),
    *(("hybrid", {"shape": shape}) for shape in LR_SHAPES),
    *(("hybrid", {"grow_stages": stages}) for stages in range(4)),
    *(("cyclic", {"shape": s, "cycle_momentum": True}) for s in ("triangular", "triangular2", "exp-range")),
    ("cyclic", {"shape": "cosine-restarts", "cycle_mult": 2}),
    ("one-cycle", {}),
    ("one-cycle", {"three_phase": True, "anneal": "linear"}),
    ("custom", {"batch": {"curve": "cosine", "start": 1, "end": 0.2}, "lr": {"curve": "exponential"}}),
]


def test_every_strategy_is_among_those_examined() -> None:
    assert {name for name, _ in EVERY} == set(OPEN_LOOPS)


@st.composite
def settings_of_runs(draw: st.DrawFn) -> tuple[Setting, int, int]:
    """(setting, num_train, total_samples): at most some 300 updates at the first batch size."""
    num_train = draw(st.integers(160, 60_000))
    batch_size = draw(st.integers(8, num_train // 2))
    most = draw(st.one_of(st.none(), st.integers(batch_size, num_train // 2)))
    total = draw(st.integers(1, 300 * batch_size))
    warmup = draw(st.sampled_from([None, 0.0, 0.3 * total / num_train]))
    optimizer = draw(st.sampled_from(["sgd", "adamw"]))
    reference = draw(st.sampled_from([None, 8, batch_size]))
    setting = Setting(
        batch_size,
        draw(st.floats(1e-4, 10)),
        max_batch=most,
        warmup_epochs=warmup,
        optimizer=optimizer,
        reference_batch=reference,
        allow_unstable=True,
    )
    return setting, num_train, total


@pytest.mark.parametrize(("name", "parameters"), EVERY, ids=lambda value: str(value))
@given(run=settings_of_runs())
@settings(max_examples=10, deadline=None)
def test_every_schedule_spends_its_budget_exactly_in_updates_of_a_sensible_size(
    name: str, parameters: dict[str, Any], run: tuple[Setting, int, int]
) -> None:
    setting, num_train, total = run
    schedule = make_schedule(name, setting, parameters)
    updates = list(simulate(schedule, total_samples=total, num_train=num_train))
    sizes = [update.batch_size for update in updates]
    assert sum(sizes) == total
    assert [u.samples for u in updates] == [sum(sizes[:k]) for k in range(len(sizes))]
    assert [u.step for u in updates] == list(range(len(updates)))
    largest = setting.max_batch or max(setting.batch_size, num_train // 10)
    wanted = [schedule(Progress(u.step, u.samples, total, num_train)).batch_size for u in updates]
    assert min(wanted + sizes) >= 1
    assert max(wanted + sizes) <= largest
    assert sizes[:-2] == wanted[:-2]
    if len(updates) > 1:
        assert 2 * min(sizes[-2:]) >= wanted[-2]
    assert all(0 < u.lr < math.inf and 0 <= u.momentum < 1 for u in updates)
    assert updates == list(simulate(make_schedule(name, setting, parameters), total_samples=total, num_train=num_train))


fractions = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("shape", LR_SHAPES)
@given(f=fractions, batch=st.integers(1, 5000), step=st.integers(0, 10**6), warmup=st.sampled_from([0.0, 30.0]))
@settings(max_examples=25, deadline=None)
def test_the_rate_against_samples_does_not_know_the_batch_size(
    shape: str, f: float, batch: int, step: int, warmup: float
) -> None:
    one, other = (plan("lr-decay", {"shape": shape}, batch_size=size, warmup_epochs=warmup) for size in (128, batch))
    samples = int(f * TOTAL)
    hyper = other(Progress(step, samples, TOTAL, NUM_TRAIN))
    assert hyper == (batch, one(Progress(0, samples, TOTAL, NUM_TRAIN)).lr, 0.9)


@pytest.mark.parametrize("shape", LR_SHAPES)
def test_runs_of_different_batch_sizes_have_the_same_rate_at_the_same_samples(shape: str) -> None:
    curves = []
    for batch in (16, 48, 80):
        updates = simulate(
            plan("lr-decay", {"shape": shape}, batch_size=batch, warmup_epochs=0.1), total_samples=2400, num_train=1000
        )
        curves.append({update.samples: update.lr for update in updates})
    shared = set(curves[0]) & set(curves[1]) & set(curves[2])
    assert len(shared) == 10  # 0, 240, ... 2160
    for samples in shared:
        assert curves[0][samples] == curves[1][samples] == curves[2][samples]


@pytest.mark.parametrize("shape", LR_SHAPES)
@given(
    f=fractions,
    num_train=st.integers(200, 60_000),
    part=st.floats(0.0005, 0.5),
    top=st.floats(0, 1),
    warmup=st.sampled_from([0.0, 0.25]),
)
@settings(max_examples=30, deadline=None)
def test_a_matched_arm_has_the_noise_of_the_decay_it_matches_past_the_cap_too(
    shape: str, f: float, num_train: int, part: float, top: float, warmup: float
) -> None:
    batch = max(1, int(part * num_train))
    setting = Setting(
        batch,
        0.1,
        max_batch=batch + int(top * (num_train // 2 - batch)),
        warmup_epochs=warmup * TOTAL / num_train,
    )
    now = Progress(3, int(f * TOTAL), TOTAL, num_train)
    decayed = make_schedule("lr-decay", setting, {"shape": shape})(now)
    matched = make_schedule("growing-batch", setting, {"match": shape})(now)
    target = noise_scale(decayed.lr, decayed.momentum, decayed.batch_size, num_train)
    excess = target * (1 - matched.momentum) / matched.lr  # N / B - 1 at which the matched rate has that noise
    size = matched.batch_size
    assert (num_train / (size + 0.5) - 1) * (1 - 1e-9) <= excess <= (num_train / (size - 0.5) - 1) * (1 + 1e-9)
    if size == setting.max_batch:  # the rate has taken over what the cap leaves
        assert num_train / (1 + excess) <= size + 1e-6
    else:
        ramp = 0.1 + 0.9 * now.fraction / warmup if now.fraction < warmup else 1.0
        assert matched.lr == pytest.approx(0.1 * ramp)


@pytest.mark.parametrize("shape", LR_SHAPES)
@given(f=fractions, share=st.floats(0, 1), top=st.integers(128, 25_000), sgd=st.booleans())
@settings(max_examples=30, deadline=None)
def test_hybrid_keeps_the_noise_of_the_decay_it_splits(shape: str, f: float, share: float, top: int, sgd: bool) -> None:
    named = {"max_batch": top, "optimizer": "sgd" if sgd else "adamw", "allow_unstable": True}
    now = Progress(0, int(f * TOTAL), TOTAL, NUM_TRAIN)
    decayed = plan("lr-decay", {"shape": shape}, **named)(now)
    hybrid = plan("hybrid", {"shape": shape, "share": share}, **named)(now)
    # SGD: lr / B is that of the decay; AdamW: lr / sqrt(B); so the ratio of the rates tells the batch
    ratio = hybrid.lr / decayed.lr
    assert abs(128 * (ratio if sgd else ratio**2) - hybrid.batch_size) <= 0.5 + 1e-6


@given(samples=st.integers(0, TOTAL - 1))
@settings(max_examples=50, deadline=None)
def test_a_batch_matched_to_a_falling_rate_never_shrinks_and_its_rate_never_rises(samples: int) -> None:
    schedule = plan("growing-batch", {"match": "linear"})
    early, late = (schedule(Progress(0, s, TOTAL, NUM_TRAIN)) for s in (samples // 2, samples))
    assert early.batch_size <= late.batch_size
    assert early.lr >= late.lr
