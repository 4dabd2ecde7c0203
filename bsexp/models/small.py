"""Small networks: mlp, cnn, cnn-small and lenet.

The one rule: dense and convolution layers have a bias whatever the norm, so that parameters keep their names.

Pooling stands before ReLU: the maximum of what ReLU leaves is what ReLU leaves of the maximum, gradients too, for a
quarter of the work.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from bsexp.models.layers import Norm

Shape = tuple[int, int, int]


class Mlp(nn.Module):
    """pixels-128-128-classes with ReLU. Norms stand between a dense layer and its ReLU.

    Over features, "group" is layer norm in eight groups of 16, "batch" is batch norm of each feature.
    """

    def __init__(self, image_shape: Shape, num_classes: int, norm: Norm, dropout: float, width: int = 128) -> None:
        super().__init__()
        channels, height, width_px = image_shape
        self.fc1, self.norm1 = nn.Linear(channels * height * width_px, width), norm(width)
        self.fc2, self.norm2 = nn.Linear(width, width), norm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.fc1(x.flatten(1))))
        x = F.relu(self.norm2(self.fc2(x)))
        return self.head(self.dropout(x))


class Cnn(nn.Module):
    """Three 3x3 convolutions of width, 2 width and 4 width channels, each with norm and ReLU.

    2x2 maximum pooling after the first two, the mean over pixels after the third, one dense layer. Sides of 4 and more.
    """

    def __init__(self, image_shape: Shape, num_classes: int, norm: Norm, dropout: float, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(image_shape[0], width, 3, padding=1), norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, 2 * width, 3, padding=1), norm(2 * width)
        self.conv3, self.norm3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1), norm(4 * width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.norm1(self.conv1(x)), 2))
        x = F.relu(F.max_pool2d(self.norm2(self.conv2(x)), 2))
        x = F.relu(self.norm3(self.conv3(x)))
        return self.head(self.dropout(x.mean((2, 3))))


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998, fig. 2) with ReLU and maximum pooling: 6-16 channels, dense 120-84-classes.

    At 28x28 it is the usual one (61,706 parameters for one channel and ten classes). The first dense layer takes as
    many pixels as the image leaves; below 16 pixels the second convolution is padded, so that some are left.
    """

    def __init__(self, image_shape: Shape, num_classes: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        channels, height, width = image_shape
        padding = 2 if min(height, width) < 16 else 0
        left = [(side // 2 + 2 * padding - 4) // 2 for side in (height, width)]
        self.conv1, self.norm1 = nn.Conv2d(channels, 6, 5, padding=2), norm(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 16, 5, padding=padding), norm(16)
        self.fc1, self.norm3 = nn.Linear(16 * left[0] * left[1], 120), norm(120)
        self.fc2, self.norm4 = nn.Linear(120, 84), norm(84)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.norm1(self.conv1(x)), 2))
        x = F.relu(F.max_pool2d(self.norm2(self.conv2(x)), 2))
        x = F.relu(self.norm3(self.fc1(x.flatten(1))))
        x = F.relu(self.norm4(self.fc2(x)))
        return self.head(self.dropout(x))
