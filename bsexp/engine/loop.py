"""Training as an iterator of records.

The one rule: `Training` knows no files and prints nothing. It yields a StepRecord for each update, a StepRow and an
EvalRow where they are due; storing, showing and stopping belong to whoever consumes it, and `state()` between two
records is a plain tree from which another Training goes on to the same bytes.
"""

import math
from bisect import bisect_right
from collections import deque
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bsexp.config import RunConfig
from bsexp.data.augment import Batches
from bsexp.data.splits import Part, TrainingData, generator, prepare
from bsexp.data.stream import SampleStream
from bsexp.engine.averaging import AveragedModel
from bsexp.engine.clock import Clock
from bsexp.engine.device import describe_device, find_device, synchronizer
from bsexp.engine.evaluation import Predictions, evaluate, evaluation_points, predict
from bsexp.engine.step import Updater
from bsexp.models import build_model, count_parameters, is_factory
from bsexp.planning import micro_batch_sizes, plan_run
from bsexp.records import EvalRow, Outcome, StepRecord, StepRow
from bsexp.schedules import Progress, consult, noise_scale, share
from bsexp.seeding import derive

Record = StepRecord | StepRow | EvalRow
ROWS = {"StepRecord": StepRecord, "StepRow": StepRow, "EvalRow": EvalRow}

TRAIN_SUBSET = 1000
COLLAPSED = 0.95
LOG_ROWS = 200


class Training:
    """One run. Iterating trains it; when it is exhausted, `outcome` and `predictions` are there.

    `config` is the run, `state` what an earlier `state()` returned. `data` is what `data.prepare` returned for this
    config (loaded when left out); `device` as `--device`. Dropout masks are drawn from torch's default generators,
    which are reseeded at each update from the seed and the position. Raises UsageError before anything is trained for
    a run that can't be.
    """

    def __init__(
        self,
        config: RunConfig,
        state: dict[str, Any] | None = None,
        *,
        data: TrainingData | None = None,
        device: str = "auto",
    ) -> None:
        self.config = config
        self.device = find_device(device)
        if data is None:
            from bsexp.data.sources import load_images

            data = prepare(config, load_images(config.dataset, config.image_size))
        self.num_train = len(data.train)
        self.plan = plan_run(config, self.num_train)
        self.total_samples = self.plan.total_samples
        self.schedule = config.build_schedule()
        self._prepare_data(data)
        self._prepare_model(data)
        self._train_clock = Clock(synchronize=synchronizer(self.device))
        self._eval_clock = Clock(synchronize=synchronizer(self.device))
        self._points = evaluation_points(self.total_samples, config.evals)
        interval = config.log_samples
        self._log_interval = self.total_samples / LOG_ROWS if interval is None else interval
        self.step, self.samples, self._closing = 0, 0, False
        self._queue: deque[Record] = deque()
        self._losses: list[tuple[Any, int]] = []
        self._best_val_accuracy: float | None = None
        self._last_eval: EvalRow | None = None
        self._failure = ""
        self._rehearsed = False
        self.outcome: Outcome | None = None
        self.predictions: dict[str, Predictions] = {}
        if state is None:
            self._queue.append(self._evaluate())
        else:
            self._restore(state)

    def __iter__(self) -> "Training":
        return self

    def __next__(self) -> Record:
        if not self._queue:
            if self.outcome is not None:
                raise StopIteration
            if self._failure or self.samples >= self.total_samples:
                self._finish()
                raise StopIteration
            self._advance()
        return self._queue.popleft()

    # -- one update and what follows it

    def _advance(self) -> None:
        hyper = consult(self.schedule, Progress(self.step, self.samples, self.total_samples, self.num_train))
        size, self._closing = share(hyper.batch_size, self.total_samples - self.samples, self._closing)
        sizes = micro_batch_sizes(size, self.config, self._updater.limit)
        if not self._rehearsed:
            self._rehearse(sizes)
        self._train_clock.start()
        picks = self._stream.take(size)
        loss, sizes = self._updater.update(picks, hyper, sizes)
        if self._averaged:
            self._averaged.follow(size)
        before = self.samples
        self.step, self.samples = self.step + 1, self.samples + size
        self._losses.append((loss, size))
        self._queue.append(StepRecord(self.step - 1, self.samples, size, hyper.lr, hyper.momentum, loss))
        evaluation = self._passed(before)
        if evaluation or self._row_due(before):
            self._train_clock.stop()
            self._log(size, sizes[0], hyper.lr, hyper.momentum)
            if evaluation and not self._failure:
                self._queue.append(self._evaluate())
        else:
            self._train_clock.pause()

    def _row_due(self, before: int) -> bool:
        if not self._log_interval or self.samples >= self.total_samples:
            return True
        return before // self._log_interval != self.samples // self._log_interval

    def _passed(self, before: int) -> bool:
        passed = bisect_right(self._points, self.samples) != bisect_right(self._points, before)
        return passed or self.samples >= self.total_samples

    def _reseed(self) -> None:
        # Keyed by position: masks need no generator state in a checkpoint, and two runs in one process can't meet.
        seed = derive(self.config.seed, "dropout", self.samples)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def _log(self, batch_size: int, micro_batch_size: int, lr: float, momentum: float) -> None:
        losses = torch.stack([loss for loss, _ in self._losses]).tolist()
        sizes = [size for _, size in self._losses]
        self._losses = []
        bad = next((k for k, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None:
            step = self.step - len(losses) + bad
            self._failure = f"loss became {losses[bad]} at step {step}"
        g = noise_scale(lr, momentum, batch_size, self.num_train) if self.config.optimizer == "sgd" else None
        mean = math.fsum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
        self._queue.append(
            StepRow(
                step=self.step - 1,
                samples=self.samples,
                epoch=self.samples / self.num_train,
                batch_size=batch_size,
                micro_batch_size=micro_batch_size,
                lr=lr,
                momentum=momentum,
                noise_scale=g,
                train_loss=mean,
                grad_sq_norm=None,
                grad_var=None,
                b_simple=None,
                train_seconds=self._train_clock.seconds,
            )
        )

    # -- evaluation

    def _evaluate(self) -> EvalRow:
        self._eval_clock.start()
        train = evaluate(self._model, self._batches, self._train_subset)
        # Without a validation split the test split takes its place, and every table says so.
        held_out = self._data.val if self._data.val is not None else self._data.test
        last = evaluate(self._model, self._batches, held_out)
        averaged = evaluate(self._averaged.model, self._batches, held_out) if self._averaged else None
        self._eval_clock.stop()
        if not (math.isfinite(train.loss) and math.isfinite(last.loss)):
            self._failure = self._failure or f"loss in evaluation is not finite after step {self.step - 1}"
        if self._best_val_accuracy is None or last.accuracy > self._best_val_accuracy:
            self._best_val_accuracy = last.accuracy
        self._last_eval = EvalRow(
            step=self.step,
            samples=self.samples,
            epoch=self.samples / self.num_train,
            train_seconds=self._train_clock.seconds,
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            val_loss=last.loss,
            val_accuracy=last.accuracy,
            val_loss_ema=averaged.loss if averaged else None,
            val_accuracy_ema=averaged.accuracy if averaged else None,
        )
        return self._last_eval

    def _finish(self) -> None:
        """The test split, once; then the outcome."""
        measured: dict[str, Any] = {}
        status = "diverged" if self._failure else "finished"
        self._eval_clock.start()
        if not self._failure:
            last = self._last_eval
            assert last is not None, "the last update is always evaluated"
            measured = {"train_loss": last.train_loss, "train_accuracy": last.train_accuracy, **self._test()}
            measured["generalization_gap"] = last.train_accuracy - measured["test_accuracy"]
            if self._data.val is not None:
                for name in ("val_loss", "val_accuracy", "val_loss_ema", "val_accuracy_ema"):
                    measured[name] = getattr(last, name)
                measured["best_val_accuracy"] = self._best_val_accuracy
            measured["memorised"] = self._memorised()
            if last.train_loss > COLLAPSED * math.log(self._data.num_classes):
                status = "collapsed"
                self._failure = f"train loss {last.train_loss:.3f} at the end: nothing was learned"
        self._eval_clock.stop()
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        self.outcome = Outcome(
            status=status,
            updates=self.step,
            samples=self.samples,
            train_seconds=self._train_clock.seconds,
            eval_seconds=self._eval_clock.seconds,
            total_shrink=self._updater.shrink,
            peak_memory_bytes=peak,
            num_parameters=count_parameters(self._model),
            device=describe_device(self.device),
            reason=self._failure,
            **measured,
        )

    def _test(self) -> dict[str, float]:
        measured: dict[str, float] = {}
        models = [("", self._model)] + ([("_ema", self._averaged.model)] if self._averaged else [])
        for suffix, model in models:
            score, predictions = predict(model, self._batches, self._data.test)
            self.predictions["averaged" if suffix else "last"] = predictions
            measured |= {f"test_loss{suffix}": score.loss, f"test_accuracy{suffix}": score.accuracy}
        return measured

    def _memorised(self) -> float | None:
        where = self._data.redrawn
        if not len(where):
            return None
        return evaluate(self._model, self._batches, self._part(where)).accuracy

    # -- preparation

    def _prepare_data(self, data: TrainingData) -> None:
        self._data = data.to(self.device)
        dtype = torch.float64 if self.config.precision == "fp64" else torch.float32
        # A network of the user's own may `view` its images, which needs them contiguous.
        self._contiguous = is_factory(self.config.model)
        self._batches = Batches(self._data, dtype, self._contiguous)
        self._stream = SampleStream(self.num_train, self.config.seed, data.crop, data.mirror, self.device)
        chosen = torch.randperm(self.num_train, generator=generator(self.config.seed, "train subset"))[:TRAIN_SUBSET]
        self._train_subset = self._part(chosen.sort().values)

    def _part(self, where: Tensor) -> Part:
        return self._data.train.select(where)

    def _prepare_model(self, data: TrainingData) -> None:
        config = self.config
        model = build_model(
            config.model,
            image_shape=data.image_shape,
            num_classes=data.num_classes,
            norm=config.norm,
            ghost_batch=config.ghost_batch,
            dropout=config.dropout,
            seed=config.seed,
        )
        dtype = torch.float64 if config.precision == "fp64" else torch.float32
        order = torch.contiguous_format if self._contiguous else torch.channels_last
        self._model = model.to(self.device, dtype).to(memory_format=order).train()
        self._updater = Updater(self._model, config, self._batches, self.device, self._reseed)
        self._averaged = AveragedModel(self._model, self.total_samples) if config.averaging == "ema" else None

    def _rehearse(self, sizes: list[int]) -> None:
        self._updater.rehearse(self._stream.take(sizes[0]), sizes)
        self._stream.seek(self.samples)
        self._rehearsed = True

    # -- state

    @property
    def model(self) -> torch.nn.Module:
        """The network as it is now; it goes on changing while the run is iterated."""
        return self._model

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors, numbers and texts in dicts and lists."""
        self._train_clock.stop()
        losses = [(float(loss), size) for loss, size in self._losses]
        return {
            "config_hash": self.config.hash,
            "model": _copied(self._model.state_dict()),
            "optimizer": _copied(self._updater.optimizer.state_dict()),
            "averaged": _copied(self._averaged.model.state_dict()) if self._averaged else None,
            "step": self.step,
            "samples": self.samples,
            "closing": self._closing,
            "losses": losses,
            "shrink": self._updater.shrink,
            "memory_limit": self._updater.limit,
            "train_seconds": self._train_clock.seconds,
            "eval_seconds": self._eval_clock.seconds,
            "best_val_accuracy": self._best_val_accuracy,
            "last_eval": asdict(self._last_eval) if self._last_eval else None,
            "failure": self._failure,
            "queue": [[type(record).__name__, _numbers(record)] for record in self._queue],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._updater.optimizer.load_state_dict(state["optimizer"])
        if self._averaged:
            self._averaged.model.load_state_dict(state["averaged"])
        self.step, self.samples, self._closing = state["step"], state["samples"], state["closing"]
        self._stream.seek(self.samples)
        self._losses = [
            (torch.tensor(loss, dtype=self._batches.dtype, device=self.device), size) for loss, size in state["losses"]
        ]
        self._updater.shrink, self._updater.limit = state["shrink"], state["memory_limit"]
        self._train_clock.seconds, self._eval_clock.seconds = state["train_seconds"], state["eval_seconds"]
        self._best_val_accuracy = state["best_val_accuracy"]
        self._last_eval = EvalRow(**state["last_eval"]) if state["last_eval"] else None
        self._failure = state["failure"]
        self._queue = deque(ROWS[name](**values) for name, values in state["queue"])


def _numbers(record: Record) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in record.__slots__}
    return {name: float(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def _copied(tree: Any) -> Any:
    """A state dict whose tensors no longer change with the training."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_copied(value) for value in tree]
    return tree
