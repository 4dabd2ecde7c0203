"""A schedule of bsexp in Lightning's Trainer.

The one rule: the callback only says when an update is done. Batches are the sampler's, rates those of ScheduledRates,
and a Trainer whose settings would undo either is refused before it trains.
"""

import math
from importlib.util import find_spec
from typing import Any

from bsexp.errors import SetupError, UsageError
from bsexp.torch import ScheduledBatchSampler, ScheduledRates

INSTALLED = find_spec("lightning") is not None
_Callback: Any = object
if INSTALLED:
    from lightning.pytorch import Callback

    _Callback = Callback


class ScheduleCallback(_Callback):
    """Drives the one optimizer of a LightningModule by the clock of `sampler`, and stops at the budget's end.

        sampler = ScheduledBatchSampler("growing-batch", len(dataset), epochs=20, batch_size=32, lr=0.1, max_batch=512)
        trainer = Trainer(callbacks=[ScheduleCallback(sampler)], max_epochs=20, reload_dataloaders_every_n_epochs=1)
        trainer.fit(model, DataLoader(dataset, batch_sampler=sampler))

    Epochs have different numbers of batches, so Lightning must count them anew each time
    (`reload_dataloaders_every_n_epochs=1`). `options` are those of ScheduledRates. Checkpoints hold the position: fit
    with `ckpt_path` goes on, in mid-epoch too. For batches larger than memory use manual optimization with
    `bsexp.torch.parts`. SetupError where Lightning is missing; UsageError for a Trainer that doesn't suit.
    """

    def __init__(self, sampler: ScheduledBatchSampler, **options: Any) -> None:
        if not INSTALLED:
            raise SetupError(
                "bsexp.lightning", "the package lightning is not installed", "pip install 'bsexp[lightning]'"
            )
        super().__init__()
        self.sampler, self.options = sampler, options
        self.rates: ScheduledRates | None = None
        self._saved: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what would undo the schedule."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        if trainer.accumulate_grad_batches != 1:
            cure = "leave it at 1; for batches larger than memory use manual optimization with bsexp.torch.parts"
            raise UsageError("accumulate_grad_batches", str(trainer.accumulate_grad_batches), cure)
        if trainer.reload_dataloaders_every_n_epochs != 1:
            which = str(trainer.reload_dataloaders_every_n_epochs)
            raise UsageError("reload_dataloaders_every_n_epochs", which, "give 1: epochs differ in batches")
        needed = math.ceil(self.sampler.total_samples / self.sampler.clock.asked.num_train)
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs < needed:
            raise UsageError("max_epochs", str(trainer.max_epochs), f"the schedule's budget needs {needed}")
        if 0 <= trainer.max_steps < self.sampler.updates:
            which = str(trainer.max_steps)
            raise UsageError("max_steps", which, f"the schedule's budget makes {self.sampler.updates:,} updates")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take hold of the optimizer."""
        if getattr(trainer.train_dataloader, "batch_sampler", None) is not self.sampler:
            cure = "make it with batch_sampler=sampler, the one of the callback"
            raise UsageError("train_dataloader", "with another sampler", cure)
        if len(trainer.optimizers) != 1:
            raise UsageError("configure_optimizers", f"{len(trainer.optimizers)} optimizers", "a schedule drives one")
        if self.rates is not None:
            self.rates.detach()
        self.rates = ScheduledRates(trainer.optimizers[0], self.sampler, **self.options)
        if self._saved is not None:
            self.rates.load_state_dict(self._saved)
            self._saved = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """One update is done, or was left out: a training_step that returned None, gradients that overflowed."""
        assert self.rates is not None
        clock = self.sampler.clock
        self.rates.step(clock.size(clock.step), skipped=True)
        if self.sampler.finished:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """The position, for Lightning's checkpoints."""
        return {"sampler": self.sampler.state_dict(), "rates": self.rates and self.rates.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; the rates follow when there is an optimizer."""
        self.sampler.load_state_dict(state_dict["sampler"])
        self._saved = state_dict["rates"]
