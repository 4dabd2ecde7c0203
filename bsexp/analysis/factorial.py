"""Effects in a full factorial whose cells share their seeds: every contrast is one number per seed.

The one rule: weights first, statistics after. An effect is a weighted sum of cells within a seed; the seeds then give
its mean, interval and p as for any paired difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from bsexp.analysis.exact import sign_flip
from bsexp.analysis.paired import Estimate, mean_interval
from bsexp.analysis.twoway import over_seeds


@dataclass(frozen=True)
class Effect:
    """A main effect (one factor) or interaction (more). `levels`: per factor (from, to), the step it speaks of."""

    factors: tuple[str, ...]
    levels: tuple[tuple[str, str], ...]
    estimate: Estimate
    p: float | None
    p_sign_flip: float


def table_of(
    cells: Mapping[tuple[tuple[str, ...], int], float | None], factors: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The cells as an array (seeds, levels of factor 1, levels of factor 2, ...) and the seeds it holds.

    `cells`: (level of each factor, seed) -> outcome, costs negated by the caller. A seed that lacks a cell, or has None
    or nan there, is left out whole: an effect of other cells would not be paired. ValueError for a factor with fewer
    than two levels.
    """
    if not factors or any(len(set(levels)) < 2 or len(set(levels)) < len(levels) for levels in factors.values()):
        raise ValueError(f"every factor needs two different levels, got {dict(factors)}")
    shape = tuple(len(levels) for levels in factors.values())
    places = list(product(*factors.values()))
    rows, kept = [], []
    for seed in sorted({seed for _, seed in cells}):
        values = [cells.get((place, seed)) for place in places]
        numbers = [math.nan if value is None else value for value in values]
        if np.isfinite(numbers).all():
            rows.append(np.reshape(numbers, shape))
            kept.append(seed)
    return np.array(rows).reshape(len(rows), *shape), tuple(kept)


def contrast(table: np.ndarray, weights: Mapping[int, Sequence[float]]) -> np.ndarray:
    """Per seed, the weighted sum over the named axes (1: first factor) and the mean over all others, shape (seeds,).

    `weights` of an axis must sum to 0. Two levels with (-1, 1) on one axis: its main effect, high less low. On two
    axes: the interaction, the effect of one at the other's high level less that at its low level.

    >>> contrast(np.array([[[1.0, 2.0], [3.0, 8.0]]]), {1: (-1, 1), 2: (-1, 1)})
    array([4.])
    """
    if not weights:
        raise ValueError("a contrast needs weights for at least one axis")
    found = table
    for axis in range(table.ndim - 1, 0, -1):
        if axis not in weights:
            found = found.mean(axis=axis)
            continue
        given = np.asarray(weights[axis], dtype=float)
        if given.shape != (table.shape[axis],) or abs(given.sum()) > 1e-9:
            raise ValueError(f"axis {axis} needs {table.shape[axis]} weights that sum to 0, got {list(given)}")
        found = np.tensordot(found, given, axes=(axis, 0))
    unknown = set(weights) - set(range(1, table.ndim))
    if unknown:
        raise ValueError(f"axes run from 1 to {table.ndim - 1}, got {sorted(unknown)}")
    return found


def effects(
    table: np.ndarray,
    factors: Mapping[str, Sequence[str]],
    order: int = 2,
    level: float = 0.95,
    generator: np.random.Generator | None = None,
) -> list[Effect]:
    """Main effects and interactions up to `order`, each level against its factor's first, without correction.

    `table` as from `table_of`, at least one seed. p is None for a single seed. These are explorations; a claim about
    one goes through `contrast` and `judge`.
    """
    if table.shape[1:] != tuple(len(levels) for levels in factors.values()) or not len(table):
        raise ValueError(f"a table of {table.shape} does not hold seeds x the factors' levels")
    names = list(factors)
    found = []
    for size in range(1, order + 1):
        for chosen in combinations(range(len(names)), size):
            for steps in product(*(range(1, len(factors[names[axis]])) for axis in chosen)):
                weights = {
                    axis + 1: _step(table.shape[axis + 1], step) for axis, step in zip(chosen, steps, strict=True)
                }
                values = contrast(table, weights)
                scale = float(np.abs(table).max())
                values = np.where(np.abs(values) <= 1e-12 * scale, 0.0, values)
                estimate = mean_interval(values, level)
                assert estimate is not None
                told = tuple(
                    (factors[names[axis]][0], factors[names[axis]][step])
                    for axis, step in zip(chosen, steps, strict=True)
                )
                p = over_seeds(values, scale).sides.two_sided if len(values) > 1 else None
                flips = sign_flip(values, generator).two_sided
                found.append(Effect(tuple(names[axis] for axis in chosen), told, estimate, p, flips))
    return found


def _step(num: int, step: int) -> list[float]:
    return [-1.0 if place == 0 else 1.0 if place == step else 0.0 for place in range(num)]
