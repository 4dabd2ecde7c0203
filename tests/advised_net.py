"""A network of one's own, for an advice: a residual network of eight layers."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two convolutions beside a shortcut; the first one may halve the sides."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(8, channels_out), nn.GroupNorm(8, channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet8(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Three stages of one block each, and the mean over all places before the last layer."""
    stem = nn.Conv2d(image_shape[0], WIDTHS[0], 3, padding=1, bias=False)
    strides = (1, 2, 2)
    stages = [Block(*each) for each in zip((WIDTHS[0], *WIDTHS), WIDTHS, strides, strict=False)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], num_classes)]
    return nn.Sequential(stem, nn.GroupNorm(8, WIDTHS[0]), nn.ReLU(), *stages, *head)
