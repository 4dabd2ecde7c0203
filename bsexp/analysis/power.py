"""How likely a design is to find what it looks for, before anything is trained.

The one rule: power is that of the claimed word at the level it will be tested at; ask with alpha / family size, which
is what Holm grants the first of a family.

`sd` is the standard deviation over seeds of the difference of two arms, in the unit of `effect` and `margin`.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit
from scipy.stats import nct

from bsexp.analysis.exact import smallest_sign_flip_p

NODES = 400
SIMULATED = 20_000


def power_better(num: int, effect: float, sd: float, alpha: float = 0.05) -> float:
    """The chance that the paired t supports *better* (L of the 1 - alpha interval above 0), for a true effect.

    1 - F(t(1 - alpha/2); n - 1, effect sqrt(n) / sd), F the noncentral t. With sd 0: whether the effect is above 0.
    ValueError for fewer than 2 pairs, a negative sd, or alpha outside (0, 1).
    """
    _check(num, sd, alpha)
    if not sd:
        return float(effect > 0)
    found = 1 - float(nct.cdf(float(stdtrit(num - 1, 1 - alpha / 2)), num - 1, effect * math.sqrt(num) / sd))
    # Far out, scipy's noncentral t gives nan; there the power is 0 or 1 to every digit.
    return found if math.isfinite(found) else float(effect > 0)


def power_equivalent(num: int, margin: float, sd: float, effect: float = 0.0, alpha: float = 0.05) -> float:
    """The chance that two one-sided t tests support *equivalent* within +-margin, for a true difference `effect`.

    Exact: over the chi-square of the spread, P(-m + t s / sqrt n < mean < m - t s / sqrt n), at 400 midpoints of its
    distribution. 0 where the margin cannot be reached. ValueError as above, or for a margin <= 0.
    """
    _check(num, sd, alpha)
    if not margin > 0:
        raise ValueError(f"a margin is above 0, got {margin}")
    if not sd:
        return float(abs(effect) < margin)
    error = sd / math.sqrt(num)
    shares = (np.arange(NODES) + 0.5) / NODES
    spread = np.sqrt(chdtri(num - 1, 1 - shares) / (num - 1))
    room = margin - float(stdtrit(num - 1, 1 - alpha)) * spread * error
    inside = ndtr((room - effect) / error) - ndtr((-room - effect) / error)
    return float(np.where(room > 0, inside, 0.0).mean())


def power_with_control(
    num: int,
    share: float,
    sd: float,
    control_effect: float,
    control_sd: float,
    generator: np.random.Generator,
    effect: float = 0.0,
    correlation: float = -0.5,
    alpha: float = 0.05,
) -> float:
    """The chance that *equivalent* is supported with a margin of a share of the control effect, by 20,000 experiments.

    Normal per-seed values: g - d with mean `effect` and `sd`, d - c with `control_effect` and `control_sd`,
    `correlation` between them (-.5 where the three arms vary alike, because both contain d). Standard error .0035.
    """
    _check(num, sd, alpha)
    _check(num, control_sd, alpha)
    if not (share > 0 and -1 <= correlation <= 1):
        raise ValueError(f"needs a share above 0 and a correlation in [-1, 1], got {share} and {correlation}")
    first, second = generator.standard_normal((2, SIMULATED, num))
    control = control_effect + control_sd * first
    difference = effect + sd * (correlation * first + math.sqrt(1 - correlation**2) * second)
    critical = float(stdtrit(num - 1, 1 - alpha))
    held = np.ones(SIMULATED, dtype=bool)
    for values in (control, difference + share * control, share * control - difference):
        held &= values.mean(axis=1) > critical * values.std(axis=1, ddof=1) / math.sqrt(num)
    return float(held.mean())


def seeds_needed(power: Callable[[int], float], goal: float = 0.8, most: int = 200) -> int | None:
    """The fewest pairs from 6 on whose power reaches the goal; None where `most` do not.

    `power`: power for a number of pairs. Power that is simulated wobbles; the answer then may be one off.

    >>> seeds_needed(lambda num: power_better(num, 1.0, 1.0))
    10
    """
    if not 0 < goal < 1:
        raise ValueError(f"a power to reach lies in (0, 1), got {goal}")
    return next((num for num in range(6, most + 1) if power(num) >= goal), None)


def pairs_for_sign_flips(alpha: float, most: int = 64) -> int | None:
    """The fewest pairs, 6 or more, whose smallest two-sided sign-flip p is at most alpha; None if `most` are too few.

    >>> pairs_for_sign_flips(0.05), pairs_for_sign_flips(0.005)
    (6, 9)
    """
    return next((num for num in range(6, most + 1) if smallest_sign_flip_p(num) <= alpha), None)


def _check(num: int, sd: float, alpha: float) -> None:
    if num < 2 or not (0 <= sd < math.inf) or not 0 < alpha < 1:
        raise ValueError(f"needs 2 or more pairs, sd >= 0 and alpha in (0, 1), got {num}, {sd}, {alpha}")
