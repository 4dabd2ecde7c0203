"""The named shapes: what a learning rate is multiplied by, and how a batch grows, along the budget.

The one rule: continuous learning-rate shapes run from the end of the warm-up to the end of the budget, milestones stay
fractions of the whole budget. To add a shape, add an entry here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bsexp.schedules import curves
from bsexp.schedules.curves import Curve
from bsexp.schedules.parameters import MOST_CYCLES, Parameter, above, choice, count, fraction, milestones


@dataclass(frozen=True)
class LrShape:
    """A factor c on the learning rate. `whole`: a function of f itself, not of the part behind the warm-up."""

    name: str
    formula: str
    parameters: tuple[Parameter, ...]
    build: Callable[..., Curve]
    whole: bool = False

    def factor(self, values: dict[str, Any]) -> Callable[[float, float], float]:
        """c(f, w) for parameter values as `settle` returns them; w is the warm-up's share of the budget."""
        curve = self.build(**values)
        if self.whole:
            return lambda f, w: curve(f)
        return lambda f, w: curve(max(0.0, (f - w) / (1 - w)))


@dataclass(frozen=True)
class BatchShape:
    """The batch wanted at f, between the first one and `max_batch`, before any cap."""

    name: str
    formula: str
    parameters: tuple[Parameter, ...]
    build: Callable[..., Callable[[float, float], Curve]]

    def wanted(self, values: dict[str, Any]) -> Callable[[float, float, float], float]:
        """B(f, B0, Bm) for parameter values as `settle` returns them."""
        between = self.build(**values)
        return lambda f, first, largest: between(first, largest)(f)


def _end(default: float = 0.0) -> Parameter:
    return Parameter(
        "final_lr_fraction", "number", default, "what is left of the rate at the end", 0, 1, open_low=default > 0
    )


_FACTOR = above("factor", 5, 1, "each milestone divides or multiplies by it")
_CYCLES = count("cycles", 4, "cycles of equal length", high=MOST_CYCLES)
_RATIO = above("ratio", 4, 1, "highest rate / lowest rate")

ONE_CYCLE_PARAMETERS = (
    fraction("pct_start", 0.3, "where the peak lies"),
    above("div_factor", 25, 1, "peak / first rate"),
    above("final_div_factor", 1e4, 0, "first rate / last rate"),
    choice("anneal", "cos", ("cos", "linear"), "how the rate goes from one to the next"),
    Parameter("three_phase", "flag", False, "down through the first rate, as fast as up"),
)

LR_SHAPES: dict[str, LrShape] = {
    shape.name: shape
    for shape in (
        LrShape("constant", "1", (), lambda: curves.constant(1.0)),
        LrShape(
            "step",
            "factor^-k, k milestones passed",
            (milestones(), _FACTOR),
            lambda milestones, factor: curves.step(milestones, 1 / factor),
            whole=True,
        ),
        LrShape(
            "linear", "e + (1 - e)(1 - u)", (_end(),), lambda final_lr_fraction: curves.linear(1, final_lr_fraction)
        ),
        LrShape(
            "polynomial",
            "e + (1 - e)(1 - u)^power",
            (_end(), above("power", 2, 0, "exponent")),
            lambda final_lr_fraction, power: curves.polynomial(1, final_lr_fraction, power),
        ),
        LrShape(
            "cosine",
            "e + (1 - e)(1 + cos pi u) / 2",
            (_end(),),
            lambda final_lr_fraction: curves.cosine(1, final_lr_fraction),
        ),
        LrShape(
            "exponential", "e^u", (_end(0.01),), lambda final_lr_fraction: curves.exponential(1, final_lr_fraction)
        ),
        LrShape(
            "inverse-sqrt",
            "sqrt(t / max(u, t))",
            (fraction("timescale", 0.05, "t"),),
            lambda timescale: curves.inverse_sqrt(timescale),
        ),
        LrShape(
            "wsd",
            "1, then down to e over the last part",
            (
                fraction("cooldown_fraction", 0.2, "the last part", open_high=False),
                _end(),
                choice("cooldown", "linear", ("linear", "sqrt"), "linear, or 1 - sqrt"),
            ),
            lambda cooldown_fraction, final_lr_fraction, cooldown: curves.wsd(
                cooldown_fraction, final_lr_fraction, cooldown
            ),
        ),
        LrShape("one-cycle", "torch's OneCycleLR at f", ONE_CYCLE_PARAMETERS, curves.one_cycle, whole=True),
        LrShape("triangular", "between 1/ratio and 1", (_CYCLES, _RATIO), curves.triangular),
        LrShape(
            "triangular2",
            "triangular, the amplitude halved each cycle",
            (_CYCLES, _RATIO),
            lambda cycles, ratio: curves.triangular(cycles, ratio, halving=True),
        ),
        LrShape(
            "exp-range",
            "triangular, amplitude times gamma^u",
            (_CYCLES, _RATIO, fraction("gamma", 0.1, "share of the amplitude left at the end", open_high=False)),
            lambda cycles, ratio, gamma: curves.triangular(cycles, ratio, gamma=gamma),
        ),
        LrShape(
            "cosine-restarts",
            "from 1 to 1/ratio, again and again",
            (_CYCLES, _RATIO, above("cycle_mult", 1, 0, "length of a cycle / length of the one before")),
            curves.cosine_restarts,
        ),
    )
}

BATCH_SHAPES: dict[str, BatchShape] = {
    shape.name: shape
    for shape in (
        BatchShape(
            "step",
            "B0 factor^k, k milestones passed",
            (milestones(), _FACTOR),
            lambda milestones, factor: lambda first, largest: curves.step(milestones, factor, first),
        ),
        BatchShape("linear", "B0 + (Bm - B0) f", (), lambda: curves.linear),
        BatchShape(
            "polynomial",
            "B0 + (Bm - B0) f^power",
            (above("power", 2, 0, "exponent"),),
            lambda power: lambda first, largest: curves.power_rise(first, largest, power),
        ),
        BatchShape("cosine", "B0 + (Bm - B0)(1 - cos pi f) / 2", (), lambda: curves.cosine),
        BatchShape("exponential", "B0 (Bm / B0)^f", (), lambda: curves.exponential),
    )
}
