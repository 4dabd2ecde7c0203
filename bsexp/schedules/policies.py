"""The policies of closed-loop schedules: what they look at, and what they make of it.

The one rule: a policy says what it wants and why; rounding and limits are applied in one place, `closed.limited`. What
can't be told is a reason to hold, never a number.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bsexp.errors import UsageError
from bsexp.schedules.base import Schedule
from bsexp.schedules.closed import ClosedLoop, Decide, Observation, State, Wish
from bsexp.schedules.parameters import Parameter, above, choice, count, fraction
from bsexp.schedules.patience import Plateau
from bsexp.schedules.planned import Planned, Setting
from bsexp.signals.cabs import cabs_batch
from bsexp.signals.cosine import batch_for_cosine
from bsexp.signals.diversity import diversity_batch
from bsexp.signals.gain import gain
from bsexp.signals.norm_test import norm_test_batch
from bsexp.signals.simple import b_simple

NOISE = frozenset({"noise"})
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Policy:
    """A named policy. `lr_scaling` is its rule for the rate unless the run has one; `needs` what must be measured."""

    name: str
    rule: str
    source: str
    build: Callable[[Setting, Mapping[str, Any]], Decide]
    parameters: tuple[Parameter, ...] = ()
    lr_scaling: str = "none"
    needs: frozenset[str] = NOTHING


def held(why: str) -> Wish:
    """Leave everything as it is."""
    return Wish(f"held: {why}")


# -- by the noise scale: one signal, read in several ways


def _by_noise(batch_of: Callable[[float], float], grows_only: bool = False) -> Decide:
    def decide(state: State, seen: Observation) -> Wish:
        b = b_simple(seen.noise)
        if math.isnan(b):
            return held("not measured yet" if math.isnan(seen.noise.grad_sq_norm) else "|G|^2 is not above 0")
        wanted = batch_of(b)
        if grows_only and wanted < state.batch_size:
            return Wish("held: it only grows", wanted, keep=True)
        return Wish("by noise", wanted)

    return decide


def _noise(setting: Setting, values: Mapping[str, Any]) -> Decide:
    return _by_noise(lambda b: values["c"] * b)


def _gns(setting: Setting, values: Mapping[str, Any]) -> Decide:
    return _by_noise(lambda b: b)


def _norm_test(setting: Setting, values: Mapping[str, Any]) -> Decide:
    return _by_noise(lambda b: norm_test_batch(b, values["theta"]), grows_only=True)


def _diversity(setting: Setting, values: Mapping[str, Any]) -> Decide:
    return _by_noise(lambda b: diversity_batch(b, values["delta"]))


def _cosine(setting: Setting, values: Mapping[str, Any]) -> Decide:
    return _by_noise(lambda b: batch_for_cosine(b, values["target"]))


# -- by the loss


def _floor(setting: Setting, values: Mapping[str, Any], name: str) -> float:
    if values["floor"] is None and setting.noisy_labels:
        which = f"{name} with label noise or label smoothing"
        raise UsageError("floor", which, "the loss can't fall to 0 then: --set floor=NATS says how far it can")
    return values["floor"] or 0.0


def _cabs(setting: Setting, values: Mapping[str, Any]) -> Decide:
    if setting.optimizer != "sgd":
        raise UsageError("cabs", f"with {setting.optimizer}", "it is derived for SGD: use --optimizer sgd")
    if setting.momentum and not values["effective_lr"]:
        cure = "it is derived without: --momentum 0, or --set effective_lr=yes for lr / (1 - momentum), which is ours"
        raise UsageError("cabs", f"with momentum {setting.momentum:g}", cure)
    floor = _floor(setting, values, "cabs")

    def decide(state: State, seen: Observation) -> Wish:
        if math.isnan(seen.noise.grad_var):
            return held("not measured yet")
        if not seen.loss > floor or not math.isfinite(seen.loss):
            return held("the loss is not above its floor")
        lr = seen.lr / (1 - seen.momentum)
        return Wish("by lr and noise", cabs_batch(lr, seen.noise.grad_var, seen.loss, floor))

    return decide


def _loss(setting: Setting, values: Mapping[str, Any]) -> Decide:
    floor = _floor(setting, values, "loss")

    def decide(state: State, seen: Observation) -> Wish:
        if not (seen.loss > floor and seen.first_loss > floor and math.isfinite(seen.first_loss / seen.loss)):
            return held("the loss is not above its floor")
        return Wish("by loss", setting.batch_size * (seen.first_loss - floor) / (seen.loss - floor))

    return decide


# -- by validation


def _waiting(values: Mapping[str, Any], setting: Setting, grow: Callable[[int], Wish]) -> Decide:
    """`grow` is told the number of plateaus so far, when it has risen."""
    if not setting.validated:
        cure = "the test split is not there to decide by: leave some for validation"
        raise UsageError("val_fraction", "0 with policy plateau", cure)
    names = ("mode", "patience", "threshold", "threshold_mode", "cooldown")
    plateau = Plateau(**{name: values[name] for name in names})

    def decide(state: State, seen: Observation) -> Wish:
        after = state.patience
        for score in seen.scores:
            after = plateau.seen(after, score.val_loss if plateau.mode == "min" else score.val_accuracy)
        if after.fired > state.patience.fired:
            return grow(after.fired)._replace(patience=after)
        return held(f"{after.bad} evaluations without getting better")._replace(patience=after)

    return decide


def _plateau_batch(setting: Setting, values: Mapping[str, Any]) -> Decide:
    first, factor = setting.batch_size, values["factor"]
    return _waiting(values, setting, lambda fired: Wish("a plateau", first * factor**fired))


def _plateau_lr(setting: Setting, values: Mapping[str, Any]) -> Decide:
    return _waiting(values, setting, lambda fired: Wish("a plateau", lr_factor=values["factor"] ** fired))


def _gain(setting: Setting, values: Mapping[str, Any]) -> Decide:
    if setting.lr_scaling not in (None, "none"):
        raise UsageError(
            "lr_scaling", f"{setting.lr_scaling} with policy gain", "the gain is the scaling: leave it out"
        )
    reference = setting.reference_batch or setting.batch_size

    def decide(state: State, seen: Observation) -> Wish:
        if math.isnan(seen.noise.grad_var):
            return held("not measured yet")
        if not (seen.noise.grad_sq_norm >= 0 and seen.noise.grad_var > 0):
            return held("|G|^2 is negative")
        return Wish("by gain", lr_factor=gain(*seen.noise, state.batch_size, reference))

    return decide


def _shadow(setting: Setting, values: Mapping[str, Any]) -> Decide:
    return lambda state, seen: held("it follows")


_FLOOR = Parameter("floor", "number", None, "loss that can't be gone below, in nats (0 with clean labels)", 0)
_EFFECTIVE = Parameter("effective_lr", "flag", False, "cabs with momentum: lr / (1 - momentum) for lr (ours)")
_WAITING = (
    choice("mode", "min", ("min", "max"), "min: of the validation loss; max: of the validation accuracy"),
    count("patience", 4, "evaluations without getting better that are put up with", 0),
    Parameter("threshold", "number", 1e-4, "how much better is better", 0),
    choice("threshold_mode", "rel", ("rel", "abs"), "threshold relative to the best, or absolute"),
    count("cooldown", 0, "evaluations after a plateau that don't count", 0),
)
FOLLOWED = ("growing-batch", "fixed-small", "lr-decay", "late-switch", "batch-warmup", "hybrid")

BATCH_POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(
            "noise",
            "B = c tr(Sigma) / |G|^2",
            "McCandlish et al. 2018, arXiv:1812.06162",
            _noise,
            (above("c", 1, 0, "batch size in noise scales"),),
            "sqrt",
            NOISE,
        ),
        Policy("gns", "noise with c = 1", "McCandlish et al. 2018, arXiv:1812.06162", _gns, (), "sqrt", NOISE),
        Policy(
            "norm-test",
            "noise with c = 1 / theta^2, grows only",
            "Byrd et al. 2012; De et al. 2017, arXiv:1610.05792",
            _norm_test,
            (above("theta", 0.5, 0, "error of the gradient put up with, as a share of its length"),),
            "none",
            NOISE,
        ),
        Policy(
            "diversity",
            "B = delta (1 + tr(Sigma) / |G|^2): noise again",
            "Yin et al. 2018, arXiv:1706.05699; DiveBatch 2025",
            _diversity,
            (above("delta", 1, 0, "batch size in gradient diversities"),),
            "linear",
            NOISE,
        ),
        Policy(
            "cosine",
            "B = 2 t / (1 - t) tr(Sigma) / |G|^2: noise again",
            "SimiGrad, Qin et al. 2021",
            _cosine,
            (fraction("target", 0.5, "cosine t between the gradients of a batch's halves"),),
            "sqrt",
            NOISE,
        ),
        Policy(
            "cabs",
            "B = lr tr(Sigma) / (loss - floor)",
            "Balles et al. 2017, arXiv:1612.05086, eq. 22",
            _cabs,
            (_FLOOR, _EFFECTIVE),
            "none",
            NOISE,
        ),
        Policy(
            "loss",
            "B = B0 (first loss - floor) / (loss - floor)",
            "AdaDamp, Sievert & Shah 2019, arXiv:1910.08222",
            _loss,
            (_FLOOR,),
        ),
        Policy(
            "plateau",
            "x factor where validation stands still",
            "IncreaseBSOnPlateau",
            _plateau_batch,
            (Parameter("factor", "number", 2.0, "growth at a plateau", 1, 2, open_low=True), *_WAITING),
        ),
        Policy(
            "shadow",
            "follows an open-loop schedule, logs what the others would do",
            "ours",
            _shadow,
            (
                choice("follow", "growing-batch", FOLLOWED, "the schedule that is followed"),
                Parameter("follow_parameters", "table", None, "its parameters"),
                _FLOOR,
                _EFFECTIVE,
            ),
            "none",
            NOISE,
        ),
    )
}

LR_POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(
            "plateau",
            "x factor where validation stands still",
            "torch's ReduceLROnPlateau",
            _plateau_lr,
            (Parameter("factor", "number", 0.1, "fall at a plateau", 0, 1, open_low=True, open_high=True), *_WAITING),
        ),
        Policy(
            "gain",
            "lr r, r = (var + |G|^2) / (var / S + |G|^2): the gain of AdaScale on the clock of samples",
            "Johnson et al. 2020, arXiv:2007.05105",
            _gain,
            (),
            "none",
            NOISE,
        ),
    )
}


def close_loop(ground: Planned, policy: Policy, followed: Schedule | None = None) -> ClosedLoop:
    """The closed loop of `policy` on the `ground` of what it doesn't decide; `followed`: what shadow follows.

    Raises UsageError where the policy can't be used in this setting.
    """
    name, setting, values = ground.strategy.name, ground.setting, ground.parameters
    least = values.get("min_batch") or setting.batch_size
    if least > setting.batch_size:
        raise UsageError("min_batch", str(least), f"at most batch_size = {setting.batch_size}, where it starts")
    decide = policy.build(setting, values)
    if followed is None:
        return ClosedLoop(name, policy.name, ground, decide, name == "adaptive-batch", least)
    assert isinstance(followed, Planned), "only open loops can be followed"
    return ClosedLoop(name, policy.name, followed, decide, True, least, _asked_by_shadow(setting, values))


def _asked_by_shadow(setting: Setting, values: Mapping[str, Any]) -> tuple[tuple[str, Decide], ...]:
    """Every other policy with its defaults; one that would be refused says so at each decision instead."""
    return tuple(
        (policy.name, _asked(policy, setting, values))
        for policy in BATCH_POLICIES.values()
        if policy.name not in ("shadow", "noise")  # noise with its default is gns
    )


def _asked(policy: Policy, setting: Setting, values: Mapping[str, Any]) -> Decide:
    own = {parameter.name: values.get(parameter.name, parameter.default) for parameter in policy.parameters}
    try:
        return policy.build(setting, own)
    except UsageError as error:
        wish = held(f"refused: {error}")
        return lambda state, seen: wish
