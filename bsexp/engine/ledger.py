"""What one run writes down of a training: its rows, its evaluations, its averaged weights.

The one rule: writing changes nothing of the training, so that a training may be written down for several runs at once,
each with a budget, and so with times to write, of its own.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bsexp.config import RunConfig
from bsexp.data.augment import Batches
from bsexp.data.splits import Part
from bsexp.engine.averaging import AveragedModel
from bsexp.engine.clock import Clock
from bsexp.engine.evaluation import evaluate, evaluation_points
from bsexp.engine.noise import NoiseLog, Norms
from bsexp.planning import times_mean
from bsexp.records import DecisionRow, EvalRow, StepRecord, StepRow
from bsexp.schedules import Hyper, noise_scale

Record = StepRecord | StepRow | EvalRow | DecisionRow
ROWS = {"StepRecord": StepRecord, "StepRow": StepRow, "EvalRow": EvalRow, "DecisionRow": DecisionRow}
LOG_ROWS = 200


class Sight(NamedTuple):
    """What a ledger looks at: the network as it goes on changing, and the parts of the data that it is evaluated on.

    `fixed`: whether a training sample always looks the same to the network.
    """

    model: nn.Module
    batches: Batches
    train_subset: Part
    held_out: Part
    num_train: int
    fixed: bool


class Made(NamedTuple):
    """An update: what it was made with, and where training stands after it. `samples_before` is where it stood.

    `norms`: what was measured of it, if it was.
    """

    step: int
    samples: int
    samples_before: int
    hyper: Hyper
    batch_size: int
    micro_batch_size: int
    loss: Tensor
    norms: Norms | None = None


class Ledger:
    """The records of the run `config` with a budget of `total_samples`, in `queue` until they are taken.

    `failure` says since when the loss isn't finite. `clock` is that of evaluating and measuring. `points`: the samples
    after which evaluations are due, rising.
    """

    def __init__(
        self, config: RunConfig, total_samples: int, sight: Sight, synchronize: Callable[[], None] | None
    ) -> None:
        self.config, self.total_samples, self.sight = config, total_samples, sight
        self.averaged = AveragedModel(sight.model, total_samples) if config.averaging == "ema" else None
        population = sight.num_train if sight.fixed else None
        self.noise = NoiseLog(total_samples, population) if config.measures_noise else None
        self.clock = Clock(synchronize=synchronize)
        self.queue: deque[Record] = deque()
        self.best_val_accuracy: float | None = None
        self.last_eval: EvalRow | None = None
        self.failure = ""
        self.points = evaluation_points(total_samples, config.evals)
        self._interval = total_samples / LOG_ROWS if config.log_samples is None else config.log_samples
        self._losses: list[tuple[Any, int]] = []

    def follow(self, made: Made) -> None:
        """Take an update into account; reads nothing back from the device."""
        if self.averaged:
            self.averaged.follow(made.batch_size)
        self._losses.append((made.loss, made.batch_size))
        if self.noise and made.norms:
            self.noise.follow(made.norms, made.samples)

    def due(self, made: Made) -> bool:
        """Whether something is to be written after this update."""
        return self._evaluation_due(made) or self._row_due(made)

    def write(self, made: Made, train_seconds: float) -> None:
        """Write what is due after this update."""
        self._write_row(made, train_seconds)
        if self._evaluation_due(made) and not self.failure:
            self.evaluate(made.step + 1, made.samples, train_seconds)

    def _row_due(self, made: Made) -> bool:
        if not self._interval or made.samples >= self.total_samples:
            return True
        return made.samples_before // self._interval != made.samples // self._interval

    def _evaluation_due(self, made: Made) -> bool:
        passed = bisect_right(self.points, made.samples) != bisect_right(self.points, made.samples_before)
        return passed or made.samples >= self.total_samples

    def _write_row(self, made: Made, train_seconds: float) -> None:
        losses = torch.stack([loss for loss, _ in self._losses]).tolist()
        sizes = [size for _, size in self._losses]
        self._losses = []
        bad = next((k for k, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None:
            self.failure = f"loss became {losses[bad]} at step {made.step + 1 - len(losses) + bad}"
        lr, momentum, num_train = made.hyper.lr, made.hyper.momentum, self.sight.num_train
        rate = lr * times_mean(made.batch_size, self.config)
        g = noise_scale(rate, momentum, made.batch_size, num_train) if self.config.optimizer == "sgd" else None
        grad_sq_norm, grad_var, b_simple = self.noise.row() if self.noise else (None, None, None)
        mean = math.fsum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
        self.queue.append(
            StepRow(
                step=made.step,
                samples=made.samples,
                epoch=made.samples / num_train,
                batch_size=made.batch_size,
                micro_batch_size=made.micro_batch_size,
                lr=lr,
                momentum=momentum,
                noise_scale=g,
                train_loss=mean,
                grad_sq_norm=grad_sq_norm,
                grad_var=grad_var,
                b_simple=b_simple,
                train_seconds=train_seconds,
            )
        )

    def evaluate(self, step: int, samples: int, train_seconds: float) -> None:
        """Evaluate the network, and the averaged weights, after `step` updates."""
        sight = self.sight
        self.clock.start()
        train = evaluate(sight.model, sight.batches, sight.train_subset)
        last = evaluate(sight.model, sight.batches, sight.held_out)
        averaged = evaluate(self.averaged.model, sight.batches, sight.held_out) if self.averaged else None
        self.clock.stop()
        if not (math.isfinite(train.loss) and math.isfinite(last.loss)):
            self.failure = self.failure or f"loss in evaluation is not finite after step {step - 1}"
        if self.best_val_accuracy is None or last.accuracy > self.best_val_accuracy:
            self.best_val_accuracy = last.accuracy
        self.last_eval = EvalRow(
            step=step,
            samples=samples,
            epoch=samples / sight.num_train,
            train_seconds=train_seconds,
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            val_loss=last.loss,
            val_accuracy=last.accuracy,
            val_loss_ema=averaged.loss if averaged else None,
            val_accuracy_ema=averaged.accuracy if averaged else None,
        )
        self.queue.append(self.last_eval)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of it depends on, as plain values; tensors are copied."""
        return {
            "averaged": copied(self.averaged.model.state_dict()) if self.averaged else None,
            "losses": [(float(loss), size) for loss, size in self._losses],
            "noise": self.noise.state() if self.noise else None,
            "eval_seconds": self.clock.seconds,
            "best_val_accuracy": self.best_val_accuracy,
            "last_eval": asdict(self.last_eval) if self.last_eval else None,
            "failure": self.failure,
            "queue": [[type(record).__name__, _numbers(record)] for record in self.queue],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        batches = self.sight.batches
        if self.averaged:
            self.averaged.model.load_state_dict(state["averaged"])
        self._losses = [
            (torch.tensor(loss, dtype=batches.dtype, device=self.sight.train_subset.labels.device), size)
            for loss, size in state["losses"]
        ]
        if self.noise:
            self.noise.restore(state["noise"])
        self.clock.seconds = state["eval_seconds"]
        self.best_val_accuracy = state["best_val_accuracy"]
        self.last_eval = EvalRow(**state["last_eval"]) if state["last_eval"] else None
        self.failure = state["failure"]
        self.queue = deque(ROWS[name](**values) for name, values in state["queue"])


def _numbers(record: Record) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in record.__slots__}
    return {name: float(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def copied(tree: Any) -> Any:
    """A state dict whose tensors no longer change with the training."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [copied(value) for value in tree]
    return tree
