"""What is written for GPUs, as far as a CPU can show it: fp16 with its scale, compiled shapes, nothing read back.

The one rule: a test that needs a GPU is skipped with that reason; everything else runs on one CPU thread.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bsexp import RunConfig
from bsexp.data.augment import Batches
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.data.stream import SampleStream
from bsexp.engine import compiling
from bsexp.engine.step import Updater
from bsexp.errors import SetupError, StoreError
from bsexp.models import build_model
from bsexp.planning import frequent_parts
from bsexp.records import EvalRow, StepRecord, StepRow
from bsexp.schedules import Hyper, simulate
from bsexp.store.checkpoints import Checkpoint
from bsexp.sweep.changes import check_unchanged, settle
from bsexp.sweep.tasks import Execution
from tests.test_engine import SMALL, timeless, training, updater, weights


def fp16_updater(digits: Images, scale: float, **options: Any) -> tuple[Updater, torch.nn.Module, SampleStream]:
    """What makes updates in fp16, beginning with that scale."""
    config = RunConfig(**{**SMALL, "schedule": "fixed-small", "precision": "fp16", "weight_decay": 0.0, **options})
    data = prepare(config, digits)
    model = build_model(config.model, image_shape=data.image_shape, num_classes=10, norm=config.norm, seed=0)
    update = Updater(model, config, Batches(data), torch.device("cpu"))
    update.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return update, model, SampleStream(len(data.train), 0)


# -- fp16


def test_an_update_whose_gradients_overflow_changes_nothing_but_the_scale(digits: Images) -> None:
    # 2^100 times any gradient is above 65504, the largest number of fp16.
    update, model, stream = fp16_updater(digits, 2.0**100)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss, _ = update.update(stream.take(32), Hyper(32, 0.1, 0.9), [32])
    assert float(loss) == pytest.approx(math.log(10), rel=0.02)  # told without the scale, and no divergence
    assert all(torch.equal(one, two.detach()) for one, two in zip(before, model.parameters(), strict=True))
    assert update.scaler is not None
    assert update.scaler.get_scale() == 2.0**99
    momenta = [update.optimizer.state[parameter]["momentum_buffer"] for parameter in model.parameters()]
    assert not any(momentum.any() for momentum in momenta)


def test_an_update_after_skipped_ones_is_that_of_fp32_to_rounding(digits: Images) -> None:
    update, model, stream = fp16_updater(digits, 2.0**40)
    twin, other, _ = updater(digits, weight_decay=0.0)
    picks = stream.take(32)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(60):
        update.update(picks, Hyper(32, 0.1, 0.9), [16, 16])
        if not torch.equal(start[0], next(model.parameters()).detach()):
            break
    twin.update(picks, Hyper(32, 0.1, 0.9), [32])
    for before, mine, theirs in zip(start, model.parameters(), other.parameters(), strict=True):
        moved, expected = mine.detach() - before, theirs.detach().float() - before
        assert float((moved - expected).norm()) <= 0.02 * float(expected.norm())


def test_gradients_are_clipped_at_their_own_size_not_at_the_scaled_one(digits: Images) -> None:
    update, model, stream = fp16_updater(digits, 2.0**10, clip_norm=0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    update.update(stream.take(32), Hyper(32, 0.1, 0.9), [32])
    moved = [mine.detach() - start for mine, start in zip(model.parameters(), before, strict=True)]
    # The first update of plain SGD: as long as lr times the largest norm allowed.
    assert float(torch.stack([part.norm() for part in moved]).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "optimizer": "adamw"}], ids=["sgd", "adamw, clipped"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_run_in_fp16_goes_on_from_its_state_to_the_same_bytes(
    digits: Images, share: float, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.amp.GradScaler
    # The scale moves twice on each side of the stop: down at the first updates, up after every third one.
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: real(device, init_scale=2.0**40, growth_interval=3))
    whole = training(digits, precision="fp16", **options)
    expected = [timeless(record) for record in whole]
    first = training(digits, precision="fp16", **options)
    after = round(share * len(expected))
    begun = [timeless(next(first)) for _ in range(after)]
    state = first.state()
    assert state["scaler"]["scale"] != 2.0**40
    second = training(digits, state, precision="fp16", **options)
    assert begun + [timeless(record) for record in second] == expected
    assert all(torch.equal(one, two) for one, two in zip(weights(whole), weights(second), strict=True))
    assert whole.state()["scaler"] == second.state()["scaler"]


def test_fp16_ends_where_fp32_does(digits: Images) -> None:
    runs = [training(digits, precision=precision, epochs=8.0) for precision in ("fp32", "fp16")]
    losses = []
    for run in runs:
        list(run)
        assert run.outcome is not None
        assert run.outcome.status == "finished"
        losses.append(run.outcome.test_loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


# -- compiled shapes


def fixed_parts(batch_size: int) -> Any:
    """A schedule of one's own: ten batch sizes, 100, 110, ..., 190, each for a tenth of the budget."""
    return lambda now: Hyper(batch_size + 10 * int(10 * now.fraction), 0.1, 0.9)


def test_the_sizes_compiled_for_are_those_most_samples_go_through() -> None:
    config = RunConfig(
        schedule="growing-batch",
        epochs=10.0,
        batch_size=32,
        max_batch=100,
        parameters={"shape": "step", "milestones": [0.5], "factor": 3},
        norm="none",
        micro_batch=64,
    )
    # 157 updates of 32 lead to 5,024 of 10,000 samples. Then 96, as 48 + 48: 50 updates to 9,824; the last two share
    # 176, as 44 + 44 each, which is 1.76 % of the samples and not worth it.
    assert frequent_parts(config, 1000) == (32, 48)


def test_a_batch_that_grows_little_by_little_is_not_compiled_for() -> None:
    settings: dict[str, Any] = {"epochs": 50.0, "batch_size": 100, "max_batch": 1000}
    config = RunConfig(schedule="growing-batch", parameters={"shape": "exponential"}, **settings)
    course = list(simulate(config.build_schedule(), total_samples=500_000, num_train=10_000))
    assert len({update.batch_size for update in course}) > 300
    # Spread over 900 sizes, the samples of none come near a fiftieth, those at the cap apart.
    assert set(frequent_parts(config, 10_000)) <= {1000}


def test_no_more_than_eight_sizes_are_compiled_for() -> None:
    config = RunConfig(schedule="tests.test_gpu_paths:fixed_parts", epochs=10.0, batch_size=100, norm="none")
    chosen = frequent_parts(config, 10_000)
    assert len(chosen) == 8
    assert set(chosen) < set(range(100, 200, 10))


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the compiler by one that runs what it is given as it is; the batch sizes it was called for."""
    seen: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        seen.append(next(len(one) for one in inputs if one.ndim == 4))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", count)
    return seen


def test_a_growing_run_compiles_each_chosen_size_once_and_no_other(digits: Images, compilations: list[int]) -> None:
    growing: dict[str, Any] = {"shape": "step", "milestones": [0.3, 0.6], "factor": 2}
    options: dict[str, Any] = {"epochs": 4.0, "batch_size": 10, "max_batch": 40, "norm": "none", "dropout": 0.2}
    plain = training(digits, parameters=growing, **options)
    run = training(digits, parameters=growing, compile=True, **options)
    # 1,600 samples: 48 updates of 10 to 480, 24 of 20 to 960, 15 of 40 to 1,560, 40 remain.
    assert run.compiled_sizes == (10, 20, 40)
    expected = [timeless(record) for record in plain]
    assert isinstance(next(run), EvalRow)
    next(run)
    assert compilations == [10]
    begun = run.state()
    rest = [timeless(record) for record in run]
    assert compilations == [10, 20, 40]
    # This compiler changes nothing, so neither may anything around it: rehearsals leave no trace.
    assert rest == expected[2:]
    assert all(torch.equal(one, two) for one, two in zip(weights(plain), weights(run), strict=True))
    assert set(run.model.state_dict()) == set(plain.model.state_dict()) == set(begun["model"])
    again = training(digits, begun, parameters=growing, compile=True, **options)
    assert [timeless(record) for record in again] == rest


def test_sizes_that_are_not_chosen_compile_nothing(digits: Images, compilations: list[int]) -> None:
    ramp = {"shape": "exponential"}
    options: dict[str, Any] = {"epochs": 3.0, "batch_size": 4, "max_batch": 200, "norm": "none", "parameters": ramp}
    run = training(digits, compile=True, **options)
    sizes = {record.batch_size for record in run if isinstance(record, StepRecord)}
    assert len(sizes) > 20
    assert set(compilations) == set(run.compiled_sizes) & sizes
    assert len(compilations) == len(run.compiled_sizes) <= 8


def test_rehearsing_leaves_batch_statistics_weights_and_random_numbers_alone(
    digits: Images, compilations: list[int]
) -> None:
    run = training(digits, norm="batch", ghost_batch=0, schedule="fixed-small", batch_size=20, compile=True)
    before, numbers = weights(run), torch.get_rng_state()
    run._rehearse([20])
    assert compilations == [20]
    assert all(torch.equal(one, two) for one, two in zip(before, weights(run), strict=True))
    assert torch.equal(numbers, torch.get_rng_state())
    assert run._stream.position == 0
    assert run._train_clock.seconds == 0


def test_a_weight_without_gradients_gets_none_from_compiling(digits: Images, compilations: list[int]) -> None:
    run = training(digits, schedule="fixed-small", batch_size=20, compile=True)
    run.model.unused = torch.nn.Parameter(torch.ones(3, 3))
    run._updater = Updater(
        run.model, run.config, run._batches, run.device, compiled=compiling.CompiledModel(run.model, [20], run.device)
    )
    list(run)
    # Weight decay would have made it smaller.
    assert torch.equal(run.model.unused.detach(), torch.ones(3, 3))


def test_without_a_compiler_the_cure_is_told(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(graph: Any, inputs: Any) -> Any:
        raise FileNotFoundError("no C++ compiler\nmore lines")

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", absent)
    run = training(digits, schedule="fixed-small", compile=True)
    with pytest.raises(SetupError, match=r"^--compile: torch can't compile here \(.*\); leave --compile out$") as told:
        list(run)
    assert "\n" not in str(told.value)
    assert told.value.exit_code == 6


def test_torchs_own_compiler_gives_the_same_losses_to_rounding(digits: Images) -> None:
    torch._dynamo.reset()
    options: dict[str, Any] = {"schedule": "fixed-small", "batch_size": 40, "norm": "none", "label_noise": 0.0}
    plain, run = training(digits, **options), training(digits, compile=True, **options)
    one, two = ([float(row.train_loss) for row in each if isinstance(row, StepRow)] for each in (plain, run))
    assert two == pytest.approx(one, rel=1e-4)
    assert run.outcome is not None
    # Compiling takes seconds, ten updates of this network a hundredth of one: it isn't on the clock.
    assert run.outcome.train_seconds < 1.0


def test_a_run_goes_on_compiled_or_not_as_it_began_unless_told(tmp_path: Path) -> None:
    config = RunConfig(schedule="fixed-small")
    made_by = settle(config, Execution("cpu", False, {}, compile=True), None)[1]
    found = Checkpoint(tmp_path, {"made_by": made_by.recorded(), "config_hash": config.hash, "samples": 5}, b"", {})
    left_out = Execution("cpu", False, {})
    assert settle(config, left_out, found)[1].compile
    now = settle(config, replace(left_out, asked=frozenset({"compile"})), found)[1]
    assert not now.compile
    with pytest.raises(StoreError, match="made with compile True, now False; --allow-changed"):
        check_unchanged(config, now, found, allowed=False)
    assert check_unchanged(config, now, found, allowed=True) == [{"samples": 5, "compile": [True, False]}]
