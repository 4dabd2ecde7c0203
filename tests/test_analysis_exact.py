"""Sign flips, counts, Holm and medians, against hand-worked numbers, brute force, scipy and statsmodels."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from bsexp.analysis.exact import (
    clopper_pearson,
    holm,
    mcnemar,
    order_interval,
    sign_flip,
    sign_test,
    smallest_sign_flip_p,
)

numbers = st.lists(st.integers(-5, 5), min_size=1, max_size=8)


def test_sign_flips_of_three_values_counted_by_hand() -> None:
    # Sums of +-1 +-2 +-3: 6 4 2 0 0 -2 -4 -6. The observed 1 + 2 - 3 = 0 is reached or passed by 5 of 8 on either side.
    found = sign_flip(np.array([1.0, 2.0, -3.0]))
    assert (found.above, found.below, found.two_sided) == (5 / 8, 5 / 8, 1.0)
    assert sign_flip(np.array([1.0, 2.0, 3.0])).two_sided == 0.25


@given(numbers)
def test_sign_flips_are_those_of_all_signs_written_out(values: list[int]) -> None:
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    found = sign_flip(np.array(values, dtype=float))
    assert found.above == sum(total >= sum(values) for total in sums) / len(sums)
    assert found.below == sum(total <= sum(values) for total in sums) / len(sums)


def test_sign_flips_agree_with_scipys_permutation_test() -> None:
    values = np.random.default_rng(3).normal(0.4, 1, 9)
    expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(values).two_sided == pytest.approx(expected.pvalue)


def test_equal_accuracies_that_differ_in_rounding_are_ties() -> None:
    # .3 - .2 and .2 - .1 differ in their last digit; of +-.1 +-.1 -+.1 -+.1 the sum 0 is reached by 11 of 16.
    values = np.array([0.3 - 0.2, 0.2 - 0.1, 0.1 - 0.2, 0.2 - 0.3])
    assert sign_flip(values).above == sign_flip(values).below == 11 / 16


@pytest.mark.parametrize(("num", "expected"), [(0, 1.0), (1, 1.0), (2, 0.5), (6, 0.03125), (8, 0.0078125)])
def test_the_smallest_p_is_reached_where_all_pairs_point_one_way(num: int, expected: float) -> None:
    assert smallest_sign_flip_p(num) == expected
    if num:
        assert sign_flip(np.arange(1.0, num + 1)).two_sided == expected


def test_no_difference_anywhere_is_no_evidence() -> None:
    assert sign_flip(np.zeros(8)).two_sided == 1.0
    assert sign_test(np.zeros(8)).two_sided == 1.0
    assert mcnemar(0, 0).two_sided == 1.0


def test_many_pairs_are_sampled_with_the_generator_given_and_refused_without() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 22)
    with pytest.raises(ValueError, match="generator"):
        sign_flip(values)
    found = sign_flip(values, np.random.default_rng(1))
    assert found == sign_flip(values, np.random.default_rng(1))
    # Brute force on all 2^22 sums.
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums + value, sums - value))
    exact = float((sums >= values.sum() - 1e-9).mean())
    assert found.above == pytest.approx(exact, abs=4 * math.sqrt(exact / 1e5))
    assert sign_flip(np.ones(30), np.random.default_rng(1)).two_sided == smallest_sign_flip_p(30) == 2e-5


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_agrees_with_statsmodels(first: int, second: int) -> None:
    expected = statsmodels_mcnemar([[3, first], [second, 5]], exact=True).pvalue if first + second else 1.0
    assert mcnemar(first, second).two_sided == pytest.approx(expected)
    assert mcnemar(first, second).above == mcnemar(second, first).below


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from([0.9, 0.95, 0.99]))
def test_clopper_pearson_agrees_with_statsmodels(count: int, more: int, level: float) -> None:
    num = count + more
    low, high = clopper_pearson(count, num, level)
    if not num:
        assert (low, high) == (0.0, 1.0)
        return
    expected = proportion_confint(count, num, alpha=1 - level, method="beta")
    assert (low, high) == (pytest.approx(expected[0], abs=1e-12), pytest.approx(expected[1], abs=1e-12))


def test_no_failure_in_twelve_runs_still_allows_a_quarter_of_them() -> None:
    # 1 - .025^(1/12) = .2647
    assert clopper_pearson(0, 12) == (0.0, pytest.approx(0.264648, abs=1e-6))
    with pytest.raises(ValueError, match="count"):
        clopper_pearson(3, 2)


def test_holm_worked_out_by_hand() -> None:
    found = holm([0.04, 0.01, 0.03])
    # .01 against .05/3; .03 against .05/2 misses, so .04 shares that level. Adjusted: .03, .06, max(.06, .04).
    assert found.alphas == pytest.approx((0.025, 0.05 / 3, 0.025))
    assert found.adjusted == pytest.approx((0.06, 0.03, 0.06))
    assert holm([]).alphas == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_agrees_with_statsmodels(p_values: list[float], alpha: float) -> None:
    found = holm(p_values, alpha)
    rejected, adjusted, *_ = multipletests(p_values, alpha, method="holm")
    assert found.adjusted == pytest.approx(tuple(adjusted))
    assert [p <= level for p, level in zip(p_values, found.alphas, strict=True)] == list(rejected)


def test_a_median_lies_between_order_statistics() -> None:
    # n = 6: P(Bin(6, 1/2) < 1) = 1/64, so [min, max] holds 1 - 2/64; n = 9: [x2, x8] holds 1 - 2 (1 + 9)/512.
    assert order_interval(np.arange(6.0)) == (0.0, 5.0, 1 - 2 / 64)
    assert order_interval(np.arange(9.0)) == (1.0, 7.0, pytest.approx(1 - 20 / 512))
    assert order_interval(np.arange(5.0)) == (-math.inf, math.inf, 1.0)
    assert order_interval(np.array([1.0, 2, 3, 4, 5, math.inf]))[1] == math.inf
    with pytest.raises(ValueError, match="median"):
        order_interval(np.array([math.nan]))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 20))
def test_the_sign_test_is_scipys_binomial_test(num: int) -> None:
    values = np.random.default_rng(num).integers(-2, 3, num).astype(float)
    above, below = int((values > 0).sum()), int((values < 0).sum())
    found = sign_test(values)
    if above + below:
        assert found.above == pytest.approx(stats.binomtest(above, above + below, alternative="greater").pvalue)
        assert found.below == pytest.approx(stats.binomtest(above, above + below, alternative="less").pvalue)
