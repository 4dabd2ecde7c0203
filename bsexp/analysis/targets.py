"""When a run reached a target, what budget an arm needs for it, and how two arms compare by ratio.

The one rule: a target that was not reached is infinity and takes part: it loses against every number and ties with
another miss; it is never dropped or filled in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bsexp.analysis.exact import Sides, order_interval, sign_test


def first_crossing(samples: Sequence[float], values: Sequence[float], target: float, rising: bool = True) -> float:
    """The samples at which a curve reached a target for good: interpolated, in samples; infinity for a miss.

    The first point at or past the target whose successor is so too: one point alone is luck, also the last one.
    Interpolated linearly between it and the point before, which is short of the target; a curve that starts past it
    gives its first point. `rising`: accuracies; False: losses, which reach a target from above. A value that is nan or
    None does not reach. Only for arms without annealing, or on averaged weights. ValueError for samples that do not
    rise, lengths that differ, or a target that is not finite.

    >>> first_crossing([0, 100, 200, 300], [0.1, 0.5, 0.7, 0.9], 0.6)
    150.0
    """
    if len(samples) != len(values) or not math.isfinite(target):
        raise ValueError(f"needs as many samples as values and a finite target, got {len(samples)}, {len(values)}")
    if any(later <= earlier for earlier, later in pairwise(samples)):
        raise ValueError(f"samples rise, got {list(samples)}")
    sign = 1.0 if rising else -1.0
    ahead = [_ahead(value, target, sign) for value in values]
    for place in range(len(ahead) - 1):
        if ahead[place] >= 0 and ahead[place + 1] >= 0:
            if not place:
                return float(samples[0])
            short = ahead[place - 1]
            if short == -math.inf:  # The point before was not measured or not finite: nothing to interpolate from.
                return float(samples[place])
            share = short / (short - ahead[place])
            return float(samples[place - 1] + share * (samples[place] - samples[place - 1]))
    return math.inf


def _ahead(value: float | None, target: float, sign: float) -> float:
    return -math.inf if value is None or not math.isfinite(value) else sign * (value - target)


def budget_to_target(ladder: Mapping[float, float | None], target: float, rising: bool = True) -> float:
    """The smallest budget (samples) from which on the final outcome reaches the target; infinity for a miss.

    `ladder`: budget -> outcome at the end of a run planned for it, each rung its own schedule; None or nan: the run
    failed. Interpolated in log2(budget) between the last rung short of the target and the next; a lowest rung that
    reaches it gives its own budget, which is then an upper bound. ValueError for an empty ladder or a budget <= 0.

    >>> round(budget_to_target({100.0: 0.7, 400.0: 0.9}, 0.8), 9)
    200.0
    """
    if not ladder or min(ladder) <= 0:
        raise ValueError(f"a ladder has budgets above 0, got {sorted(ladder)}")
    sign = 1.0 if rising else -1.0
    rungs = sorted(ladder)
    ahead = [_ahead(ladder[rung], target, sign) for rung in rungs]
    if ahead[-1] < 0:
        return math.inf
    place = max((at for at, value in enumerate(ahead) if value < 0), default=-1)
    if place < 0:
        return float(rungs[0])
    if ahead[place] == -math.inf:
        return float(rungs[place + 1])
    share = ahead[place] / (ahead[place] - ahead[place + 1])
    return float(rungs[place] * (rungs[place + 1] / rungs[place]) ** share)


def log2_ratio(first: float, second: float) -> float:
    """log2(first / second) of two costs above 0: infinity where only the first missed, 0 where both did.

    >>> log2_ratio(50.0, 100.0), log2_ratio(math.inf, math.inf)
    (-1.0, 0.0)
    """
    if not (first > 0 and second > 0):
        raise ValueError(f"costs are above 0 or infinite, got {first} and {second}")
    if math.isinf(first) or math.isinf(second):
        return 0.0 if first == second else math.copysign(math.inf, 1 if math.isinf(first) else -1)
    return math.log2(first) - math.log2(second)  # Swapped arms give exactly the opposite.


@dataclass(frozen=True)
class Ratio:
    """The median of log2(first / second) over pairs, between order statistics [low, high] at `level` or above.

    `missed`: pairs in which the first, the second, both missed. `sides`: the sign test; `below` is small where the
    first needs less. Medians and ends may be infinite, never nan; with 5 pairs or fewer [low, high] is everything.
    """

    median: float
    low: float
    high: float
    level: float
    num: int
    missed: tuple[int, int, int]
    sides: Sides


def compare_costs(first: Mapping[int, float], second: Mapping[int, float], level: float = 0.95) -> Ratio | None:
    """The ratio of two arms' costs (samples, updates, seconds to a target) over the seeds of both; None without any.

    Both map a seed to a cost above 0, infinite for a miss.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    pairs = [(math.isinf(first[seed]), math.isinf(second[seed])) for seed in seeds]
    missed = (pairs.count((True, False)), pairs.count((False, True)), pairs.count((True, True)))
    ratios = np.array([log2_ratio(first[seed], second[seed]) for seed in seeds])
    low, high, held = order_interval(ratios, level)
    return Ratio(median(ratios), low, high, held, len(seeds), missed, sign_test(ratios))


def median(values: np.ndarray) -> float:
    """The middle value, or the mean of the middle two; 0 between the two infinities, which favour nobody."""
    ordered, half = np.sort(values), len(values) // 2
    if len(values) % 2:
        return float(ordered[half])
    low, high = float(ordered[half - 1]), float(ordered[half])
    return 0.0 if math.isinf(low) and math.isinf(high) and low != high else (low + high) / 2
