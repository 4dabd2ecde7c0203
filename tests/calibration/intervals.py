"""How often each interval holds the truth: over seeds, over seeds and test images, and of a fit.

The one rule: the truth is set, never estimated from the draws.
"""

from collections.abc import Callable

import numpy as np

from bsexp.analysis.fits import bca, critical_batch
from bsexp.analysis.paired import t_quantile
from bsexp.analysis.twoway import pigeonhole, two_way
from bsexp.store.products import Products
from tests.calibration.scenarios import Row

SHOWN = 400


def over_seeds(num: int) -> list[Row]:
    """t and percentile-bootstrap intervals of a mean of 5, 8 and 12 normal differences."""
    random = np.random.default_rng([2024, 100])
    rows = []
    for seeds in (5, 8, 12):
        values = random.normal(0, 1, (num, seeds))
        half = t_quantile(seeds) * values.std(axis=1, ddof=1) / np.sqrt(seeds)
        inside = int((abs(values.mean(axis=1)) <= half).sum())
        rows.append(Row(f"mean of {seeds} pairs", "t interval covers", "covers", inside, num, 0.95))
        weights = random.multinomial(seeds, np.full(seeds, 1 / seeds), 2000) / seeds
        low, high = np.quantile(values @ weights.T, [0.025, 0.975], axis=1)
        inside = int(((low <= 0) & (high >= 0)).sum())
        rows.append(Row(f"mean of {seeds} pairs", "percentile bootstrap covers", "seen", inside, num))
    return rows


def additive(seeds: float, images: float, left: float) -> Callable[[np.random.Generator], np.ndarray]:
    """Differences with a part of the seed, of the image, and of both, around 0."""

    def draw(random: np.random.Generator) -> np.ndarray:
        shape = (12, SHOWN)
        parts = random.normal(0, seeds, (12, 1)) + random.normal(0, images, (1, SHOWN))
        return parts + random.normal(0, left, shape)

    return draw


def correct(random: np.random.Generator) -> np.ndarray:
    """Differences of right and wrong answers: images differ in difficulty and in the arm that likes them."""
    ease = random.normal(2, 1.5, SHOWN)
    liking = random.normal(0, 1.0, (2, SHOWN))
    skill = random.normal(0, 0.1, (2, 12, 1))
    odds = ease + liking[:, None, :] + skill
    right = random.random((2, 12, SHOWN)) < 1 / (1 + np.exp(-odds))
    return right[0].astype(float) - right[1]


WORLDS = [
    ("seeds matter most", additive(0.05, 0.0, 0.1)),
    ("images matter little", additive(0.02, 0.0, 0.4)),
    ("images matter as much as seeds", additive(0.02, 0.2, 0.4)),
    ("images matter most", additive(0.005, 0.4, 0.2)),
    ("right and wrong answers", correct),
]


def over_images(num: int) -> list[Row]:
    """12 seeds x 400 images: variance components with t, pigeonhole percentiles, and seeds alone, for new data."""
    rows = []
    for key, (name, draw) in enumerate(WORLDS):
        random = np.random.default_rng([2024, 110 + key])
        ours = boots = alone = 0
        few = max(1, num // 4)  # The bootstrap takes most of the time.
        for place in range(num):
            matrix = draw(random)
            found = two_way(Products.of(matrix)).interval(0.95)
            ours += (found.low or 0.0) <= 0 <= (found.high or 0.0)
            means = matrix.mean(axis=1)
            alone += abs(means.mean()) <= t_quantile(12) * means.std(ddof=1) / np.sqrt(12)
            if place >= few:
                continue
            boot = pigeonhole(matrix, random, num=400)
            boots += (boot.low or 0.0) <= 0 <= (boot.high or 0.0)
        name = f"12 seeds x {SHOWN} images, {name}"
        rows += [
            Row(name, "variance components, t: misses new data", "wrong", num - ours, num, 0.05),
            Row(name, "pigeonhole percentiles: misses new data", "seen", few - boots, few),
            Row(name, "seeds alone, t: misses new data", "seen", num - alone, num),
        ]
    return rows


def of_fits(num: int) -> list[Row]:
    """The BCa interval of the critical batch over 12 seeds and 7 sizes, expanded as used, and plain for a mean."""
    random = np.random.default_rng([2024, 120])
    sizes = [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
    curve = 500 * (1 + 60 / np.array(sizes))
    inside = 0
    for _ in range(num):
        costs = curve * np.exp(random.normal(0, 0.05, (12, 7)) + random.normal(0, 0.1, (12, 1)))
        found = critical_batch(sizes, costs, random).estimate
        inside += (found.low or 0.0) <= 60 <= (found.high or 0.0)
    plain = wide = 0
    for _ in range(num):
        values = random.normal(0, 1, (12, 1))
        both = [bca(values, lambda means: means[:, 0], random, expanded=each) for each in (False, True)]
        plain += (both[0].low or 0.0) <= 0 <= (both[0].high or 0.0)
        wide += (both[1].low or 0.0) <= 0 <= (both[1].high or 0.0)
    return [
        Row("critical batch, 12 seeds, 7 sizes", "expanded BCa covers", "covers", inside, num, 0.95),
        Row("mean of 12", "expanded BCa covers", "covers", wide, num, 0.95),
        Row("mean of 12", "plain BCa covers", "seen", plain, num),
    ]
