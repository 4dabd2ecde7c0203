"""A run as a value: its completeness, its hash, and what is taken as a value at all."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from bsexp.config import RunConfig, check_value, parse_value, parse_values
from bsexp.errors import UsageError
from bsexp.options import OPTIONS, RUN_FIELDS
from bsexp.schedules import SCHEDULES, Progress


def hash_of(schedule: str = "lr-decay", **values: Any) -> str:
    return RunConfig(schedule=schedule, **values).hash


# ---- the hash


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        *((name, {}) for name in SCHEDULES),
        ("growing-batch", {"parameters": {"match": "cosine", "final_lr_fraction": 0.1}}),
        ("lr-decay", {"parameters": {"milestones": [0.5, 0.75], "factor": 10}}),
        ("custom", {"parameters": {"lr": {"curve": "linear"}, "momentum": {"curve": "constant", "value": 0.5}}}),
        ("super-convergence", {"dataset": "cifar10", "optimizer": "adamw", "seed": 3}),
        ("own.module:factory", {"parameters": {"anything": [1, 2]}}),
        ("fixed-small", {"dataset": "folder:pictures"}),
    ],
)
def test_completing_a_complete_config_changes_nothing(schedule: str, values: dict[str, Any]) -> None:
    config = RunConfig(schedule=schedule, **values)
    again = RunConfig(**config.model_dump())
    assert again == config
    assert again.hash == config.hash
    through_json = RunConfig(**json.loads(config.model_dump_json()))
    assert through_json == config
    assert through_json.hash == config.hash


def test_two_hashes_stay_what_they_are() -> None:
    # Computed once and written down: the id of a run is the name of its folder, so a change here orphans everybody's
    # finished runs. If it changes on purpose, a new SCHEMA_VERSION goes with it.
    assert hash_of("lr-decay") == "6ac22488a57eee30082978408367e1bb"
    pinned = RunConfig(
        schedule="growing-batch",
        dataset="cifar10",
        parameters={"match": "cosine", "final_lr_fraction": 0.1},
        seed=3,
        lr=0.2,
        epochs=40.0,
    )
    assert pinned.hash == "5902322632bf8b80ff699047eafc1481"


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "from bsexp.config import RunConfig; print(RunConfig(schedule='one-cycle', seed=7).hash)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == hash_of("one-cycle", seed=7)


# What the data set digits, the model mlp and lr-decay stand for when nothing is said.
SAID = {
    "dataset": "digits",
    "model": "mlp",
    "epochs": 20.0,
    "batch_size": 16,
    "lr": 0.0125,
    "lr_scaling": "none",
    "reference_batch": 16,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "weight_decay_clock": "update",
    "optimizer": "sgd",
    "dropout": 0.0,
    "norm": "none",
    "ghost_batch": 0,
    "averaging": "ema",
    "label_smoothing": 0.0,
    "label_noise": 0.0,
    "augment": False,
    "fixed_subset": False,
    "val_fraction": 0.1,
    "seed": 0,
    "order": 0,
    "order_from": 0,
    "measure_noise": False,
    "virtual_workers": 1,
    "reduce": "mean",
    "precision": "fp32",
    "allow_unstable": False,
    "parameters": {"shape": "step", "milestones": [0.3, 0.6, 0.8], "factor": 5},
}
UNSET = {
    "max_batch",
    "warmup_epochs",
    "clip_norm",
    "train_size",
    "image_size",
    "evals",
    "log_samples",
    "micro_batch",
}


@pytest.mark.parametrize("name", SAID)
def test_saying_a_default_is_the_same_run(name: str) -> None:
    assert hash_of(**{name: SAID[name]}) == hash_of()


def test_saying_all_defaults_is_the_same_run() -> None:
    assert hash_of(**SAID) == hash_of()
    assert {*SAID, *UNSET} - {"parameters"} == set(RUN_FIELDS)


def test_none_means_unsaid() -> None:
    assert hash_of(**dict.fromkeys(UNSET)) == hash_of()
    assert hash_of(lr=None, batch_size=None, momentum=None) == hash_of()


@pytest.mark.parametrize("name", ["lr", "epochs", "momentum", "weight_decay"])
def test_a_whole_number_is_the_same_number(name: str) -> None:
    value = 0 if name == "momentum" else 1
    assert hash_of(**{name: value}) == hash_of(**{name: float(value)})


OTHER = {
    "dataset": "mnist",
    "model": "lenet",
    "epochs": 21.0,
    "batch_size": 17,
    "max_batch": 100,
    "lr": 0.06,
    "lr_scaling": "sqrt",
    "reference_batch": 8,
    "warmup_epochs": 1.0,
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 0.0,
    "weight_decay_clock": "samples",
    "optimizer": "adamw",
    "clip_norm": 1.0,
    "dropout": 0.1,
    "norm": "group",
    "ghost_batch": 8,
    "averaging": "none",
    "label_smoothing": 0.1,
    "label_noise": 0.2,
    "augment": True,
    "train_size": 100,
    "fixed_subset": True,
    "val_fraction": 0.2,
    "seed": 1,
    "order": 1,
    "evals": 10,
    "log_samples": 0,
    "measure_noise": True,
    "virtual_workers": 2,
    "micro_batch": 8,
    "precision": "bf16",
    "allow_unstable": True,
    "parameters": {"factor": 4},
    "data_fingerprint": "0123456789abcdef",
}


def test_each_field_is_in_the_hash_on_its_own() -> None:
    hashes = [hash_of(), *(hash_of(**{name: value}) for name, value in OTHER.items())]
    # A sum is one over several workers.
    hashes.append(hash_of(virtual_workers=2, reduce="sum"))
    assert len(set(hashes)) == len(hashes)
    assert {*OTHER, "reduce"} == {*RUN_FIELDS, "parameters", "data_fingerprint"} - {"image_size", "order_from"}


def test_the_size_of_folder_images_is_in_the_hash() -> None:
    small, large = (RunConfig(schedule="lr-decay", dataset="folder:pictures", image_size=size) for size in (32, 64))
    assert small.hash == RunConfig(schedule="lr-decay", dataset="folder:pictures").hash
    assert small.hash != large.hash


def test_each_schedule_has_its_own_hash_and_an_alias_has_its_names() -> None:
    assert len({hash_of(name) for name in SCHEDULES}) == len(SCHEDULES)
    assert hash_of("super-convergence") == hash_of("one-cycle")


def test_parameters_hash_by_value() -> None:
    assert hash_of(parameters={"factor": 5}) == hash_of(parameters={"factor": 5.0}) == hash_of()
    assert hash_of(parameters={"milestones": (0.5,)}) == hash_of(parameters={"milestones": [0.5]}) != hash_of()
    one, other = {"shape": "linear", "final_lr_fraction": 0.1}, {"final_lr_fraction": 0.1, "shape": "linear"}
    assert hash_of(parameters=one) == hash_of(parameters=other)


def test_what_is_not_in_the_id_is_no_field() -> None:
    # `schedule` is both: the list that a sweep runs through, and the one that a run has
    outside = {option.name for option in OPTIONS.values() if not option.in_id} - {"schedule"}
    assert {"device", "threads", "out", "name", "resume", "jobs"} <= outside
    assert not outside & set(RunConfig.model_fields)
    with pytest.raises(UsageError, match="unknown key 'device'"):
        RunConfig(schedule="lr-decay", device="cpu")


def test_a_config_cannot_be_changed() -> None:
    config = RunConfig(schedule="lr-decay")
    with pytest.raises(ValueError, match="frozen"):
        config.lr = 1.0


# ---- defaults


def test_fixed_large_has_a_batch_of_its_own_and_the_data_sets_reference() -> None:
    config = RunConfig(schedule="fixed-large")
    assert (config.batch_size, config.reference_batch, config.lr, config.lr_scaling) == (128, 16, 0.0125, "linear")
    hyper = config.build_schedule()(Progress(0, 0, 1000, 1293))
    assert (hyper.batch_size, hyper.lr) == (
        128,
        pytest.approx(0.0125),
    )  # the warm-up's first update: the reference rate
    assert RunConfig(schedule="fixed-large", dataset="mnist").batch_size == 512
    assert RunConfig(schedule="fixed-large", dataset="cifar10").batch_size == 1024


def test_the_reference_is_the_runs_own_batch_elsewhere() -> None:
    config = RunConfig(schedule="growing-batch", batch_size=40, lr_scaling="linear")
    assert config.reference_batch == 40
    assert config.build_schedule()(Progress(0, 0, 1000, 1293)).lr == 0.0125


def test_adamw_has_a_rate_of_its_own() -> None:
    assert RunConfig(schedule="lr-decay", optimizer="adamw").lr == 0.001
    assert RunConfig(schedule="lr-decay", optimizer="adamw", dataset="cifar10").lr == 0.001
    assert RunConfig(schedule="lr-decay", optimizer="adamw", lr=0.01).lr == 0.01


def test_a_schedule_that_moves_the_momentum_leaves_it_unset() -> None:
    assert RunConfig(schedule="one-cycle").momentum is None
    assert RunConfig(schedule="one-cycle", parameters={"cycle_momentum": False}).momentum == 0.9
    assert RunConfig(schedule="cyclic").momentum == 0.9


@pytest.mark.parametrize(
    ("schedule", "parameters"),
    [
        ("one-cycle", {}),
        ("super-convergence", {}),
        ("cyclic", {"cycle_momentum": True}),
        ("custom", {"momentum": {"curve": "constant", "value": 0.5}}),
    ],
)
def test_a_momentum_beside_a_schedule_that_moves_it_is_refused(schedule: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"momentum: 0\.9 .*leave it out, or set cycle_momentum = false"):
        RunConfig(schedule=schedule, parameters=parameters, momentum=0.9)


def test_data_set_and_model_fill_in_their_starting_points() -> None:
    cifar = RunConfig(schedule="lr-decay", dataset="cifar10")
    assert (cifar.model, cifar.batch_size, cifar.lr, cifar.epochs) == ("resnet20", 128, 0.1, 20)
    assert (cifar.norm, cifar.ghost_batch, cifar.augment) == ("batch", 32, True)
    fashion = RunConfig(schedule="lr-decay", dataset="fashion-mnist")
    assert (fashion.model, fashion.batch_size, fashion.lr, fashion.epochs) == ("cnn", 32, 0.02, 10)
    assert (fashion.norm, fashion.ghost_batch, fashion.augment) == ("group", 0, True)


def test_the_budget_is_epochs_times_samples_rounded() -> None:
    assert RunConfig(schedule="lr-decay", epochs=0.5).total_samples(1293) == 646
    with pytest.raises(UsageError, match=r"epochs: 0\.0001; less than one sample of 1293"):
        RunConfig(schedule="lr-decay", epochs=1e-4).total_samples(1293)


# ---- what is refused


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schedule": "lr-deacy"}, ["schedule", "'lr-deacy'", "did you mean 'lr-decay'?"]),
        ({"schedule": None}, ["schedule", "None", "bsexp list schedules"]),
        ({"dataset": "cifar"}, ["dataset", "'cifar'", "'cifar10'"]),
        ({"model": "resnet"}, ["model", "'resnet'", "did you mean"]),
        ({"batchsize": 3}, ["unknown key 'batchsize'", "did you mean 'batch_size'"]),
        ({"batch_size": 0}, ["batch_size", "0", "a whole number from 1"]),
        ({"batch_size": 16.0}, ["batch_size", "16.0", "a whole number"]),
        ({"lr": 0}, ["lr", "0", "above 0"]),
        ({"lr": math.nan}, ["lr", "nan", "a number above 0"]),
        ({"epochs": math.inf}, ["epochs", "inf", "a number above 0"]),
        ({"lr_scaling": "lienar"}, ["lr_scaling", "'lienar'", "did you mean 'linear'?"]),
        ({"momentum": 1.0}, ["momentum", "1.0", "below 1"]),
        ({"image_size": 32}, ["image_size", "32", "folder:"]),
        ({"parameters": {"factr": 3}}, ["lr-decay: parameter", "'factr'", "did you mean 'factor'?"]),
        ({"parameters": {"factor": 1}}, ["factor", "1", "above 1"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_a_cure(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        RunConfig(**{"schedule": "lr-decay", **values})
    for word in words:
        assert word in str(refusal.value)


# ---- values and texts


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("batch_size", "64", 64),
        ("lr", "1e-3", 0.001),
        ("lr", " 0.1 ", 0.1),
        ("epochs", "2", 2.0),
        ("nesterov", "true", True),
        ("nesterov", "false", False),
        ("optimizer", "adamw", "adamw"),
        ("micro_batch", "auto", "auto"),
        ("micro_batch", "32", 32),
        ("lr_scaling", "0.75", "0.75"),
        ("seed", "2147483647", 2**31 - 1),
    ],
)
def test_a_text_stands_for_a_value(name: str, text: str, value: object) -> None:
    parsed = parse_value(OPTIONS[name], text, name)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("batch_size", "64k"),
        ("batch_size", "1.5"),
        ("batch_size", "-1"),
        ("batch_size", "0"),
        ("batch_size", "1e3"),
        ("batch_size", "true"),
        ("batch_size", ""),
        ("epochs", "1e400"),
        ("epochs", "0"),
        ("lr", "nan"),
        ("lr", "inf"),
        ("lr", "-inf"),
        ("lr", "-0.1"),
        ("lr", "0.1,0.2"),
        ("nesterov", "maybe"),
        ("nesterov", "2"),
        ("micro_batch", "0"),
        ("micro_batch", "automatic"),
        ("seed", "2147483648"),
        ("momentum", "1"),
        ("dataset", ""),
    ],
)
def test_a_text_that_is_no_value_is_refused_with_what_would_be(name: str, text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_value(OPTIONS[name], text, "--somewhere")
    assert (refusal.value.what, refusal.value.which) == ("--somewhere", repr(text))
    assert refusal.value.cure == f"give {OPTIONS[name].accepts}"


def test_a_misspelt_choice_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'sgd'"):
        parse_value(OPTIONS["optimizer"], "sdg", "--optimizer")


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("seed", "0-5", [0, 1, 2, 3, 4, 5]),
        ("seed", "3", [3]),
        ("seed", "0,2,4", [0, 2, 4]),
        ("seed", "0-2, 7", [0, 1, 2, 7]),
        ("seed", "4-4", [4]),
        ("batch_size", "16,32", [16, 32]),
        ("lr", "1e-3,0.1", [0.001, 0.1]),  # a dash in a number is no range
        ("optimizer", "sgd,adamw", ["sgd", "adamw"]),
        ("nesterov", "true,false", [True, False]),
        ("dataset", "fashion-mnist,digits", ["fashion-mnist", "digits"]),
        ("micro_batch", "auto,8-9", ["auto", 8, 9]),
    ],
)
def test_a_comma_list_holds_values_and_ranges(name: str, text: str, values: list[object]) -> None:
    assert parse_values(OPTIONS[name], text, name) == values


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("seed", "5-0", ["'5-0'", "from the smaller to the larger"]),
        ("seed", "0-", ["whole number"]),
        ("seed", "-1", ["'-1'", "whole number from 0"]),
        ("seed", "0-5-9", ["whole number"]),
        ("seed", "1,,2", ["''", "whole number"]),
        ("seed", "0-99999999", ["'0-99999999'", "a million"]),
        ("seed", "a-b", ["'a'", "whole number"]),
        ("lr", "0.1-0.5", ["'0.1-0.5'", "a number above 0"]),
    ],
)
def test_a_wrong_list_is_refused_at_the_part_that_is_wrong(name: str, text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_values(OPTIONS[name], text, "--seeds")
    for word in ["--seeds", *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", True),
        ("batch_size", 64.0),
        ("batch_size", "64"),
        ("batch_size", None),
        ("lr", True),
        ("lr", "0.1"),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", 10**400),
        ("lr", [0.1]),
        ("nesterov", 1),
        ("nesterov", "true"),
        ("optimizer", ["sgd"]),
        ("optimizer", "SGD"),
        ("dataset", 3),
        ("dataset", ""),
        ("micro_batch", "AUTO"),
        ("micro_batch", True),
    ],
)
def test_a_value_of_another_type_is_refused_not_converted(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=r"^\[run\]\.key: "):
        check_value(OPTIONS[name], value, "[run].key")


@pytest.mark.parametrize(("name", "value"), [("lr", 1), ("micro_batch", "auto"), ("micro_batch", 8), ("seed", 0)])
def test_a_value_of_its_type_is_kept(name: str, value: object) -> None:
    assert check_value(OPTIONS[name], value, name) == value
