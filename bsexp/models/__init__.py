"""Networks by name: `build_model`, for bsexp's own, torchvision's and the user's.

The one rule: a network of bsexp's is a function of its arguments; building one neither reads nor moves torch's global
random generators.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bsexp import plugins
from bsexp.catalog import find_model
from bsexp.errors import SetupError, UsageError, nearest
from bsexp.models.layers import initialise, make_norm
from bsexp.models.resnet import ResNet, WideResNet
from bsexp.models.small import Cnn, LeNet, Mlp
from bsexp.seeding import derive

__all__ = ["build_model", "count_parameters"]

Shape = tuple[int, int, int]

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "cnn-small": partial(Cnn, width=8),
    "lenet": LeNet,
    "resnet20": ResNet,
    "resnet56": partial(ResNet, blocks=9),
    "resnet18": partial(ResNet, widths=(64, 128, 256, 512), blocks=2, project=True),
    "wrn-16-4": WideResNet,
}


def build_model(
    name: str,
    *,
    image_shape: Shape,
    num_classes: int,
    norm: str | None = None,
    ghost_batch: int = 0,
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """The network called `name`: normalised float images (B, C, H, W) -> logits (B, num_classes); in training mode.

    `norm` None is the model's own (catalog.MODELS), and `ghost_batch` 0 then its own ghost size; where `norm` is given,
    `ghost_batch` 0 means statistics over the whole micro-batch. `dropout` acts before the last layer. Weights depend on
    `seed` and their names alone: the same whatever the norm and the dropout (layers.initialise).

    `torchvision:NAME` and `module:factory` keep their own initialisation, under a seed derived from `seed`. A factory
    is called with image_shape and num_classes, and with those of norm (if given), ghost_batch (if not 0) and dropout
    that it names; torchvision's networks take none of these.

    Raises UsageError for an unknown name or norm, an option that the network has no use for, a factory that fails, or
    logits of another shape; SetupError where torchvision can't be imported.
    """
    entry = find_model(name)
    if ":" in name:
        given: dict[str, Any] = {"norm": norm, "ghost_batch": ghost_batch or None, "dropout": dropout}
        given = {option: value for option, value in given.items() if value is not None}
        with _seeded(seed):
            model = _foreign(name, image_shape, num_classes, given)
            _check_logits(name, model, image_shape, num_classes)
        return model
    if norm is None:
        norm, ghost_batch = entry.norm, ghost_batch or entry.ghost_batch
    with _seeded(seed):  # torch's layers draw weights as they are made; `initialise` replaces them
        model = BUILDERS[name](image_shape, num_classes, make_norm(norm, ghost_batch), dropout)
    initialise(model, seed)
    return model


def count_parameters(model: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Global generators seeded for starting weights, and as they were afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive(seed, "weights"))
        yield


def _foreign(name: str, image_shape: Shape, num_classes: int, given: dict[str, Any]) -> nn.Module:
    """A network of torchvision's or the user's; `given` are the options that it may name."""
    kind, _, called = name.partition(":")
    if kind == "torchvision":
        accepted: dict[str, Any] = {}
        build = partial(_torchvision_builder(called), weights=None, num_classes=num_classes)
    else:
        factory = plugins.load("model", name)
        accepted = plugins.named_arguments(factory, given)
        build = partial(factory, image_shape, num_classes, **accepted)
    for option, value in given.items():
        if value and option not in accepted:
            raise UsageError(option, str(value), f"model {name} takes no {option}: leave it out")
    try:
        model = build()
    except Exception as error:
        raise UsageError("model", name, f"building it failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError("model", name, f"the factory must return a torch.nn.Module, not {type(model).__name__}")
    return model


def _torchvision_builder(called: str) -> Callable[..., nn.Module]:
    """torchvision's builder of the classification network `called`."""
    try:
        from torchvision import models
    except Exception as error:  # wheels that don't match fail with RuntimeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        cure = "install matching wheels: pip install --force-reinstall torch torchvision"
        raise SetupError("torchvision", f"importing it failed ({reason})", cure) from error
    known = models.list_models(module=models)  # the others fetch a pretrained backbone, or return no logits
    if called not in known:
        raise UsageError("model", f"torchvision has no classification model {called!r}", nearest(called, known))
    return models.get_model_builder(called)


@torch.no_grad()
def _check_logits(name: str, model: nn.Module, image_shape: Shape, num_classes: int) -> None:
    """One forward on two black images, in evaluation mode; modes and buffers are left as they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(b, b.clone()) for b in model.buffers() if not nn.parameter.is_lazy(b)]
    anchor = next(model.parameters(), torch.empty(0))
    try:
        logits = model.eval()(torch.zeros(2, *image_shape, device=anchor.device))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UsageError("model", name, f"it can't take images of shape {image_shape}: {reason}") from error
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, mode in modes:
            module.training = mode
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError("model", name, f"logits of 2 images must have shape (2, {num_classes}), not {got}")
