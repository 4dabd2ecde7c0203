"""Fits on planted curves, against scipy's optimiser and bootstrap and statsmodels' meta-analysis."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.oneway import anova_oneway

from bsexp.analysis.fits import bca, collapse, critical_batch, heterogeneity, lr_exponent

SIZES = [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]


def planted(b_crit: float, seeds: int = 12, noise: float = 0.05, key: int = 0) -> np.ndarray:
    random = np.random.default_rng(key)
    curve = 500 * (1 + b_crit / np.array(SIZES))
    return curve * np.exp(random.normal(0, noise, (seeds, len(SIZES))) + random.normal(0, 0.1, (seeds, 1)))


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_a_planted_critical_batch_is_found_as_by_scipys_least_squares() -> None:
    costs = planted(60.0)
    found = critical_batch(SIZES, costs, rng())
    mean = np.log(costs).mean(axis=0)
    expected = optimize.curve_fit(lambda b, s, c: s + np.log1p(np.exp(c) / b), SIZES, mean, p0=(6, 4))[0]
    assert found.estimate.mean == pytest.approx(math.exp(expected[1]), rel=1e-3)
    assert found.scale == pytest.approx(math.exp(expected[0]), rel=1e-3)
    assert found.says == "estimate"
    assert found.notes == ()
    assert found.estimate.low is not None
    assert found.estimate.high is not None
    assert found.estimate.low < 60 < found.estimate.high


@pytest.mark.parametrize(("b_crit", "says"), [(2.0, "at most"), (5000.0, "at least")])
def test_outside_the_sizes_there_is_only_a_bound(b_crit: float, says: str) -> None:
    found = critical_batch(SIZES, planted(b_crit, noise=0.02), rng())
    assert found.says == says
    assert "not inside [16, 256]" in found.notes[-1]


def test_costs_that_do_not_fall_and_costs_that_fall_throughout() -> None:
    flat = critical_batch(SIZES, np.full((12, 7), 100.0), rng())
    assert (flat.estimate.mean, flat.estimate.high, flat.says, flat.scale) == (
        0.0,
        0.0,
        "at most",
        pytest.approx(100.0),
    )
    steep = critical_batch(SIZES, np.tile(1e4 / np.array(SIZES), (12, 1)), rng())
    assert (steep.estimate.mean, steep.says) == (math.inf, "at least")


def test_the_interval_of_the_critical_batch_covers() -> None:
    inside = 0
    for key in range(200):
        found = critical_batch(SIZES, planted(60.0, key=key), np.random.default_rng(key)).estimate
        inside += (found.low or 0) <= 60 <= (found.high or 0)
    # 3 standard errors of .95 in 200 are .046; the calibration counts 2,000.
    assert 0.904 <= inside / 200 <= 0.996


def test_misses_take_their_size_out_of_the_fit_with_a_note() -> None:
    costs = planted(60.0)
    costs[3, -1] = math.inf
    found = critical_batch(SIZES, costs, rng())
    assert "512 missed" in found.notes[0]
    assert found.estimate.mean == pytest.approx(60, rel=0.3)
    costs[0, :] = math.inf
    nothing = critical_batch(SIZES, costs, rng())
    assert (nothing.says, nothing.estimate.low) == ("nothing", None)


def test_few_sizes_or_seeds_say_nothing() -> None:
    assert critical_batch(SIZES[:4], planted(30.0)[:, :4], rng()).says == "nothing"
    few = critical_batch(SIZES, planted(60.0, seeds=8), rng())
    assert (few.says, few.estimate.low) == ("nothing", None)
    with pytest.raises(ValueError, match="seeds x sizes"):
        critical_batch(SIZES, planted(60.0)[:, :3], rng())
    with pytest.raises(ValueError, match="above 0"):
        critical_batch(SIZES, np.zeros((12, 7)), rng())


def test_bca_agrees_with_scipys() -> None:
    values = np.random.default_rng(3).gamma(1.0, 1.0, 40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    found = bca(values[:, None], lambda means: means[:, 0], np.random.default_rng(0), num=20_000, expanded=False)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=0.015), pytest.approx(expected.high, abs=0.015))
    # A variance is biased down, which moves both ends.
    expected = stats.bootstrap(
        (values,), np.var, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    squares = np.stack([values, values**2], axis=1)
    found = bca(
        squares, lambda means: means[:, 1] - means[:, 0] ** 2, np.random.default_rng(0), num=20_000, expanded=False
    )
    assert (found.low, found.high) == (pytest.approx(expected.low, rel=0.03), pytest.approx(expected.high, rel=0.03))
    # Expanded to the width of t: for 12 normal means the two are alike.
    values = np.random.default_rng(4).normal(0, 1, 12)
    wide = bca(values[:, None], lambda means: means[:, 0], np.random.default_rng(0), num=40_000)
    low, high = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert wide.half_width == pytest.approx((high - low) / 2, rel=0.06)
    with pytest.raises(ValueError, match="12 seeds"):
        bca(np.ones((11, 1)), lambda means: means[:, 0], rng())


def tuned(power: float, key: int, noise: float = 0.3, step: float = 2.0) -> list[float]:
    """The rate of a grid in factors of `step` that is nearest to .01 * B^power, missed by some octaves of noise."""
    random = np.random.default_rng(key)
    logs = math.log2(0.01) + power * np.log2(SIZES) + random.normal(0, noise, len(SIZES))
    return list(step ** np.round(logs / math.log2(step)))


def test_a_planted_exponent_is_found_as_by_scipys_regression() -> None:
    rates = tuned(0.5, key=3, noise=0.9)
    found = lr_exponent(SIZES, rates, step=2.0)
    line = stats.linregress(np.log(SIZES), np.log(rates))
    assert found.says == "estimate"
    assert found.estimate.mean == pytest.approx(line.slope)
    assert found.estimate.half_width == pytest.approx(stats.t.ppf(0.975, 5) * line.stderr)
    assert found.scale == pytest.approx(math.exp(line.intercept))


@pytest.mark.parametrize("power", [0.0, 0.5, 0.75, 1.0])
def test_the_interval_of_the_exponent_covers_also_where_grids_round(power: float) -> None:
    held = 0
    for key in range(400):
        found = lr_exponent(SIZES, tuned(power, key), step=2.0).estimate
        held += (found.low or 0) <= power <= (found.high or 0)
    # .95 less three standard errors of 400 trials.
    assert held / 400 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)


def test_rates_on_a_line_by_rounding_alone_have_the_interval_of_their_grid() -> None:
    # All on a line of slope 1/2 of a grid in factors of 4, and over six octaves: tilted by an octave at either end.
    found = lr_exponent(SIZES, [0.01 * size**0.5 for size in SIZES], step=4.0).estimate
    assert (found.low, found.high) == (pytest.approx(0.5 - 2 / 6), pytest.approx(0.5 + 2 / 6))


def test_sizes_whose_best_rate_is_not_known_are_left_out_and_too_few_silence_the_fit() -> None:
    rates = [0.01 * size**0.5 for size in SIZES]
    rates[-1] = 1e-9
    found = lr_exponent(SIZES, rates, 2.0, unbounded=[512.0])
    assert found.estimate.mean == pytest.approx(0.5)
    assert found.estimate.num == 6
    assert found.notes == ("Batch size 512 is not in the fit: its best rate may lie beyond those tried.",)
    few = lr_exponent(SIZES, rates, 2.0, unbounded=SIZES[3:])
    assert few.says == "nothing"
    assert "3 batch sizes whose best rate is known: an exponent needs 4." in few.notes
    for wrong in ((SIZES[:2], rates, 2.0), ([8.0] * 7, rates, 2.0), (SIZES, [0.0] * 7, 2.0), (SIZES, rates, 1.0)):
        with pytest.raises(ValueError, match="got"):
            lr_exponent(*wrong)


def test_heterogeneity_agrees_with_statsmodels() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal(mean, sd, num) for mean, sd, num in [(0, 1, 12), (1, 2, 9), (0.5, 0.5, 15)]]
    means, errors = [g.mean() for g in groups], [stats.sem(g) for g in groups]
    found = heterogeneity(means, errors, [len(g) for g in groups])
    expected = combine_effects(np.array(means), np.array(errors) ** 2, method_re="dl", use_t=True)
    assert found.q == pytest.approx(expected.q)
    assert found.between == pytest.approx(expected.tau2)
    assert found.share == pytest.approx(max(0, expected.i2))
    assert found.pooled.mean == pytest.approx(expected.mean_effect_re)
    assert found.pooled.half_width == pytest.approx(stats.t.ppf(0.975, 2) * expected.sd_eff_w_re_hksj)
    welch = anova_oneway(
        pd.concat([pd.Series(g) for g in groups]).to_numpy(), np.repeat([0, 1, 2], [12, 9, 15]), use_var="unequal"
    )
    assert found.p == pytest.approx(welch.pvalue)


def test_equal_effects_are_called_different_in_one_of_twenty_and_by_chi_square_too_often() -> None:
    random = np.random.default_rng(0)
    p_welch, p_chi = [], []
    for _ in range(3000):
        groups = random.normal(0, 1, (4, 8)) * np.array([[1.0], [2.0], [3.0], [0.5]])
        found = heterogeneity(groups.mean(axis=1), groups.std(axis=1, ddof=1) / np.sqrt(8), [8] * 4)
        p_welch.append(found.p)
        p_chi.append(stats.chi2.sf(found.q, found.freedom))
    assert np.mean(np.array(p_welch) <= 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(np.array(p_chi) <= 0.05) > 0.08


def test_equal_estimates_have_no_heterogeneity() -> None:
    found = heterogeneity([0.5, 0.5], [0.1, 0.2], [8, 8])
    assert (found.q, found.p, found.share, found.pooled.half_width) == (0.0, 1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="above 0"):
        heterogeneity([0.5, 0.4], [0.0, 0.2], [8, 8])


def test_an_outcome_of_the_noise_alone_collapses_on_it() -> None:
    grid = [(lr, b) for lr in (0.01, 0.02, 0.04, 0.08) for b in (8.0, 16.0, 32.0, 64.0)]
    lrs, sizes = zip(*grid, strict=True)
    found = collapse(lrs, sizes, [math.log(lr / b) ** 2 for lr, b in grid])
    assert found["lr / B"] == pytest.approx(1.0)
    assert max(found["lr"], found["B"]) < 0.7
    by_lr = collapse(lrs, sizes, [lr for lr, _ in grid])
    assert by_lr["lr"] == pytest.approx(1.0)
    assert by_lr["B"] == pytest.approx(0.0)
    assert collapse(lrs, sizes, [1.0] * 16) == {"lr / B": 1.0, "lr": 1.0, "B": 1.0}
