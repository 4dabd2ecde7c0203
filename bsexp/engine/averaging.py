"""Averaged weights: an exponential moving average over samples, kept beside the last weights.

The one rule: its half-life is a share of the budget in samples, so that it means the same at every batch size.
"""

import copy

import torch
from torch import nn

HALF_LIFE_SHARE = 0.02


class AveragedModel:
    """A copy of `model` whose weights and float buffers follow it: a <- a + (1 - 0.5^(n / h)) (w - a) per n samples.

    h is 2 % of the budget (Polyak averaging with a finite memory; Izmailov et al. 2018 average in the same spirit).
    """

    def __init__(self, model: nn.Module, total_samples: int) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.half_life = HALF_LIFE_SHARE * total_samples
        self._mine = _floats(self.model)
        self._theirs = _floats(model)

    @torch.no_grad()
    def follow(self, samples: int) -> None:
        """Move towards the weights after an update of `samples` samples."""
        torch._foreach_lerp_(self._mine, self._theirs, 1 - 0.5 ** (samples / self.half_life))


def _floats(model: nn.Module) -> list[torch.Tensor]:
    tensors = [*model.parameters(), *model.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
