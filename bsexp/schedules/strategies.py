"""The named strategies: how batch size, learning rate and momentum move together along the budget.

The one rule: to add a strategy, add a rule and an entry here, and nothing elsewhere.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from bsexp.errors import UsageError, nearest
from bsexp.schedules import curves
from bsexp.schedules.base import Schedule
from bsexp.schedules.custom import read_curve
from bsexp.schedules.parameters import Parameter, above, choice, count, fraction, settle
from bsexp.schedules.planned import Planned, Point, Rule, Setting, Strategy, Wanted
from bsexp.schedules.policies import BATCH_POLICIES, LR_POLICIES, Policy, close_loop
from bsexp.schedules.scaling import scaling_rule
from bsexp.schedules.shapes import BATCH_SHAPES, LR_SHAPES, ONE_CYCLE_PARAMETERS


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
            "adaptive-batch",
            "decided along the run, by policy",
            "constant, scaled by the policy's rule",
            "see its policies: bsexp list policies",
            _fixed,
            (
                choice("policy", "noise", tuple(BATCH_POLICIES), "what decides"),
                count("min_batch", None, "least batch (batch_size)"),
            ),
            {"policy": BATCH_POLICIES},
            closed=True,
        ),
        Strategy(
            "adaptive-lr",
            "B0",
            "decided along the run, by policy",
            "see its policies: bsexp list policies",
            _fixed,
            (choice("policy", "plateau", tuple(LR_POLICIES), "what decides"),),
            {"policy": LR_POLICIES},
            closed=True,
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


def find_policy(name: str, parameters: Mapping[str, Any]) -> Policy | None:
    """The policy of a closed loop with these parameters; None for any other schedule."""
    if ":" in name or not find_strategy(name).closed:
        return None
    strategy = find_strategy(name)
    assert strategy.shapes, "closed loops have policies"
    policy: Policy = strategy.shapes["policy"][parameters.get("policy", strategy.own[0].default)]
    return policy


def default_scaling(name: str, parameters: Mapping[str, Any]) -> str:
    """The rule for the rate of a schedule that isn't given one: the strategy's, its policy's, or the followed one's."""
    policy = find_policy(name, parameters)
    if policy and policy.name == "shadow":
        return default_scaling(parameters.get("follow", policy.parameters[0].default), {})
    return policy.lr_scaling if policy else find_strategy(name).lr_scaling


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
    scale = scaling_rule(setting.lr_scaling or default_scaling(name, parameters), setting.optimizer)
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
    planned = Planned(strategy, setting, values, rule, scale, reference, start)
    policy = find_policy(name, values)
    if policy is None:
        return planned
    if policy.name == "shadow":
        own = {} if values["warmup_start"] is None else {"warmup_start": values["warmup_start"]}
        followed = make_schedule(values["follow"], setting, {**own, **(values["follow_parameters"] or {})})
        return close_loop(planned, policy, followed)
    return close_loop(planned, policy)
