"""Power against statsmodels, against simulation of the tests themselves, and at its edges."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from bsexp.analysis.power import (
    pairs_for_sign_flips,
    power_better,
    power_equivalent,
    power_with_control,
    seeds_needed,
)


@pytest.mark.parametrize(("num", "effect"), [(6, 1.0), (12, 0.5), (12, 1.2), (30, 0.3)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_of_the_paired_t_is_statsmodels(num: int, effect: float, alpha: float) -> None:
    expected = TTestPower().power(effect, num, alpha / 2, alternative="larger")
    assert power_better(num, 2 * effect, 2.0, alpha) == pytest.approx(expected, abs=1e-6)


def test_without_an_effect_power_is_half_of_alpha() -> None:
    assert power_better(12, 0.0, 1.0, 0.05) == pytest.approx(0.025)


@pytest.mark.parametrize(("margin", "effect"), [(1.0, 0.0), (0.7, 0.2), (0.4, 0.0), (1.0, 1.0)])
def test_power_of_equivalence_is_how_often_simulated_experiments_show_it(margin: float, effect: float) -> None:
    values = np.random.default_rng(0).normal(effect, 1, (20_000, 12))
    half = stats.t.ppf(0.95, 11) * values.std(axis=1, ddof=1) / np.sqrt(12)
    mean = values.mean(axis=1)
    shown = ((mean - half > -margin) & (mean + half < margin)).mean()
    assert power_equivalent(12, margin, 1.0, effect) == pytest.approx(shown, abs=4 * 0.5 / np.sqrt(20_000))


def test_at_the_margin_equivalence_is_shown_at_alpha() -> None:
    assert power_equivalent(12, 5.0, 1.0, effect=5.0) == pytest.approx(0.05, abs=1e-3)


def test_a_known_control_effect_is_a_margin_in_points() -> None:
    random = np.random.default_rng(0)
    with_control = power_with_control(12, 0.25, 1.0, 4.0, 1e-9, random, correlation=0.0)
    assert with_control == pytest.approx(power_equivalent(12, 1.0, 1.0), abs=0.012)
    assert power_with_control(12, 0.25, 1.0, 0.0, 1.0, random) < 0.05
    assert power_with_control(12, 0.25, 0.5, 4.0, 0.5, random) > 0.95


def test_seeds_needed_are_the_first_that_suffice() -> None:
    needed = seeds_needed(lambda num: power_better(num, 0.5, 1.0))
    assert needed is not None
    assert power_better(needed, 0.5, 1.0) >= 0.8 > power_better(needed - 1, 0.5, 1.0)
    # Any table: d = .5, two-sided .05, power .8: 34 pairs.
    assert needed == 34
    assert seeds_needed(lambda num: power_better(num, 0.01, 1.0)) is None


def test_the_pairs_that_sign_flips_need() -> None:
    # All pairs of 5 arms: .05 / 10 = .005 needs 2/2^9.
    assert pairs_for_sign_flips(0.005) == 9
    assert pairs_for_sign_flips(1e-9) is None


def test_edges_are_defined_and_nonsense_is_refused() -> None:
    assert power_better(6, 1.0, 0.0) == 1.0
    assert power_better(6, 0.0, 0.0) == 0.0
    assert power_equivalent(6, 1.0, 0.0) == 1.0
    assert power_better(6, 1.0, 1e-6) == 1.0
    assert power_equivalent(6, 1e-6, 1.0) == 0.0
    for call in (
        lambda: power_better(1, 1.0, 1.0),
        lambda: power_better(6, 1.0, -1.0),
        lambda: power_equivalent(6, 0.0, 1.0),
        lambda: power_with_control(6, 0.0, 1.0, 1.0, 1.0, np.random.default_rng(0)),
        lambda: seeds_needed(lambda num: 1.0, goal=1.0),
    ):
        with pytest.raises(ValueError, match=r"needs|lies|margin"):
            call()
