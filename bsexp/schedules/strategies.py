"""The named strategies: how batch size, learning rate and momentum move together along the budget.

The one rule: a strategy states what it *wants* (a real batch size, factors); rounding, the cap's refusal, scaling and
warm-up are applied in one place, `Planned.__call__`. To add a strategy, add a rule and an entry here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bsexp.errors import UsageError, nearest
from bsexp.schedules import curves
from bsexp.schedules.base import Hyper, Progress, Schedule
from bsexp.schedules.custom import read_curve
from bsexp.schedules.parameters import Parameter, above, choice, count, fraction, settle
from bsexp.schedules.scaling import scaling_rule
from bsexp.schedules.shapes import BATCH_SHAPES, LR_SHAPES, ONE_CYCLE_PARAMETERS


@dataclass(frozen=True)
class Setting:
    """What a run gives to any schedule; None stands for the strategy's own default (or the rule named below).

    `lr` is the rate at `reference_batch` (default: batch_size). `max_batch` defaults to max(batch_size,
    num_train // 10). `warmup_epochs` is a float, in epochs.
    """

    batch_size: int
    lr: float
    momentum: float = 0.9
    optimizer: str = "sgd"
    max_batch: int | None = None
    reference_batch: int | None = None
    lr_scaling: str | None = None
    warmup_epochs: float | None = None
    allow_unstable: bool = False


class Point(NamedTuple):
    """Where a rule is asked: f, the warm-up's share w, N, B0 and Bm."""

    f: float
    w: float
    num_train: int
    first: int
    largest: int


class Wanted(NamedTuple):
    """A rule's answer: the batch before rounding, the factor on the learning rate, the momentum (None: the run's)."""

    batch: float
    lr: float = 1.0
    momentum: float | None = None


Rule = Callable[[Point], Wanted]


@dataclass(frozen=True)
class Strategy:
    """A named family of schedules. `shapes` maps a parameter ("shape", "match") to the table its values come from."""

    name: str
    batch: str
    lr: str
    source: str
    rule: Callable[[Setting, dict[str, Any]], Rule]
    own: tuple[Parameter, ...] = ()
    shapes: Mapping[str, Mapping[str, Any]] | None = None
    lr_scaling: str = "none"
    warmup_share: float = 0.0
    large: bool = False

    def parameters(self, given: Mapping[str, Any]) -> tuple[Parameter, ...]:
        """All parameters, those of the shape that `given` chooses included."""
        found = {parameter.name: parameter for parameter in self.own}
        for selector, table in (self.shapes or {}).items():
            chosen = given.get(selector, None if given.get("match") else found[selector].default)
            if chosen is not None:
                found[selector].check(chosen)
                for parameter in table[chosen].parameters:
                    found.setdefault(parameter.name, parameter)
        found["warmup_start"] = _WARMUP_START
        return tuple(found.values())

    def overflow(self, where: str) -> UsageError:
        """The error for parameters whose formula leaves the floating-point numbers."""
        return UsageError(self.name, f"a value too large to compute {where}", "choose less extreme parameters")


_WARMUP_START = fraction(
    "warmup_start", None, "factor on the rate at the first update of a warm-up (0.1)", open_high=False
)


@dataclass(frozen=True)
class Planned:
    """A strategy with all its values: the pure function Progress -> Hyper."""

    strategy: Strategy
    setting: Setting
    parameters: dict[str, Any]
    rule: Rule
    scale: Callable[[float], float]
    reference: int
    warmup_start: float

    def largest(self, num_train: int) -> int:
        """The cap on the batch size, in samples; UsageError where the data cannot carry it."""
        first = self.setting.batch_size
        largest = self.setting.max_batch or max(first, num_train // 10)
        if largest < first:
            raise UsageError("max_batch", str(largest), f"it must be at least batch_size = {first}")
        if largest > num_train // 2:
            what = "max_batch" if self.setting.max_batch and largest > first else "batch_size"
            raise UsageError(what, str(largest), f"at most num_train // 2 = {num_train // 2} of {num_train} samples")
        return largest

    def warmup_share(self, total_samples: int, num_train: int) -> float:
        """The warm-up's share w of the budget, in [0, 1)."""
        epochs = self.setting.warmup_epochs
        share = self.strategy.warmup_share if epochs is None else epochs * num_train / total_samples
        if share >= 1:
            raise UsageError("warmup_epochs", f"{epochs:g}", f"the whole run has {total_samples / num_train:g} epochs")
        return share

    def __call__(self, progress: Progress) -> Hyper:
        """Values for the update that starts at `progress`. Raises UsageError where they leave their range."""
        largest = self.largest(progress.num_train)
        w = self.warmup_share(progress.total_samples, progress.num_train)
        f = progress.fraction
        try:
            wanted = self.rule(Point(f, w, progress.num_train, self.setting.batch_size, largest))
        except OverflowError:
            raise self.strategy.overflow(f"at {f:.4f} of the budget") from None
        batch = round(wanted.batch) if math.isfinite(wanted.batch) else 0
        if not 1 <= batch <= largest:
            raise UsageError(
                self.strategy.name,
                f"wants a batch of {wanted.batch:g} at {f:.4f} of the budget",
                f"it must lie in [1, max_batch = {largest}]; change batch_size, max_batch or the schedule's parameters",
            )
        lr = self.setting.lr * wanted.lr * self.scale(batch / self.reference)
        if f < w:
            lr *= curves.warm_up(w, self.warmup_start)(f)
        return Hyper(batch, lr, self.setting.momentum if wanted.momentum is None else wanted.momentum)


def _fixed(setting: Setting, values: dict[str, Any]) -> Rule:
    return lambda at: Wanted(at.first)


def _lr_decay(setting: Setting, values: dict[str, Any]) -> Rule:
    factor = _shape_factor("shape", values)
    return lambda at: Wanted(at.first, factor(at.f, at.w))


def _growing(setting: Setting, values: dict[str, Any]) -> Rule:
    if values.get("match"):
        return _matched(setting, values)
    shape = BATCH_SHAPES[values["shape"]]
    wanted = shape.wanted({parameter.name: values[parameter.name] for parameter in shape.parameters})
    return _capped(setting, values["at_cap"], lambda at: wanted(at.f, at.first, at.largest))


def _capped(setting: Setting, at_cap: str, wanted: Callable[[Point], float]) -> Rule:
    """Growth up to the cap; what is left of it goes to the learning rate (schedules.md: B multiplies, as published)."""
    power = 1.0 if setting.optimizer == "sgd" else 0.5

    def rule(at: Point) -> Wanted:
        batch = wanted(at)
        if batch <= at.largest:
            return Wanted(batch)
        return Wanted(at.largest, (at.largest / batch) ** power if at_cap == "decay-lr" else 1.0)

    return rule


def _matched(setting: Setting, values: dict[str, Any]) -> Rule:
    """The batch with the noise that an lr shape c would give: B = N / (1 + c (N/B0 - 1)); AdamW: B = B0 c^-2."""
    if "shape" in values:
        raise UsageError("growing-batch", "both shape and match", "give one of them")
    if setting.optimizer == "adamw" and not setting.allow_unstable:
        raise UsageError("growing-batch match", "with adamw", "known to be unstable: --allow-unstable runs it")
    factor = _shape_factor("match", values)
    hold = values["at_cap"] == "hold"

    def sgd(at: Point) -> Wanted:
        c = factor(at.f, at.w)
        excess = at.num_train / at.first - 1
        batch = at.num_train / (1 + c * excess)
        if batch <= at.largest:
            return Wanted(batch)
        return Wanted(at.largest, 1.0 if hold else c * excess / (at.num_train / at.largest - 1))

    def adamw(at: Point) -> Wanted:
        c = factor(at.f, at.w)
        if at.first <= at.largest * c**2:  # so, and not by c^-2: near the end that leaves the floats
            return Wanted(at.first / c**2)
        return Wanted(at.largest, 1.0 if hold else c * math.sqrt(at.largest / at.first))

    return sgd if setting.optimizer == "sgd" else adamw


def _late_switch(setting: Setting, values: dict[str, Any]) -> Rule:
    growth = curves.step([values["switch"]], values["factor"])
    return _capped(setting, values["at_cap"], lambda at: at.first * growth(at.f))


def _batch_warmup(setting: Setting, values: dict[str, Any]) -> Rule:
    factor = _shape_factor("shape", values)
    ramp = curves.join([curves.linear(1 / 8, 1.0), curves.constant(1.0)], [values["ramp"]])
    return lambda at: Wanted(at.first * ramp(at.f), factor(at.f, at.w))


def _hybrid(setting: Setting, values: dict[str, Any]) -> Rule:
    """Each factor a of the decay is split: SGD lr a^(1-s), B a^-s; AdamW lr a^(1-s), B a^-2s (Seesaw at s = .5)."""
    share, stages = values["share"], values["grow_stages"]
    if stages is not None:
        return _staged(setting, values, stages)
    sgd = setting.optimizer == "sgd"
    if not sgd and share > 0.5 and not setting.allow_unstable:
        raise UsageError("share", f"{share:g} with adamw", "above .5 is known to be unstable: --allow-unstable runs it")
    factor = _shape_factor("shape", values)
    power = share if sgd else 2 * share
    keep = 1.0 if sgd else 0.5

    def rule(at: Point) -> Wanted:
        c = factor(at.f, at.w)
        if at.first <= at.largest * c**power:
            return Wanted(at.first / c**power, c ** (1 - share))
        return Wanted(at.largest, c * (at.largest / at.first) ** keep)

    return rule


def _staged(setting: Setting, values: dict[str, Any], stages: int) -> Rule:
    """The first `stages` milestones grow the batch, the others decay the rate (Smith et al. 2018, figures 1 to 4)."""
    if values["shape"] != "step":
        raise UsageError("grow_stages", f"with shape {values['shape']}", "it counts milestones: use shape = step")
    marks, factor = values["milestones"], values["factor"]
    if stages > len(marks):
        raise UsageError("grow_stages", str(stages), f"there are {len(marks)} milestones")
    if values["share"] != 0.5:
        raise UsageError("hybrid", "both share and grow_stages", "give one of them")
    grow = _capped(setting, "decay-lr", lambda at: at.first * curves.step(marks[:stages], factor)(at.f))
    decay = curves.step(marks[stages:], 1 / factor)

    def rule(at: Point) -> Wanted:
        grown = grow(at)
        return grown._replace(lr=grown.lr * decay(at.f))

    return rule


def _one_cycle(setting: Setting, values: dict[str, Any]) -> Rule:
    names = [parameter.name for parameter in ONE_CYCLE_PARAMETERS]
    factor = curves.one_cycle(**{name: values[name] for name in names})
    if not values["cycle_momentum"]:
        return lambda at: Wanted(at.first, factor(at.f))
    high, low = values["max_momentum"], values["base_momentum"]
    bend = curves.cosine if values["anneal"] == "cos" else curves.linear
    parts, marks = [bend(high, low), bend(low, high)], [values["pct_start"]]
    if values["three_phase"]:
        parts, marks = [*parts, curves.constant(high)], [*marks, 2 * values["pct_start"]]
    momentum = curves.join(parts, marks)
    return lambda at: Wanted(at.first, factor(at.f), momentum(at.f))


def _cyclic(setting: Setting, values: dict[str, Any]) -> Rule:
    factor = _shape_factor("shape", values)
    if not values["cycle_momentum"]:
        return lambda at: Wanted(at.first, factor(at.f, at.w))
    high, low, bottom = values["max_momentum"], values["base_momentum"], 1 / values["ratio"]

    def rule(at: Point) -> Wanted:
        c = factor(at.f, at.w)
        return Wanted(at.first, c, high - (high - low) * (c - bottom) / (1 - bottom))

    return rule


def _custom(setting: Setting, values: dict[str, Any]) -> Rule:
    def curve(name: str) -> curves.Curve | None:
        return None if values[name] is None else read_curve(name, values[name])

    batch, lr, momentum = curve("batch") or curves.constant(), curve("lr") or curves.constant(), curve("momentum")
    return lambda at: Wanted(at.first * batch(at.f), lr(at.f), momentum(at.f) if momentum else None)


def _shape_factor(selector: str, values: dict[str, Any]) -> Callable[[float, float], float]:
    shape = LR_SHAPES[values[selector]]
    return shape.factor({parameter.name: values[parameter.name] for parameter in shape.parameters})


def _cycling(on: bool) -> tuple[Parameter, ...]:
    return (
        fraction("max_momentum", 0.95, "momentum at the lowest rate", open_low=False),
        fraction("base_momentum", 0.85, "momentum at the highest rate", open_low=False),
        Parameter("cycle_momentum", "flag", on, "move the momentum against the rate"),
    )


_AT_CAP = choice("at_cap", "decay-lr", ("decay-lr", "hold"), "past max_batch: the rate takes over, or nothing happens")
_ANY_LR_SHAPE = tuple(LR_SHAPES)
_CYCLES = ("triangular", "triangular2", "exp-range", "cosine-restarts")

SCHEDULES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("fixed-small", "B0", "constant", "Masters & Luschi 2018", _fixed),
        Strategy(
            "fixed-large",
            "the data set's large batch",
            "constant, scaled linearly, warm-up 5 %",
            "Goyal et al. 2017",
            _fixed,
            lr_scaling="linear",
            warmup_share=0.05,
            large=True,
        ),
        Strategy(
            "lr-decay",
            "B0",
            "any lr shape",
            "common practice",
            _lr_decay,
            (choice("shape", "step", _ANY_LR_SHAPE, "shape of the decay"),),
            {"shape": LR_SHAPES},
        ),
        Strategy(
            "growing-batch",
            "grows to max_batch",
            "constant up to the cap, then takes over",
            "Smith, Kindermans, Ying, Le 2018, arXiv:1711.00489",
            _growing,
            (
                choice("shape", "step", tuple(BATCH_SHAPES), "shape of the growth"),
                choice("match", None, _ANY_LR_SHAPE, "grow so that the noise follows this lr shape"),
                _AT_CAP,
            ),
            {"shape": BATCH_SHAPES, "match": LR_SHAPES},
        ),
        Strategy(
            "late-switch",
            "B0, then one jump",
            "constant up to the cap, then takes over",
            "arXiv:2602.14208",
            _late_switch,
            (
                fraction("switch", 0.8, "where the batch jumps"),
                above("factor", 16, 1, "the jump"),
                _AT_CAP,
            ),
        ),
        Strategy(
            "batch-warmup",
            "B0/8 to B0 over the first part",
            "its own shape, scaled with the root",
            "Merrill et al. 2025",
            _batch_warmup,
            (
                fraction("ramp", 0.2, "the first part"),
                choice("shape", "linear", _ANY_LR_SHAPE, "shape of the rate"),
            ),
            {"shape": LR_SHAPES},
            lr_scaling="sqrt",
        ),
        Strategy(
            "hybrid",
            "takes a share of the decay",
            "takes the rest",
            "Seesaw 2025, arXiv:2510.14717; Smith et al. 2018",
            _hybrid,
            (
                choice("shape", "step", _ANY_LR_SHAPE, "shape of the decay that is split"),
                fraction("share", 0.5, "share of the decay that the batch takes", open_low=False, open_high=False),
                count("grow_stages", None, "milestones that grow the batch, the others decay the rate", 0),
            ),
            {"shape": LR_SHAPES},
        ),
        Strategy(
            "one-cycle",
            "B0",
            "up and down once",
            "Smith & Topin 2018, arXiv:1708.07120",
            _one_cycle,
            (*ONE_CYCLE_PARAMETERS, *_cycling(True)),
        ),
        Strategy(
            "cyclic",
            "B0",
            "up and down again and again",
            "Smith 2017, arXiv:1506.01186; Loshchilov & Hutter 2017",
            _cyclic,
            (choice("shape", "triangular", _CYCLES, "shape of a cycle"), *_cycling(False)),
            {"shape": {name: LR_SHAPES[name] for name in _CYCLES}},
        ),
        Strategy(
            "custom",
            "batch_size times a curve",
            "lr times a curve",
            "yours",
            _custom,
            tuple(
                Parameter(name, "curve", None, text)
                for name, text in (
                    ("batch", "factor on batch_size along the budget"),
                    ("lr", "factor on lr"),
                    ("momentum", "the momentum itself"),
                )
            ),
        ),
    )
}

ALIASES = {"super-convergence": "one-cycle"}


def find_strategy(name: str) -> Strategy:
    """The strategy of that name or alias; UsageError with the nearest names otherwise."""
    try:
        return SCHEDULES[ALIASES.get(name, name)]
    except KeyError:
        raise UsageError("schedule", f"unknown name {name!r}", nearest(name, [*SCHEDULES, *ALIASES])) from None


def cycles_momentum(name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether this schedule sets the momentum itself, so that a run's own momentum would be ignored."""
    if ":" in name:
        return False
    strategy = find_strategy(name)
    defaults = {parameter.name: parameter.default for parameter in strategy.own}
    return bool(parameters.get("cycle_momentum", defaults.get("cycle_momentum", False))) or bool(
        strategy.name == "custom" and parameters.get("momentum")
    )


def settle_parameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a named strategy with their values, checked; UsageError otherwise."""
    strategy = find_strategy(name)
    values = settle(strategy.name, strategy.parameters(given), dict(given))
    if given.get("match") and "shape" not in given:
        values.pop("shape")
    return values


def make_schedule(name: str, setting: Setting, parameters: Mapping[str, Any]) -> Schedule:
    """The schedule called `name` (an entry of SCHEDULES, or the user's own `package.module:factory`).

    Raises UsageError for unknown names and for parameters that are out of range or contradict one another.
    """
    if ":" in name:
        from bsexp.schedules.own import load_factory

        return load_factory(name, setting, parameters)
    strategy = find_strategy(name)
    values = settle_parameters(name, parameters)
    scale = scaling_rule(setting.lr_scaling or strategy.lr_scaling, setting.optimizer)
    reference = setting.reference_batch or setting.batch_size
    start = values["warmup_start"]
    if start is None:
        start = 1 / scale(setting.batch_size / reference) if strategy.large else 0.1
    try:
        rule = strategy.rule(setting, values)
    except OverflowError:
        raise strategy.overflow("in its parameters") from None
    except ValueError as error:
        raise UsageError(strategy.name, "parameters that contradict one another", str(error)) from None
    return Planned(strategy, setting, values, rule, scale, reference, start)
