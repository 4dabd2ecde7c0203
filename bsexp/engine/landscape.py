"""The training loss as a function of the weights: how sharp it is at a run's end, and what lies between two ends.

The one rule: it is the loss that the run's own evaluations watch (train_loss): the same images and labels, noisy ones
among them, neither augmented nor smoothed, in evaluation mode, without weight decay.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor
from torch.nn import functional

from bsexp.catalog import is_factory
from bsexp.config import RunConfig
from bsexp.data.augment import Batches
from bsexp.data.splits import TrainingData
from bsexp.engine.device import find_device
from bsexp.engine.evaluation import CHUNK, evaluate
from bsexp.engine.hessian import largest_eigenvalue
from bsexp.engine.network import build_network, dtype_of, watched_images
from bsexp.errors import UsageError
from bsexp.signals.barrier import loss_barrier

# Points on the way from one network to another, both ends among them.
POINTS = 11

Weights = Mapping[str, Tensor]


class Landscape:
    """The training loss of `config` on its 1,000 watched images. `data` is what `data.prepare` returned for it.

    Weights are a network's state_dict, as `--save-model` keeps it.
    """

    def __init__(self, config: RunConfig, data: TrainingData, device: str = "auto") -> None:
        found = find_device(device)
        data = data.to(found)
        self.config = config
        self.model = build_network(config, data, found)
        self._part = watched_images(config, data)
        self._batches = Batches(data, dtype_of(config), is_factory(config.model))

    @property
    def has_statistics(self) -> bool:
        """Whether the network keeps statistics of its activations beside its weights."""
        return any(True for _ in self.model.buffers())

    def loss(self, weights: Weights) -> float:
        """The mean cross-entropy in nats."""
        self._load(weights)
        return evaluate(self.model, self._batches, self._part).loss

    def sharpness(self, weights: Weights) -> float:
        """The largest eigenvalue of the loss's Hessian over all trained weights, to a thousandth of its size.

        Statistics of activations are taken as they were kept, and as constants. ValueError where it isn't found.
        """
        self._load(weights)
        self.model.eval()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return largest_eigenvalue([partial(self._share, start) for start in range(0, len(self._part), CHUNK)], trained)

    def barrier(self, first: Weights, second: Weights) -> float:
        """The loss barrier between two networks, in nats, from POINTS points on the straight way.

        UsageError for networks that keep statistics: those of the networks in between are nobody's.
        """
        if self.has_statistics:
            which = f"between networks with {self.config.norm or 'their own'} normalisation"
            raise UsageError("loss barrier", which, "their statistics can't be interpolated: --norm group or none")
        ways = [k / (POINTS - 1) for k in range(POINTS)]
        return loss_barrier([self.loss(_between(first, second, way)) for way in ways])

    def _load(self, weights: Weights) -> None:
        try:
            self.model.load_state_dict(dict(weights))
        except RuntimeError:
            raise UsageError("weights", f"not those of {self.config.model}", "has the network changed since?") from None

    def _share(self, start: int) -> Tensor:
        """What the images from `start` on, CHUNK of them, add to the loss."""
        images, labels = self._batches.plain(self._part, start, start + CHUNK)
        return functional.cross_entropy(self.model(images), labels, reduction="sum") / len(self._part)


def _between(first: Weights, second: Weights, way: float) -> dict[str, Tensor]:
    return {name: (1 - way) * weight + way * second[name] for name, weight in first.items()}
