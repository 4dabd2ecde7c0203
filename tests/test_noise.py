"""Measuring noise in a run: right values, no number of the run changed, nothing read back, a cost that is known."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from bsexp import RunConfig, Training
from bsexp.data.sources import Images
from bsexp.data.stream import Picks
from bsexp.engine.noise import POINTS, NoiseLog, Norms, measuring_due
from bsexp.engine.step import Updater
from bsexp.errors import MemoryExhausted, UsageError
from bsexp.planning import noise_parts, plan_run
from bsexp.records import EvalRow, StepRow
from bsexp.schedules import Hyper
from bsexp.signals.noise import unbiased_noise, within_epoch
from bsexp.sweep.prefix import find_forks
from tests.conftest import Bsexp
from tests.test_engine import timeless, training, updater, weights
from tests.test_gpu_paths import fp16_updater
from tests.test_prefix import arm, planned


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


def by_hand(update: Updater, model: torch.nn.Module, picks: Picks, sizes: list[int]) -> tuple[float, float]:
    """Mean |g_j|^2 over parts, weighted by samples, and |g|^2: a backward pass for each part, one after another."""
    images, labels = update.batches.train(picks)
    means = []
    for x, y in zip(images.split(sizes), labels.split(sizes), strict=True):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        means.append(flat(model))
    total = sum(sizes)
    whole = torch.stack([size / total * g for size, g in zip(sizes, means, strict=True)]).sum(0)
    of_parts = sum(size / total * float(g @ g) for size, g in zip(sizes, means, strict=True))
    return float(of_parts), float(whole @ whole)


@pytest.mark.parametrize("sizes", [[16] * 4, [40, 24], [1, 62, 1]], ids=str)
def test_norms_are_those_of_the_parts_own_gradients(digits: Images, sizes: list[int]) -> None:
    update, model, stream = updater(digits)
    picks = stream.take(64)
    expected = by_hand(update, model, picks, sizes)
    beside = update.measure(picks, sizes)
    assert (beside.num_parts, beside.batch_size) == (len(sizes), 64)
    assert beside.values.tolist() == pytest.approx(expected, rel=1e-9)
    update.update(picks, Hyper(64, 0.1, 0.9), sizes, read=True)
    assert update.norms is not None
    assert update.norms.values.tolist() == pytest.approx(expected, rel=1e-9)
    update.update(picks, Hyper(64, 0.1, 0.9), sizes)
    assert update.norms is None


def test_norms_in_fp16_are_told_without_the_scale(digits: Images) -> None:
    half, _, stream = fp16_updater(digits, 1024.0)
    full, _, _ = updater(digits)
    picks = stream.take(64)
    found, expected = half.measure(picks, [32, 32]), full.measure(picks, [32, 32])
    assert found.values.tolist() == pytest.approx(expected.values.tolist(), rel=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3},
        {"micro_batch": 5, "dropout": 0.3},
        {"micro_batch": 30, "schedule": "growing-batch", "batch_size": 20},
        {"optimizer": "adamw", "schedule": "lr-decay"},
        {"norm": "batch", "ghost_batch": 8, "schedule": "growing-batch"},
        {"norm": "batch", "ghost_batch": 0},
        {"clip_norm": 0.5, "averaging": "none"},
        {"precision": "fp16"},
    ],
    ids=str,
)
def test_measuring_noise_changes_no_number_of_the_run(digits: Images, options: dict[str, Any]) -> None:
    plain, measured = training(digits, **options), training(digits, measure_noise=True, **options)
    rows = {"plain": list(plain), "measured": list(measured)}
    evals = {name: [timeless(row) for row in found if isinstance(row, EvalRow)] for name, found in rows.items()}
    assert evals["plain"] == evals["measured"]
    steps = {name: [row for row in found if isinstance(row, StepRow)] for name, found in rows.items()}
    empty = {"grad_sq_norm": None, "grad_var": None, "b_simple": None}
    assert [timeless(row) for row in steps["plain"]] == [timeless(replace(row, **empty)) for row in steps["measured"]]
    assert all(row.grad_var is not None and row.grad_var > 0 for row in steps["measured"][1:])
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(measured), strict=True))
    assert plain.outcome is not None
    assert measured.outcome is not None
    assert plain.outcome.test_loss_ema == measured.outcome.test_loss_ema


def test_a_row_holds_the_means_since_the_last_one_and_the_ratio_of_the_smoothed(digits: Images) -> None:
    """The first two updates of a run, worked out with a twin that is updated by hand."""
    options = {"schedule": "fixed-small", "batch_size": 64, "precision": "fp64", "log_samples": 128}
    row = next(r for r in training(digits, measure_noise=True, **options) if isinstance(r, StepRow))
    update, model, stream = updater(digits, **options)
    found = []
    for _ in range(2):
        picks = stream.take(64)
        # Nothing is augmented or dropped: batches are drawn from the 400 samples alone.
        found.append(within_epoch(unbiased_noise(*by_hand(update, model, picks, [16] * 4), 4, 64), 400))
        update.update(picks, Hyper(64, row.lr, 0.9), [64])
    assert row.grad_sq_norm == pytest.approx((found[0].grad_sq_norm + found[1].grad_sq_norm) / 2, rel=1e-9)
    assert row.grad_var == pytest.approx((found[0].grad_var + found[1].grad_var) / 2, rel=1e-9)
    # Half-lives of 4 (1 % of 400) and 6.4 samples (5 % of 128) leave 2^-10 of the first of the two.
    kept = 0.5 ** (64 / 6.4)
    first, second = found
    weight = kept * (1 - 0.5**16) + 1 - kept
    smoothed = [(kept * (1 - 0.5**16) * a + (1 - kept) * b) / weight for a, b in zip(first, second, strict=True)]
    assert row.b_simple == pytest.approx(smoothed[1] / smoothed[0], rel=1e-9)


def test_so_many_points_of_the_budget_are_measured_and_each_has_its_price(
    digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    whole = Updater.measure
    monkeypatch.setattr(Updater, "measure", lambda self, picks, sizes: calls.append(1) or whole(self, picks, sizes))
    options = {"schedule": "fixed-small", "batch_size": 1, "epochs": 3.0, "measure_noise": True}
    with pytest.raises(UsageError, match=r"measuring noise: a batch of 1 can't be cut"):
        training(digits, **options)
    list(training(digits, **{**options, "batch_size": 2}))  # 600 updates
    assert len(calls) == POINTS + 1
    calls.clear()
    list(training(digits, **{**options, "batch_size": 50, "micro_batch": 25}))
    assert not calls  # the parts of the update tell it
    assert not any(measuring_due(at, at + 1, 8000) for at in range(1, 19))
    assert measuring_due(19, 20, 8000)


def test_nothing_is_read_back_before_a_row_is_due(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(digits, measure_noise=True, log_samples=200, evals=1, schedule="fixed-small")
    assert isinstance(next(run), EvalRow)  # the one at 0

    def refuse(*_: Any) -> Any:
        raise AssertionError("read back")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy", "cpu"):
            patch.setattr(Tensor, name, refuse)
        for _ in range(12):  # 192 samples
            next(run)


@pytest.mark.parametrize("after", [3, 20, 33])
def test_a_measured_run_goes_on_to_the_same_bytes(digits: Images, after: int) -> None:
    options = {"measure_noise": True, "log_samples": 70, "schedule": "fixed-small"}
    expected = [timeless(record) for record in training(digits, **options)]
    first = training(digits, **options)
    begun = [timeless(next(first)) for _ in range(after)]
    second = training(digits, first.state(), **options)
    assert begun + [timeless(record) for record in second] == expected


def test_what_is_not_finite_is_no_measurement() -> None:
    log = NoiseLog(1000, None)
    for k, (of_parts, of_whole) in enumerate([(10.0, 4.0), (math.inf, 4.0), (math.nan, math.nan), (10.0, 4.0)]):
        log.follow(Norms(torch.tensor([of_parts, of_whole], dtype=torch.float64), 4, 64), 64 * (k + 1))
    assert log.noise == pytest.approx((2.0, 128.0))
    assert log.row() == pytest.approx((2.0, 128.0, 64.0))
    assert log.row() == (None, None, None)
    log.follow(Norms(torch.tensor([math.inf, 1.0]), 4, 64), 320)
    assert log.row() == (None, None, None)
    log.follow(Norms(torch.tensor([10.0, 1.0]), 4, 64), 384)
    assert log.row()[:2] == pytest.approx((-2.0, 192.0))  # a negative |G|^2 is kept as it is


def test_parts_for_measuring_keep_ghost_batches_whole() -> None:
    plain = RunConfig(schedule="fixed-small")
    assert [noise_parts(size, plain) for size in (1, 2, 3, 64, 66)] == [
        [],
        [1, 1],
        [1, 1, 1],
        [16] * 4,
        [16, 17, 16, 17],
    ]
    ghost = RunConfig(schedule="fixed-small", dataset="cifar10")
    assert [noise_parts(size, ghost) for size in (32, 63, 64, 100, 160)] == [
        [], [], [32, 32], [32, 32, 36], [32, 32, 32, 64]
    ]  # fmt: skip
    whole = RunConfig(schedule="fixed-small", dataset="cifar10", norm="batch")
    assert [noise_parts(size, whole) for size in (3, 4, 6, 100)] == [[], [2, 2], [2, 2, 2], [25] * 4]
    told = RunConfig(schedule="fixed-small", micro_batch=16)
    assert noise_parts(50, told) == [12, 13, 12, 13]
    assert noise_parts(64, plain, memory=8) == [8] * 8


def test_batches_that_can_not_be_cut_are_refused_before_anything_is_trained() -> None:
    config = RunConfig(schedule="fixed-small", dataset="cifar10", batch_size=32, measure_noise=True)
    with pytest.raises(UsageError, match="between ghost batches of 32"):
        plan_run(config, 1000)
    plan_run(RunConfig(**{**config.model_dump(), "measure_noise": False}), 1000)


def test_runs_with_other_budgets_are_measured_elsewhere_and_share_no_beginning() -> None:
    same = [arm("fixed-small", measure_noise=True), arm("lr-decay", measure_noise=True)]
    assert len(find_forks(planned(one=same[0], other=same[1]))) == 1
    assert not find_forks(planned(one=same[0], other=same[1] | {"epochs": 9}))
    assert len(find_forks(planned(one=arm("fixed-small"), other=arm("lr-decay") | {"epochs": 9}))) == 1


def test_memory_that_runs_out_while_measuring_is_told(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    update, _, stream = updater(digits)

    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(update, "_gradients", full)
    with pytest.raises(MemoryExhausted, match="measuring noise in parts of 32; leave --measure-noise out"):
        update.measure(stream.take(64), [32, 32])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_micro_batches_agree_with_per_sample_gradients_along_training(digits: Images, share: float) -> None:
    """At three points of a training: all batches of 30 epochs at fixed weights, against every sample's own gradient."""
    run: Training = training(digits, epochs=8.0, precision="fp64", schedule="fixed-small", batch_size=16)
    while run.samples < share * run.total_samples:
        next(run)
    model, batches = run.model, run._batches
    images, labels = batches.plain(run._data.train, 0, 400)
    params = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(functional_call(model, params, (x[None],)), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(params, images, labels)
    samples = torch.cat([part.flatten(1) for part in each.values()], 1)
    mean = samples.mean(0)
    exact = (float(mean @ mean), float((samples - mean).square().sum()) / 399)
    run._stream.seek(0)
    found = []
    for _ in range(30 * 400 // 16):
        norms = run._updater.measure(run._stream.take(16), [4] * 4)
        found.append(within_epoch(unbiased_noise(*norms.values.tolist(), 4, 16), 400))
    for k in range(2):
        values = torch.tensor([noise[k] for noise in found], dtype=torch.float64)
        error = float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean()) - exact[k]) < 3.5 * error
        assert error < 0.12 * exact[k]


def test_what_augmentation_and_dropout_change_is_drawn_from_more_than_the_training_set(digits: Images) -> None:
    options = {"measure_noise": True, "schedule": "fixed-small"}
    seen = [training(digits, **options), training(digits, **options, dropout=0.2)]
    seen.append(Training(seen[0].config, data=replace(seen[0]._data, crop=1), device="cpu"))
    assert [run._own.noise.population for run in seen if run._own.noise] == [400, None, None]
    log = NoiseLog(1000, 64)
    log.follow(Norms(torch.tensor([10.0, 4.0], dtype=torch.float64), 4, 64), 64)
    assert log.row() == pytest.approx((4.0, 128.0, 32.0))  # 2 + 128/64


def test_the_option_makes_another_run_whose_files_differ_in_three_columns_only(bsexp: Bsexp, tmp_path: Path) -> None:
    tables: dict[str, list[dict[str, str]]] = {}
    for option in ([], ["--measure-noise"]):
        result = bsexp("run", "growing-batch", "--epochs", "2", "--train-size", "300", "--json", *option)
        assert result.returncode == 0, result.stderr
        folder = tmp_path / json.loads(result.stdout)["run_dir"]
        for name in ("evals.csv", "steps.csv"):
            rows = list(csv.DictReader((folder / name).read_text().splitlines()))
            for row in rows:
                row.pop("train_seconds")
            tables[f"{name}{len(option)}"] = rows
    assert len(list((tmp_path / "results" / "runs" / "runs").iterdir())) == 2
    assert tables["evals.csv0"] == tables["evals.csv1"]
    filled = [
        {name: row.pop(name) for name in ("grad_sq_norm", "grad_var", "b_simple")} for row in tables["steps.csv1"]
    ]
    assert all(set(row.values()) == {""} for row in [{n: r.pop(n) for n in filled[0]} for r in tables["steps.csv0"]])
    assert tables["steps.csv0"] == tables["steps.csv1"]
    assert all(float(row["grad_var"]) > 0 for row in filled)
    assert sum(row["b_simple"] != "" for row in filled) > len(filled) / 2
