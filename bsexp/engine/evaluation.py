"""Evaluation: loss, accuracy and predictions of a model on a split, and when it is due.

The one rule: the model is left as it was found, in training mode, with untouched buffers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bsexp.data.augment import Batches
from bsexp.data.splits import Part

CHUNK = 256


@dataclass(frozen=True)
class Predictions:
    """Per image: predicted class (uint8; int16 above 256 classes), loss and confidence (float16), each (N,)."""

    classes: Tensor
    losses: Tensor
    confidences: Tensor


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats and share of right answers."""

    loss: float
    accuracy: float


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, part: Part) -> Score:
    """Loss and accuracy on `part`."""
    losses, right = _outputs(model, batches, part, keep=False)
    return Score(float(losses.double().mean()), float(right.double().mean()))


@torch.inference_mode()
def predict(model: nn.Module, batches: Batches, part: Part) -> tuple[Score, Predictions]:
    """Loss, accuracy and what the model says of each image of `part`."""
    losses, classes, confidences = _outputs(model, batches, part, keep=True)
    score = Score(float(losses.double().mean()), float((classes == part.labels).double().mean()))
    narrow = torch.uint8 if int(part.labels.max()) < 256 else torch.int16
    # float16 ends at 65504; a diverging model's loss is kept as that instead of becoming infinite.
    small = losses.float().clamp(max=65504.0).half()
    return score, Predictions(classes.to(narrow).cpu(), small.cpu(), confidences.half().cpu())


def _outputs(model: nn.Module, batches: Batches, part: Part, keep: bool) -> tuple[Tensor, ...]:
    model.eval()
    columns: tuple[Tensor, ...] = ()
    for start in range(0, len(part), CHUNK):
        images, labels = batches.plain(part, start, start + CHUNK)
        logits = model(images)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        found: tuple[Tensor, ...] = (losses, logits.argmax(1) == labels)
        if keep:
            best = logits.softmax(1).max(1)
            found = (losses, best.indices, best.values)
        # Filled, not collected and joined: small tensors that stay between large ones that go leave the allocator with
        # holes, hundreds of megabytes of them on a large split.
        columns = columns or tuple(column.new_empty(len(part)) for column in found)
        for column, piece in zip(columns, found, strict=True):
            column[start : start + CHUNK] = piece
    model.train()
    return columns


def evaluation_points(total_samples: int, number: int | None) -> list[float]:
    """Where evaluations are due, in samples, the one at 0 apart.

    The default is 40 points: 10 spaced by a constant factor from .001 to .1 of the budget, 30 equally in (.1, 1]. Any
    `number` that is given: that many, equally spaced.

    >>> evaluation_points(100, 4)
    [25.0, 50.0, 75.0, 100.0]
    """
    if number is not None:
        return [total_samples * (k / number) for k in range(1, number + 1)]
    early = [0.001 * 100 ** (k / 9) for k in range(10)]
    late = [0.1 + 0.9 * (k / 30) for k in range(1, 31)]
    return [total_samples * share for share in (*early, *late[:-1], 1.0)]
