"""Crossings, ladders and ratios, on curves and numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsexp.analysis.targets import budget_to_target, compare_costs, first_crossing, log2_ratio

INF = math.inf


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.5, 0.7, 0.9], 150.0),  # .6 lies halfway between .5 at 100 and .7 at 200
        ([0.1, 0.7, 0.5, 0.9], INF),  # 100 is alone, and so is 300
        ([0.1, 0.7, 0.5, 0.9, 0.9], 225.0),  # the lone point at 100 is passed over
        ([0.1, 0.2, 0.3, 0.9], INF),  # the last point has no successor
        ([0.7, 0.8, 0.9, 0.9], 0.0),  # there from the start
        ([0.1, 0.6, 0.6, 0.6], 100.0),  # at the target is enough
        ([0.1, math.nan, 0.8, 0.8], 200.0),  # nothing to interpolate from
        ([0.1, 0.8, None, 0.8, 0.8], 300.0),  # not measured is not reached
        ([], INF),
        ([0.9], INF),
    ],
)
def test_the_first_of_two_successive_points_past_the_target(values: list[float], expected: float) -> None:
    assert first_crossing([100.0 * k for k in range(len(values))], values, 0.6) == pytest.approx(expected)


def test_losses_reach_a_target_from_above() -> None:
    assert first_crossing([0, 10, 20, 30], [2.0, 1.0, 0.5, 0.25], 0.75, rising=False) == 15.0
    assert first_crossing([0, 10, 20, 30], [2.0, 1.0, 0.5, 0.25], 0.1, rising=False) == INF


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(0.05, 0.95))
def test_a_harder_target_is_never_reached_earlier(values: list[float], target: float) -> None:
    samples = list(range(len(values)))
    assert first_crossing(samples, values, target) <= first_crossing(samples, values, min(1.0, target + 0.05))


@pytest.mark.parametrize(("samples", "target"), [([0, 0], 0.5), ([0, 1, 2], 0.5), ([0, 1], math.nan)])
def test_curves_that_are_none_are_refused(samples: list[float], target: float) -> None:
    with pytest.raises(ValueError, match="samples"):
        first_crossing(samples, [0.1, 0.9], target)


def test_the_budget_of_a_ladder_is_interpolated_in_its_logarithm() -> None:
    # Halfway from .7 to .9 is halfway from log 100 to log 400.
    assert budget_to_target({400: 0.9, 100: 0.7}, 0.8) == pytest.approx(200.0)
    assert budget_to_target({100: 0.85, 400: 0.9}, 0.8) == 100.0
    assert budget_to_target({100: 0.7, 400: 0.75}, 0.8) == INF
    assert budget_to_target({100: 0.7, 200: None, 400: 0.9}, 0.8) == 400.0
    assert budget_to_target({100: 0.9, 200: 0.7, 400: 0.9}, 0.8) == pytest.approx(2**0.5 * 200)
    assert budget_to_target({100: 1.0, 400: 0.5}, 0.75, rising=False) == pytest.approx(200.0)
    with pytest.raises(ValueError, match="ladder"):
        budget_to_target({}, 0.5)


def test_a_miss_is_infinite_and_two_are_a_tie() -> None:
    assert log2_ratio(200.0, 100.0) == 1.0
    assert log2_ratio(INF, 100.0) == INF
    assert log2_ratio(100.0, INF) == -INF
    assert log2_ratio(INF, INF) == 0.0
    with pytest.raises(ValueError, match="above 0"):
        log2_ratio(0.0, 1.0)


def test_costs_are_compared_by_the_median_of_ratios_and_signs() -> None:
    first = {0: 50.0, 1: 25.0, 2: 100.0, 3: INF, 4: 50.0, 5: 50.0, 6: INF}
    second = {0: 100.0, 1: 100.0, 2: INF, 3: 100.0, 4: 100.0, 5: 100.0, 6: INF, 9: 1.0}
    found = compare_costs(first, second)
    assert found is not None
    # log2 ratios: -1 -2 -inf inf -1 -1 0; sorted -inf -2 -1 -1 -1 0 inf. 7 values at .95: the extremes (63/64).
    assert (found.median, found.low, found.high, found.num) == (-1.0, -INF, INF, 7)
    assert found.level == 1 - 2 / 128
    assert found.missed == (1, 1, 1)
    # 5 below, 1 above, a tie: P(Bin(6) >= 5) = 7/64.
    assert found.sides.below == pytest.approx(7 / 64)
    assert compare_costs({0: 1.0}, {1: 1.0}) is None


def test_a_median_between_two_infinities_favours_nobody() -> None:
    found = compare_costs({0: INF, 1: 1.0}, {0: 1.0, 1: INF})
    assert found is not None
    assert found.median == 0.0
    found = compare_costs({0: INF, 1: INF}, {0: INF, 1: 1.0})
    assert found is not None
    assert found.median == INF


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, INF]), min_size=1, max_size=9))
def test_ratios_are_never_nan_and_mirror_when_arms_are_swapped(costs: list[float]) -> None:
    first, second = dict(enumerate(costs)), dict(enumerate(reversed(costs)))
    found, swapped = compare_costs(first, second), compare_costs(second, first)
    assert found is not None
    assert swapped is not None
    assert not np.isnan([found.median, found.low, found.high]).any()
    assert (found.median, found.low, found.high) == (-swapped.median, -swapped.high, -swapped.low)
