"""A schedule of bsexp in the Trainer of transformers.

The one rule: the callback only says when an update is done. Batches are the sampler's, rates those of ScheduledRates,
and arguments that would undo either are refused before anything is trained.
"""

import math
from importlib.util import find_spec
from typing import Any

from bsexp.errors import SetupError, UsageError
from bsexp.torch import ScheduledBatchSampler, ScheduledRates

INSTALLED = find_spec("transformers") is not None
_Callback: Any = type("_Callback", (), {})
_State: Any = type("_State", (), {})
if INSTALLED:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState

    _Callback, _State = TrainerCallback, ExportableState


class ScheduleCallback(_Callback, _State):
    """Drives the Trainer's optimizer by the clock of `sampler`, and stops at the budget's end.

        class Scheduled(Trainer):
            def get_train_dataloader(self):
                return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)

        arguments = TrainingArguments(num_train_epochs=3, lr_scheduler_type="constant", ignore_data_skip=True)
        Scheduled(model, arguments, train_dataset=dataset, callbacks=[ScheduleCallback(sampler)]).train()

    Make the sampler with optimizer="adamw" for the Trainer's own optimizer. `options` are those of ScheduledRates.
    Checkpoints hold the position; `ignore_data_skip`, because the sampler finds its place itself. SetupError where
    transformers is missing; UsageError for arguments that don't suit.
    """

    def __init__(self, sampler: ScheduledBatchSampler, **options: Any) -> None:
        if not INSTALLED:
            which, cure = "the package transformers is not installed", "pip install 'bsexp[transformers]'"
            raise SetupError("bsexp.transformers", which, cure)
        self.sampler, self.options = sampler, options
        self.rates: ScheduledRates | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Refuse what would undo the schedule, find the position, take hold of the optimizer."""
        if getattr(given["train_dataloader"], "batch_sampler", None) is not self.sampler:
            cure = "override get_train_dataloader: DataLoader(..., batch_sampler=sampler)"
            raise UsageError("train_dataloader", "with another sampler", cure)
        _check(args, state, self.sampler)
        if self.rates is not None:
            self.rates.detach()
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        if state.global_step:
            if saved.get("rates") is None:
                raise UsageError("checkpoint", f"of step {state.global_step}", "it was saved without this callback")
            self.sampler.load_state_dict(saved["sampler"])
        optimizer = given["optimizer"]
        # accelerate wraps it; hooks and rates belong to the one inside.
        self.rates = ScheduledRates(getattr(optimizer, "optimizer", optimizer), self.sampler, **self.options)
        if state.global_step:
            self.rates.load_state_dict(saved["rates"])
        # Worked out by the Trainer as if all epochs had as many batches as the first one.
        state.max_steps = self.sampler.updates
        self._tell_rates(given["lr_scheduler"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        """One update is done, or was left out where gradients overflowed."""
        assert self.rates is not None
        clock = self.sampler.clock
        self.rates.step(clock.size(clock.step), skipped=True)
        # Counted by the Trainer as if all epochs had as many batches as the first one.
        state.epoch = self.sampler.epoch
        self._tell_rates(given["lr_scheduler"])
        if self.sampler.finished:
            control.should_training_stop = True
        return control

    def _tell_rates(self, scheduler: Any) -> None:
        """The Trainer logs what its constant scheduler says, not what the optimizer has."""
        assert self.rates is not None
        scheduler = getattr(scheduler, "scheduler", scheduler)
        scheduler._last_lr = [group["lr"] for group in self.rates.optimizer.param_groups]

    def state(self) -> dict[str, Any]:
        """The position, for the Trainer's checkpoints."""
        rates = self.rates and self.rates.state_dict()
        return {"args": {}, "attributes": {"sampler": self.sampler.state_dict(), "rates": rates}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "ScheduleCallback":
        """The Trainer would build another callback, without the sampler that its loader has."""
        cure = "leave it off: the position is restored all the same"
        raise UsageError("restore_callback_states_from_checkpoint", "True", cure)


def _check(args: Any, state: Any, sampler: ScheduledBatchSampler) -> None:
    if args.gradient_accumulation_steps != 1:
        cure = "leave it at 1: a batch is the whole batch of an update"
        raise UsageError("gradient_accumulation_steps", str(args.gradient_accumulation_steps), cure)
    if args.lr_scheduler_type != "constant":
        which = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
        raise UsageError("lr_scheduler_type", which, "give 'constant': the rate is the schedule's")
    if args.warmup_steps:
        raise UsageError("warmup_steps", str(args.warmup_steps), "leave it out: give the schedule warmup_epochs")
    if args.max_steps > 0:
        raise UsageError("max_steps", str(args.max_steps), "give num_train_epochs: updates are the schedule's outcome")
    if state.global_step and not args.ignore_data_skip:
        raise UsageError("ignore_data_skip", "False", "give True: the sampler goes on where it was")
    # The Trainer counts finished epochs as if all had as many batches as the first one.
    begun = state.global_step // len(sampler.clock.epoch_of(0))
    needed = math.ceil(sampler.total_samples / sampler.clock.asked.num_train)
    if state.global_step:
        needed -= sampler.clock.start(state.global_step) // sampler.clock.asked.num_train
    if math.ceil(args.num_train_epochs) - begun < needed:
        cure = f"the schedule's budget needs {needed + begun}"
        raise UsageError("num_train_epochs", f"{args.num_train_epochs:g}", cure)
