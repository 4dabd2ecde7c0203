"""Curves against independent schedulers, at equal positions.

torch and bs-scheduler count steps, a curve sees a position x in [0, 1]. Each test states how the two are mapped; most
use x = step / NUM_STEPS.
"""

import math
import types
import warnings
from collections.abc import Callable, Iterable
from itertools import accumulate

import bs_scheduler as bs
import pytest
import torch
from torch.optim import lr_scheduler as lrs

from bsexp.errors import UsageError
from bsexp.schedules import curves
from bsexp.schedules.curves import Curve
from bsexp.schedules.custom import CURVES, read_curve

NUM_STEPS = 60
LR = 0.8

Optimizer = torch.optim.SGD
Build = Callable[[Optimizer], lrs.LRScheduler]


def torch_values(build: Build, num_steps: int = NUM_STEPS) -> list[tuple[float, float]]:
    """(learning rate / LR, momentum) before each of `num_steps` updates."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    scheduler = build(optimizer)
    values = []
    for _ in range(num_steps):
        group = optimizer.param_groups[0]
        values.append((group["lr"] / LR, group["momentum"]))
        optimizer.step()
        scheduler.step()
    return values


def agree(curve: Curve, values: Iterable[float], positions: Iterable[float] | None = None) -> None:
    values = list(values)
    where = [step / NUM_STEPS for step in range(len(values))] if positions is None else list(positions)
    assert [curve(x) for x in where] == pytest.approx(values, rel=1e-9, abs=1e-12)


def at(*steps: int) -> list[float]:
    return [step / NUM_STEPS for step in steps]


def falling(step: int) -> float:
    return 1 / (1 + step)


def wavy(step: int) -> float:
    return 1 + 0.2 * math.sin(step)


WAVY_PRODUCTS = list(accumulate((1.0, *(wavy(k) for k in range(1, NUM_STEPS))), lambda a, b: a * b))
STEPS = at(*range(1, NUM_STEPS))

# Written with the curves; x = step / NUM_STEPS.
TORCH: dict[str, tuple[Build, Curve]] = {
    "LambdaLR": (lambda o: lrs.LambdaLR(o, falling), lambda x: falling(round(x * NUM_STEPS))),
    "MultiplicativeLR": (
        lambda o: lrs.MultiplicativeLR(o, lambda step: 0.95),
        curves.exponential(1, 0.95**NUM_STEPS),
    ),
    "MultiplicativeLR, any factors": (lambda o: lrs.MultiplicativeLR(o, wavy), curves.piecewise(STEPS, WAVY_PRODUCTS)),
    "StepLR": (lambda o: lrs.StepLR(o, 15, gamma=0.3), curves.step(at(15, 30, 45), 0.3)),
    "MultiStepLR": (lambda o: lrs.MultiStepLR(o, [18, 36, 48], gamma=0.2), curves.step(at(18, 36, 48), 0.2)),
    "ConstantLR": (lambda o: lrs.ConstantLR(o, 0.25, total_iters=20), curves.piecewise(at(20), [0.25, 1])),
    "LinearLR": (
        lambda o: lrs.LinearLR(o, 0.1, 0.7, total_iters=20),
        curves.join([curves.linear(0.1, 0.7), curves.constant(0.7)], at(20)),
    ),
    "LinearLR as warm-up": (lambda o: lrs.LinearLR(o, 0.1, 1, total_iters=15), curves.warm_up(*at(15), 0.1)),
    "ExponentialLR": (lambda o: lrs.ExponentialLR(o, 0.9), curves.exponential(1, 0.9**NUM_STEPS)),
    "PolynomialLR": (
        lambda o: lrs.PolynomialLR(o, total_iters=40, power=2.5),
        curves.join([curves.polynomial(1, 0, 2.5), curves.constant(0)], at(40)),
    ),
    "CosineAnnealingLR": (
        lambda o: lrs.CosineAnnealingLR(o, T_max=NUM_STEPS, eta_min=0.04 * LR),
        curves.cosine(1, 0.04),
    ),
    "CosineAnnealingLR beyond T_max": (
        lambda o: lrs.CosineAnnealingLR(o, T_max=20, eta_min=0.04 * LR),
        curves.join([curves.cosine(1, 0.04), curves.cosine(0.04, 1), curves.cosine(1, 0.04)], at(20, 40)),
    ),
    "CosineAnnealingWarmRestarts": (
        lambda o: lrs.CosineAnnealingWarmRestarts(o, 15, eta_min=LR / 10),
        curves.cosine_restarts(4, 10),
    ),
    # 4 + 8 + 16 + 32 = NUM_STEPS
    "CosineAnnealingWarmRestarts, T_mult 2": (
        lambda o: lrs.CosineAnnealingWarmRestarts(o, 4, T_mult=2, eta_min=LR / 10),
        curves.cosine_restarts(4, 10, 2),
    ),
    "CyclicLR triangular": (
        lambda o: lrs.CyclicLR(o, LR / 4, LR, step_size_up=10, mode="triangular"),
        curves.triangular(3, 4),
    ),
    "CyclicLR triangular, lopsided": (
        lambda o: lrs.CyclicLR(o, LR / 4, LR, step_size_up=5, step_size_down=15, mode="triangular"),
        curves.triangular(3, 4, peak=0.25),
    ),
    "CyclicLR triangular2": (
        lambda o: lrs.CyclicLR(o, LR / 4, LR, step_size_up=10, mode="triangular2"),
        curves.triangular(3, 4, halving=True),
    ),
    "CyclicLR exp_range": (
        lambda o: lrs.CyclicLR(o, LR / 4, LR, step_size_up=10, mode="exp_range", gamma=0.97),
        curves.triangular(3, 4, gamma=0.97**NUM_STEPS),
    ),
    "CyclicLR exp_range, lopsided": (
        lambda o: lrs.CyclicLR(o, LR / 4, LR, step_size_up=15, step_size_down=5, mode="exp_range", gamma=0.97),
        curves.triangular(3, 4, gamma=0.97**NUM_STEPS, peak=0.75),
    ),
    "SequentialLR": (
        lambda o: lrs.SequentialLR(
            o, [lrs.LinearLR(o, 0.1, 1, total_iters=12), lrs.CosineAnnealingLR(o, T_max=48)], milestones=[12]
        ),
        curves.join([curves.linear(0.1, 1), curves.cosine(1, 0)], at(12)),
    ),
    "ChainedScheduler": (
        lambda o: lrs.ChainedScheduler(
            [lrs.ConstantLR(o, 0.5, total_iters=30), lrs.ExponentialLR(o, 0.95), lrs.StepLR(o, 45, 0.5)]
        ),
        curves.product(
            curves.piecewise(at(30), [0.5, 1]), curves.exponential(1, 0.95**NUM_STEPS), curves.step(at(45), 0.5)
        ),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_curve_equals_the_torch_scheduler(name: str) -> None:
    build, curve = TORCH[name]
    with warnings.catch_warnings():
        # torch warns of its own positional `epoch` where SequentialLR restarts a scheduler
        warnings.filterwarnings("ignore", message="The epoch parameter", category=UserWarning)
        values = torch_values(build)
    agree(curve, [rate for rate, _ in values])


ONE_CYCLE = [
    pytest.param(anneal, three_phase, id=f"{anneal}{'-three-phase' if three_phase else ''}")
    for anneal in ("cos", "linear")
    for three_phase in (False, True)
]
PCT, DIV, FINAL, TOTAL = 0.3, 20.0, 500.0, 50


def phase_positions(three_phase: bool) -> list[float]:
    """Where each of torch's steps lies between our phase ends, at the same fraction of its phase.

    torch's phases end at pct T - 1, (2 pct T - 2 with three phases) and T - 1; ours at pct, 2 pct and 1.
    """
    theirs = [0.0, PCT * TOTAL - 1, *([2 * PCT * TOTAL - 2] if three_phase else []), TOTAL - 1.0]
    ours = [0.0, PCT, *([2 * PCT] if three_phase else []), 1.0]
    positions = []
    for step in range(TOTAL):
        k = next(k for k in range(len(theirs) - 1) if step <= theirs[k + 1])
        part = (step - theirs[k]) / (theirs[k + 1] - theirs[k])
        positions.append(ours[k] + part * (ours[k + 1] - ours[k]))
    return positions


def one_cycle_lr(anneal: str, three_phase: bool) -> list[tuple[float, float]]:
    # one step less than TOTAL follows: torch refuses to step past its end
    values: list[tuple[float, float]] = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    scheduler = lrs.OneCycleLR(
        optimizer,
        max_lr=LR,
        total_steps=TOTAL,
        pct_start=PCT,
        div_factor=DIV,
        final_div_factor=FINAL,
        anneal_strategy=anneal,  # type: ignore[arg-type]
        three_phase=three_phase,
        base_momentum=0.85,
        max_momentum=0.95,
    )
    for step in range(TOTAL):
        values.append((optimizer.param_groups[0]["lr"] / LR, optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if step < TOTAL - 1:
            scheduler.step()
    return values


@pytest.mark.parametrize(("anneal", "three_phase"), ONE_CYCLE)
def test_one_cycle_equals_torch_at_equal_fractions_of_each_phase(anneal: str, three_phase: bool) -> None:
    curve = curves.one_cycle(PCT, DIV, FINAL, anneal, three_phase)
    agree(curve, [rate for rate, _ in one_cycle_lr(anneal, three_phase)], phase_positions(three_phase))


@pytest.mark.parametrize(("anneal", "three_phase"), ONE_CYCLE)
def test_the_one_cycle_strategy_moves_lr_and_momentum_as_torch_does(anneal: str, three_phase: bool) -> None:
    from bsexp.schedules import Progress, Setting, make_schedule

    schedule = make_schedule(
        "one-cycle",
        Setting(batch_size=10, lr=LR),
        {
            "pct_start": PCT,
            "div_factor": DIV,
            "final_div_factor": FINAL,
            "anneal": anneal,
            "three_phase": three_phase,
        },
    )
    total = 10**9
    expected = one_cycle_lr(anneal, three_phase)[:-1]  # f = 1 is never the start of an update
    for (rate, momentum), x in zip(expected, phase_positions(three_phase)[:-1], strict=True):
        hyper = schedule(Progress(0, round(x * total), total, 50000))
        assert hyper.lr == pytest.approx(rate * LR, rel=1e-6)
        assert hyper.momentum == pytest.approx(momentum, abs=1e-8)
        assert hyper.batch_size == 10


@pytest.mark.parametrize(
    ("shape", "mode", "gamma"), [("triangular", "triangular", 1.0), ("triangular2", "triangular2", 1.0)]
)
def test_cyclic_moves_the_momentum_as_torch_does(shape: str, mode: str, gamma: float) -> None:
    from bsexp.schedules import Progress, Setting, make_schedule

    expected = torch_values(
        lambda o: lrs.CyclicLR(o, LR / 4, LR, step_size_up=10, mode=mode, base_momentum=0.8, max_momentum=0.95)
    )
    schedule = make_schedule(
        "cyclic",
        Setting(batch_size=10, lr=LR),
        {"shape": shape, "cycles": 3, "cycle_momentum": True, "base_momentum": 0.8, "max_momentum": 0.95},
    )
    for step, (rate, momentum) in enumerate(expected):
        hyper = schedule(Progress(step, step * 100, NUM_STEPS * 100, 50000))
        assert (hyper.lr, hyper.momentum) == pytest.approx((rate * LR, momentum))


# ---- bs-scheduler. Its schedulers round at every step; those that multiply the batch size of the step before also
# compound that rounding. Comparison is within what this rounding can do: half a sample, or, where it compounds, half a
# sample at each step before carried along by the curve's own growth since then (`compounds`).

B0, SMALLEST, LARGEST = 100, 10, 2000


def bs_values(build: Callable[[bs.CustomBatchSizeManager], object], num_steps: int = NUM_STEPS) -> list[int]:
    """Batch size at each of `num_steps` steps."""
    state = types.SimpleNamespace(batch_size=B0)

    class Dataset(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def get_batch_size(self) -> int:
            return state.batch_size

        def change_batch_size(self, size: int) -> None:
            state.batch_size = size

    scheduler = build(bs.CustomBatchSizeManager(Dataset()))
    sizes = []
    for _ in range(num_steps):
        sizes.append(state.batch_size)
        scheduler.step()  # type: ignore[attr-defined]
    return sizes


def of(kind: type, *args: object, **named: object) -> Callable[[bs.CustomBatchSizeManager], object]:
    return lambda manager: kind(
        None, *args, batch_size_manager=manager, min_batch_size=SMALLEST, max_batch_size=LARGEST, **named
    )


def jumps(count: int) -> list[float]:
    """PolynomialBS: the factor at step e is 2 - (e / (e + 1))^power; here power 2, accumulated."""
    return list(accumulate((1.0, *(2 - (e / (e + 1)) ** 2 for e in range(1, count))), lambda a, b: a * b))


def pair(first: object, second: object, join: Callable[[list[object]], object]) -> Callable[..., object]:
    return lambda manager: join([first(manager), second(manager)])  # type: ignore[operator]


BS: dict[str, tuple[Callable[..., object], Curve, bool]] = {
    "LambdaBS": (of(bs.LambdaBS, lambda k: 1 + k / 7), lambda x: B0 * (1 + x * NUM_STEPS / 7), False),
    "MultiplicativeBS": (
        # its factor at step 0 counts as well: 1.03^(k + 1)
        of(bs.MultiplicativeBS, lambda k: 1.03),
        curves.exponential(B0 * 1.03, B0 * 1.03 ** (NUM_STEPS + 1)),
        True,
    ),
    "StepBS": (of(bs.StepBS, 20, 3.0), curves.step(at(20, 40), 3, B0), True),
    "MultiStepBS": (of(bs.MultiStepBS, [18, 36], 2.5), curves.step(at(18, 36), 2.5, B0), True),
    "ConstantBS": (of(bs.ConstantBS, 3.3, 20), curves.piecewise(at(20), [330, 100]), True),
    "LinearBS": (
        of(bs.LinearBS, 1.0, 5.0, 40),
        curves.join([curves.linear(B0, 5 * B0), curves.constant(5 * B0)], at(40)),
        True,
    ),
    "ExponentialBS": (of(bs.ExponentialBS, 1.04), curves.exponential(B0, B0 * 1.04**NUM_STEPS), False),
    # with power 1 the product telescopes: B0 (k + 2) / 2, until total_iters - 1
    "PolynomialBS, power 1": (
        of(bs.PolynomialBS, 31, 1.0),
        curves.join([curves.linear(B0, 16 * B0), curves.constant(16 * B0)], at(30)),
        True,
    ),
    # with another power it is no polynomial, only the product of its steps
    "PolynomialBS, power 2": (
        of(bs.PolynomialBS, 10, 2.0),
        curves.piecewise(at(*range(1, 10)), [B0 * factor for factor in jumps(10)]),
        True,
    ),
    "CosineAnnealingBS": (of(bs.CosineAnnealingBS, NUM_STEPS), curves.cosine(B0, LARGEST), False),
    "SequentialBS": (
        pair(of(bs.ConstantBS, 2.0, 20), of(bs.ExponentialBS, 1.05), lambda both: bs.SequentialBS(both, [25])),
        # the second goes on from the batch size reached, and takes its first step at the milestone
        curves.join(
            [curves.piecewise([19.5 / 25], [2 * B0, B0]), curves.exponential(B0 * 1.05, B0 * 1.05**36)], at(25)
        ),
        False,
    ),
    "ChainedBSScheduler": (
        pair(of(bs.StepBS, 20, 2.0), of(bs.MultiStepBS, [10, 50], 1.5), lambda both: bs.ChainedBSScheduler(both)),
        curves.product(curves.step(at(20, 40), 2, B0), curves.step(at(10, 50), 1.5)),
        True,
    ),
    # from the base down to the smallest and back: a triangle that stands on its head, ratio below 1
    "CyclicBS triangular": (
        of(bs.CyclicBS, step_size_down=10, mode="triangular"),
        curves.product(curves.constant(SMALLEST), curves.triangular(3, SMALLEST / B0)),
        False,
    ),
    "CyclicBS triangular2, lopsided": (
        of(bs.CyclicBS, step_size_down=5, step_size_up=15, mode="triangular2"),
        curves.product(curves.constant(SMALLEST), curves.triangular(3, SMALLEST / B0, halving=True, peak=0.25)),
        False,
    ),
    "CyclicBS exp_range": (
        of(bs.CyclicBS, step_size_down=10, mode="exp_range", gamma=0.97),
        curves.product(curves.constant(SMALLEST), curves.triangular(3, SMALLEST / B0, gamma=0.97**NUM_STEPS)),
        False,
    ),
}


def bound(values: list[float], compounds: bool) -> list[float]:
    if not compounds:
        return [0.5 + 1e-9] * len(values)
    return [1e-9 + sum(0.5 * value / before for before in values[: k + 1]) for k, value in enumerate(values)]


@pytest.mark.parametrize("name", BS)
def test_a_curve_equals_the_bs_scheduler_within_its_rounding(name: str) -> None:
    build, curve, compounds = BS[name]
    ours = [curve(step / NUM_STEPS) for step in range(NUM_STEPS)]
    theirs = bs_values(build)
    assert len(set(theirs)) > 1
    for step, (a, b, allowed) in enumerate(zip(ours, theirs, bound(ours, compounds), strict=True)):
        assert abs(a - b) <= allowed, (step, a, b)


def test_rising_cosine_restarts_equal_bs_scheduler_whose_cycle_has_one_step_more() -> None:
    # A cycle has t + 1 steps there, both ends included; compared at equal fractions of each cycle (t = 9, then 18).
    theirs = bs_values(of(bs.CosineAnnealingBSWithWarmRestarts, 9, factor=2), 10 + 19)
    rise = curves.cosine(B0, LARGEST)
    curve = curves.join([rise, rise], [1 / 3])
    below = math.nextafter(1 / 3, 0)  # the first cycle's last value; at 1/3 the second one begins
    positions = [min(k / 27, below) for k in range(10)] + [1 / 3 + 2 / 3 * k / 18 for k in range(19)]
    for x, size in zip(positions, theirs, strict=True):
        assert abs(curve(x) - size) <= 0.5 + 1e-6


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_one_cycle_bs_is_a_way_down_and_a_way_up(strategy: str) -> None:
    bend = curves.cosine if strategy == "cos" else curves.linear
    theirs = bs_values(of(bs.OneCycleBS, NUM_STEPS, 0.3, strategy=strategy))
    curve = curves.join([bend(B0, SMALLEST), bend(SMALLEST, LARGEST)], [0.3])  # 18 and 42 steps
    for step, size in enumerate(theirs):
        assert abs(curve(step / NUM_STEPS) - size) <= 0.5 + 1e-9


def test_of_bs_schedulers_fifteen_only_the_closed_loop_one_is_left_out() -> None:
    # IncreaseBSOnPlateau looks at a metric: a policy, not a curve.
    named = {name.split(",")[0].split(" ")[0] for name in BS} | {"CosineAnnealingBSWithWarmRestarts", "OneCycleBS"}
    theirs = {
        name
        for name, kind in vars(bs).items()
        if isinstance(kind, type) and issubclass(kind, bs.BSScheduler) and kind is not bs.BSScheduler
    }
    assert theirs - named == {"IncreaseBSOnPlateau"}
    assert len(theirs) == 15


# ---- by hand


@pytest.mark.parametrize(
    ("curve", "x", "expected"),
    [
        (curves.inverse_sqrt(0.01), 0.005, 1.0),
        (curves.inverse_sqrt(0.01), 0.04, 0.5),
        (curves.inverse_sqrt(0.01), 1.0, 0.1),
        (curves.wsd(0.2, 0.1), 0.8, 1.0),
        (curves.wsd(0.2, 0.1), 0.9, 0.55),
        (curves.wsd(0.2, 0.1, "sqrt"), 0.85, 0.55),  # a quarter of the way: 1 - sqrt(.25) = .5 of .9 above .1
        (curves.wsd(1.0), 0.25, 0.75),
        (curves.power_rise(2, 10, 3), 0.5, 3.0),
        (curves.step([0.5, 0.75], 0.5, 8), 0.5, 4.0),
        (curves.warm_up(0.2, 0.5), 0.0, 0.5),
        (curves.warm_up(0.2, 0.5), 0.2, 1.0),
        (curves.warm_up(0.0), 0.0, 1.0),
        (curves.cosine_restarts(2, 4, 3), 0.25, 1.0),  # lengths 1 and 3: the second begins at 1/4
        (curves.cosine_restarts(2, 4, 3), 0.625, 0.625),  # half of the second
        (curves.cosine_restarts(2, 4, 3), 1.0, 0.25),
        (curves.join([curves.linear(0, 1), curves.linear(5, 9)], [0.2]), 0.1, 0.5),
        (curves.join([curves.linear(0, 1), curves.linear(5, 9)], [0.2]), 0.2, 5.0),
        (curves.join([curves.linear(0, 1), curves.linear(5, 9)], [0.2]), 0.6, 7.0),
    ],
)
def test_a_curve_has_the_value_worked_out_by_hand(curve: Curve, x: float, expected: float) -> None:
    assert curve(x) == pytest.approx(expected, rel=1e-12)


def test_three_phases_need_a_peak_before_the_middle() -> None:
    with pytest.raises(ValueError, match=r"below 0\.5"):
        curves.one_cycle(pct_start=0.5, three_phase=True)


# ---- tables


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_can_be_written_as_a_table(name: str) -> None:
    curve = read_curve("lr", {"curve": name})
    assert all(math.isfinite(curve(k / 10)) for k in range(10))


def test_a_table_may_hold_sequences_and_products_of_tables() -> None:
    curve = read_curve(
        "lr",
        {
            "product": [
                {"curve": "constant", "value": 4},
                {
                    "sequence": [
                        {"curve": "linear", "start": 0, "end": 1},
                        {"sequence": [{"curve": "constant", "value": 2}, {"curve": "constant"}], "boundaries": [0.5]},
                    ],
                    "boundaries": [0.2],
                },
            ]
        },
    )
    # 4 x .5 in the first fifth; then 4 x 2 until half of the rest, .6; then 4
    assert [curve(0.1), curve(0.2), curve(0.59), curve(0.61)] == pytest.approx([2, 8, 8, 4])


def test_a_table_is_not_changed_by_reading_it() -> None:
    table = {"sequence": [{"curve": "linear"}, {"curve": "constant"}], "boundaries": [0.5]}
    read_curve("lr", table)
    assert table == {"sequence": [{"curve": "linear"}, {"curve": "constant"}], "boundaries": [0.5]}


LINE = {"curve": "linear"}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"curve": "linaer"}, ["lr.curve", "'linaer'", "did you mean 'linear'?"]),
        ({"curve": ["linear"]}, ["lr.curve", "['linear']", "linear"]),
        ({}, ["lr: a table without curve", "curve = one of", "cosine-restarts"]),
        ({"curve": "linear", "strat": 1}, ["lr: linear: parameter", "'strat'", "did you mean 'start'?"]),
        ({"curve": "linear", "start": math.nan}, ["lr: start", "nan", "a number"]),
        ({"curve": "linear", "start": True}, ["start", "True", "a number"]),
        ({"curve": "linear", "start": 10**400}, ["start", "a number"]),
        ({"curve": "exponential", "end": 0}, ["end", "0", "above 0"]),
        ({"curve": "step", "milestones": [0.6, 0.3]}, ["milestones", "[0.6, 0.3]", "strictly increasing"]),
        ({"curve": "piecewise", "values": [1]}, ["lr.values", "1", "one more than boundaries"]),
        ({"curve": "triangular", "peak": 1}, ["peak", "1", "(0, 1)"]),
        ({"curve": "triangular", "cycles": 10**6}, ["cycles", "1000000", "[1, 10000]"]),
        ({"curve": "one-cycle", "three_phase": True, "pct_start": 0.6}, ["lr: one-cycle", "pct_start", "below 0.5"]),
        ({"curve": "one-cycle", "anneal": "cosine"}, ["anneal", "'cosine'", "did you mean 'cos'?"]),
        ({"sequence": [LINE, LINE], "boundaries": [0.2, 0.4]}, ["lr.boundaries", "2 for 2 curves", "one less"]),
        ({"sequence": [LINE, LINE], "boundaries": [1.0]}, ["lr: boundaries", "1.0", "(0, 1)"]),
        (
            {"sequence": [LINE, LINE], "boundary": [0.5]},
            ["lr: sequence: parameter", "'boundary'", "did you mean 'boundaries'?"],
        ),
        ({"sequence": LINE}, ["lr.sequence", "a list of tables"]),
        ({"sequence": []}, ["lr.sequence", "[]", "a list of tables"]),
        ({"product": [LINE, "linear"]}, ["lr.product", "a list of tables"]),
        ({"product": [LINE], "sequence": [LINE]}, ["lr: sequence", "unknown name 'product'"]),
        (
            {"product": [LINE, {"sequence": [LINE, {"curve": "cosin"}], "boundaries": [0.5]}]},
            ["lr.product[1].sequence[1].curve", "'cosin'", "did you mean 'cosine'?"],
        ),
        (
            {"product": [LINE, {"sequence": [LINE, {"curve": "cosine", "ende": 1}], "boundaries": [0.5]}]},
            ["lr.product[1].sequence[1]: cosine", "'ende'", "did you mean 'end'?"],
        ),
    ],
)
def test_a_wrong_table_is_refused_with_its_place_and_a_cure(table: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        read_curve("lr", table)
    for word in words:
        assert word in str(refusal.value)
