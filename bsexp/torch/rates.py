"""Learning rate and momentum of any torch optimizer, from the clock that the batches follow.

The one rule: whatever the schedule sets, nobody else does. Before each update the optimizer's values are compared with
the schedule's; what the schedule says nothing of (weight decay, unless asked) is left as it is.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bsexp.errors import UsageError, shown
from bsexp.torch.sampler import ScheduledBatchSampler

CLOCKS = ("update", "samples")


class ScheduledRates:
    """Sets the rates of `optimizer` for the batch that comes next; `step` after each `optimizer.step()` moves on.

    Every parameter group gets the schedule's learning rate, times its own of `lr_factors` where they are given. The
    momentum (Adam: beta 1) is set where the schedule moves it; where the schedule only has one, the optimizer's must be
    the same. `weight_decay_clock="samples"` multiplies the weight decay by batch size / reference batch; "update",
    the default unless a RunConfig says otherwise, leaves it alone.

    Raises UsageError for an optimizer that the schedule doesn't suit, and during training where an update was made
    without telling, or somebody else changes what the schedule sets.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        sampler: ScheduledBatchSampler,
        *,
        lr_factors: Sequence[float] | None = None,
        weight_decay_clock: str | None = None,
    ) -> None:
        self.optimizer, self.sampler = optimizer, sampler
        self._clock = sampler.clock
        asked = self._clock.asked
        self._per_sample = (weight_decay_clock or asked.weight_decay_clock) == "samples"
        if weight_decay_clock not in (None, *CLOCKS):
            raise UsageError("weight_decay_clock", shown(weight_decay_clock), "give update or samples")
        self._factors = self._read_factors(lr_factors)
        self._decays = [float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups]
        self._reference = asked.reference or self._clock.size(0)
        self._check_kind()
        self._check_momentum()
        self._stepped = False
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_update),
            optimizer.register_step_post_hook(self._after_update),
        ]
        self._set()

    def step(self, samples: int, *, skipped: bool = False) -> None:
        """The update with the batch of `samples` samples is done: set the rates of the next one.

        `skipped`: the update may have been left out, as a GradScaler does where gradients overflow; its samples count
        all the same. UsageError before `optimizer.step()`, or for a number that isn't the batch's.
        """
        if not (self._stepped or skipped):
            cure = "call it after optimizer.step(), or with skipped=True where an update was left out"
            raise UsageError("rates.step", f"without an update ({self._clock.place})", cure)
        self._clock.advance(samples)
        self._stepped = False
        self._set()

    def detach(self) -> None:
        """Let go of the optimizer: its rates stay what they are, and updates are no longer watched."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """The position with the rates that belong to it, and the weight decay before anything was multiplied."""
        hyper = None if self._clock.finished else self._clock.hyper()
        return {
            **self._clock.state(),
            "lr": hyper and hyper.lr,
            "momentum": hyper and hyper.momentum,
            "weight_decay": list(self._decays),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state` with the same rates; load the optimizer first. UsageError for another plan."""
        before = self._clock.step
        self._clock.load(state, "rates")
        if not self._clock.finished:
            hyper = self._clock.hyper()
            for name, mine in (("lr", hyper.lr), ("momentum", hyper.momentum)):
                saved = state.get(name)
                # Another machine's cosine may differ in the last bit.
                if not isinstance(saved, float) or not math.isclose(saved, mine, rel_tol=1e-9):
                    self._clock.step = before
                    cure = "give the schedule that it was saved with"
                    raise UsageError("load_state_dict", f"{name} {shown(saved)}, here {mine!r}", cure)
        if len(state["weight_decay"]) != len(self._decays):
            which = f"{len(state['weight_decay'])} parameter groups, here {len(self._decays)}"
            raise UsageError("load_state_dict", which, "give the optimizer that it was saved with")
        self._decays = list(state["weight_decay"])
        self._stepped = False
        self._set()

    # -- what is set

    def _wanted(self) -> list[dict[str, Any]]:
        """For each parameter group the values that the next update is to use."""
        groups, hyper = self.optimizer.param_groups, self._clock.hyper()
        if len(groups) != len(self._factors):
            which = f"{len(groups)} parameter groups, {len(self._factors)} when the rates were made"
            raise UsageError("optimizer", which, "make ScheduledRates after the last parameter group was added")
        wanted = []
        for group, factor, decay in zip(groups, self._factors, self._decays, strict=True):
            values: dict[str, Any] = {"lr": hyper.lr * factor}
            if self._clock.moves_momentum:
                values |= {"betas": (hyper.momentum, *group["betas"][1:])} if "betas" in group else {}
                values |= {"momentum": hyper.momentum} if "momentum" in group else {}
            if self._per_sample and "weight_decay" in group:
                values["weight_decay"] = decay * (self._clock.size(self._clock.step) / self._reference)
            wanted.append(values)
        return wanted

    def _set(self) -> None:
        if self._clock.finished:
            return
        for group, values in zip(self.optimizer.param_groups, self._wanted(), strict=True):
            for name, value in values.items():
                if isinstance(group[name], Tensor):
                    # A captured or compiled optimizer reads the tensor that it knows.
                    group[name].fill_(value)
                else:
                    group[name] = value

    def _before_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._stepped:
            cure = "call rates.step(len(batch)) after each of them"
            raise UsageError("optimizer.step", f"twice {self._clock.place}", cure)
        if self._clock.finished:
            raise self._clock.spent("optimizer.step")
        for group, values in zip(optimizer.param_groups, self._wanted(), strict=True):
            for name, value in values.items():
                # Reading a tensor would wait for the device at every update.
                if not isinstance(group[name], Tensor) and group[name] != value:
                    which = f"{group[name]!r} in the optimizer, {value!r} by the schedule ({self._clock.place})"
                    cure = "leave it to the schedule: no lr_scheduler beside it, and load the state of rates as well"
                    raise UsageError(name, which, cure)

    def _after_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped = True

    # -- whether the optimizer suits

    def _read_factors(self, given: Sequence[float] | None) -> list[float]:
        groups = self.optimizer.param_groups
        if given is None:
            rates = {float(group["lr"]) for group in groups}
            if len(rates) > 1:
                which = f"parameter groups with {', '.join(f'{rate:g}' for rate in sorted(rates))}"
                raise UsageError("lr", which, "give lr_factors: one factor on the schedule's rate for each group")
            return [1.0] * len(groups)
        factors = [float(factor) for factor in given]
        if len(factors) != len(groups):
            raise UsageError("lr_factors", f"{len(factors)} for {len(groups)} parameter groups", "give one for each")
        if not all(math.isfinite(factor) and factor >= 0 for factor in factors):
            raise UsageError("lr_factors", shown(list(given)), "give finite numbers from 0")
        return factors

    def _check_kind(self) -> None:
        """A schedule's rules differ between SGD and Adam: what it was made for must be what is trained with."""
        kind = self._clock.asked.optimizer
        has = {name for group in self.optimizer.param_groups for name in ("momentum", "betas") if name in group}
        mine = {"sgd": "momentum", "adamw": "betas"}.get(kind or "")
        if mine and has and mine not in has:
            other = "adamw" if kind == "sgd" else "sgd"
            which = f"{type(self.optimizer).__name__} with a schedule made for {kind}"
            raise UsageError("optimizer", which, f"give the schedule optimizer={other!r}")

    def _check_momentum(self) -> None:
        clock, name = self._clock, type(self.optimizer).__name__
        wanted = clock.asked.momentum_told or clock.moves_momentum
        if not wanted or clock.finished:
            return
        hyper = clock.hyper()
        for group in self.optimizer.param_groups:
            has = group["betas"][0] if "betas" in group else group.get("momentum")
            if clock.moves_momentum and (has is None or isinstance(has, Tensor)):
                which = f"{name} has {'none' if has is None else 'it as a tensor'}"
                raise UsageError("momentum", which, "give the schedule cycle_momentum=False")
            if not clock.moves_momentum and float(has or 0.0) != hyper.momentum:
                which = f"{float(has or 0.0):g} in {name}, {hyper.momentum:g} by the schedule"
                raise UsageError("momentum", which, "make them the same")
