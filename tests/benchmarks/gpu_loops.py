"""The loops that are compared on a GPU: bsexp's own training and a bare loop with the same settings.

The one rule: a time begins and ends with a device that has nothing left to do; in between only the log's rows wait.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from bsexp import RunConfig, Training
from bsexp.engine.device import synchronizer, tune_allocator
from bsexp.records import StepRecord
from tests.benchmarks import loops
from tests.benchmarks.workers import Run

# Long enough that no benchmark comes to its end, with a row of the log as often as in a run of 20 epochs.
LENGTH: dict[str, Any] = {"epochs": 200.0, "log_samples": 5400, "evals": 1, "augment": False, "averaging": "none"}


class Way(NamedTuple):
    """Where and how both sides compute."""

    device: str
    precision: str = "fp32"
    compile: bool = False

    @property
    def title(self) -> str:
        return self.precision + (" + --compile" if self.compile else "")


def bsexp_loop(batch_size: int, way: Way, own_clock: bool = False) -> Run:
    """bsexp's own training; inside the time is everything between two updates, log rows too."""
    training = _training(way, schedule="fixed-small", batch_size=batch_size, **LENGTH)
    return _clocked(training) if own_clock else _timed(training)


def growing_loop(way: Way, sizes: tuple[int, ...], samples_per_size: int) -> Run:
    """bsexp's own training of a batch that grows through `sizes`, each twice the one before, by its own clock."""
    data = loops._data(False)
    growing = {"shape": "step", "milestones": [k / len(sizes) for k in range(1, len(sizes))], "factor": 2}
    epochs = len(sizes) * samples_per_size / len(data.train)
    how = {**LENGTH, "epochs": epochs, "batch_size": sizes[0], "max_batch": sizes[-1], "parameters": growing}
    return _clocked(_training(way, schedule="growing-batch", **how))


def bare_loop(batch_size: int, way: Way) -> Run:
    """Forward, backward and step over float images that lie normalised, shuffled and channels_last on the device."""
    tune_allocator()
    images, labels = (part.to(way.device) for part in loops._floats())
    images = images.contiguous(memory_format=torch.channels_last)
    model = loops._network().to(way.device, memory_format=torch.channels_last)
    mode = "reduce-overhead" if way.device.startswith("cuda") else None
    forward = torch.compile(model, dynamic=False, mode=mode) if way.compile else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, fused=True)
    position = 0

    def update() -> None:
        nonlocal position
        position = position + batch_size if position + 2 * batch_size <= len(labels) else 0
        batch = slice(position, position + batch_size)
        optimizer.zero_grad()
        with _arithmetic(way):
            loss = functional.cross_entropy(forward(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()

    def run(updates: int) -> float:
        wait = synchronizer(torch.device(way.device)) or _nothing
        wait()
        began = time.perf_counter()
        for _ in range(updates):
            update()
        wait()
        return time.perf_counter() - began

    return run


def _arithmetic(way: Way) -> AbstractContextManager[object]:
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(way.precision)
    return torch.autocast(torch.device(way.device).type, dtype=narrow) if narrow else nullcontext()


def _training(way: Way, **options: Any) -> Training:
    tune_allocator()
    config = RunConfig(**loops.SETTINGS, **options, precision=way.precision)
    training = Training(config, data=loops._data(False), device=way.device, compile=way.compile)
    next(training)
    return training


def _timed(training: Training) -> Run:
    wait: Callable[[], None] = synchronizer(training.device) or _nothing

    def run(updates: int) -> float:
        wait()
        began = time.perf_counter()
        _make(training, updates)
        wait()
        return time.perf_counter() - began

    return run


def _clocked(training: Training) -> Run:
    """By bsexp's own clock, which waits for the device and stands still while it compiles."""
    clock = training._train_clock

    def run(updates: int) -> float:
        clock.stop()
        before = clock.seconds
        _make(training, updates)
        clock.stop()
        return clock.seconds - before

    return run


def _make(training: Training, updates: int) -> None:
    while updates:
        updates -= isinstance(next(training), StepRecord)


def _nothing() -> None:
    """A CPU is never waited for."""
