"""Means and paired differences with their t-intervals, against hand-worked numbers and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from bsexp.analysis.paired import Estimate, mean_band, mean_interval, paired_difference, t_quantile


def test_the_interval_of_two_values_is_12_706_times_their_half_distance() -> None:
    found = mean_interval([1.0, 3.0])
    assert found is not None
    # s = sqrt 2, s / sqrt 2 = 1, t(1; .975) = 12.7062 from any table.
    assert found.mean == 2.0
    assert found.high == pytest.approx(2 + 12.7062, abs=1e-4)
    assert found.half_width == pytest.approx(12.7062, abs=1e-4)
    assert found.num == 2


def test_the_interval_of_three_values_worked_out_by_hand() -> None:
    found = mean_interval([0.8, 0.9, 1.0])
    # s = .1, t(2; .975) = 4.302653, half width .1 / sqrt 3 * 4.302653 = .248414
    assert found is not None
    assert found.low == pytest.approx(0.9 - 0.248414, abs=1e-6)


@pytest.mark.parametrize("num", [2, 3, 6, 12, 100])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_intervals_agree_with_scipy(num: int, level: float) -> None:
    values = np.random.default_rng(num).normal(0.9, 0.02, num)
    found = mean_interval(values, level)
    low, high = stats.t.interval(level, num - 1, loc=values.mean(), scale=stats.sem(values))
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_paired_interval_agrees_with_scipys_paired_test() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(0, 1, 8), random.normal(0.3, 1, 8)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    found = paired_difference(dict(enumerate(first)), dict(enumerate(second)))
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_one_value_has_no_interval_and_none_has_no_estimate() -> None:
    assert mean_interval([0.5]) == Estimate(0.5, None, None, 1)
    assert mean_interval([0.5]).half_width is None  # type: ignore[union-attr]
    assert mean_interval([]) is None
    assert mean_interval([None, math.nan]) is None


@pytest.mark.parametrize("num", [2, 3, 7])
def test_equal_values_have_an_interval_of_no_length(num: int) -> None:
    # .1 has no exact binary form: the mean of three of them is not .1 in floating point.
    assert mean_interval([0.1] * num) == Estimate(0.1, 0.1, 0.1, num)


def test_only_seeds_of_both_arms_make_pairs() -> None:
    found = paired_difference({0: 1.0, 1: 5.0, 2: None, 3: 9.0}, {0: 0.5, 1: 4.5, 2: 7.0, 4: 1.0})
    assert found == Estimate(0.5, 0.5, 0.5, 2)


def test_one_pair_has_no_interval_and_no_pair_no_estimate() -> None:
    assert paired_difference({0: 1.0}, {0: 0.25}) == Estimate(0.75, None, None, 1)
    assert paired_difference({0: 1.0}, {1: 0.25}) is None
    assert paired_difference({0: math.nan}, {0: 0.25}) is None


def test_an_infinite_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        mean_interval([1.0, math.inf])


@pytest.mark.parametrize(("num", "level"), [(1, 0.95), (3, 0.0), (3, 1.0)])
def test_a_quantile_outside_its_range_is_refused(num: int, level: float) -> None:
    with pytest.raises(ValueError, match="t-interval"):
        t_quantile(num, level)


def test_a_band_is_the_interval_of_each_point() -> None:
    values = np.array([[1.0, 0.8], [3.0, 0.9], [2.0, 1.0]])
    mean, low, high = mean_band(values)
    assert low is not None
    assert high is not None
    for point in range(2):
        expected = mean_interval(values[:, point])
        assert expected is not None
        assert (mean[point], low[point], high[point]) == pytest.approx((expected.mean, expected.low, expected.high))
    assert mean_band(values[:1])[1:] == (None, None)
    with pytest.raises(ValueError, match="at least one seed"):
        mean_band(values[:0])
