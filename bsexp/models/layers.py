"""Normalisation layers and starting weights, shared by all networks of this package.

The one rule: a network's parameters have the same names whatever its normalisation, and a weight's start depends on the
seed and on its name alone. So arms that differ in norm or dropout begin with the same weights.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bsexp.errors import UsageError
from bsexp.models.group_norm import GroupNorm
from bsexp.seeding import derive

NORMS = ("group", "batch", "none")
MAX_GROUPS = 8
DECAY, DECAY_SAMPLES = 0.9, 128
HEAD_STD = 0.01

Norm = Callable[[int], nn.Module]
"""Number of channels (or features) -> the layer that normalises them."""


def num_groups(channels: int) -> int:
    """Groups of GroupNorm: the most of 8, 4, 2, 1 that divides the channels and leaves two or more in each.

    One channel to a group would be instance norm, which Wu & He 2018 (arXiv:1803.08494, table 3) find worse.

    >>> [num_groups(channels) for channels in (6, 8, 16, 64, 1)]
    [2, 4, 8, 8, 1]
    """
    groups = math.gcd(channels, MAX_GROUPS)
    return groups // 2 if groups == channels > 1 else groups


def make_norm(norm: str, ghost_batch: int) -> Norm:
    """The normalisation called `norm`, for (B, channels, H, W) and (B, features) alike.

    `ghost_batch`, in samples, belongs to "batch": 0 takes the statistics over the whole micro-batch. Raises UsageError
    for an unknown norm, a ghost size without batch norm, or one below 2.
    """
    if norm not in NORMS:
        raise UsageError("norm", f"unknown name {norm!r}", "known: " + ", ".join(NORMS))
    if ghost_batch and norm != "batch":
        raise UsageError("ghost_batch", str(ghost_batch), f"norm {norm!r} has no batch statistics: use norm 'batch'")
    if ghost_batch < 0 or ghost_batch == 1:
        raise UsageError("ghost_batch", str(ghost_batch), "needs 0 (the whole micro-batch) or 2 and more samples")
    if norm == "group":
        return lambda channels: GroupNorm(num_groups(channels), channels)
    if norm == "batch":
        return partial(GhostBatchNorm, ghost_batch=ghost_batch)
    return lambda channels: nn.Identity()


def running_share(samples: int) -> float:
    """The share of running averages that is left of them after so many samples more.

    >>> running_share(128)
    0.9
    """
    return float(DECAY ** (samples / DECAY_SAMPLES))


class GhostBatchNorm(nn.Module):
    """Batch norm over groups of consecutive samples (ghost batches: Hoffer et al. 2017, arXiv:1705.08741, algorithm 1).

    A micro-batch of B samples is cut into max(1, B // ghost_batch) groups whose sizes differ by one at most, so that a
    remainder never becomes a tiny group. `ghost_batch` 0: one group, which is plain batch norm.

    The running averages follow the sample clock: running += (1 - 0.9^(B/128)) * (statistic - running), once per
    forward in training, with the mean over groups of the groups' means and unbiased variances. Equal numbers of samples
    thus forget equally much at any batch size, and torch's momentum of 0.1 is met at B = 128. (Algorithm 1 weighs the
    groups of one batch one after another; their plain mean doesn't depend on their order.)

    Input (B, C) or (B, C, H, W), output alike. Raises UsageError for fewer than two samples in training.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, ghost_batch: int = 0, eps: float = 1e-5) -> None:
        super().__init__()
        self.ghost_batch, self.eps = ghost_batch, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        batch = x.shape[0]
        if batch < 2:
            cure = "take batches and micro-batches of 2 and more samples, or norm 'group'"
            raise UsageError("norm", f"batch norm can't train on {batch} sample", cure)
        momentum = 1 - running_share(batch)
        groups = max(1, batch // self.ghost_batch) if self.ghost_batch else 1
        if groups == 1:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(x, mean, var, self.weight, self.bias, True, momentum, self.eps)
        # With momentum 1 the "running" averages are the groups' own statistics, out of the same fused kernel. `split`,
        # for the backward of `tensor_split` fills a whole batch of zeros for each part. Folding the groups into the
        # channels copies twice, which is 2 to 3 times slower on a CPU.
        mean, var = self.running_mean.new_zeros((2, groups, len(self.running_mean)))
        size, larger = divmod(batch, groups)
        parts = x.split([size + 1] * larger + [size] * (groups - larger))
        rows = zip(parts, mean, var, strict=True)
        out = torch.cat([F.batch_norm(part, m, v, self.weight, self.bias, True, 1.0, self.eps) for part, m, v in rows])
        self.running_mean.lerp_(mean.mean(0), momentum)
        self.running_var.lerp_(var.mean(0), momentum)
        return out

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, ghost_batch={self.ghost_batch}"


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Overwrites every parameter, each from a generator keyed by the seed and the parameter's name.

    Weights of two or more dimensions are normal with variance 2 / fan_in (He et al. 2015, arXiv:1502.01852, eq. 10),
    those of the last layer, called `head`, with standard deviation 0.01 (Goyal et al. 2017, arXiv:1706.02677, section
    5.1), so that the loss starts near log(classes) at any depth. Scales of norms are 1, biases 0.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            std = HEAD_STD if name == "head.weight" else math.sqrt(2 / parameter[0].numel())
            generator = torch.Generator().manual_seed(derive(seed, "weights", name))
            parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
