"""Residual networks for small images: resnet20, resnet56, resnet18 and wrn-16-4.

The one rule: convolutions have no bias (a norm follows each), and all pixels are averaged before the last layer, so any
image size works. Dropout stands before the last layer only, in wide networks too.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from bsexp.models.layers import Norm

Shape = tuple[int, int, int]


def _conv3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


class PaddedShortcut(nn.Module):
    """Shortcut without parameters: every `stride`-th pixel, new channels zero (He et al. 2016, option A)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.new, self.stride = channels_out - channels_in, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))


class ProjectedShortcut(nn.Module):
    """Shortcut with a 1x1 convolution and a norm (He et al. 2016, option B)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        self.norm = norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Norm, project: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3(channels_in, channels_out, stride), norm(channels_out)
        self.conv2, self.norm2 = _conv3(channels_out, channels_out), norm(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out and project:
            self.shortcut = ProjectedShortcut(channels_in, channels_out, stride, norm)
        elif channels_in != channels_out:
            self.shortcut = PaddedShortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """He et al. 2016 (arXiv:1512.03385) with a 3x3 stem of stride 1 and no pooling after it.

    `widths`: channels of each stage, which halves the sides from the second on; `blocks`: two-layer blocks in each.
    Section 4.2 has widths 16, 32, 64 and shortcuts of option A (`project` false); option B where `project` is true.
    """

    def __init__(
        self,
        image_shape: Shape,
        num_classes: int,
        norm: Norm,
        dropout: float,
        widths: tuple[int, ...] = (16, 32, 64),
        blocks: int = 3,
        project: bool = False,
    ) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3(image_shape[0], widths[0]), norm(widths[0])
        channels = widths[0]
        self.stages = nn.Sequential()
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                self.stages.append(BasicBlock(channels, width, stride, norm, project))
                channels = width
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.norm1(self.conv1(x))))
        return self.head(self.dropout(x.mean((2, 3))))


class PreActivationBlock(nn.Module):
    """shortcut + conv(relu(norm(conv(relu(norm(x)))))); where channels change, the shortcut is a 1x1 convolution.

    That convolution reads what the first norm and ReLU made of x, otherwise the shortcut is x itself.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels_in), _conv3(channels_in, channels_out, stride)
        self.norm2, self.conv2 = norm(channels_out), _conv3(channels_out, channels_out)
        changes = channels_in != channels_out
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(y)
        return kept + self.conv2(F.relu(self.norm2(self.conv1(y))))


class WideResNet(nn.Module):
    """WRN-(6 blocks + 4)-factor of Zagoruyko & Komodakis 2016 (arXiv:1605.07146, table 1), without inner dropout."""

    def __init__(
        self, image_shape: Shape, num_classes: int, norm: Norm, dropout: float, factor: int = 4, blocks: int = 2
    ) -> None:
        super().__init__()
        self.conv1 = _conv3(image_shape[0], 16)
        channels = 16
        self.stages = nn.Sequential()
        for stage, width in enumerate((16 * factor, 32 * factor, 64 * factor)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                self.stages.append(PreActivationBlock(channels, width, stride, norm))
                channels = width
        self.norm1 = norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stages(self.conv1(x))))
        return self.head(self.dropout(x.mean((2, 3))))
