"""A run's network and the images that its training loss is watched on.

The one rule: they depend on the config and the data alone, so that whoever looks at saved weights later sees what the
run itself saw.
"""

import copy

import torch
from torch import nn

from bsexp.catalog import is_factory
from bsexp.config import RunConfig
from bsexp.data.splits import Part, TrainingData, generator
from bsexp.models import build_model

TRAIN_SUBSET = 1000


def dtype_of(config: RunConfig) -> torch.dtype:
    """What weights and images are kept in."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def build_network(config: RunConfig, data: TrainingData, device: torch.device, apart: bool = False) -> nn.Module:
    """The network of `config` with its starting weights, on `device`, in training mode.

    `apart`: a copy, for a factory of the user's may return a network that somebody else has too.
    """
    model = build_model(
        config.model,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        norm=config.norm,
        ghost_batch=config.ghost_batch,
        dropout=config.dropout,
        seed=config.seed,
    )
    if apart:
        model = copy.deepcopy(model)
    # A network of the user's own may `view` its images, which needs them contiguous.
    order = torch.contiguous_format if is_factory(config.model) else torch.channels_last
    return model.to(device, dtype_of(config)).to(memory_format=order).train()


def watched_images(config: RunConfig, data: TrainingData) -> Part:
    """The part of the training split that train_loss and train_accuracy are measured on: TRAIN_SUBSET images, or all.

    Drawn from the seed, the same for all arms of it.
    """
    chosen = torch.randperm(len(data.train), generator=generator(config.seed, "train subset"))[:TRAIN_SUBSET]
    return data.train.select(chosen.sort().values)
