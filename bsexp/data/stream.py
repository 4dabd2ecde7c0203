"""The sample stream: one endless order of samples with their augmentations, the same for every arm of a seed.

The one rule: what is drawn for a sample depends on the seed, the order, the epoch and the position in it, never on
batch sizes. Batches are cut from the stream across epoch ends; a position in samples is its whole state.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bsexp.data.splits import generator
from bsexp.seeding import order_seed


class Picks(NamedTuple):
    """The next samples: positions in the training split, crop offsets (rows, columns) and mirroring, each (n,)."""

    index: Tensor  # type: ignore[assignment]  # a tuple has a method of that name; nobody calls it here
    top: Tensor
    left: Tensor
    mirrored: Tensor


class SampleStream:
    """Epoch permutations one after another, on `device`. `crop` is the padding in pixels: offsets are 0 to 2 crop.

    `order` is the number of the order, and `order_from` the epoch that begins it: before, it is order 0.
    """

    def __init__(
        self,
        num_train: int,
        seed: int,
        crop: int = 0,
        mirror: bool = False,
        device: torch.device | str = "cpu",
        order: int = 0,
        order_from: int = 0,
    ) -> None:
        self.num_train, self.seed, self.crop, self.mirror = num_train, seed, crop, mirror
        self.order, self.order_from = order, order_from
        self.device = torch.device(device)
        self.position = 0
        self._epoch = -1
        self._picks: Picks

    def seek(self, samples: int) -> None:
        """Go to where `samples` samples have been taken."""
        self.position = samples

    def take(self, count: int) -> Picks:
        """The next `count` samples; `count` may exceed an epoch."""
        parts = []
        while count:
            epoch, start = divmod(self.position, self.num_train)
            size = min(count, self.num_train - start)
            parts.append(Picks(*(draws[start : start + size] for draws in self._drawn(epoch))))
            self.position += size
            count -= size
        if len(parts) == 1:
            return parts[0]
        return Picks(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def _drawn(self, epoch: int) -> Picks:
        if epoch != self._epoch:
            self._epoch, self._picks = epoch, self._draw(epoch)
        return self._picks

    def _draw(self, epoch: int) -> Picks:
        # All draws are made whether they are used or not: an arm without a mirror keeps the crops of one with it.
        number = self.num_train
        seed = order_seed(self.seed, self.order, self.order_from, epoch)
        order = torch.randperm(number, generator=generator(seed, "order", epoch))
        draw = generator(seed, "augmentation", epoch)
        offsets = torch.randint(2 * self.crop + 1, (2, number), generator=draw)
        mirrored = torch.randint(2, (number,), generator=draw) * int(self.mirror)
        return Picks(*(part.to(self.device) for part in (order, offsets[0], offsets[1], mirrored)))
