"""What is refused, with the thing, the value and the cure in one line; and how text becomes a value."""

import math
from typing import Any

import pytest

from bsexp.errors import UsageError
from bsexp.schedules import SCHEDULES, Setting, make_schedule, simulate
from bsexp.schedules.parameters import Parameter, choice, fraction, milestones, settle
from bsexp.schedules.strategies import cycles_momentum


def attempt(
    name: str,
    parameters: dict[str, Any] | None = None,
    total_samples: int = 20_000,
    num_train: int = 1000,
    **setting: Any,
) -> None:
    """Plans a whole run of 20 epochs of 1000 samples."""
    schedule = make_schedule(name, Setting(**{"batch_size": 20, "lr": 0.1, **setting}), parameters or {})
    list(simulate(schedule, total_samples=total_samples, num_train=num_train))


def refused(words: list[str], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(UsageError) as refusal:
        attempt(*args, **kwargs)
    for word in words:
        assert word in str(refusal.value)


def test_what_the_refusals_below_start_from_is_accepted() -> None:
    for name, strategy in SCHEDULES.items():
        if not strategy.closed:
            attempt(name)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("growing-bach", {}, ["schedule", "'growing-bach'", "did you mean 'growing-batch'"]),
        ("onecycle", {}, ["'onecycle'", "'one-cycle'"]),
        ("lr-decay", {"shap": "cosine"}, ["lr-decay: parameter", "'shap'", "did you mean 'shape'?"]),
        ("lr-decay", {"shape": "cosin"}, ["shape", "'cosin'", "did you mean 'cosine'?"]),
        ("lr-decay", {"shape": ["cosine"]}, ["shape", "['cosine']", "cosine"]),
        ("lr-decay", {"shape": None}, ["shape", "None", "cosine"]),
        ("lr-decay", {"shape": "cosine", "factor": 5}, ["lr-decay: parameter", "'factor'"]),
        ("lr-decay", {"milestones": [0.6, 0.3]}, ["milestones", "[0.6, 0.3]", "strictly increasing"]),
        ("lr-decay", {"milestones": [0.3, 0.3]}, ["milestones", "[0.3, 0.3]", "strictly increasing"]),
        ("lr-decay", {"milestones": [0.0, 0.3]}, ["milestones", "0.0", "(0, 1)"]),
        ("lr-decay", {"milestones": [0.3, 1.0]}, ["milestones", "1.0", "(0, 1)"]),
        ("lr-decay", {"milestones": [60, 120]}, ["milestones", "60", "(0, 1)"]),
        ("lr-decay", {"milestones": []}, ["milestones", "[]", "a list of numbers"]),
        ("lr-decay", {"milestones": 0.5}, ["milestones", "0.5", "a list of numbers"]),
        ("lr-decay", {"milestones": [0.3, True]}, ["milestones", "True", "numbers"]),
        ("lr-decay", {"factor": 1}, ["factor", "1", "above 1"]),
        ("lr-decay", {"factor": True}, ["factor", "True", "above 1"]),
        ("lr-decay", {"factor": "5"}, ["factor", "'5'", "a number"]),
        ("lr-decay", {"factor": math.nan}, ["factor", "nan", "above 1"]),
        ("lr-decay", {"factor": math.inf}, ["factor", "inf", "above 1"]),
        ("lr-decay", {"factor": 10**400}, ["factor", "above 1"]),
        ("lr-decay", {"factor": 1e200}, ["learning rate 0.0", "above 0"]),  # underflow at the second milestone
        ("growing-batch", {"factor": 1e200}, ["growing-batch", "too large to compute", "less extreme"]),
        (
            "lr-decay",
            {"shape": "exponential", "final_lr_fraction": 0},
            ["final_lr_fraction", "0", "(0, 1]"],
        ),
        ("lr-decay", {"shape": "linear", "final_lr_fraction": 1.1}, ["final_lr_fraction", "1.1", "[0, 1]"]),
        ("lr-decay", {"shape": "polynomial", "power": 0}, ["power", "0", "above 0"]),
        ("lr-decay", {"shape": "wsd", "cooldown": "cos"}, ["cooldown", "'cos'", "linear, sqrt"]),
        ("lr-decay", {"shape": "wsd", "cooldown_fraction": 0}, ["cooldown_fraction", "0", "(0, 1]"]),
        ("lr-decay", {"shape": "inverse-sqrt", "timescale": 0}, ["timescale", "0", "(0, 1)"]),
        ("lr-decay", {"warmup_start": 0}, ["warmup_start", "0", "(0, 1]"]),
        ("growing-batch", {"match": "cosin"}, ["match", "'cosin'", "did you mean 'cosine'?"]),
        ("growing-batch", {"match": ""}, ["match", "''", "cosine"]),
        ("growing-batch", {"shape": "wsd"}, ["shape", "'wsd'", "exponential"]),
        ("growing-batch", {"shape": "step", "match": "step"}, ["both shape and match", "one of them"]),
        ("growing-batch", {"at_cap": "decay"}, ["at_cap", "'decay'", "did you mean 'decay-lr'?"]),
        ("growing-batch", {"match": "linear", "milestones": [0.5]}, ["growing-batch: parameter", "'milestones'"]),
        ("late-switch", {"switch": 1}, ["switch", "1", "(0, 1)"]),
        ("late-switch", {"factor": 1}, ["factor", "1", "above 1"]),
        ("batch-warmup", {"ramp": 0}, ["ramp", "0", "(0, 1)"]),
        ("hybrid", {"share": 1.5}, ["share", "1.5", "[0, 1]"]),
        ("hybrid", {"grow_stages": 4}, ["grow_stages", "4", "there are 3 milestones"]),
        ("hybrid", {"grow_stages": -1}, ["grow_stages", "-1", "from 0"]),
        ("hybrid", {"grow_stages": 1.0}, ["grow_stages", "1.0", "a whole number"]),
        ("hybrid", {"grow_stages": True}, ["grow_stages", "True", "a whole number"]),
        ("hybrid", {"grow_stages": 1, "shape": "cosine"}, ["grow_stages", "cosine", "shape = step"]),
        ("hybrid", {"grow_stages": 1, "share": 0.7}, ["both share and grow_stages", "one of them"]),
        ("one-cycle", {"pct_start": 1}, ["pct_start", "1", "(0, 1)"]),
        ("one-cycle", {"three_phase": True, "pct_start": 0.5}, ["one-cycle", "pct_start", "below 0.5"]),
        ("lr-decay", {"shape": "one-cycle", "three_phase": True, "pct_start": 0.7}, ["lr-decay", "pct_start"]),
        ("one-cycle", {"three_phase": 1}, ["three_phase", "1", "true or false"]),
        ("one-cycle", {"max_momentum": 1}, ["max_momentum", "1", "[0, 1)"]),
        ("one-cycle", {"anneal": "cosine"}, ["anneal", "'cosine'", "did you mean 'cos'?"]),
        ("cyclic", {"shape": "cosine"}, ["shape", "'cosine'", "known: cosine-restarts, exp-range"]),
        ("cyclic", {"cycles": 0}, ["cycles", "0", "[1, 10000]"]),
        ("cyclic", {"cycles": 10**9}, ["cycles", "1000000000", "[1, 10000]"]),
        ("cyclic", {"ratio": 1}, ["ratio", "1", "above 1"]),
        ("cyclic", {"shape": "exp-range", "gamma": 0}, ["gamma", "0", "(0, 1]"]),
        (
            "cyclic",
            {"shape": "cosine-restarts", "cycle_mult": 1e200},
            ["cyclic", "too large to compute", "less extreme"],
        ),
        ("custom", {"lr": "linear"}, ["lr", "'linear'", "a table such as"]),
        ("custom", {"lr": {}}, ["lr", "without curve", "curve = one of"]),
        ("custom", {"lrs": {"curve": "linear"}}, ["custom: parameter", "'lrs'", "did you mean 'lr'?"]),
        ("custom", {"lr": {"curve": "linear", "start": 0}}, ["learning rate 0.0", "at 0.0000", "above 0"]),
        ("custom", {"lr": {"curve": "linear", "end": -1}}, ["learning rate", "above 0"]),
        ("custom", {"batch": {"curve": "linear"}}, ["custom", "wants a batch of", "max_batch = 100"]),
        ("custom", {"batch": {"curve": "linear", "end": 9}}, ["custom", "wants a batch of", "max_batch = 100"]),
        ("custom", {"batch": {"curve": "linear", "end": 1e308}}, ["custom", "wants a batch of 2e+306"]),
        ("custom", {"momentum": {"curve": "constant"}}, ["momentum 1 ", "[0, 1)"]),
        (
            "custom",
            {"lr": {"product": [{"curve": "linear"}, {"curve": "step", "factr": 2}]}},
            ["lr.product[1]: step: parameter", "'factr'", "did you mean 'factor'?"],
        ),
        (
            "custom",
            {"batch": {"sequence": [{"curve": "wsd", "cooldown": "sqr"}]}},
            ["batch.sequence[0]: cooldown", "'sqr'", "did you mean 'sqrt'?"],
        ),
    ],
)
def test_a_wrong_parameter_is_refused(name: str, parameters: dict[str, Any], words: list[str]) -> None:
    refused(words, name, parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "setting", "words"),
    [
        ("fixed-small", {}, {"batch_size": 501}, ["batch_size: 501", "num_train // 2 = 500 of 1000"]),
        ("growing-batch", {}, {"max_batch": 501}, ["max_batch: 501", "num_train // 2 = 500 of 1000"]),
        ("growing-batch", {}, {"max_batch": 19}, ["max_batch: 19", "at least batch_size = 20"]),
        ("lr-decay", {}, {"warmup_epochs": 20.0}, ["warmup_epochs: 20", "the whole run has 20 epochs"]),
        ("batch-warmup", {}, {"batch_size": 4}, ["batch-warmup", "wants a batch of 0.5", "[1, max_batch = 100]"]),
        ("fixed-small", {}, {"lr_scaling": "lin"}, ["lr_scaling: 'lin'", "'linear'"]),
        ("fixed-small", {}, {"lr_scaling": "-1"}, ["lr_scaling: '-1'", "[0, 2]"]),
        ("fixed-small", {}, {"lr_scaling": "nan"}, ["lr_scaling: 'nan'", "[0, 2]"]),
        ("growing-batch", {"match": "linear"}, {"optimizer": "adamw"}, ["match: with adamw", "--allow-unstable"]),
        ("hybrid", {"share": 0.6}, {"optimizer": "adamw"}, ["share: 0.6 with adamw", "--allow-unstable"]),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    name: str, parameters: dict[str, Any], setting: dict[str, Any], words: list[str]
) -> None:
    refused(words, name, parameters, **setting)


@pytest.mark.parametrize(
    ("name", "parameters", "setting"),
    [
        ("fixed-small", {}, {"batch_size": 500}),
        ("growing-batch", {}, {"max_batch": 500}),
        ("growing-batch", {}, {"max_batch": 20}),
        ("lr-decay", {}, {"warmup_epochs": 19.9}),
        ("hybrid", {"share": 0.5}, {"optimizer": "adamw"}),
        ("hybrid", {"share": 0.6}, {"optimizer": "adamw", "allow_unstable": True}),
        ("hybrid", {"share": 1.0}, {}),
        ("growing-batch", {"match": "linear"}, {"optimizer": "adamw", "allow_unstable": True}),
        ("one-cycle", {"three_phase": True, "pct_start": 0.49}, {}),
        ("cyclic", {"shape": "cosine-restarts", "cycles": 10_000}, {}),
        ("custom", {"batch": {"curve": "linear", "end": 5}}, {}),
    ],
)
def test_what_lies_just_inside_is_accepted(name: str, parameters: dict[str, Any], setting: dict[str, Any]) -> None:
    attempt(name, parameters, **setting)


NUMBER = fraction("share", 0.5, "", open_low=False)
FLAG = Parameter("on", "flag", False, "")
COUNT = Parameter("cycles", "integer", 4, "", 1)
TABLE = Parameter("lr", "curve", None, "")


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        (NUMBER, "0.25", 0.25),
        (NUMBER, "0", 0.0),
        (NUMBER, "5e-1", 0.5),
        (COUNT, "3", 3),
        (FLAG, "true", True),
        (FLAG, "No", False),
        (choice("shape", "step", ("step", "cosine"), ""), "cosine", "cosine"),
        (milestones(), "0.2,0.5", (0.2, 0.5)),
        (milestones(), "[0.2, 0.5]", (0.2, 0.5)),
        (milestones(), "0.4", (0.4,)),
        (TABLE, '{curve = "linear", start = 1, end = 0}', {"curve": "linear", "start": 1, "end": 0}),
        (TABLE, '{"curve": "linear", "end": 0.5}', {"curve": "linear", "end": 0.5}),
    ],
)
def test_text_becomes_a_value(parameter: Parameter, text: str, value: object) -> None:
    parsed = parameter.parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("parameter", "text", "words"),
    [
        (NUMBER, "1", ["share", "1.0", "[0, 1)"]),
        (NUMBER, "nan", ["share", "nan", "[0, 1)"]),
        (NUMBER, "1e400", ["share", "inf", "[0, 1)"]),
        (NUMBER, "half", ["share", "'half'", "a number"]),
        (COUNT, "1.5", ["cycles", "'1.5'", "a whole number from 1"]),
        (COUNT, "0", ["cycles", "0", "from 1"]),
        (FLAG, "maybe", ["on", "'maybe'", "true or false"]),
        (milestones(), "0.5,", ["milestones", "'0.5,'", "a list of numbers"]),
        (milestones(), "0.5;0.6", ["milestones", "a list of numbers"]),
        (TABLE, "linear", ["lr", "'linear'", "a table such as"]),
        (TABLE, "[1, 2]", ["lr", "[1, 2]", "a table such as"]),
        (TABLE, "{}\nlr = 3", ["lr", "a table such as"]),
    ],
)
def test_text_that_is_no_value_is_refused(parameter: Parameter, text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        parameter.parse(text)
    for word in words:
        assert word in str(refusal.value)


def test_settling_fills_in_defaults_and_makes_numbers_floats() -> None:
    values = settle("x", (NUMBER, COUNT, FLAG), {"share": 0})
    assert values == {"share": 0.0, "cycles": 4, "on": False}
    assert type(values["share"]) is float


@pytest.mark.parametrize(
    ("name", "parameters", "moves"),
    [
        ("one-cycle", {}, True),
        ("super-convergence", {}, True),
        ("one-cycle", {"cycle_momentum": False}, False),
        ("cyclic", {}, False),
        ("cyclic", {"cycle_momentum": True}, True),
        ("lr-decay", {"shape": "one-cycle"}, False),
        ("custom", {}, False),
        ("custom", {"momentum": {"curve": "constant", "value": 0.5}}, True),
        ("module:factory", {}, False),
    ],
)
def test_it_is_known_which_schedules_move_the_momentum(name: str, parameters: dict[str, Any], moves: bool) -> None:
    assert cycles_momentum(name, parameters) is moves
