"""Between two rows of the log a training never waits for its device.

The one rule: on a CPU the operations that would make a GPU wait are refused as they are called; on a GPU torch itself
refuses them.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bsexp import RunConfig, Training
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.records import StepRecord

# Reading a number, shapes that depend on values, and tensors made of Python's numbers.
READING = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"}
WAITING = READING | {"lift_fresh"}

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro-batches, momentum that moves": {"micro_batch": 16, "schedule": "one-cycle"},
    "adamw, clipped, decay by samples": {"optimizer": "adamw", "clip_norm": 0.5, "weight_decay_clock": "samples"},
    "convolutions, ghost batches, augmented": {
        "model": "cnn-small", "norm": "batch", "ghost_batch": 8, "augment": True, "dropout": 0.1,
    },
    "group norm": {"model": "cnn-small", "norm": "group"},
    "bf16": {"precision": "bf16"},
    "fp16, clipped": {"precision": "fp16", "clip_norm": 0.5},
    "fp16, adamw": {"precision": "fp16", "optimizer": "adamw"},
}  # fmt: skip


class Refusing(TorchDispatchMode):
    """Refuses what would wait for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        moved = name == "_to_copy" and (kwargs.get("device") or args[0].device) != args[0].device
        if moved or name in WAITING:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **kwargs)


@contextmanager
def cuda_refuses() -> Iterator[None]:
    """torch's own watch: whatever makes the host wait raises."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            # That it doesn't see all that waits.
            warnings.simplefilter("ignore", UserWarning)
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def updates_between_rows(digits: Images, device: str, compile: bool = False, **options: Any) -> tuple[Training, int]:
    """A training at a row of its log, and how many updates it can make before the next one."""
    settings = {"schedule": "growing-batch", "epochs": 1.0, "batch_size": 32, "evals": 1, "log_samples": 600}
    config = RunConfig(**{**settings, "max_batch": 64, "train_size": 1250, "val_fraction": 0.0, **options})
    training = Training(config, data=prepare(config, digits), device=device, compile=compile)
    while training.samples < 600:
        next(training)
    while training._own.queue:
        next(training)
    return training, (1200 - training.samples) // 64 - 1


def make(training: Training, number: int) -> None:
    for _ in range(number):
        assert isinstance(next(training), StepRecord)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_updates_read_nothing_back(digits: Images, options: dict[str, Any]) -> None:
    training, number = updates_between_rows(digits, "cpu", **options)
    assert number >= 5
    with Refusing():
        make(training, number)


def test_what_waits_is_noticed(digits: Images) -> None:
    training, _ = updates_between_rows(digits, "cpu")
    for wait in (lambda loss: loss.item(), lambda loss: torch.tensor([1.0]), lambda loss: loss.to("meta")):
        with pytest.raises(AssertionError, match="waits for the device"), Refusing():
            wait(next(training).loss)  # type: ignore[union-attr]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_updates_on_a_gpu_never_wait_for_it(digits: Images, options: dict[str, Any], compile: bool) -> None:
    training, number = updates_between_rows(digits, "cuda", compile, **options)
    with cuda_refuses():
        make(training, number)
