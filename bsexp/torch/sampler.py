"""Batches whose size follows a schedule, for torch's DataLoader.

The one rule: a batch is the next piece of an endless stream of samples, cut where the plan says, so the batch that
arrives has the size and the samples of its own position, however many batches were asked for ahead of it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler

from bsexp.data.stream import SampleStream
from bsexp.errors import UsageError, shown
from bsexp.schedules import Schedule
from bsexp.torch.asked import read_schedule
from bsexp.torch.clock import Clock

if TYPE_CHECKING:
    from bsexp.config import RunConfig


class ScheduledBatchSampler(Sampler[list[int]]):
    """A batch sampler: `DataLoader(dataset, batch_sampler=ScheduledBatchSampler("growing-batch", len(dataset), ...))`.

    `schedule` is a name (`bsexp list schedules`; `parameters` are then those of `bsexp.make_schedule`: batch_size, lr,
    max_batch, ...), a RunConfig, or a function Progress -> Hyper. The budget is `epochs` (a float) or `total_samples`;
    a RunConfig has its own. `num_train` is the number of samples in the data set. Epochs are shuffled by `seed` and
    their number, as `bsexp run` shuffles its training split.

    One pass over the loader gives the batches that start in the epoch in which the clock stands, from there on; the
    last of them may reach into the next epoch, and the last two of the budget share what remains, as in a run of
    bsexp. `len` counts all batches that start in that epoch. The clock is moved by `ScheduledRates.step`:

        while not sampler.finished:
            for images, labels in loader:
                ...
                optimizer.step()
                rates.step(len(labels))

    Leave a pass early and the next one begins with the batch after the last one that was trained on. Raises UsageError
    for arguments that give no plan, and when it is read after the budget's end or in several processes at once.
    """

    def __init__(
        self,
        schedule: "str | RunConfig | Schedule",
        num_train: int,
        *,
        epochs: float | None = None,
        total_samples: int | None = None,
        seed: int | None = None,
        **parameters: Any,
    ) -> None:
        if seed is not None and (type(seed) is not int or seed < 0):
            raise UsageError("seed", shown(seed), "give a whole number from 0")
        self.clock = Clock(read_schedule(schedule, num_train, epochs, total_samples, seed, parameters))
        self._read: int | None = None
        self._idle = 0

    def __iter__(self) -> Iterator[list[int]]:
        _refuse_ranks()
        if self.clock.finished:
            raise self.clock.spent("sampler")
        self._refuse_standing_still()
        # Not inside the generator: a loader's workers ask for the first batch when it suits them.
        first = self.clock.step
        return self._batches(range(first, self.clock.epoch_of(first).stop))

    def __len__(self) -> int:
        return len(self.clock.epoch_of(self.clock.step))

    def _batches(self, steps: range) -> Iterator[list[int]]:
        stream = SampleStream(self.clock.asked.num_train, self.clock.asked.seed)
        stream.seek(self.clock.start(steps.start))
        for step in steps:
            yield stream.take(self.clock.size(step)).index.tolist()
        self._read = steps.start

    def _refuse_standing_still(self) -> None:
        """Once may have been a look at a batch, with workers that read a short epoch to its end."""
        self._idle = self._idle + 1 if self._read == self.clock.step else 0
        self._read = None
        if self._idle >= 2:
            cure = "call rates.step(len(batch)) after each optimizer.step()"
            raise UsageError("sampler", f"read again and again while the clock stands {self.clock.place}", cure)

    @property
    def samples(self) -> int:
        """Samples trained on so far."""
        return self.clock.samples

    @property
    def total_samples(self) -> int:
        """The budget, in samples."""
        return self.clock.asked.total_samples

    @property
    def epoch(self) -> float:
        """Samples trained on so far / samples in the data set."""
        return self.samples / self.clock.asked.num_train

    @property
    def updates(self) -> int:
        """The number of updates that the budget makes."""
        return self.clock.updates

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.clock.finished

    def state_dict(self) -> dict[str, Any]:
        """The position, for a checkpoint: what was trained on, not what was read ahead."""
        return {**self.clock.state(), "seed": self.clock.asked.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, with the same samples and sizes. UsageError for the state of another plan or seed."""
        if state.get("seed") != self.clock.asked.seed:
            which = f"seed {shown(state.get('seed'))}, here {self.clock.asked.seed}"
            raise UsageError("load_state_dict", which, "give the seed that it was saved with")
        self.clock.load(state, "sampler")
        self._read, self._idle = None, 0


def _refuse_ranks() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        which = f"in {distributed.get_world_size()} processes, each of which would train on the same batches"
        raise UsageError("sampler", which, "train in one process")
