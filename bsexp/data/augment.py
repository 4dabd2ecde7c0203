"""From picks of the stream to a normalised batch, in one gather.

The one rule: images stay uint8 until the batch is cut; crop and mirror are nothing but other row and column numbers.
"""

import torch
from torch import Tensor

from bsexp.data.splits import Part, TrainingData
from bsexp.data.stream import Picks


class Batches:
    """Turns picks into float batches (n, C, H, W) and labels (n,).

    Batches are in channels_last order, the order that images are kept in, unless `contiguous` asks for a copy.
    """

    def __init__(self, data: TrainingData, dtype: torch.dtype = torch.float32, contiguous: bool = False) -> None:
        device = data.train.images.device
        self.labels = data.train.labels
        self.dtype, self.contiguous = dtype, contiguous
        self.crop, self.mirror = data.crop, data.mirror
        _, self.height, self.width = data.image_shape
        self.images = data.train.images
        if self.crop:
            # Padded once with black, so that a crop is a gather like any other.
            padding = (0, 0, self.crop, self.crop, self.crop, self.crop)
            self.images = torch.nn.functional.pad(self.images, padding)
        self._rows = torch.arange(self.height, device=device)
        self._columns = torch.arange(self.width, device=device)
        std = torch.tensor(data.std, dtype=torch.float64)
        self._scale = (1 / std).to(dtype).to(device)
        self._shift = (-torch.tensor(data.mean, dtype=torch.float64) / std).to(dtype).to(device)

    def train(self, picks: Picks) -> tuple[Tensor, Tensor]:
        """The batch that `picks` describe, augmented and normalised."""
        labels = self.labels.index_select(0, picks.index)
        if not (self.crop or self.mirror):
            return self.normalise(self.images.index_select(0, picks.index)), labels
        columns = self._columns
        if self.mirror:
            # Mirrored: column c becomes w - 1 - c, written without a branch.
            sign = 1 - 2 * picks.mirrored
            columns = columns * sign[:, None] + (self.width - 1) * picks.mirrored[:, None]
        columns = columns + picks.left[:, None]
        rows = self._rows + picks.top[:, None]
        pixels = self.images[picks.index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.normalise(pixels), labels

    def plain(self, part: Part, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images start to stop of a split, normalised, not augmented."""
        return self.normalise(part.images[start:stop]), part.labels[start:stop]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (n, H, W, C) to (pixel - mean) / std as (n, C, H, W)."""
        images = pixels.to(self.dtype).mul_(self._scale).add_(self._shift).permute(0, 3, 1, 2)
        return images.contiguous() if self.contiguous else images
