"""An average with a memory of so many samples.

The one rule: its half-life is counted in samples, never in updates, so that it means the same at every batch size.
"""

from dataclasses import dataclass

SHARE_SEEN, SHARE_OF_BUDGET = 0.05, 0.01


@dataclass(frozen=True)
class Average:
    """A weighted mean in which what lies a half-life back counts half. `value` is nan before the first number.

    `total` and `weight` are both halved by time, so nothing pulls the first values towards 0 (the correction of Kingma
    & Ba 2015, arXiv:1412.6980, section 3).

    >>> Average().follow(8.0, 10, 10.0).value, Average().follow(8.0, 10, 10.0).follow(2.0, 10, 10.0).value
    (8.0, 4.0)
    """

    total: float = 0.0
    weight: float = 0.0

    @property
    def value(self) -> float:
        """The average, nan where there is nothing to average."""
        return self.total / self.weight if self.weight else float("nan")

    def follow(self, value: float, samples: int, half_life: float) -> "Average":
        """The average after `samples` more samples, at whose end `value` was found; `half_life` in samples.

        Raises ValueError where either number of samples isn't above 0.
        """
        if samples <= 0 or half_life <= 0:
            raise ValueError(f"{samples} samples with a half-life of {half_life}: both must be above 0")
        kept = 0.5 ** (samples / half_life)
        return Average(kept * self.total + (1 - kept) * value, kept * self.weight + (1 - kept))


def half_life(samples: int, total_samples: int) -> float:
    """The half-life in samples after `samples` of `total_samples`: 5 % of what was seen, at least 1 % of the budget.

    >>> half_life(100, 10_000), half_life(8_000, 10_000)
    (100.0, 400.0)
    """
    return max(SHARE_SEEN * samples, SHARE_OF_BUDGET * total_samples)
