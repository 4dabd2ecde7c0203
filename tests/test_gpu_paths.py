"""What is written for GPUs, as far as a CPU can show it: fp16 with its scale, compiled shapes, nothing read back.

The one rule: a test that needs a GPU is skipped with that reason; everything else runs on one CPU thread.
"""

import math
from typing import Any

import pytest
import torch

from bsexp import RunConfig
from bsexp.data.augment import Batches
from bsexp.data.sources import Images, load_images
from bsexp.data.splits import prepare
from bsexp.data.stream import SampleStream
from bsexp.engine.step import Updater
from bsexp.models import build_model
from bsexp.schedules import Hyper
from tests.test_engine import SMALL, timeless, training, updater, weights


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits")


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
