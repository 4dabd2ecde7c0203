"""Compiled forward and backward passes, for a few batch shapes.

The one rule: what is compiled is settled before training and compiled outside the clock; whatever comes besides is run
as it is. A run compiles at most as often as it has sizes to be compiled for, however its batch grows.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bsexp.engine.device import is_out_of_memory
from bsexp.errors import SetupError

BACKEND = "inductor"


class CompiledModel:
    """`model` for training, compiled with static shapes for batches of each of `sizes` samples once it was rehearsed.

    On CUDA each of them is a CUDA graph too: one call instead of hundreds. The weights are the model's own; its state
    dict and its evaluation don't know of this. Results are the model's to rounding, not to the byte.
    """

    def __init__(self, model: nn.Module, sizes: Iterable[int], device: torch.device) -> None:
        self.model, self.device = model, device
        self.sizes = frozenset(sizes)
        self._ready: set[int] = set()
        graphs = device.type == "cuda" and BACKEND == "inductor"
        # Graphs are warmed up at the first call, recorded at the second and replayed from then on.
        self._calls = 3 if graphs else 1
        mode = "reduce-overhead" if graphs else None
        self._compiled = torch.compile(model, dynamic=False, backend=BACKEND, mode=mode)

    def __call__(self, images: Tensor) -> Tensor:
        """What the model says of `images` (B, C, H, W), in training."""
        if len(images) not in self._ready:
            return self.model(images)
        return self._run(images, "eager_on_recompile")

    def _run(self, images: Tensor, stance: Literal["default", "eager_on_recompile"]) -> Tensor:
        # What an earlier replay has left in the graphs' memory isn't needed any more.
        torch.compiler.cudagraph_mark_step_begin()
        with torch.compiler.set_stance(stance):
            return self._compiled(images)

    def lacks(self, sizes: Sequence[int]) -> list[int]:
        """Those of `sizes` that are still to be rehearsed, each once."""
        return sorted((self.sizes - self._ready).intersection(sizes))

    def rehearse(self, size: int, once: Callable[[Callable[[Tensor], Tensor]], object]) -> None:
        """Compile for `size`: `once` is to call what it gets on such a batch, forward and backward.

        Weights, buffers and random numbers are left as they were, gradients aren't. Raises SetupError where torch can't
        compile the model here.
        """
        from torch._dynamo import config, exc

        buffers = [buffer.clone() for buffer in self.model.buffers()]
        gpus = [self.device] if self.device.type == "cuda" else []
        # torch would stop compiling at limits of its own, shared by all runs of a process, and say nothing.
        unlimited = config.patch(recompile_limit=2**20, accumulated_recompile_limit=2**20)
        try:
            with torch.random.fork_rng(gpus), unlimited:
                for _ in range(self._calls):
                    once(lambda images: self._run(images, "default"))
            self._ready.add(size)
        except exc.TorchDynamoException as error:
            raise _refusal(error) from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # Whether the update itself fits is found out there, without compiling.
            self.sizes -= {size}
        finally:
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)


def _refusal(error: Exception) -> SetupError:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return SetupError("--compile", f"torch can't compile here ({text[:160]})", "leave --compile out")
