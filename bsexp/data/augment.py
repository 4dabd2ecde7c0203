"""From picks of the stream to a normalised batch.

The one rule: images stay uint8 until the batch is cut, and nothing but the batch is ever copied, padded or converted:
the training images may be mapped from a disk and larger than memory.
"""

import torch
from torch import Tensor
from torch.nn import functional

from bsexp.data.splits import Part, TrainingData
from bsexp.data.stream import Picks


class Batches:
    """Turns picks into float batches (n, C, H, W) and labels (n,).

    Batches are in channels_last order, the order that images are kept in, unless `contiguous` asks for a copy.
    """

    def __init__(self, data: TrainingData, dtype: torch.dtype = torch.float32, contiguous: bool = False) -> None:
        device = data.train.labels.device
        self.data = data
        self.dtype, self.contiguous = dtype, contiguous
        std = torch.tensor(data.std, dtype=torch.float64)
        self._scale = (1 / std).to(dtype).to(device)
        self._shift = (-torch.tensor(data.mean, dtype=torch.float64) / std).to(dtype).to(device)

    def train(self, picks: Picks) -> tuple[Tensor, Tensor]:
        """The batch that `picks` describe, augmented and normalised."""
        labels = self.data.train.labels.index_select(0, picks.index)
        pixels = self.data.train.take(picks.index)
        if self.data.crop:
            pixels = cropped(pixels, picks.top, picks.left, self.data.crop)
        if self.data.mirror:
            pixels = torch.where(picks.mirrored[:, None, None, None] != 0, pixels.flip(2), pixels)
        return self.normalise(pixels), labels

    def plain(self, part: Part, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images start to stop of a split, normalised, not augmented."""
        return self.normalise(part.take(slice(start, stop))), part.labels[start:stop]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (n, H, W, C) to (pixel - mean) / std as (n, C, H, W)."""
        images = pixels.to(self.dtype).mul_(self._scale).add_(self._shift).permute(0, 3, 1, 2)
        return images.contiguous() if self.contiguous else images


def cropped(pixels: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Each of the images (n, H, W, C), padded with black, from its own row `top` and column `left`, 0 to 2 padding.

    Every run of W pixels in the padded batch is a row of one overlapping view, and H of them make an image: copying
    rows is twice as fast as gathering pixels by row and column.
    """
    number, height, width, channels = pixels.shape
    padded = functional.pad(pixels, (0, 0, padding, padding, padding, padding))
    runs = padded.flatten().unfold(0, width * channels, channels)
    images, rows = (torch.arange(size, device=pixels.device) for size in (number, height))
    first = images * padded.shape[1] + top
    starts = (first[:, None] + rows) * padded.shape[2] + left[:, None]
    return runs.index_select(0, starts.flatten()).view(pixels.shape)
