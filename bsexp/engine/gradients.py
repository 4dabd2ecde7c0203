"""The gradient of a training set: exactly, of batches drawn from it, of each of its samples, and its noise.

The one rule: it is the gradient of the loss alone, on the images as they are: no augmentation, no dropout, no weight
decay; and looking at it changes nothing of the training.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from bsexp import catalog
from bsexp.data.splits import generator
from bsexp.data.stream import Picks
from bsexp.engine.unwatched import Unwatched
from bsexp.errors import StoreError, UsageError
from bsexp.models.layers import GhostBatchNorm
from bsexp.signals.noise import Noise, unbiased_noise, within_epoch

# As many batches of a size are drawn: DRAWS, and more of small ones, up to so many samples all together.
DRAWS, DRAWN_SAMPLES = 64, 2048
# Batches that tell the noise: so many, in so many parts each, of so large a share of the training set. Large ones, for
# the error of |G|^2 falls as 1 / sqrt(batch * samples); several, for an interval.
NOISE_BATCHES, NOISE_PARTS, NOISE_SHARE, LARGEST = 32, 8, 1 / 24, 4096
# Samples run at once for the exact gradient; and numbers held at once for those of single samples.
CHUNK, PER_SAMPLE = 1024, 2**26


@dataclass(frozen=True)
class Drawn:
    """How far batches' gradients are from the exact one: |g_B - g|^2 and their cosine, for each draw."""

    errors: Tensor
    cosines: Tensor


class Looking(Unwatched):
    """A training whose gradient can be looked at between two updates.

    Raises UsageError for a network that normalises over a batch: its samples have no gradients of their own.
    """

    def require_own_gradients(self) -> None:
        """UsageError where a sample's gradient depends on the batch that it is in."""
        shared = (GhostBatchNorm, nn.modules.batchnorm._BatchNorm)
        if any(isinstance(module, shared) for module in self._model.modules()):
            cure = "use --norm group or none, or leave gradients out (--only hardware)"
            raise UsageError("gradient", f"{self.config.model} normalises over batches: no exact one", cure)

    def load(self, weights: dict[str, Tensor], samples: int) -> None:
        """Take weights as they were after `samples` samples. StoreError where they are those of another network."""
        try:
            self._model.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise StoreError("checkpoint", f"weights of another network ({reason[:160]})", "choose another") from None
        self.samples = samples

    # -- what is measured

    def exact(self) -> Tensor:
        """The gradient of the mean loss over all training samples, flat, (parameters,), in double precision."""
        with self._still():
            found = self._summed(torch.arange(self.num_train, device=self.device)) / self.num_train
        if not torch.isfinite(found).all():
            cure = "it has diverged: use a smaller --lr"
            raise UsageError("gradient", f"not finite after {self.samples:,} samples", cure)
        return found

    def drawn(self, exact: Tensor, size: int, replacement: bool) -> Drawn:
        """Batches of `size` samples, drawn with or without `replacement`, against the `exact` gradient."""
        purpose = ("gradient", self.samples, size, "with" if replacement else "without")
        draw = generator(self.config.seed, *purpose)
        errors, cosines = [], []
        with self._still():
            for _ in range(num_draws(size)):
                if replacement:
                    index = torch.randint(self.num_train, (size,), generator=draw)
                else:
                    index = torch.randperm(self.num_train, generator=draw)[:size]
                found = self._summed(index.to(self.device)) / size
                errors.append((found - exact).square().sum())
                cosines.append(found @ exact / (found.norm() * exact.norm()))
        return Drawn(torch.stack(errors).cpu(), torch.stack(cosines).cpu())

    def noise(self, num_batches: int = NOISE_BATCHES) -> list[Noise]:
        """|G|^2 and tr(Sigma) of the training set from the parts of `num_batches` batches, one by one.

        Each batch is drawn for itself, its samples without replacement, and what it says is corrected for that
        (signals.noise.within_epoch): unbiased for the exact |G|^2 and the covariance over samples (divided by N - 1).
        """
        size = min(max(2, round(NOISE_SHARE * self.num_train)), LARGEST)
        parts = min(NOISE_PARTS, size)
        edges = [size * k // parts for k in range(parts + 1)]
        sizes = [stop - start for start, stop in pairwise(edges)]
        draw = generator(self.config.seed, "noise", self.samples)
        with self._still():
            norms = [
                self._updater.measure(self._plain(torch.randperm(self.num_train, generator=draw)[:size]), sizes)
                for _ in range(num_batches)
            ]
        values = torch.stack([found.values for found in norms]).tolist()
        return [
            within_epoch(unbiased_noise(of_parts, whole, parts, size), self.num_train) for of_parts, whole in values
        ]

    def exact_noise(self) -> Noise:
        """|G|^2 and tr(Sigma), divided by N - 1, from the gradient of each training sample.

        Raises NotPossible where torch can't take them of this network.
        """
        each, trained = self._per_sample()
        chunk = max(1, min(256, PER_SAMPLE // max(1, sum(weight.numel() for weight in trained.values()))))
        total = torch.zeros(sum(weight.numel() for weight in trained.values()), dtype=self._wide, device=self.device)
        squares = torch.zeros((), dtype=self._wide, device=self.device)
        for index in torch.arange(self.num_train, device=self.device).split(chunk):
            images, labels = self._batch(index)
            try:
                grads = each(trained, images.contiguous(), labels)
            except RuntimeError as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise NotPossible(f"gradients of single samples: {reason[:160]}") from None
            rows = torch.cat([one.flatten(1) for one in grads.values()], dim=1).to(self._wide)
            total += rows.sum(0)
            squares += rows.square().sum()
        sq_norm = float((total / self.num_train).square().sum())
        return Noise(sq_norm, (float(squares) - self.num_train * sq_norm) / (self.num_train - 1))

    # -- how

    @property
    def _wide(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Without dropout; no gradient is left behind."""
        self._model.eval()
        try:
            yield
        finally:
            self._model.train()
            for weight in self._model.parameters():
                weight.grad = None

    def _summed(self, index: Tensor) -> Tensor:
        """The sum of the samples' gradients, flat; to be called in `_still`."""
        weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        total = torch.zeros(sum(weight.numel() for weight in weights), dtype=self._wide, device=self.device)
        for part in index.split(min(CHUNK, catalog.find_model(self.config.model).micro_batch)):
            images, labels = self._batch(part)
            found = torch.autograd.grad(self._loss(self._model(images), labels), weights, allow_unused=True)
            flat = [
                torch.zeros_like(weight) if one is None else one for one, weight in zip(found, weights, strict=True)
            ]
            total += torch.cat([one.flatten() for one in flat]).to(self._wide)
        return total

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        train = self._data.train
        return self._batches.normalise(train.take(index)), train.labels.index_select(0, index)

    def _plain(self, index: Tensor) -> Picks:
        """Picks that leave the images as they are: the crop from the middle, no mirror."""
        index = index.to(self.device)
        middle = torch.full_like(index, self._data.crop)
        return Picks(index, middle, middle, torch.zeros_like(index))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)

    def _per_sample(self) -> tuple[Callable[..., dict[str, Tensor]], dict[str, Tensor]]:
        """A function from weights, images and labels to each sample's gradient, and the weights."""
        # Inside vmap torch can't ask for the order of memory, which ours is otherwise chosen by.
        model = copy.deepcopy(self._model).to(memory_format=torch.contiguous_format).eval()
        trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}

        def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            return self._loss(functional_call(model, weights, (image[None],)), label[None])

        return vmap(grad(loss), in_dims=(None, 0, 0)), trained


class NotPossible(Exception):  # noqa: N818
    """Something that torch can't do with this network; the text says what and why."""


def num_draws(size: int) -> int:
    """How many batches of `size` samples are drawn: at least 64.

    >>> num_draws(1), num_draws(16), num_draws(2048)
    (2048, 128, 64)
    """
    return max(DRAWS, math.ceil(DRAWN_SAMPLES / size))
