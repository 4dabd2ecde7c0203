"""A user's own training loop, as tests of bsexp.torch write it down: what each update was made with.

The one rule: nothing here knows how bsexp cuts a budget; rows are what arrived and what the optimizer had.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bsexp.torch import ScheduledBatchSampler, ScheduledRates


class Row(NamedTuple):
    """One update: samples before it, its size, rate and momentum, and which samples it had."""

    samples: int
    batch_size: int
    lr: float
    momentum: float
    index: tuple[int, ...]


class Numbered(Dataset[tuple[int, Tensor, int]]):
    """Samples that know their number: (number, 4 features, class of 3)."""

    def __init__(self, num_train: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.features = torch.randn(num_train, 4, generator=draw, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, number: int) -> tuple[int, Tensor, int]:
        return number, self.features[number], number % 3


LOADERS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2, "prefetch_factor": 7},
    {"num_workers": 2, "persistent_workers": True},
]


@dataclass
class Loop:
    """Model, optimizer, loader, sampler and rates of one loop, and the rows so far."""

    sampler: ScheduledBatchSampler
    loading: dict[str, Any] = field(default_factory=dict)
    optimizer_class: Any = torch.optim.SGD
    options: dict[str, Any] = field(default_factory=lambda: {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.01})

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 3, dtype=torch.float64)
        self.optimizer = self.optimizer_class(self.model.parameters(), **self.options)
        self.rates = ScheduledRates(self.optimizer, self.sampler)
        self.loader = DataLoader(
            Numbered(self.sampler.clock.asked.num_train), batch_sampler=self.sampler, **self.loading
        )
        self.rows: list[Row] = []

    def update(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """Train on one batch."""
        numbers, features, classes = batch
        (group,) = self.optimizer.param_groups
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        self.rows.append(Row(self.sampler.samples, len(classes), group["lr"], momentum, tuple(numbers.tolist())))
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(features), classes).backward()
        self.optimizer.step()
        self.rates.step(len(classes))

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All batches of the budget, pass after pass."""
        while not self.sampler.finished:
            yield from self.loader

    def run(self, updates: int | None = None) -> "Loop":
        """Train to the end, or `updates` updates."""
        if updates == 0:
            return self
        for number, batch in enumerate(self.batches(), 1):
            self.update(batch)
            if number == updates:
                break
        return self

    def state(self) -> dict[str, Any]:
        """A checkpoint, as a user would write it."""
        parts = ("model", "optimizer", "sampler", "rates")
        return {part: getattr(self, part).state_dict() for part in parts}

    def load(self, state: dict[str, Any]) -> "Loop":
        """Go on from a checkpoint."""
        for part, value in state.items():
            getattr(self, part).load_state_dict(value)
        return self
