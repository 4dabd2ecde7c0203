"""Steering: a closed-loop schedule at work in a training.

The one rule: this makes observations and keeps the schedule's state; it decides nothing, and reads nothing back from
the device but at decisions.
"""

import math
from dataclasses import astuple
from typing import Any

import torch

from bsexp.engine.ledger import Made
from bsexp.engine.noise import NoiseLog
from bsexp.records import DecisionRow, EvalRow
from bsexp.schedules import Hyper, Progress
from bsexp.schedules.closed import ClosedLoop, Observation, Score, State, decision_due
from bsexp.signals.cosine import expected_cosine
from bsexp.signals.noise import Noise
from bsexp.signals.simple import b_simple
from bsexp.signals.smoothing import Average, half_life


class Steering:
    """`schedule` in a run of `total_samples` on `num_train` samples. `noise`: what is measured of it, if anything."""

    def __init__(self, schedule: ClosedLoop, total_samples: int, num_train: int, noise: NoiseLog | None) -> None:
        self.schedule, self.total_samples, self.num_train, self.noise = schedule, total_samples, num_train, noise
        self.decided = schedule.init()
        self._loss = Average()
        self._first_loss = math.nan
        self._pending: list[tuple[Any, int, int]] = []
        self._scores: list[Score] = []

    def hyper(self, progress: Progress) -> Hyper:
        """Values for the update that starts at `progress`."""
        return self.schedule.hyper(self.decided, progress)

    def follow(self, made: Made) -> None:
        """Take an update in; nothing is read."""
        self._pending.append((made.loss, made.batch_size, made.samples))

    def evaluated(self, row: EvalRow) -> None:
        """Take an evaluation on the validation split in."""
        self._scores.append(Score(row.val_loss, row.val_accuracy))

    def due(self, made: Made) -> bool:
        """Whether a decision follows this update."""
        return decision_due(made.samples_before, made.samples, self.total_samples)

    def decide(self, made: Made) -> list[DecisionRow]:
        """Decide after `made`: the rows for decisions.csv."""
        self._read()
        progress = Progress(made.step + 1, made.samples, self.total_samples, self.num_train)
        noise = self.noise.noise if self.noise else Noise(math.nan, math.nan)
        lr, momentum = made.hyper.lr, made.hyper.momentum
        seen = Observation(progress, lr, momentum, self._loss.value, self._first_loss, noise, tuple(self._scores))
        self.decided = self.schedule.update(self.decided, seen)
        self._scores = []
        named = [(self.schedule.policy, self.decided)]
        named += [(name, state) for (name, _), state in zip(self.schedule.others, self.decided.others, strict=True)]
        return [_row(name, state, seen) for name, state in named]

    def take(self, decided: dict[str, Any]) -> None:
        """Take over what another rank has decided: `decided.plain()`."""
        self.decided = State.of(decided)

    def _read(self) -> None:
        if not self._pending:
            return
        losses = torch.stack([loss for loss, _, _ in self._pending]).tolist()
        for loss, (_, size, samples) in zip(losses, self._pending, strict=True):
            if samples == size:
                self._first_loss = loss
            self._loss = self._loss.follow(loss, size, half_life(samples, self.total_samples))
        self._pending = []

    def state(self) -> dict[str, Any]:
        """Everything that the rest of it depends on, as plain values."""
        self._read()
        return {
            "decided": self.decided.plain(),
            "loss": list(astuple(self._loss)),
            "first_loss": self._first_loss,
            "scores": [list(score) for score in self._scores],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.take(state["decided"])
        self._loss = Average(*state["loss"])
        self._first_loss = state["first_loss"]
        self._scores = [Score(*score) for score in state["scores"]]


def _row(policy: str, state: State, seen: Observation) -> DecisionRow:
    progress, ratio = seen.progress, b_simple(seen.noise)
    known = state.batch_size > 1 and ratio >= 0
    return DecisionRow(
        step=progress.step - 1,
        samples=progress.samples,
        epoch=progress.samples / progress.num_train,
        policy=policy,
        wanted=None if state.wanted is None else _finite(state.wanted),
        batch_size=state.batch_size,
        lr_factor=state.lr_factor,
        loss=_finite(seen.loss),
        grad_sq_norm=_finite(seen.noise.grad_sq_norm),
        grad_var=_finite(seen.noise.grad_var),
        b_simple=_finite(ratio),
        cosine=expected_cosine(ratio, state.batch_size) if known else None,
        val_loss=_finite(seen.scores[-1].val_loss) if seen.scores else None,
        reason=state.reason,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
