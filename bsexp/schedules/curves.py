"""Curves: pure functions from a position x in [0, 1] to a value, and the ways to join them.

The one rule: a curve knows no budget, no optimizer and no step count. What a schedule multiplies, scales or caps is
the business of `strategies`; every named shape is made of the functions below.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

Curve = Callable[[float], float]


def constant(value: float = 1.0) -> Curve:
    """`value` everywhere.

    >>> constant(0.5)(0.3)
    0.5
    """
    return lambda x: value


def linear(start: float = 1.0, end: float = 0.0) -> Curve:
    """start + (end - start) x.

    >>> linear(1, 0)(0.25)
    0.75
    """
    return lambda x: start + (end - start) * x


def polynomial(start: float = 1.0, end: float = 0.0, power: float = 2.0) -> Curve:
    """end + (start - end) (1 - x)^power: steep first (torch PolynomialLR, optax polynomial_schedule).

    >>> polynomial(1, 0, 2)(0.5)
    0.25
    """
    return lambda x: end + (start - end) * (1 - x) ** power


def power_rise(start: float = 1.0, end: float = 2.0, power: float = 2.0) -> Curve:
    """start + (end - start) x^power: steep last.

    >>> power_rise(0, 8, 3)(0.5)
    1.0
    """
    return lambda x: start + (end - start) * x**power


def cosine(start: float = 1.0, end: float = 0.0) -> Curve:
    """end + (start - end) (1 + cos(pi x)) / 2 (Loshchilov & Hutter 2017, eq. 5, one period).

    >>> round(cosine(1, 0)(0.5), 12)
    0.5
    """
    return lambda x: end + (start - end) * (1 + math.cos(math.pi * x)) / 2


def exponential(start: float = 1.0, end: float = 0.01) -> Curve:
    """start (end / start)^x; both positive.

    >>> round(exponential(1, 0.01)(0.5), 12)
    0.1
    """
    return lambda x: start * (end / start) ** x


def step(milestones: Sequence[float] = (0.3, 0.6, 0.8), factor: float = 0.2, start: float = 1.0) -> Curve:
    """start * factor^k with k the number of milestones at or below x.

    >>> [step([0.5, 0.75], 0.5)(x) for x in (0.4, 0.5, 0.8)]
    [1.0, 0.5, 0.25]
    """
    marks = sorted(milestones)
    return lambda x: start * factor ** bisect_right(marks, x)


def piecewise(boundaries: Sequence[float], values: Sequence[float]) -> Curve:
    """values[k] with k the number of boundaries at or below x; one value more than boundaries.

    >>> piecewise([0.5], [3.0, 7.0])(0.5)
    7.0
    """
    marks = list(boundaries)
    return lambda x: values[bisect_right(marks, x)]


def inverse_sqrt(timescale: float = 0.05) -> Curve:
    """sqrt(t / max(x, t)): flat up to t, then falling with the square root (Vaswani et al. 2017, section 5.3).

    >>> inverse_sqrt(0.04)(0.16)
    0.5
    """
    return lambda x: math.sqrt(timescale / max(x, timescale))


def wsd(cooldown_fraction: float = 0.2, end: float = 0.0, cooldown: str = "linear") -> Curve:
    """1 until x = 1 - cooldown_fraction, then to `end`, linearly or as 1 - sqrt (Haegele et al. 2024, eq. 1 and 2).

    >>> round(wsd(0.2)(0.9), 12)
    0.5
    """

    def curve(x: float) -> float:
        passed = max(0.0, (x - (1 - cooldown_fraction)) / cooldown_fraction)
        left = 1 - math.sqrt(passed) if cooldown == "sqrt" else 1 - passed
        return end + (1 - end) * left

    return curve


def triangular(
    cycles: int = 4, ratio: float = 4.0, halving: bool = False, gamma: float = 1.0, peak: float = 0.5
) -> Curve:
    """Between 1 / ratio and 1, `cycles` times, low at both ends of a cycle (Smith 2017, "triangular").

    `halving` halves the amplitude with each cycle ("triangular2"); `gamma` is the share of the amplitude that is left
    at x = 1 ("exp_range"); `peak` in (0, 1) is where in a cycle the top lies (torch CyclicLR's step_size_down).

    >>> [triangular(1, 4.0)(x) for x in (0.0, 0.25, 0.5)]
    [0.25, 0.625, 1.0]
    """
    low = 1 / ratio

    def curve(x: float) -> float:
        cycle, within = divmod(x * cycles, 1.0)
        amplitude = (1 - low) * (0.5**cycle if halving else 1.0) * gamma**x
        return low + amplitude * (within / peak if within < peak else (1 - within) / (1 - peak))

    return curve


def cosine_restarts(cycles: int = 4, ratio: float = 4.0, cycle_mult: float = 1.0) -> Curve:
    """From 1 to 1 / ratio along a cosine, `cycles` times, each cycle `cycle_mult` times as long as the one before.

    Loshchilov & Hutter 2017 (SGDR), eq. 5.

    >>> round(cosine_restarts(2, 4.0)(0.25), 12), cosine_restarts(2, 4.0)(0.5)
    (0.625, 1.0)
    """
    sums = list(accumulate(cycle_mult**k for k in range(cycles)))
    ends = [partial / sums[-1] for partial in sums]
    fall = cosine(1.0, 1 / ratio)

    def curve(x: float) -> float:
        k = min(bisect_right(ends, x), cycles - 1)
        start = ends[k - 1] if k else 0.0
        return fall((x - start) / (ends[k] - start))

    return curve


def one_cycle(
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal: str = "cos",
    three_phase: bool = False,
) -> Curve:
    """Up from 1 / div_factor to 1 at pct_start, then down to 1 / (div_factor final_div_factor); torch's OneCycleLR.

    With `three_phase` the way down goes through 1 / div_factor at 2 pct_start, so that pct_start must be below .5.
    Smith & Topin 2018, arXiv:1708.07120. Raises ValueError where three phases have no room.

    >>> round(one_cycle()(0.3), 12), round(one_cycle()(0.0), 12)
    (1.0, 0.04)
    """
    initial, last = 1 / div_factor, 1 / (div_factor * final_div_factor)
    bend = cosine if anneal == "cos" else linear
    if three_phase:
        if pct_start >= 0.5:
            raise ValueError("with three_phase, pct_start must be below 0.5: the third phase begins at twice that")
        return join([bend(initial, 1.0), bend(1.0, initial), bend(initial, last)], [pct_start, 2 * pct_start])
    return join([bend(initial, 1.0), bend(1.0, last)], [pct_start])


def warm_up(share: float, start: float = 0.1) -> Curve:
    """start + (1 - start) x / share up to x = share, then 1 (Goyal et al. 2017, section 2.2). share 0: 1 everywhere.

    >>> warm_up(0.2, 0.5)(0.1)
    0.75
    """
    return lambda x: 1.0 if x >= share else start + (1 - start) * x / share


def join(curves: Sequence[Curve], boundaries: Sequence[float]) -> Curve:
    """One curve after another; each one sees its own section, from one boundary to the next, as [0, 1].

    >>> join([linear(0, 1), constant(5)], [0.5])(0.25)
    0.5
    """
    edges = [0.0, *boundaries, 1.0]
    marks = list(boundaries)

    def curve(x: float) -> float:
        k = bisect_right(marks, x)
        return curves[k]((x - edges[k]) / (edges[k + 1] - edges[k]))

    return curve


def product(*curves: Curve) -> Curve:
    """The product of curves, as torch's ChainedScheduler makes it.

    >>> product(constant(2), linear(0, 1))(0.25)
    0.5
    """
    return lambda x: math.prod(curve(x) for curve in curves)
