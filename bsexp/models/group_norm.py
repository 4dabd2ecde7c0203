"""Group norm that keeps pace with the convolutions around it, on a CPU with images in channels_last order.

The one rule: it is torch's group norm, by other ways to the same numbers. torch's kernel for this order goes through
each group pixel by pixel, at a group of 2 or 4 channels ten times slower than memory would let it, which was half of
the time of the small networks.
"""

from typing import Any

import torch
from torch import Tensor, nn

SLOW_BELOW = 8
PASSES_FROM = 2**16


class GroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm. Input (B, C, *), output alike, in the same order of memory.

    Groups of fewer than SLOW_BELOW channels take one of two ways: large inputs (PASSES_FROM numbers for each channel of
    a group and more) whole passes over the tensor, small ones torch's kernel for the other order of memory. Which one
    depends on the shape alone. Variances are E[x^2] - E[x]^2 as in torch's kernel. Reverse-mode derivatives of any
    order and torch.func's grad work, and vmap of it over samples that are channels_last inside it; under other vmaps
    (over stacked weights) torch can't be asked for the order of memory and raises. Forward-mode derivatives don't work
    for large inputs.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_slow(x):
            return super().forward(x)
        if x.numel() < PASSES_FROM * (self.num_channels // self.num_groups):
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        way = _Passes.apply if torch.is_grad_enabled() else _normalise
        return way(x, self.weight, self.bias, self.num_groups, self.eps)[0]

    def _is_slow(self, x: Tensor) -> bool:
        narrow = self.num_channels // self.num_groups < SLOW_BELOW
        # Under autocast the types differ, and torch's kernel takes mixed ones.
        here = narrow and x.device.type == "cpu" and x.dim() == 4 and x.dtype == self.weight.dtype
        return here and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, pixels, C); no copy in channels_last order."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    return rows.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _moments(rows: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Each group's mean and 1 / standard deviation, (B, groups, 1)."""
    batch = len(rows)
    mean = rows.mean(1).view(batch, groups, -1).mean(2, keepdim=True)
    square = rows.square().mean(1).view(batch, groups, -1).mean(2, keepdim=True)
    return mean, torch.addcmul(square, mean, mean, value=-1).clamp_min(0).add(eps).rsqrt()


def _normalise(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The output and the groups' moments."""
    batch, channels = x.shape[:2]
    rows = _rows(x)
    mean, rstd = _moments(rows, groups, eps)
    scale = rstd * weight.view(groups, -1)
    shift = torch.addcmul(bias.view(groups, -1), scale, mean, value=-1)
    out = torch.addcmul(shift.view(batch, 1, channels), rows, scale.view(batch, 1, channels))
    return _image(out, x), mean, rstd


class _Passes(torch.autograd.Function):
    """`_normalise` with its derivative: three passes where autograd would make eight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return _normalise(x, weight, bias, groups, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.groups, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, and the moments depend on x
            mean, rstd = _moments(_rows(x), ctx.groups, ctx.eps)
        return (*_derivative(x, weight, mean, rstd, grad), None, None)


def _derivative(x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, weight and bias from that of the output (Wu & He 2018, eq. 1 and 7, by the chain rule).

    With z = (x - mean) rstd and g = grad * weight: dx = rstd (g - E[g] - z E[g z]), E over the group.
    """
    batch, groups = mean.shape[:2]
    rows, slopes = _rows(x), _rows(grad)
    for_bias = slopes.sum(1).view(batch, groups, -1)
    for_weight = (slopes * rows).sum(1).view(batch, groups, -1)
    for_weight = torch.addcmul(for_weight, for_bias, mean, value=-1) * rstd
    weight = weight.view(groups, -1)
    number = x[0].numel() // groups
    # dx = rstd weight grad + pull x + shift
    scale = rstd * weight
    pull = (for_weight * weight).sum(2, keepdim=True) * rstd.square() / -number
    shift = (for_bias * weight).sum(2, keepdim=True) * rstd / -number - pull * mean
    pull, shift, scale = (part.expand_as(scale).reshape(batch, 1, -1) for part in (pull, shift, scale))
    out = torch.addcmul(shift, slopes, scale).addcmul_(rows, pull)
    return _image(out, x), for_weight.sum(0).flatten(), for_bias.sum(0).flatten()
