"""The training loop: exact weighting, the same bytes again, state, evaluation grid, results that are failures."""

import math
from typing import Any

import pytest
import torch

from bsexp import RunConfig, Training, simulate
from bsexp.data.augment import Batches
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.data.stream import SampleStream
from bsexp.engine.averaging import AveragedModel
from bsexp.engine.clock import Clock
from bsexp.engine.evaluation import evaluate, evaluation_points, predict
from bsexp.engine.step import Updater
from bsexp.errors import UsageError
from bsexp.models import build_model
from bsexp.planning import micro_batch_sizes
from bsexp.records import EvalRow, StepRecord, StepRow
from bsexp.schedules import Hyper

SMALL: dict[str, Any] = {"schedule": "growing-batch", "epochs": 1.0, "train_size": 400, "label_noise": 0.2, "evals": 4}


def training(digits: Images, state: dict[str, Any] | None = None, *, compile: bool = False, **options: Any) -> Training:
    config = RunConfig(**{**SMALL, **options})
    return Training(config, state, data=prepare(config, digits), device="cpu", compile=compile)


def timeless(record: Any) -> Any:
    values = {name: getattr(record, name) for name in record.__slots__ if name != "train_seconds"}
    return {name: float(value) if isinstance(value, torch.Tensor) else value for name, value in values.items()}


def weights(run: Training) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in run.model.state_dict().values()]


def updater(digits: Images, **options: Any) -> tuple[Updater, torch.nn.Module, SampleStream]:
    config = RunConfig(**{**SMALL, "schedule": "fixed-small", "precision": "fp64", **options})
    data = prepare(config, digits)
    model = build_model(config.model, image_shape=data.image_shape, num_classes=10, norm=config.norm, seed=0).double()
    batches = Batches(data, torch.float64)
    return Updater(model, config, batches, torch.device("cpu")), model, SampleStream(len(data.train), 0)


@pytest.mark.parametrize("sizes", [[16] * 4, [40, 24], [1, 63]])
def test_micro_batches_of_any_size_give_the_whole_batchs_update(digits: Images, sizes: list[int]) -> None:
    results = []
    for parts in ([64], sizes):
        update, model, stream = updater(digits)
        loss, _ = update.update(stream.take(64), Hyper(64, 0.1, 0.9), parts)
        results.append((loss, [parameter.detach().clone() for parameter in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-12)
    for one, two in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_an_update_is_the_textbook_one(digits: Images) -> None:
    """SGD with momentum and weight decay on matrices only, worked out with autograd by hand for two updates."""
    update, model, stream = updater(digits, weight_decay=0.01)
    twin = build_model("mlp", image_shape=(1, 8, 8), num_classes=10, seed=0).double()
    velocity = [torch.zeros_like(parameter) for parameter in twin.parameters()]
    other = SampleStream(400, 0)
    for lr, momentum in ((0.1, 0.9), (0.05, 0.8)):
        update.update(stream.take(32), Hyper(32, lr, momentum), [32])
        images, labels = update.batches.train(other.take(32))
        loss = torch.nn.functional.cross_entropy(twin(images), labels)
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for k, (parameter, gradient) in enumerate(zip(twin.parameters(), gradients, strict=True)):
                decayed = gradient + (0.01 * parameter if parameter.ndim >= 2 else 0)
                # torch's first step takes the gradient itself as velocity; momentum 0.9 of zero is the same.
                velocity[k] = momentum * velocity[k] + decayed
                parameter -= lr * velocity[k]
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    assert update.shrink == pytest.approx(0.01 * (0.1 + 0.05))


def test_decay_on_the_clock_of_samples_is_scaled_by_the_batch(digits: Images) -> None:
    update, _, stream = updater(digits, weight_decay=0.01, weight_decay_clock="samples", reference_batch=16)
    update.update(stream.take(64), Hyper(64, 0.1, 0.9), [64])
    assert update.shrink == pytest.approx(0.1 * 0.01 * 4)


def test_micro_batches_by_rule() -> None:
    plain = RunConfig(schedule="fixed-small", dataset="fashion-mnist", model="cnn")
    assert micro_batch_sizes(2048, plain) == [2048]
    assert micro_batch_sizes(2049, plain) == [1024, 1025]
    told = RunConfig(schedule="fixed-small", micro_batch=16)
    assert micro_batch_sizes(64, told) == [16] * 4
    assert micro_batch_sizes(50, told) == [12, 13, 12, 13]
    batch_norm = RunConfig(schedule="fixed-small", dataset="cifar10", norm="batch")
    assert micro_batch_sizes(5000, batch_norm) == [5000]
    ghost = RunConfig(schedule="fixed-small", dataset="cifar10")
    assert micro_batch_sizes(2080, ghost) == [672, 704, 704]


def test_the_same_config_gives_the_same_records_and_weights_again(digits: Images) -> None:
    one, two = training(digits, dropout=0.3), training(digits, dropout=0.3)
    assert [timeless(record) for record in one] == [timeless(record) for record in two]
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def test_another_run_in_between_changes_nothing(digits: Images) -> None:
    alone = [timeless(record) for record in training(digits, dropout=0.3)]
    one, other = training(digits, dropout=0.3), training(digits, dropout=0.3, seed=9)
    mixed = []
    for record in one:
        mixed.append(timeless(record))
        next(other, None)
    assert mixed == alone


@pytest.mark.parametrize("share", [0.0, 0.03, 0.2, 0.37, 0.5, 0.71, 1.0])
@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.3}, {"optimizer": "adamw", "schedule": "lr-decay"}, {"micro_batch": 5, "schedule": "one-cycle"}],
    ids=["dropout", "adamw", "micro-batches"],
)
def test_state_between_any_two_records_goes_on_to_the_same_bytes(
    digits: Images, share: float, options: dict[str, Any]
) -> None:
    whole = training(digits, **options)
    expected = [timeless(record) for record in whole]
    after = round(share * len(expected))
    first = training(digits, **options)
    begun = [timeless(next(first)) for _ in range(after)]
    second = training(digits, first.state(), **options)
    assert begun + [timeless(record) for record in second] == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))
    assert whole.outcome is not None
    assert second.outcome is not None
    assert whole.outcome.total_shrink == second.outcome.total_shrink
    assert whole.outcome.test_loss_ema == second.outcome.test_loss_ema


def test_a_state_survives_torch_save_with_weights_only(digits: Images, tmp_path: Any) -> None:
    run = training(digits)
    for _ in range(10):
        next(run)
    torch.save(run.state(), tmp_path / "state.pt")
    again = training(digits, torch.load(tmp_path / "state.pt", weights_only=True))
    assert [timeless(record) for record in again] == [timeless(record) for record in run]


def test_updates_are_those_of_the_plan(digits: Images) -> None:
    run = training(digits)
    updates = [record for record in run if isinstance(record, StepRecord)]
    planned = list(simulate(run.schedule, total_samples=400, num_train=400))
    assert [(u.batch_size, u.lr, u.momentum) for u in updates] == [(p.batch_size, p.lr, p.momentum) for p in planned]
    assert updates[-1].samples == 400


def test_evaluations_come_after_the_first_update_at_or_past_each_point(digits: Images) -> None:
    rows = [record for record in training(digits, schedule="fixed-small", batch_size=30) if isinstance(record, EvalRow)]
    # Batches of 30, the last two sharing 40: updates end at 30, 60, ..., 360, 380, 400; points at 100, 200, 300, 400.
    assert [row.samples for row in rows] == [0, 120, 210, 300, 400]
    assert [row.step for row in rows] == [0, 4, 7, 10, 14]


def test_the_default_grid_is_ten_early_points_and_thirty_later_ones() -> None:
    points = evaluation_points(10_000, None)
    assert len(points) == 40
    assert points[9] == pytest.approx(1000)
    assert points[0] == pytest.approx(10)
    assert points[1] / points[0] == pytest.approx(points[9] / points[8])
    assert points[11] - points[10] == pytest.approx(300)
    assert points[-1] == 10_000


def test_log_rows_hold_the_mean_loss_of_their_updates(digits: Images) -> None:
    losses: list[tuple[float, int]] = []
    for record in training(digits, log_samples=100):
        if isinstance(record, StepRecord):
            losses.append((float(record.loss), record.batch_size))
        elif isinstance(record, StepRow):
            mean = sum(loss * size for loss, size in losses) / sum(size for _, size in losses)
            assert record.train_loss == pytest.approx(mean, rel=1e-12)
            assert record.noise_scale == pytest.approx(record.lr / 0.1 * (400 / record.batch_size - 1))
            losses = []
    assert not losses


def test_log_samples_zero_logs_every_update(digits: Images) -> None:
    records = list(training(digits, log_samples=0))
    assert sum(isinstance(r, StepRow) for r in records) == sum(isinstance(r, StepRecord) for r in records)


def test_measuring_leaves_the_training_alone(digits: Images) -> None:
    often, seldom = training(digits, evals=30, log_samples=0), training(digits, evals=1, log_samples=400)
    list(often)
    list(seldom)
    assert all(torch.equal(a, b) for a, b in zip(weights(often), weights(seldom), strict=True))


def test_a_huge_rate_is_diverged_with_its_step_and_no_test_score(digits: Images) -> None:
    run = training(digits, lr=1e6, schedule="fixed-small")
    records = list(run)
    assert run.outcome is not None
    assert run.outcome.status == "diverged"
    bad = next(r.step for r in records if isinstance(r, StepRecord) and not math.isfinite(float(r.loss)))
    assert f"at step {bad}" in run.outcome.reason
    assert run.outcome.test_accuracy is None
    assert run.outcome.samples < 400


def test_a_finite_loss_at_chance_is_collapsed(digits: Images) -> None:
    run = training(digits, lr=1.6, schedule="fixed-small", epochs=4.0)
    list(run)
    assert run.outcome is not None
    assert run.outcome.status == "collapsed"
    assert run.outcome.train_loss is not None
    assert 0.95 * math.log(10) < run.outcome.train_loss < 1e6
    assert run.outcome.test_accuracy is not None


def test_predictions_are_what_the_score_was_made_of(digits: Images) -> None:
    run = training(digits)
    list(run)
    labels = digits.test_labels
    assert run.outcome is not None
    for which, suffix in (("last", ""), ("averaged", "_ema")):
        predictions = run.predictions[which]
        accuracy = float((predictions.classes == labels).double().mean())
        assert accuracy == getattr(run.outcome, f"test_accuracy{suffix}")
        assert float(predictions.losses.double().mean()) == pytest.approx(
            getattr(run.outcome, f"test_loss{suffix}"), rel=1e-3
        )


def test_memorised_counts_reproduced_noisy_labels_only(digits: Images) -> None:
    run = training(digits, epochs=60.0, lr=0.05, schedule="lr-decay", weight_decay=0.0)
    list(run)
    assert run.outcome is not None
    assert run.outcome.train_accuracy is not None
    # Fitted completely: every training label is reproduced, the redrawn ones among them.
    assert run.outcome.train_accuracy > 0.99
    assert run.outcome.memorised is not None
    assert run.outcome.memorised > 0.97
    clean = training(digits, label_noise=0.0)
    list(clean)
    assert clean.outcome is not None
    assert clean.outcome.memorised is None


def test_averaged_weights_halve_their_distance_in_the_half_life() -> None:
    model = torch.nn.Linear(1, 1)
    averaged = AveragedModel(model, total_samples=5000)  # half-life: 100 samples
    with torch.no_grad():
        model.weight += 8
    start = averaged.model.weight.item()
    for _ in range(10):
        averaged.follow(10)
    assert averaged.model.weight.item() - start == pytest.approx(4, abs=1e-5)
    averaged.follow(100)
    assert averaged.model.weight.item() - start == pytest.approx(6, abs=1e-5)


def test_evaluation_agrees_with_a_plain_forward_and_leaves_training_mode(digits: Images) -> None:
    config = RunConfig(**SMALL)
    data = prepare(config, digits)
    model = build_model("mlp", image_shape=(1, 8, 8), num_classes=10, seed=0)
    batches = Batches(data)
    logits = model(((data.test.images.float() - data.mean[0]) / data.std[0]).permute(0, 3, 1, 2))
    score = evaluate(model, batches, data.test)
    assert score.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits.detach(), data.test.labels)), rel=1e-6
    )
    assert score.accuracy == float((logits.argmax(1) == data.test.labels).double().mean())
    assert model.training
    again, predictions = predict(model, batches, data.test)
    assert again.accuracy == score.accuracy
    torch.testing.assert_close(
        predictions.confidences.float(), logits.softmax(1).max(1).values.detach(), rtol=2e-3, atol=0
    )


def test_the_clock_stands_still_while_it_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(seconds=5.0)
    clock.start()
    now[0] = 2.0
    clock.stop()
    now[0] = 10.0
    clock.start()
    clock.start()
    now[0] = 11.0
    clock.pause()
    assert clock.seconds == 8.0


def test_a_clock_with_a_device_waits_for_it_and_does_not_pause() -> None:
    waits: list[str] = []
    clock = Clock(synchronize=lambda: waits.append("wait"))
    clock.start()
    clock.pause()
    assert waits == ["wait"]
    clock.stop()
    assert waits == ["wait", "wait"]


def test_batch_statistics_of_one_sample_are_refused_before_training(digits: Images) -> None:
    with pytest.raises(UsageError, match="--norm group"):
        training(digits, norm="batch", schedule="fixed-small", batch_size=1)


def test_double_precision_and_adamw_run(digits: Images) -> None:
    run = training(digits, precision="fp64", optimizer="adamw")
    rows = [record for record in run if isinstance(record, StepRow)]
    assert rows[0].noise_scale is None
    assert run.outcome is not None
    assert run.outcome.status == "finished"


def test_the_next_and_the_largest_batch_are_rehearsed_before_the_clock(
    digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    rehearse = Updater.rehearse

    def note(self: Updater, picks: Any) -> None:
        seen.append(len(picks.index))
        rehearse(self, picks)

    monkeypatch.setattr(Updater, "rehearse", note)
    steps = {"shape": "step", "milestones": [0.5], "factor": 4}
    options: dict[str, Any] = {"parameters": steps, "batch_size": 10, "max_batch": 40, "dropout": 0.2}
    numbers = torch.get_rng_state()
    run = training(digits, **options)
    assert seen == [40, 10]
    assert torch.equal(torch.get_rng_state(), numbers)
    assert run._train_clock.seconds == 0
    assert run._stream.position == 0
    # 400 samples: 20 updates of 10, then 5 of 40.
    while run.samples < 200:
        next(run)
    seen.clear()
    training(digits, run.state(), **options)
    assert seen == [40]
    # Where a batch is run in parts, one part is rehearsed.
    seen.clear()
    training(digits, **options, micro_batch=16)
    assert seen == [14, 10], "40 is run as 13, 13 and 14"
