"""One update: from one batch, in one or several micro-batches, to new weights.

The one rule: the gradient is that of the mean loss over the whole batch, whatever the micro-batches; nothing is read
back from the device.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from bsexp.config import RunConfig
from bsexp.data.augment import Batches
from bsexp.data.stream import Picks
from bsexp.engine.compiling import CompiledModel
from bsexp.engine.device import is_out_of_memory, release_memory
from bsexp.engine.noise import Norms, PartNorms
from bsexp.errors import MemoryExhausted
from bsexp.planning import micro_batch_sizes, smaller_part
from bsexp.schedules import Hyper

# What the forward pass is cast to, weights staying float32.
NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


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

    `reseed` is called before the gradients of an update are computed, and again where they are computed once more:
    dropout masks must be those of the position. `largest` is the largest part that has gone through so far, `limit`
    the one that memory allows, None as long as it never ran out; both in samples. `norms` are those of the last
    update's parts, where they were to be read and there were several. `compiled` is what runs `model` forward where
    there is one; gradients then stay in place from update to update.

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
        reseed: Callable[[], None] = lambda: None,
        compiled: CompiledModel | None = None,
    ) -> None:
        self.model, self.config, self.batches, self.device, self.reseed = model, config, batches, device, reseed
        self.compiled = compiled
        self.optimizer = build_optimizer(model, config)
        self._weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None
        if self.scaler and config.optimizer == "sgd":
            self._begin_momentum()
        self._kept: list[Tensor] = []
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
            sizes = micro_batch_sizes(len(picks.index), self.config, self.limit)
        if self.config.clip_norm:
            if self.scaler:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self._step()
        return loss, sizes

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
        norms = self._part_norms(picks)
        try:
            self._forget_gradients()
            self.reseed()
            self._gradients(self.model, picks, sizes, norms)
            return norms.result()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            cure = "leave --measure-noise out, or run in smaller parts (--micro-batch)"
            raise MemoryExhausted("out of memory", f"measuring noise in parts of {max(sizes)}", cure) from None
        finally:
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def _part_norms(self, picks: Picks) -> PartNorms:
        # A loss of 1 comes back as the scale, a tensor: asking for the number would wait for the device.
        scale = self.scaler.scale(torch.ones((), device=self.device)) if self.scaler else None
        return PartNorms(self._weights, len(picks.index), scale)

    def _tried(self, picks: Picks, sizes: list[int], read: bool) -> Tensor | None:
        """The loss, with the gradients in place; None where memory ran out: then nothing has changed."""
        larger = max(sizes) > self.largest
        # Batch statistics move in the forward pass. Only a part larger than any before can be the first to fail.
        buffers = [buffer.clone() for buffer in self.model.buffers()] if larger else []
        norms = self._part_norms(picks) if read and len(sizes) > 1 else None
        try:
            self._forget_gradients()
            self.reseed()
            loss = self._gradients(self.compiled or self.model, picks, sizes, norms)
            self.norms = norms.result() if norms else None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not larger and any(True for _ in self.model.buffers()):
                cure = "run the same command again to go on from the last checkpoint"
                raise MemoryExhausted("out of memory", "at a batch that fitted before", cure) from None
        else:
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

    def _gradients(
        self,
        model: Callable[[Tensor], Tensor],
        picks: Picks,
        sizes: list[int],
        after: Callable[[int], None] | None = None,
    ) -> Tensor:
        total = sum(sizes)
        start, losses = 0, []
        for size in sizes:
            part = picks if size == total else Picks(*(draws[start : start + size] for draws in picks))
            images, labels = self.batches.train(part)
            with self._arithmetic():
                # Sums divided by the whole batch: parts of any size are weighted exactly.
                loss = functional.cross_entropy(
                    model(images),
                    labels,
                    reduction="mean" if size == total else "sum",
                    label_smoothing=self.config.label_smoothing,
                )
                loss = loss if size == total else loss / total
            (self.scaler.scale(loss) if self.scaler else loss).backward()
            losses.append(loss.detach())
            start += size
            if after:
                after(size)
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
                self._gradients(copy.deepcopy(self.model), picks, [size])
        except RuntimeError as error:
            # A copy needs memory that the update itself may not: whether that fits is found out there.
            if not is_out_of_memory(error):
                raise
            release_memory(self.device)

    def _rehearse_compiled(self, forward: Callable[[Tensor], Tensor], picks: Picks) -> None:
        self._gradients(forward, picks, [len(picks.index)])
        if self._kept:
            return
        # A CUDA graph's gradients lie in its own memory, where the next replay overwrites them. Into tensors that are
        # there already they are added. A weight that gets no gradient is not to get one of zeros.
        for weight in self._weights:
            if weight.grad is not None:
                weight.grad = weight.grad.clone()
        self._kept = [weight.grad for weight in self._weights if weight.grad is not None]
