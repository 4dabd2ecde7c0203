"""The noise of gradients, measured while training: from the parts of a batch to smoothed |G|^2 and tr(Sigma).

The one rule: measuring changes no number of the run, and nothing is read back from the device before somebody asks:
norms stay there until a row of the log or a decision is due.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bsexp.engine.ranks import Ranks
from bsexp.signals.noise import Noise, unbiased_noise, within_epoch
from bsexp.signals.simple import b_simple
from bsexp.signals.smoothing import Average, half_life

# So many times a run, equally spaced in samples: twice for each row of the default log.
POINTS = 400


def measuring_due(samples_before: int, samples: int, total_samples: int) -> bool:
    """Whether the update between two counts of samples is measured: the first one, and any that passes a point k/400.

    >>> [measuring_due(at, at + 16, 16000) for at in (0, 16, 32)]
    [True, False, True]
    """
    return samples_before == 0 or POINTS * samples_before // total_samples != POINTS * samples // total_samples


class Norms(NamedTuple):
    """What was measured of a batch: mean |g_j|^2 over its parts and |g|^2 of the whole, (2,), still on the device."""

    values: Tensor
    num_parts: int
    batch_size: int


class PartNorms:
    """Reads the norms of parts' gradients off the sum in which they are accumulated, which it leaves alone.

    `weights` are those trained, `total` the samples of the batch, `num_parts` its parts, `scale` what the loss was
    multiplied by (a tensor, or None). To be called after the backward pass of each part, on the rank that runs it. It
    keeps one copy of the gradients.
    """

    def __init__(self, weights: Sequence[Tensor], total: int, num_parts: int, scale: Tensor | None) -> None:
        self.weights, self.total, self.num_parts, self.scale = weights, total, num_parts, scale
        self._before: dict[int, Tensor] = {}
        self._of_parts: list[Tensor] = []
        self._seen = 0

    def __call__(self, size: int) -> None:
        """A part of `size` samples has been added: its own gradient is what the sum has gained."""
        now = self._gradients()
        own = [grad - self._before[k] if k in self._before else grad for k, grad in now.items()]
        # The sum holds size/total of the part's mean gradient, and the mean over parts weights it by size/total.
        self._of_parts.append(_squared(own) * (self.total / size))
        self._seen += size
        self._before = {k: grad.clone() for k, grad in now.items()} if self._seen < self.total else {}

    def result(self, ranks: Ranks | None = None) -> Norms:
        """The norms, once all parts are in, gradients summed over `ranks`, and before anything else is done to them."""
        of_whole = _squared(list(self._gradients().values()))
        of_parts = torch.stack(self._of_parts).sum() if self._of_parts else torch.zeros_like(of_whole)
        if ranks:
            ranks.sum([of_parts])
        both = torch.stack([of_parts, of_whole])
        if self.scale is not None:
            both = both / self.scale.to(both.dtype) ** 2
        return Norms(both, self.num_parts, self.total)

    def _gradients(self) -> dict[int, Tensor]:
        return {k: weight.grad for k, weight in enumerate(self.weights) if weight.grad is not None}


def _squared(gradients: list[Tensor]) -> Tensor:
    """The sum of all squares, in double precision where the device has it."""
    norms = torch.stack(torch._foreach_norm(gradients))
    return (norms if norms.device.type == "mps" else norms.double()).square().sum()


class NoiseLog:
    """What has been measured of a run with a budget of `total_samples`.

    |G|^2 and tr(Sigma) are smoothed apart, with a half-life in samples (signals.smoothing). What isn't finite, as when
    gradients overflow in fp16, is no measurement. `population`: the number of samples where each always looks the same,
    so that batches of an epoch are drawn from them without replacement (signals.noise.within_epoch); else None.
    """

    def __init__(self, total_samples: int, population: int | None) -> None:
        self.total_samples, self.population = total_samples, population
        self._averages = (Average(), Average())
        self._at = 0
        self._pending: list[tuple[Norms, int]] = []
        self._since_row: list[Noise] = []

    def follow(self, norms: Norms, samples: int) -> None:
        """Take in what was measured of the update that ended at `samples`; nothing is read."""
        self._pending.append((norms, samples))

    @property
    def noise(self) -> Noise:
        """Smoothed |G|^2 and tr(Sigma), nan before anything was measured; waits for the device."""
        self._read()
        return Noise(*(average.value for average in self._averages))

    def row(self) -> tuple[float | None, float | None, float | None]:
        """For a row of the log: mean |G|^2 and tr(Sigma) since the last row, and the ratio of the smoothed ones.

        None for what was not measured since then, and for a ratio that has no value.
        """
        noise = self.noise
        if not self._since_row:
            return None, None, None
        means = [math.fsum(values) / len(self._since_row) for values in zip(*self._since_row, strict=True)]
        self._since_row = []
        ratio = b_simple(noise)
        return means[0], means[1], None if math.isnan(ratio) else ratio

    def _read(self) -> None:
        if not self._pending:
            return
        values = torch.stack([norms.values for norms, _ in self._pending]).tolist()
        for (norms, samples), (of_parts, of_whole) in zip(self._pending, values, strict=True):
            if not (math.isfinite(of_parts) and math.isfinite(of_whole)):
                continue
            found = unbiased_noise(of_parts, of_whole, norms.num_parts, norms.batch_size)
            if self.population is not None:
                found = within_epoch(found, self.population)
            memory = half_life(samples, self.total_samples)
            first, second = self._averages
            passed = samples - self._at
            self._averages = (first.follow(found[0], passed, memory), second.follow(found[1], passed, memory))
            self._at = samples
            self._since_row.append(found)
        self._pending = []

    def state(self) -> dict[str, Any]:
        """Everything that the rest of it depends on, as plain values."""
        self._read()
        return {
            "averages": [list(astuple(average)) for average in self._averages],
            "at": self._at,
            "since_row": [list(noise) for noise in self._since_row],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        first, second = (Average(*values) for values in state["averages"])
        self._averages = (first, second)
        self._at = state["at"]
        self._since_row = [Noise(*values) for values in state["since_row"]]
