"""From whole image files to what one run trains on: validation split, subset, label noise, normalisation.

The one rule: the validation split is the same for everybody; subset and label noise are drawn from the run's seed and
from nothing else, so that all arms of a seed see the same samples with the same labels. Splits are positions in the
images as they were loaded: those may be mapped from a disk and larger than memory, so nothing here copies them.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bsexp import catalog, seeding

if TYPE_CHECKING:
    from bsexp.config import RunConfig
    from bsexp.data.sources import Images

NORMALISATION_IMAGES = 20_000
# What is read of the images at a time: when pixels are counted, and in bytes when a split moves to a device.
BLOCK = 256
BLOCK_BYTES = 2**26


@dataclass(frozen=True)
class Part:
    """One split: the rows `index` (all, where it is None) of the images `whole`, uint8 (M, H, W, C); labels int64 (N,).

    `whole` may be larger than memory. Only what `take` is asked for is read.
    """

    whole: Tensor
    labels: Tensor
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All images of the split at once, uint8 (N, H, W, C): a copy of them where there is an index."""
        return self.take(slice(None))

    def take(self, where: Tensor | slice) -> Tensor:
        """The images at `where`, positions in the split: uint8 (n, H, W, C)."""
        if isinstance(where, slice):
            return self.whole[where] if self.index is None else self.whole.index_select(0, self.index[where])
        return self.whole.index_select(0, where if self.index is None else self.index.index_select(0, where))

    def select(self, where: Tensor) -> "Part":
        """The part of this one at the positions `where`; no image is copied."""
        where = where.to(self.labels.device)
        return Part(self.whole, self.labels[where], where if self.index is None else self.index[where])

    def to(self, device: torch.device) -> "Part":
        """The same part on `device`: on another device than the host a copy of its own images only."""
        if device.type == self.whole.device.type == "cpu":
            return self
        return self.copied(device)

    def copied(self, device: torch.device) -> "Part":
        """A copy on `device`, moved block by block: the host never holds the split."""
        images = torch.empty((len(self), *self.whole.shape[1:]), dtype=self.whole.dtype, device=device)
        block = max(1, BLOCK_BYTES // max(1, self.whole[0].numel()))
        for start in range(0, len(self), block):
            images[start : start + block] = self.take(slice(start, start + block))
        return Part(images, self.labels.to(device))


@dataclass(frozen=True)
class TrainingData:
    """All that one run reads. `redrawn`: positions in `train` whose label was changed by label noise.

    `mean` and `std` are per channel, of the training file less the validation split, in units of a pixel (0 to 255).
    `crop` is the padding of the random crop in pixels.
    """

    name: str
    num_classes: int
    train: Part
    val: Part | None
    test: Part
    redrawn: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int
    mirror: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        height, width, channels = self.train.whole.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> "TrainingData":
        """The same data on `device`."""
        val = self.val.to(device) if self.val is not None else None
        return replace(self, train=self.train.to(device), val=val, test=self.test.to(device))


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose of one seed."""
    return torch.Generator().manual_seed(seeding.derive(seed, *purpose))


def stratified(labels: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """`size` positions with the classes in proportion (largest remainder), drawn without replacement, in order.

    >>> stratified(torch.tensor([0, 0, 0, 0, 1, 1]), 3, torch.Generator().manual_seed(0)).shape
    torch.Size([3])
    """
    counts = torch.bincount(labels)
    share = counts.double() * size / len(labels)
    quota = share.floor().long()
    # Ties go to the smaller class number: a stable sort of the negated remainders.
    order = torch.argsort(quota - share, stable=True)
    quota[order[: size - int(quota.sum())]] += 1
    chosen = []
    for number, wanted in enumerate(quota.tolist()):
        members = torch.nonzero(labels == number).flatten()
        chosen.append(members[torch.randperm(len(members), generator=draw)[:wanted]])
    return torch.cat(chosen).sort().values


def prepare(config: "RunConfig", images: "Images") -> TrainingData:
    """What the run of `config` trains, validates and tests on.

    Raises UsageError where the subset asked for is larger than what the validation split leaves.
    """
    labels = images.train_labels
    num_val = round(len(labels) * config.val_fraction)
    num_train = catalog.num_trained(len(labels), config.val_fraction, config.train_size)
    keep = torch.ones(len(labels), dtype=torch.bool)
    val = None
    if num_val:
        chosen = stratified(labels, num_val, generator(0, "validation"))
        keep[chosen] = False
        val = Part(images.train_images, labels[chosen], chosen)
    left = torch.nonzero(keep).flatten()
    mean, std = _moments(images.train_images, left)
    subset = left
    if num_train < len(left):
        draw = generator(0 if config.fixed_subset else config.seed, "subset")
        subset = left[stratified(labels[left], num_train, draw)]
    clean = labels[subset]
    noisy = _redraw(clean, config.label_noise, images.num_classes, config.seed)
    entry = catalog.find_dataset(config.dataset)
    return TrainingData(
        name=images.name,
        num_classes=images.num_classes,
        train=Part(images.train_images, noisy, None if len(subset) == len(labels) else subset),
        val=val,
        test=Part(images.test_images, images.test_labels),
        redrawn=torch.nonzero(noisy != clean).flatten(),
        mean=mean,
        std=std,
        crop=entry.crop if config.augment else 0,
        mirror=entry.mirror and config.augment,
    )


def _redraw(labels: Tensor, share: float, num_classes: int, seed: int) -> Tensor:
    """Labels with exactly round(share * N) of them drawn anew, uniformly over all classes (the old one included)."""
    number = round(share * len(labels))
    if not number:
        return labels
    draw = generator(seed, "label noise")
    where = torch.randperm(len(labels), generator=draw)[:number]
    noisy = labels.clone()
    noisy[where] = torch.randint(num_classes, (number,), generator=draw)
    return noisy


def _moments(images: Tensor, positions: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel from exact counts of pixel values, hence the same on any machine.

    More than NORMALISATION_IMAGES images are thinned out evenly, and they are read block by block: folders may be
    larger than memory.
    """
    stride = -(-len(positions) // NORMALISATION_IMAGES)
    counts = torch.zeros(images.shape[-1], 256, dtype=torch.int64)
    for block in positions[::stride].split(BLOCK):
        pixels = images[block]
        for channel, count in enumerate(counts):
            count += torch.bincount(pixels[..., channel].flatten(), minlength=256)
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for count in counts.double():
        mean = float((count * values).sum() / count.sum())
        variance = float((count * (values - mean) ** 2).sum() / count.sum())
        means.append(mean)
        # A constant channel carries nothing; 1 keeps it at zero instead of dividing by zero.
        stds.append(variance**0.5 or 1.0)
    return tuple(means), tuple(stds)
