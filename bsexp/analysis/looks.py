"""Looking at the seeds more than once: the level of each declared look, so that all together hold alpha.

The one rule: looks are declared before the data (`seeds = "auto:8,16,32"`), and the first look that gives a word ends
the experiment; later seeds are not looked at.

Alpha spending (Lan & DeMets 1983, doi 10.1093/biomet/70.3.659) for a one-sided alpha, at the share t of the last look's
seeds. O'Brien-Fleming type: alpha(t) = 2 (1 - Phi(z(1 - alpha/2) / sqrt(t))), next to nothing early. Pocock type:
alpha(t) = alpha ln(1 + (e - 1) t), about as much at each look.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.special import ndtr, ndtri

from bsexp.analysis.words import Levels
from bsexp.errors import UsageError

POINTS = 801


def parse_looks(text: str) -> tuple[int, ...]:
    """The looks of `auto:8,16,32`: numbers of seeds, at least 6, rising. UsageError for anything else.

    >>> parse_looks("auto:8,16,32")
    (8, 16, 32)
    """
    kind, colon, rest = text.partition(":")
    parts = [part.strip() for part in rest.split(",")]
    if kind.strip() != "auto" or not colon or not all(part.isdecimal() for part in parts):
        raise UsageError("seeds", repr(text), "looks are written as auto:8,16,32")
    looks = tuple(int(part) for part in parts)
    if looks[0] < 6 or any(later <= earlier for earlier, later in pairwise(looks)):
        raise UsageError("seeds", repr(text), "looks rise, from 6 seeds on")
    return looks


def spent(share: float, alpha: float) -> float:
    """The one-sided alpha spent at a share of the seeds in (0, 1], O'Brien-Fleming type; all of it at 1."""
    _check(share, alpha)
    return 2 * float(ndtr(ndtri(alpha / 2) / math.sqrt(share)))


def spent_evenly(share: float, alpha: float) -> float:
    """The one-sided alpha spent at a share of the seeds in (0, 1], Pocock type; all of it at 1."""
    _check(share, alpha)
    return alpha * math.log1p((math.e - 1) * share)


def _check(share: float, alpha: float) -> None:
    if not (0 < share <= 1 and 0 < alpha < 1):
        raise ValueError(f"needs a share in (0, 1] and alpha in (0, 1), got {share} and {alpha}")


@lru_cache
def one_sided_levels(
    looks: tuple[int, ...], alpha: float, spending: Callable[[float, float], float] = spent
) -> tuple[float, ...]:
    """The one-sided level of each look (numbers of seeds, rising), for alpha in (0, 1) over all of them.

    By recursive integration of the density of the sum of standard normal seeds that crossed no bound before
    (Armitage, McPherson & Rowe 1969). Exact for normal values of known spread; used on p, it also holds for t.
    ValueError for looks that do not rise from 2.
    """
    if not looks or looks[0] < 2 or any(b <= a for a, b in pairwise(looks)):
        raise ValueError(f"looks are rising numbers of seeds from 2 on, got {looks}")
    found: list[float] = []
    times = [look / looks[-1] for look in looks]
    grid = density = np.empty(0)
    done = 0.0
    for place, time in enumerate(times):
        goal = spending(time, alpha) - done
        before = times[place - 1] if place else 0.0
        bound = _bound(goal, time, before, grid, density)
        found.append(float(ndtr(-bound / math.sqrt(time))))
        done += goal
        points = np.linspace(-8 * math.sqrt(time), bound, POINTS)
        grid, density = points, _moved(points, time - before, grid, density)
    return tuple(found)


def _moved(points: np.ndarray, step: float, grid: np.ndarray, density: np.ndarray) -> np.ndarray:
    """The density at `points` after a normal increment of variance `step`, from `density` on `grid` (empty: from 0)."""
    if not len(grid):
        return _normal(points / math.sqrt(step)) / math.sqrt(step)
    jumps = (points[:, None] - grid[None, :]) / math.sqrt(step)
    return (_normal(jumps) / math.sqrt(step)) @ (density * _simpson(grid))


def _bound(goal: float, time: float, before: float, grid: np.ndarray, density: np.ndarray) -> float:
    """The bound of the sum at `time` that is crossed first now with probability `goal`, by bisection."""
    low, high = -8 * math.sqrt(time), 12 * math.sqrt(time)
    for _ in range(60):
        middle = (low + high) / 2
        if len(grid):
            tail = ndtr((grid - middle) / math.sqrt(time - before))
            crossed = float((tail * density * _simpson(grid)).sum())
        else:
            crossed = float(ndtr(-middle / math.sqrt(time)))
        low, high = (middle, high) if crossed > goal else (low, middle)
    return (low + high) / 2


def _normal(points: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * points**2) / math.sqrt(2 * math.pi)


def _simpson(grid: np.ndarray) -> np.ndarray:
    """Simpson's weights on an odd number of equally spaced points."""
    weights = np.where(np.arange(len(grid)) % 2 == 1, 4.0, 2.0)
    weights[0] = weights[-1] = 1.0
    return weights * (grid[1] - grid[0]) / 3


def look_levels(looks: Sequence[int], place: int, alpha: float) -> Levels:
    """The levels of the look number `place` (from 0) at a two-sided alpha over all looks."""
    looks = tuple(looks)
    return Levels(one_sided_levels(looks, alpha / 2)[place], one_sided_levels(looks, alpha)[place])
