"""Ranks: the processes that share each batch of a run.

The one rule: every rank makes the same updates, from sums over all of them. Only the first one (number 0) evaluates,
writes and decides; what the others can't know they are told.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bsexp.config import RunConfig
from bsexp.errors import RunsFailed, UsageError
from bsexp.models.layers import running_share
from bsexp.planning import worker_shares

# The first rank waits so long for the others, which do nothing but updates. They wait for it as long as it lives: it
# also evaluates and saves.
WAIT_SECONDS = 300.0
PATIENCE = timedelta(days=30)
AGAIN = "run the same command again to go on from the last checkpoint"


class Ranks:
    """This process as number `number` of `count`. Raises RunsFailed from any call where another one is gone."""

    def __init__(self, store: dist.Store, number: int, count: int, device: torch.device) -> None:
        self.number, self.count = number, count
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        wait = timedelta(seconds=WAIT_SECONDS) if self.first else PATIENCE
        with self._heard():
            dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=wait)

    @property
    def first(self) -> bool:
        """Whether this is the rank that evaluates, writes and decides."""
        return self.number == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Make each of `tensors` its sum over all ranks, in place; one exchange for all of them."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with self._heard():
            dist.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each place whether the flag is set on any rank; waits for all of them."""
        found = torch.tensor(flags, dtype=torch.uint8)
        with self._heard():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return [bool(flag) for flag in found.tolist()]

    def told(self, value: Any = None) -> Any:
        """What the first rank gives for `value`, on every rank; a plain value."""
        told = [value]
        with self._heard():
            dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
        return told[0]

    def leave(self) -> None:
        """End the connections."""
        dist.destroy_process_group()

    @contextmanager
    def _heard(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RunsFailed("ranks", f"one of {self.count} doesn't answer ({reason[:120]})", AGAIN) from None


class Gathering:
    """Puts together what `ranks` have of an update of `model`: gradients of `weights`, loss, running statistics.

    A weight that gets no gradient on any rank keeps none, as in one process. Running averages of batch statistics
    become those of one process that has all shares, one after another (models.layers.GhostBatchNorm).
    """

    def __init__(self, ranks: Ranks, model: nn.Module, weights: Sequence[Tensor], config: RunConfig) -> None:
        self.ranks, self.config, self.weights = ranks, config, weights
        self.buffers = list(model.buffers())
        self._before: list[Tensor] = []
        self._used: list[bool] = []
        if self.buffers and ":" in config.model:
            which = f"{ranks.count} with model {config.model}, which keeps buffers of its own (running statistics?)"
            raise UsageError("nproc", which, "no rule says how they add up: use --virtual-workers on one device")

    def own(self, batch_size: int) -> tuple[int, int]:
        """The first of this rank's samples of a batch, and the first that is no longer one of them."""
        ends = list(accumulate(worker_shares(batch_size, self.config, self.ranks.count), initial=0))
        return ends[self.ranks.number], ends[self.ranks.number + 1]

    def begin(self) -> None:
        """To be called before the first forward pass of an update."""
        self._before = [buffer.clone() for buffer in self.buffers]

    def end(self, batch_size: int, *more: Tensor) -> None:
        """Sum gradients, and the numbers `more`, over all ranks; running statistics become those of all samples."""
        start, stop = self.own(batch_size)
        kept, later, all_kept = (running_share(n) for n in (stop - start, batch_size - stop, batch_size))
        for buffer, before in zip(self.buffers, self._before, strict=True):
            # What these samples have put in, as far as those of later ranks leave it there.
            buffer.sub_(before, alpha=kept).mul_(later)
        self.gradients(*more, *self.buffers)
        for buffer, before in zip(self.buffers, self._before, strict=True):
            buffer.add_(before, alpha=all_kept)

    def gradients(self, *more: Tensor) -> None:
        """Sum gradients, and the numbers `more`, over all ranks."""
        mine = [weight.grad is not None for weight in self.weights]
        if not self._used:
            self._used = self.ranks.any(mine)
        if any(has and not used for has, used in zip(mine, self._used, strict=True)):
            which = f"{self.ranks.count}, with a network whose parts get gradients in some updates only"
            raise UsageError("nproc", which, "use --virtual-workers on one device")
        found = []
        for weight, used in zip(self.weights, self._used, strict=True):
            if used:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                found.append(weight.grad)
        self.ranks.sum([*found, *more])
