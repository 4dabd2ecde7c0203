"""One update: from one batch, in one or several micro-batches, to new weights.

The one rule: the gradient is that of the mean loss over the whole batch, whatever the micro-batches, workers and ranks,
unless a sum over workers was asked for by name; nothing is read back from the device.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bsexp.config import RunConfig
from bsexp.data.augment import Batches
from bsexp.data.stream import Picks
from bsexp.engine.compiling import CompiledModel
from bsexp.engine.device import is_out_of_memory, release_memory
from bsexp.engine.noise import Norms, PartNorms
from bsexp.engine.ranks import AGAIN, Gathering, Ranks
from bsexp.errors import MemoryExhausted
from bsexp.planning import divisors, micro_batch_sizes, smaller_part, worker_shares
from bsexp.schedules import Hyper

# What the forward pass is cast to, weights staying float32.
NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Piece(NamedTuple):
    """A part of a batch: samples `start` to `start + size`, whose sum of losses is divided by `of`.

    `begins`: a worker's or a rank's share begins with it, and with it random numbers of their own.
    """

    start: int
    size: int
    of: int
    begins: bool


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """SGD or AdamW, fused, with weight decay on tensors of two or more dimensions only."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    momentum = 0.9 if config.momentum is None else config.momentum
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=momentum, nesterov=config.nesterov, fused=True)


class Updater:
    """Makes updates of `model`. `shrink` is the sum of lr * weight decay so far.

    `reseed` is called with a place in the batch, 0 or where a worker's share begins, before the gradients from there on
    are computed, and again where they are computed once more: dropout masks must be those of the position. `ranks`: the
    processes that share each batch, of which this one runs its own parts only. `largest` is the largest part that has
    gone through so far, `limit` the one that memory allows, None as long as it never ran out; both in samples. `norms`
    are those of the last update's parts, where they were to be read and there were several. `compiled` is what runs
    `model` forward where there is one; gradients then stay in place from update to update.

    fp16 loses gradients below 6e-8, so the loss is multiplied beforehand: `scaler` finds the factor by trying. Where a
    gradient overflows, the update is left out and the factor halved; such an update counts like any other (samples,
    log, shrink, averaged weights), and only a loss that isn't finite is divergence.
    """

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        batches: Batches,
        device: torch.device,
        reseed: Callable[[int], None] = lambda place: None,
        compiled: CompiledModel | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.config, self.batches, self.device, self.reseed = model, config, batches, device, reseed
        self.compiled = compiled
        self.optimizer = build_optimizer(model, config)
        self._weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None
        if self.scaler and config.optimizer == "sgd":
            self._begin_momentum()
        self._kept: list[Tensor] = []
        self.ranks = ranks
        self._gathering = Gathering(ranks, model, self._weights, config) if ranks else None
        self.shrink = 0.0
        self.largest = 0
        self.limit: int | None = None
        self.norms: Norms | None = None

    def update(self, picks: Picks, hyper: Hyper, sizes: list[int], read: bool = False) -> tuple[Tensor, list[int]]:
        """One update from `picks` in parts of `sizes`: the batch's mean loss, on the device, detached, and the parts.

        `read`: the norms of the parts' gradients are left in `norms`. Where memory runs out the same update is made
        again in parts of half the size, and `limit` is set to that. Raises MemoryExhausted where none are smaller.
        """
        self._set(hyper, len(picks.index))
        while (loss := self._tried(picks, sizes, read)) is None:
            # Outside the `except`: the exception would keep the failed try's tensors alive.
            self.limit = smaller_part(max(sizes), self.config)
            sizes = micro_batch_sizes(len(picks.index), self.config, self.limit, self.num_ranks)
        if self.config.clip_norm:
            if self.scaler:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self._step()
        return loss, sizes

    @property
    def num_ranks(self) -> int:
        """The processes that share each batch."""
        return self.ranks.count if self.ranks else 1

    def _step(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
            return
        # Fused optimizers take the scale and the verdict as tensors: whether the update is left out is settled there.
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _begin_momentum(self) -> None:
        # torch's fused SGD takes its first gradient for the momentum; were that update left out for gradients that
        # overflowed, it would go on from memory that nobody has written. From zero it comes to the same.
        for weight in self._weights:
            self.optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)

    def measure(self, picks: Picks, sizes: list[int]) -> Norms:
        """The norms of the gradients of `picks` in parts of `sizes`, from a pass for that alone.

        It costs what the forward and backward passes of an update cost. Weights, buffers and what is summed up are left
        as they were; dropout masks are those of the position, drawn for parts. Raises MemoryExhausted.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        norms = self._part_norms(picks, len(sizes))
        pieces = self._own([piece._replace(of=len(picks.index)) for piece in self._pieces(sizes)], len(picks.index))
        try:
            self._forget_gradients()
            self._gradients(self.model, picks, pieces, norms)
            if self._gathering:
                self._gathering.gradients()
            return norms.result(self.ranks)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            cure = "leave --measure-noise out, or run in smaller parts (--micro-batch)"
            raise MemoryExhausted("out of memory", f"measuring noise in parts of {max(sizes)}", cure) from None
        finally:
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def _part_norms(self, picks: Picks, num_parts: int) -> PartNorms:
        # A loss of 1 comes back as the scale, a tensor: asking for the number would wait for the device.
        scale = self.scaler.scale(torch.ones((), device=self.device)) if self.scaler else None
        return PartNorms(self._weights, len(picks.index), num_parts, scale)

    def _tried(self, picks: Picks, sizes: list[int], read: bool) -> Tensor | None:
        """The loss, with the gradients in place; None where memory ran out: then nothing has changed."""
        larger = max(sizes) > self.largest
        # Batch statistics move in the forward pass. Only a part larger than any before can be the first to fail.
        buffers = [buffer.clone() for buffer in self.model.buffers()] if larger else []
        norms = self._part_norms(picks, len(sizes)) if read and len(sizes) > 1 else None
        pieces = self._own(self._pieces(sizes), len(picks.index))
        loss = None
        try:
            self._forget_gradients()
            if self._gathering:
                self._gathering.begin()
            loss = self._gradients(self.compiled or self.model, picks, pieces, norms)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not larger and (self.ranks or any(True for _ in self.model.buffers())):
                raise MemoryExhausted("out of memory", "at a batch that fitted before", AGAIN) from None
        failed = loss is None
        if self.ranks and larger:
            # Where one rank lacks memory all of them make the update again, in the same parts.
            (failed,) = self.ranks.any([failed])
        if loss is not None and not failed:
            if self._gathering:
                self._gathering.end(len(picks.index), loss)
            self.norms = norms.result(self.ranks) if norms else None
            self.largest = max(self.largest, *sizes)
            return loss
        self._forget_gradients()
        release_memory(self.device)
        for buffer, before in zip(self.model.buffers(), buffers, strict=False):
            buffer.copy_(before)
        return None

    def _forget_gradients(self) -> None:
        if self._kept:
            torch._foreach_zero_(self._kept)
            return
        # What the optimizer's zero_grad does, without the 20 microseconds around it.
        for weight in self._weights:
            weight.grad = None

    def _pieces(self, sizes: list[int]) -> list[Piece]:
        """The parts `sizes` of a batch, with what each is divided by."""
        total = sum(sizes)
        if len(sizes) == 1:
            return [Piece(0, total, total, True)]
        counts = (self.config.virtual_workers, self.num_ranks)
        begins = {0, *(edge for of in counts for edge in accumulate(worker_shares(total, self.config, of)))}
        starts = accumulate(sizes, initial=0)
        of = divisors(total, sizes, self.config)
        return [Piece(start, size, by, start in begins) for start, size, by in zip(starts, sizes, of, strict=False)]

    def _own(self, pieces: list[Piece], batch_size: int) -> list[Piece]:
        """Those of `pieces` that this rank runs."""
        if not self._gathering:
            return pieces
        start, stop = self._gathering.own(batch_size)
        mine = [piece for piece in pieces if start <= piece.start < stop]
        return [piece._replace(begins=piece.begins or piece == mine[0]) for piece in mine]

    def _gradients(
        self,
        model: Callable[[Tensor], Tensor],
        picks: Picks,
        pieces: list[Piece],
        after: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Adds up the gradients of `pieces`; their share of the batch's mean loss, detached."""
        total, losses = len(picks.index), []
        for start, size, of, begins in pieces:
            whole = size == total
            part = picks if whole else Picks(*(draws[start : start + size] for draws in picks))
            images, labels = self.batches.train(part)
            if begins:
                self.reseed(start)
            with self._arithmetic():
                # Sums divided by the whole batch, or by a worker's share of it: parts of any size are weighted exactly.
                loss = functional.cross_entropy(
                    model(images),
                    labels,
                    reduction="mean" if whole else "sum",
                    label_smoothing=self.config.label_smoothing,
                )
                loss = loss if whole else loss / of
            (self.scaler.scale(loss) if self.scaler else loss).backward()
            losses.append(loss.detach() if of == total else loss.detach() * (of / total))
            if after:
                after(size)
        if not losses:
            nothing = torch.zeros((), dtype=self.batches.dtype, device=self.device)
            # The loss scale begins to exist when it is first used.
            return self.scaler.scale(nothing) if self.scaler else nothing
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _arithmetic(self) -> AbstractContextManager[object]:
        if narrow := NARROW.get(self.config.precision):
            return torch.autocast(self.device.type, dtype=narrow)
        # Autocast costs time even where it is switched off: 20 of the 2,500 microseconds of a batch of 8.
        return nullcontext()

    def _set(self, hyper: Hyper, batch_size: int) -> None:
        decay = self.config.weight_decay
        if self.config.weight_decay_clock == "samples":
            decay *= batch_size / self.config.reference_batch
        for group in self.optimizer.param_groups:
            group["lr"] = hyper.lr
            if group["weight_decay"]:
                group["weight_decay"] = decay
            if self.config.optimizer == "adamw":
                group["betas"] = (hyper.momentum, 0.999)
            else:
                group["momentum"] = hyper.momentum
        self.shrink += hyper.lr * decay

    def uncompiled(self, sizes: list[int]) -> list[int]:
        """The parts among `sizes` that are still to be compiled, each once."""
        return self.compiled.lacks(sizes) if self.compiled else []

    def rehearse(self, picks: Picks) -> None:
        """Forward and backward on all of `picks` as one part, so that one-off costs fall outside the clock.

        Weights, buffers, random numbers and what is summed up are left as they were.
        """
        size = len(picks.index)
        if self.compiled and size in self.compiled.sizes:
            self.compiled.rehearse(size, lambda forward: self._rehearse_compiled(forward, picks))
            self._forget_gradients()
            return
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                self._gradients(copy.deepcopy(self.model), picks, [Piece(0, size, size, False)])
        except RuntimeError as error:
            # A copy needs memory that the update itself may not: whether that fits is found out there.
            if not is_out_of_memory(error):
                raise
            release_memory(self.device)

    def _rehearse_compiled(self, forward: Callable[[Tensor], Tensor], picks: Picks) -> None:
        self._gradients(forward, picks, [Piece(0, len(picks.index), len(picks.index), False)])
        if self._kept:
            return
        # A CUDA graph's gradients lie in its own memory, where the next replay overwrites them. Into tensors that are
        # there already they are added. A weight that gets no gradient is not to get one of zeros.
        for weight in self._weights:
            if weight.grad is not None:
                weight.grad = weight.grad.clone()
        self._kept = [weight.grad for weight in self._weights if weight.grad is not None]
