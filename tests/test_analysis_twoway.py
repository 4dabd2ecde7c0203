"""The variance over seeds x examples, against scipy, a slow obvious sum, and its coverage in simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from bsexp.analysis.twoway import Location, over_seeds, pigeonhole, two_way
from bsexp.store.products import Products


def two_way_of(matrix: np.ndarray) -> Location:
    return two_way(Products.of(matrix))


def test_over_seeds_is_scipys_one_sample_t() -> None:
    values = np.random.default_rng(0).normal(0.2, 1, 9)
    found = over_seeds(values)
    assert found.sides.above == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)
    assert found.sides.two_sided == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.interval(0.9).low, found.interval(0.9).high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("value", "sides"), [(0.1, (0.0, 1.0)), (-0.1, (1.0, 0.0)), (0.0, (1.0, 1.0))])
def test_without_spread_the_mean_is_known(value: float, sides: tuple[float, float]) -> None:
    found = over_seeds(np.full(3, value)).sides
    assert (found.above, found.below) == sides


def test_what_is_rounding_of_the_numbers_subtracted_is_nothing() -> None:
    # .3 - .2 - .1 is 5.6e-17 in floating point, on every seed; without the scale it would be a certain difference.
    values = np.full(6, 0.3 - 0.2 - 0.1)
    assert values[0] != 0
    assert over_seeds(values, scale=0.3).sides.two_sided == 1.0


def slow_error(matrix: np.ndarray) -> float:
    """The same from the textbook's table: mean squares of rows, columns and residuals, entry by entry."""
    n, m = matrix.shape
    grand = matrix.mean()
    rows, columns = matrix.mean(axis=1), matrix.mean(axis=0)
    ms_rows = m * sum((r - grand) ** 2 for r in rows) / (n - 1)
    ms_columns = n * sum((c - grand) ** 2 for c in columns) / (m - 1)
    residuals = sum((matrix[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(n) for j in range(m))
    ms_left = residuals / ((n - 1) * (m - 1))
    return float(np.sqrt(ms_rows / m / n + max(0.0, (ms_columns - ms_left) / n) / m))


@given(arrays(float, (4, 6), elements=st.integers(-1, 1).map(float)))
def test_the_error_is_that_of_the_two_way_table(matrix: np.ndarray) -> None:
    assert two_way_of(matrix).error == pytest.approx(slow_error(matrix), abs=1e-9)
    assert two_way_of(matrix).mean == pytest.approx(matrix.mean())


@given(arrays(float, (6, 9), elements=st.floats(0, 4)), st.floats(-1, 1), st.floats(-1, 1))
def test_a_contrast_of_rows_is_that_of_the_table(matrix: np.ndarray, share: float, plus: float) -> None:
    # Three pairs: the differences of rows, less a share of the second, and a constant.
    weights = np.kron(np.eye(3), [[1.0, -1.0 - share]])
    found = Products.of(matrix).contrast(weights, plus)
    expected = np.array([matrix[2 * k] - (1 + share) * matrix[2 * k + 1] + plus for k in range(3)])
    assert found.num == 9
    assert found.sums == pytest.approx(expected.sum(axis=1), abs=1e-9)
    assert found.products == pytest.approx(expected @ expected.T, abs=1e-9)


@given(arrays(float, (5, 7), elements=st.integers(-1, 1).map(float)))
def test_new_data_are_never_more_certain_than_this_test_set(matrix: np.ndarray) -> None:
    assert two_way_of(matrix).error >= over_seeds(matrix.mean(axis=1)).error - 1e-9


def test_a_shift_between_examples_widens_and_one_between_seeds_alone_does_not() -> None:
    random = np.random.default_rng(1)
    seeds_only = np.repeat(random.normal(0, 1, 8)[:, None], 50, axis=1)
    assert two_way_of(seeds_only).error == pytest.approx(over_seeds(seeds_only[:, 0]).error)
    with_examples = seeds_only + random.normal(0, 5, 50)
    assert two_way_of(with_examples).error > 1.5 * two_way_of(seeds_only).error


def test_degrees_of_freedom_are_those_of_the_part_that_matters() -> None:
    random = np.random.default_rng(3)
    seeds_only = np.repeat(random.normal(0, 1, 8)[:, None], 50, axis=1)
    examples_only = np.repeat(random.normal(0, 1, 50)[None, :], 8, axis=0)
    assert two_way_of(seeds_only).freedom == pytest.approx(7)
    assert two_way_of(examples_only).freedom == pytest.approx(49)
    assert two_way_of(examples_only).error == pytest.approx(stats.sem(examples_only[0]))


def test_identical_arms_give_a_difference_of_nothing() -> None:
    found = two_way_of(np.zeros((6, 10)))
    assert (found.mean, found.error, found.sides.two_sided) == (0.0, 0.0, 1.0)
    assert pigeonhole(np.zeros((6, 10)), np.random.default_rng(0)).half_width == 0.0
    with pytest.raises(ValueError, match="two seeds"):
        two_way_of(np.zeros((1, 10)))


def draws(random: np.random.Generator, seeds: float, examples: float, left: float) -> np.ndarray:
    return random.normal(0, seeds, (12, 1)) + random.normal(0, examples, (1, 200)) + random.normal(0, left, (12, 200))


@pytest.mark.parametrize("parts", [(0.1, 1.0, 0.5), (0.1, 0.0, 1.0), (0.02, 1.0, 3.0)])
def test_the_interval_for_new_data_covers(parts: tuple[float, float, float]) -> None:
    random = np.random.default_rng(7)
    found = [two_way_of(draws(random, *parts)).interval(0.95) for _ in range(1500)]
    covered = np.mean([(each.low or 0) <= 0 <= (each.high or 0) for each in found])
    # 3 standard errors of .95 in 1,500 draws are .017; clipping a negative variance at 0 makes it a little wide.
    assert 0.933 <= covered <= 0.985


def test_the_pigeonhole_bootstrap_counts_the_residuals_three_times() -> None:
    # Owen 2007: its variance tends to 3 var_e / (n M) where nothing else varies; ours is var_e / (n M).
    random = np.random.default_rng(2)
    matrix = random.normal(0, 1, (40, 400))
    drawn = pigeonhole(matrix, random, 0.95, 4000)
    assert drawn.half_width == pytest.approx(1.96 * np.sqrt(3 / matrix.size), rel=0.1)
    assert two_way_of(matrix).error == pytest.approx(np.sqrt(1 / matrix.size), rel=0.4)
