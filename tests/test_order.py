"""Orders of samples: other orders of one seed, from the start or from an epoch on, and nothing else that differs."""

import hashlib
from typing import Any

import pytest
import torch

from bsexp import RunConfig, Training
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.data.stream import SampleStream
from bsexp.engine.loop import Training as Loop
from bsexp.errors import UsageError
from bsexp.records import StepRecord
from bsexp.store.tables import _labels
from bsexp.torch import ScheduledBatchSampler

SMALL: dict[str, Any] = {"schedule": "fixed-small", "epochs": 3.0, "train_size": 80, "label_noise": 0.2, "evals": 3}


def training(digits: Images, **options: Any) -> Training:
    config = RunConfig(**{**SMALL, **options})
    return Training(config, data=prepare(config, digits), device="cpu")


def losses(run: Training) -> list[float]:
    return [float(record.loss) for record in run if isinstance(record, StepRecord)]


def epochs(stream: SampleStream, number: int) -> list[list[list[int]]]:
    """The draws of each epoch: index, top, left, mirrored."""
    return [[draws.tolist() for draws in stream.take(stream.num_train)] for _ in range(number)]


def test_order_0_is_drawn_as_it_always_was() -> None:
    def drawn(purpose: str) -> torch.Generator:
        digest = hashlib.sha256(f"3/{purpose}/1".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    second = epochs(SampleStream(50, 3, crop=2, mirror=True), 2)[1]
    assert second[0] == torch.randperm(50, generator=drawn("order")).tolist()
    assert second[1] == torch.randint(5, (2, 50), generator=drawn("augmentation"))[0].tolist()


def test_another_order_has_its_own_draws_from_its_epoch_on_and_each_sample_once_an_epoch() -> None:
    plain = epochs(SampleStream(50, 3, crop=2, mirror=True), 4)
    other = epochs(SampleStream(50, 3, crop=2, mirror=True, order=1, order_from=2), 4)
    assert other[:2] == plain[:2]
    for mine, theirs in zip(other[2:], plain[2:], strict=True):
        assert all(draws != others for draws, others in zip(mine, theirs, strict=True))
        assert sorted(mine[0]) == list(range(50))
    # The third and fourth epochs of order 1, wherever it began; of another number, and of another seed, they differ.
    assert other[2:] == epochs(SampleStream(50, 3, crop=2, mirror=True, order=1), 4)[2:]
    assert other[2][0] != epochs(SampleStream(50, 3, order=2), 3)[2][0]
    assert other[2][0] != epochs(SampleStream(50, 4, order=1), 3)[2][0]


def test_weights_subset_and_labels_stay_those_of_the_seed(digits: Images) -> None:
    one, two = training(digits), training(digits, order=1)
    for mine, theirs in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    first, second = (prepare(RunConfig(**{**SMALL, "order": n}), digits) for n in (0, 1))
    assert torch.equal(first.train.labels, second.train.labels)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.redrawn, second.redrawn)
    assert losses(one)[0] != losses(two)[0]


def test_a_run_that_forks_is_the_same_run_up_to_there(digits: Images) -> None:
    # 80 samples are 5 updates of 16 an epoch.
    plain, fork = (losses(training(digits, dropout=0.3, order=n, order_from=n)) for n in (0, 1))
    assert plain[:5] == fork[:5]
    assert all(mine != theirs for mine, theirs in zip(plain[5:], fork[5:], strict=True))


def test_dropout_masks_come_with_the_order(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_order(*args: Any, **rest: Any) -> SampleStream:
        return SampleStream(*args, **{**rest, "order": 0, "order_from": 0})

    # Samples in the same order in both: what is left is the masks.
    monkeypatch.setattr(f"{Loop.__module__}.SampleStream", one_order)
    without = [losses(training(digits, order=n)) for n in (0, 1)]
    assert without[0] == without[1]
    plain, other = (losses(training(digits, dropout=0.3, order=n)) for n in (0, 1))
    assert all(mine != theirs for mine, theirs in zip(plain, other, strict=True))


def test_a_forked_run_that_is_stopped_goes_on_to_the_same_numbers(digits: Images) -> None:
    options: dict[str, Any] = {"dropout": 0.3, "order": 1, "order_from": 1}
    whole = losses(training(digits, **options))
    for updates in (3, 5, 8):
        begun = training(digits, **options)
        seen: list[float] = []
        while len(seen) < updates:
            record = next(begun)
            seen += [float(record.loss)] if isinstance(record, StepRecord) else []
        config = RunConfig(**{**SMALL, **options})
        rest = losses(Training(config, begun.state(), data=prepare(config, digits), device="cpu"))
        assert seen + rest == whole


def test_the_order_is_part_of_a_runs_id_only_where_it_is_another_one() -> None:
    assert RunConfig(schedule="fixed-small", order=0, order_from=0).hash == RunConfig(schedule="fixed-small").hash
    hashes = {
        RunConfig(schedule="fixed-small", order=n, order_from=k).hash for n, k in ((0, 0), (1, 0), (1, 1), (2, 0))
    }
    assert len(hashes) == 4


def test_runs_made_before_there_was_an_order_are_those_in_order_0() -> None:
    configs = [RunConfig(schedule="fixed-small", order=n).model_dump() for n in (0, 0, 1)]
    del configs[1]["order"]
    assert _labels([{"arm": "a"}] * 2, configs[:2]) == ["a", "a"]
    assert _labels([{"arm": "a"}] * 3, configs) == ["a (order=0)", "a (order=0)", "a (order=1)"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": -1}, "order: -1; give a whole number from 0"),
        ({"order": 1, "order_from": 1.5}, "order_from: 1.5; give a whole number from 0"),
        ({"order_from": 1}, "order_from: 1 with order 0; give order = 1"),
        ({"order": 1, "order_from": 3, "epochs": 3.0}, "order_from: 3 of 3 epochs; the other order must begin earlier"),
    ],
)
def test_orders_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as told:
        RunConfig(schedule="fixed-small", **options)
    assert said in str(told.value)


def test_a_loop_of_ones_own_has_no_other_order() -> None:
    with pytest.raises(UsageError, match="order: 1 in a RunConfig"):
        ScheduledBatchSampler(RunConfig(schedule="fixed-small", order=1), 100)
