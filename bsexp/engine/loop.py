"""Training as an iterator of records.

The one rule: `Training` knows no files and prints nothing. It yields a StepRecord for each update, a StepRow, an
EvalRow and DecisionRows where they are due; storing, showing and stopping belong to whoever consumes it, and `state()`
between two records is a plain tree from which another Training goes on to the same bytes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bsexp.catalog import is_factory
from bsexp.config import RunConfig
from bsexp.data.augment import Batches
from bsexp.data.splits import Part, TrainingData, prepare
from bsexp.data.stream import Picks, SampleStream
from bsexp.engine.clock import Clock
from bsexp.engine.compiling import CompiledModel
from bsexp.engine.device import describe_device, find_device, synchronizer
from bsexp.engine.evaluation import Predictions, evaluate, predict
from bsexp.engine.ledger import Ledger, Made, Record, Sight, copied
from bsexp.engine.network import build_network, dtype_of, watched_images
from bsexp.engine.noise import Norms, measuring_due
from bsexp.engine.ranks import Ranks
from bsexp.engine.steering import Steering
from bsexp.engine.step import Updater
from bsexp.models import count_parameters
from bsexp.planning import check_ranks, frequent_parts, micro_batch_sizes, noise_parts, plan_run
from bsexp.records import Outcome, StepRecord
from bsexp.schedules import Hyper, Progress, consult, share
from bsexp.schedules.closed import ClosedLoop
from bsexp.seeding import derive, order_seed

# Of the loss of a guess among all classes: a training loss above it is that of a network that has learned nothing.
COLLAPSED = 0.95


class Training:
    """One run. Iterating trains it; when it is exhausted, `outcome` and `predictions` are there.

    `config` is the run, `state` what an earlier `state()` returned. `data` is what `data.prepare` returned for this
    config (loaded when left out); `device` as `--device`. Dropout masks are drawn from torch's default generators,
    which are reseeded at each update from the seed and the position. Raises UsageError before anything is trained for
    a run that can't be.

    `compile`: the network's forward and backward passes are compiled for the batch sizes that most samples go through,
    `compiled_sizes`. Numbers then differ in rounding. SetupError where torch can't compile here.

    `ranks`: the processes that share each batch. The first one iterates; the others `follow` with the same config and
    state, and neither evaluate nor record anything. Numbers are those of one process to rounding, dropout masks apart,
    which are each share's own.

    `riders` are other runs that begin alike, with budgets of their own: what they would write down up to now is in
    `riders` as well, and `state(rider)` is the one that such a run goes on from. They change nothing of this run.
    """

    # Whether the network is copied, for one of the user's that somebody else has too.
    apart = False

    def __init__(
        self,
        config: RunConfig,
        state: dict[str, Any] | None = None,
        *,
        data: TrainingData | None = None,
        device: str = "auto",
        riders: Sequence[RunConfig] = (),
        compile: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self.config, self.ranks = config, ranks
        self.device = find_device(device)
        if data is None:
            from bsexp.data.sources import load_images

            data = prepare(config, load_images(config.dataset, config.image_size))
        self.num_train = len(data.train)
        self.plan = plan_run(config, self.num_train)
        self.total_samples = self.plan.total_samples
        self.schedule = config.build_schedule()
        if ranks:
            check_ranks(config, ranks.count)
        self._prepare_data(data)
        self._prepare_model(data, compile)
        self._train_clock = Clock(synchronize=synchronizer(self.device))
        self._own = self._ledger(config)
        self._steering: Steering | None = None
        if isinstance(self.schedule, ClosedLoop):
            self._steering = Steering(self.schedule, self.total_samples, self.num_train, self._own.noise)
        self.riders = [self._ledger(rider) for rider in riders]
        self.step, self.samples, self._closing = 0, 0, False
        self.outcome: Outcome | None = None
        self.predictions: dict[str, Predictions] = {}
        if state is not None:
            self._restore(state)
        elif ranks is None or ranks.first:
            for ledger in (self._own, *self.riders):
                ledger.evaluate(0, 0, 0.0)
        self._rehearse_ends()

    def __iter__(self) -> "Training":
        return self

    def __next__(self) -> Record:
        if not self._own.queue:
            if self.outcome is not None:
                raise StopIteration
            if self._own.failure or self.samples >= self.total_samples:
                self._finish()
                raise StopIteration
            self._advance()
        return self._own.queue.popleft()

    # -- one update and what follows it

    def _hyper(self) -> Hyper:
        """The values of the next update."""
        schedule = self._steering.hyper if self._steering else self.schedule
        return consult(schedule, Progress(self.step, self.samples, self.total_samples, self.num_train))

    def follow(self) -> None:
        """Make all updates that are left, as a rank other than the first does."""
        assert self.ranks is not None
        while self.samples < self.total_samples:
            made = self._update()
            if self._steering and self._steering.due(made):
                self._steering.take(self.ranks.told())

    def _update(self) -> Made:
        """The next update; the training clock goes on running."""
        self._train_clock.start()
        hyper = self._hyper()
        size, self._closing = share(hyper.batch_size, self.total_samples - self.samples, self._closing)
        sizes = micro_batch_sizes(size, self.config, self._updater.limit, self._updater.num_ranks)
        if uncompiled := self._updater.uncompiled(sizes):
            self._train_clock.stop()
            self._rehearse(uncompiled)
            self._train_clock.start()
        picks = self._stream.take(size)
        measured = bool(self._own.noise) and measuring_due(self.samples, self.samples + size, self.total_samples)
        parts = noise_parts(size, self.config, self._updater.limit) if measured else []
        # Noise is that of the mean gradient, which a sum over workers doesn't tell.
        inside = sizes == parts and self.config.reduce == "mean"
        norms = self._measure(picks, parts) if parts and not inside else None
        loss, sizes = self._updater.update(picks, hyper, sizes, read=inside)
        norms = norms or self._updater.norms
        made = Made(self.step, self.samples + size, self.samples, hyper, size, sizes[0], loss, norms)
        self.step, self.samples = self.step + 1, self.samples + size
        return made

    def _advance(self) -> None:
        made = self._update()
        self._own.follow(made)
        self._own.queue.append(
            StepRecord(made.step, made.samples, made.batch_size, made.hyper.lr, made.hyper.momentum, made.loss)
        )
        if self._own.due(made):
            self._train_clock.stop()
            self._own.write(made, self._train_clock.seconds)
        else:
            self._train_clock.pause()
        if self._steering:
            self._steer(self._steering, made)
        for rider in self.riders:
            rider.follow(made)
            if rider.due(made):
                self._train_clock.stop()
                rider.write(made, self._train_clock.seconds)

    def _steer(self, steering: Steering, made: Made) -> None:
        """Let a closed loop see the update, and decide where that is due."""
        steering.follow(made)
        seen = self._own.last_eval
        if seen is not None and seen.samples == made.samples and self._data.val is not None:
            steering.evaluated(seen)
        if steering.due(made) and not self._own.failure:
            self._train_clock.stop()
            self._own.queue.extend(steering.decide(made))
            if self.ranks:
                self.ranks.told(steering.decided.plain())

    def _measure(self, picks: Picks, parts: list[int]) -> Norms:
        """The noise of a batch that isn't run in `parts`, by a pass beside its update."""
        if self.config.steered_by("noise"):
            # What a policy decides by is part of what the policy costs.
            return self._updater.measure(picks, parts)
        # Nothing of the training depends on it: its seconds are those of looking on.
        self._train_clock.stop()
        self._own.clock.start()
        norms = self._updater.measure(picks, parts)
        self._own.clock.stop()
        self._train_clock.start()
        return norms

    def _reseed(self, place: int) -> None:
        # Keyed by position: masks need no generator state in a checkpoint, and two runs in one process can't meet.
        # Masks are noise that comes with the order: another order has others.
        seed = derive(self._mask_seed(), "dropout", self.samples + place)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def _mask_seed(self) -> int:
        config, epoch = self.config, self.samples // self.num_train
        return order_seed(config.seed, config.order, config.order_from, epoch)

    def _finish(self) -> None:
        """The test split, once; then the outcome."""
        measured: dict[str, Any] = {}
        own = self._own
        status = "diverged" if own.failure else "finished"
        own.clock.start()
        if not own.failure:
            last = own.last_eval
            assert last is not None, "the last update is always evaluated"
            measured = {"train_loss": last.train_loss, "train_accuracy": last.train_accuracy, **self._test()}
            measured["generalization_gap"] = last.train_accuracy - measured["test_accuracy"]
            if self._data.val is not None:
                for name in ("val_loss", "val_accuracy", "val_loss_ema", "val_accuracy_ema"):
                    measured[name] = getattr(last, name)
                measured["best_val_accuracy"] = own.best_val_accuracy
            measured["memorised"] = self._memorised()
            if last.train_loss > COLLAPSED * math.log(self._data.num_classes):
                status = "collapsed"
                own.failure = f"train loss {last.train_loss:.3f} at the end: nothing was learned"
        own.clock.stop()
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        self.outcome = Outcome(
            status=status,
            updates=self.step,
            samples=self.samples,
            train_seconds=self._train_clock.seconds,
            eval_seconds=own.clock.seconds,
            total_shrink=self._updater.shrink,
            peak_memory_bytes=peak,
            num_parameters=count_parameters(self._model),
            device=describe_device(self.device),
            reason=own.failure,
            **measured,
        )

    def _test(self) -> dict[str, float]:
        measured: dict[str, float] = {}
        models = [("", self._model)] + ([("_ema", averaged.model)] if (averaged := self._own.averaged) else [])
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
        self._batches = Batches(self._data, dtype_of(self.config), is_factory(self.config.model))
        order = {"order": self.config.order, "order_from": self.config.order_from}
        self._stream = SampleStream(self.num_train, self.config.seed, data.crop, data.mirror, self.device, **order)
        self._train_subset = watched_images(self.config, self._data)

    def _part(self, where: Tensor) -> Part:
        return self._data.train.select(where)

    def _ledger(self, config: RunConfig) -> Ledger:
        # Without a validation split the test split takes its place, and every table says so.
        held_out = self._data.val if self._data.val is not None else self._data.test
        fixed = not (self._draws or self._data.crop or self._data.mirror)
        sight = Sight(self._model, self._batches, self._train_subset, held_out, self.num_train, fixed)
        return Ledger(config, config.total_samples(self.num_train), sight, synchronizer(self.device))

    def _prepare_model(self, data: TrainingData, compile: bool) -> None:
        config = self.config
        self._model = build_network(config, data, self.device, apart=self.apart)
        # Only a network of somebody else's may draw at random without being told to.
        self._draws = config.dropout > 0 or ":" in config.model
        reseed = self._reseed if self._draws else lambda place: None
        self.compiled_sizes = frequent_parts(config, self.num_train) if compile else ()
        compiled = CompiledModel(self._model, self.compiled_sizes, self.device) if self.compiled_sizes else None
        self._updater = Updater(self._model, config, self._batches, self.device, reseed, compiled, self.ranks)

    def _rehearse_ends(self) -> None:
        """Rehearse the next part and the largest one to come.

        A batch that grows into memory that nobody has touched yet would pay for that inside the clock, one that is
        large from the start outside.
        """
        if self.samples >= self.total_samples:
            return
        hyper = self._hyper()
        size, _ = share(hyper.batch_size, self.total_samples - self.samples, self._closing)
        parts = [
            max(micro_batch_sizes(each, self.config, self._updater.limit, self._updater.num_ranks))
            for each in (self.plan.largest_batch, size)
        ]
        # Sizes to be compiled for are rehearsed when their turn comes.
        self._rehearse([part for part in dict.fromkeys(parts) if part not in self.compiled_sizes])

    def _rehearse(self, sizes: list[int]) -> None:
        self._train_clock.stop()
        for size in sizes:
            self._updater.rehearse(self._stream.take(size))
            self._stream.seek(self.samples)

    # -- state

    @property
    def model(self) -> torch.nn.Module:
        """The network as it is now; it goes on changing while the run is iterated."""
        return self._model

    @property
    def test_labels(self) -> Tensor:
        """The true classes of the test split, on the CPU, in the type of the predicted ones."""
        return self._data.test.labels.to(self.predictions["last"].classes.dtype).cpu()

    def state(self, rider: Ledger | None = None) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors, numbers and texts in dicts and lists."""
        ledger = rider or self._own
        self._train_clock.stop()
        return {
            "config_hash": ledger.config.hash,
            "model": copied(self._model.state_dict()),
            "optimizer": copied(self._updater.optimizer.state_dict()),
            "scaler": self._updater.scaler.state_dict() if self._updater.scaler else None,
            "step": self.step,
            "samples": self.samples,
            "closing": self._closing,
            "shrink": self._updater.shrink,
            "memory_limit": self._updater.limit,
            "train_seconds": self._train_clock.seconds,
            "steering": self._steering.state() if self._steering else None,
            **ledger.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        # torch would take the momentum's tensors as they are, and go on changing them: others may go on from here too.
        self._updater.optimizer.load_state_dict(copied(state["optimizer"]))
        if self._updater.scaler:
            self._updater.scaler.load_state_dict(state["scaler"])
        self.step, self.samples, self._closing = state["step"], state["samples"], state["closing"]
        self._stream.seek(self.samples)
        self._updater.shrink, self._updater.limit = state["shrink"], state["memory_limit"]
        self._train_clock.seconds = state["train_seconds"]
        self._own.restore(state)
        if self._steering:
            self._steering.restore(state["steering"])
