"""Simulated experiments whose truth is known, and which words about them would be wrong.

The one rule: the judge sees the runs only; what is true is kept apart and compared afterwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bsexp.analysis.claims import Claim, Record

Runs = dict[tuple[str, int], Record]
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

SEEDS = tuple(range(12))
LUCK = 0.01
SPREAD = 0.003


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.standard_normal(shape)


def heavy(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with 3 degrees of freedom, scaled to a variance of 1."""
    return random.standard_t(3, shape) / np.sqrt(3)


@dataclass(frozen=True)
class World:
    """Arms with true means, and how a run's outcome scatters about them; all in shares of 1.

    `luck` is a seed's own and the same for its arms; `spread` is a run's own. `images`: test images that accuracy is
    counted on, 0 for a continuous outcome. `diverging`: chance that a run diverges, for each arm.
    """

    means: Mapping[str, float]
    seeds: tuple[int, ...] = SEEDS
    spread: float = SPREAD
    noise: Noise = normal
    images: int = 0
    diverging: float = 0.0

    def draw(self, random: np.random.Generator) -> Runs:
        """One experiment's runs."""
        luck = LUCK * self.noise(random, (len(self.seeds), 1))
        values = np.array(list(self.means.values())) + luck
        values = values + self.spread * self.noise(random, (len(self.seeds), len(self.means)))
        if self.images:
            values = random.binomial(self.images, np.clip(values, 0, 1)) / self.images
        lost = random.random(values.shape) < self.diverging
        return {
            (arm, seed): Record("diverged") if lost[row, column] else Record("finished", {"test_accuracy": value})
            for row, seed in enumerate(self.seeds)
            for column, (arm, value) in enumerate(zip(self.means, values[row].tolist(), strict=True))
        }

    def difference(self, claim: Claim) -> float:
        """The true difference of a claim's two arms."""
        return self.means[str(claim.arms[0])] - self.means[str(claim.arms[1])]

    def margin(self, claim: Claim) -> float:
        """The true margin of a claim; 0 without one."""
        if claim.margin is not None:
            return claim.margin * (self.means[str(claim.arms[1])] - self.means[str(claim.control)])
        return (claim.margin_points or 0.0) / 100


def is_wrong(word: str, verdict: str, difference: float, margin: float) -> bool:
    """Whether "supported" or "refuted" is wrong, given the true difference and margin; inconclusive never is.

    *better* refuted says that the first arm is not better by the margin or more.
    """
    d, m, tiny = difference, margin, 1e-12
    true = {
        "better": d > tiny,
        "worse": d < -tiny,
        "equivalent": abs(d) < m - tiny,
        "not-worse": d > -m + tiny,
        "not-better": d < m - tiny,
    }[word]
    large = {"better": d >= m - tiny, "worse": d <= -m + tiny}.get(word, True)
    return not true if verdict == "supported" else verdict == "refuted" and true and large


def claim(word: str, first: str = "a", second: str = "b", **changes: object) -> Claim:
    """A claim about test accuracy over the default seeds, named after what it says."""
    given = Claim(f"{first} {word} {second}", (first, second), "test_accuracy", "better", SEEDS)
    return replace(given, word=word, **changes)  # type: ignore[arg-type]
