"""The loops that are compared: bsexp's own, a bare one, a DataLoader with transforms, Lightning.

The one rule: all of them train the same network, from the same start, with the same optimizer, on images of
Fashion-MNIST's size and number; their content is drawn at random, for the time doesn't depend on it.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bsexp import RunConfig, Training, simulate
from bsexp.data.sources import Images
from bsexp.data.splits import TrainingData, prepare
from bsexp.engine.device import tune_allocator
from bsexp.models import build_model
from bsexp.records import StepRecord
from tests.benchmarks.workers import Run

NUM_IMAGES, CROP = 60_000, 2
SETTINGS: dict[str, Any] = {"dataset": "fashion-mnist", "model": "cnn", "norm": "batch", "ghost_batch": 0, "lr": 0.02}


class Conditions(NamedTuple):
    """What holds for all candidates alike: torch's threads (None: its own choice), and which clock is read.

    CPU time is what a busy machine can still measure; time spent in other processes doesn't count in it.
    """

    threads: int | None = None
    cpu_time: bool = False

    def settle(self) -> Callable[[], float]:
        """Set the number of threads; the clock."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return time.process_time if self.cpu_time else time.perf_counter

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Conditions":
        """The conditions that the arguments ask for."""
        return cls(options.threads, options.cpu_time)


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """The arguments that `Conditions` come from."""
    parser.add_argument("--threads", type=int, help="torch's threads [its own choice: all cores]")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time instead of the clock's, for a busy machine")


def bsexp_loop(batch_size: int, conditions: Conditions, augment: bool = False, averaging: str = "none") -> Run:
    """bsexp's own training. Inside the time: everything between two updates (schedule, stream, batch, log rows).

    Outside: evaluations, of which the run has one at its start and one at its end, neither of them reached while it is
    timed.
    """
    now = conditions.settle()
    tune_allocator()
    options = {"schedule": "fixed-small", "batch_size": batch_size, "epochs": 20.0, "averaging": averaging}
    return _timed(_training(augment=augment, **options), now)


def growing_loop(conditions: Conditions, sizes: tuple[int, ...], samples_per_size: int) -> Run:
    """bsexp's own training of a batch that grows through `sizes`, each twice the one before; timed like bsexp_loop."""
    now = conditions.settle()
    tune_allocator()
    data = _data(False)
    milestones = [k / len(sizes) for k in range(1, len(sizes))]
    training = _training(
        schedule="growing-batch",
        parameters={"shape": "step", "milestones": milestones, "factor": 2},
        batch_size=sizes[0],
        max_batch=sizes[-1],
        epochs=len(sizes) * samples_per_size / len(data.train),
        averaging="none",
    )
    planned = simulate(training.schedule, total_samples=training.total_samples, num_train=len(data.train))
    expected = [size for size in sizes for _ in range(samples_per_size // size)]
    assert [update.batch_size for update in planned] == expected, "each size has its share"
    return _timed(training, now)


def _training(augment: bool = False, **options: Any) -> Training:
    """A run before its first update; its evaluations are the one at the start, already made, and one at the end."""
    config = RunConfig(**SETTINGS, **options, augment=augment, evals=1)
    training = Training(config, data=_data(augment), device="cpu")
    next(training)
    return training


def _timed(training: Training, now: Callable[[], float]) -> Run:
    def run(updates: int) -> float:
        began = now()
        while updates:
            updates -= isinstance(next(training), StepRecord)
        return now() - began

    return run


def bare_loop(batch_size: int, conditions: Conditions) -> Run:
    """Forward, backward and step over float images that lie normalised, shuffled and channels_last in memory."""
    now = conditions.settle()
    tune_allocator()
    images, labels = _floats()
    images = images.contiguous(memory_format=torch.channels_last)
    model = _network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, fused=True)
    position = 0

    def run(updates: int) -> float:
        nonlocal position
        began = now()
        for _ in range(updates):
            position = position + batch_size if position + 2 * batch_size <= len(labels) else 0
            batch = slice(position, position + batch_size)
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        return now() - began

    return run


def loader_loop(batch_size: int, conditions: Conditions, workers: int) -> Run:
    """What tutorials write: a data set of PIL images, transforms for each, a DataLoader, the default memory format."""
    from torch.utils.data import DataLoader

    now = conditions.settle()
    some = _Some(batch_size)
    dataset = _Pictures(*_pictures())
    loader = DataLoader(dataset, batch_size, sampler=some, num_workers=workers, persistent_workers=workers > 0)
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)

    def run(updates: int) -> float:
        some.updates = updates
        began = now()
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        return now() - began

    return run


def lightning_loop(batch_size: int, conditions: Conditions) -> Run:
    """Lightning's Trainer on a TensorDataset of normalised floats. Outside the time: what `fit` does before its first
    batch and after its last one."""
    import logging
    import warnings

    from torch.utils.data import DataLoader, TensorDataset

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    now = conditions.settle()
    loader = DataLoader(TensorDataset(*_floats()), batch_size, shuffle=True)
    module = _module(_network())

    def run(updates: int) -> float:
        import lightning

        silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        clock = _clock(now)
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=updates, enable_model_summary=False, callbacks=[clock], **silent
        )
        trainer.fit(module, loader)
        return clock.seconds

    return run


@lru_cache(maxsize=1)
def _pictures() -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 28, 28) and labels."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (NUM_IMAGES, 28, 28), generator=draw, dtype=torch.uint8)
    return images, torch.randint(10, (NUM_IMAGES,), generator=draw)


@lru_cache(maxsize=1)
def _data(augment: bool) -> TrainingData:
    images, labels = _pictures()
    whole = Images("fashion-mnist", images[..., None], labels, images[:1000, ..., None], labels[:1000], 10)
    return prepare(RunConfig(schedule="fixed-small", augment=augment, **SETTINGS), whole)


def _floats() -> tuple[Tensor, Tensor]:
    images, labels = _pictures()
    return (images[:, None].float() - 127.5) / 73.9, labels


def _network() -> nn.Module:
    return build_model("cnn", image_shape=(1, 28, 28), num_classes=10, norm="batch", ghost_batch=0, seed=0)


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Like torchvision's data sets: an image is made of its bytes, then transformed, when it is asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from torchvision import transforms

        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(28, padding=CROP),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,), (0.29,)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


class _Some(torch.utils.data.Sampler[int]):
    """Random positions for exactly `updates` batches: workers have nothing left to prepare while others are timed."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.updates = batch_size, 1

    def __len__(self) -> int:
        return self.batch_size * self.updates

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randint(NUM_IMAGES, (len(self),)).tolist())


def _module(network: nn.Module) -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)

    return Module()


def _clock(now: Callable[[], float]) -> Any:
    import lightning

    class Clock(lightning.Callback):
        """From the first batch to the end of the last one."""

        seconds, began = 0.0, 0.0

        def on_train_batch_start(self, *_: Any) -> None:
            self.began = self.began or now()

        def on_train_batch_end(self, *_: Any) -> None:
            self.seconds = now() - self.began

    return Clock()
