"""Levels of declared looks, against published bounds and by simulation of the whole experiment."""

import numpy as np
import pytest
from scipy import stats

from bsexp.analysis.looks import look_levels, one_sided_levels, parse_looks, spent
from bsexp.errors import UsageError


@pytest.mark.parametrize(
    ("looks", "bounds"),
    [
        # Lan-DeMets with O'Brien-Fleming spending, two-sided .05, equal steps (Jennison & Turnbull 2000; gsDesign).
        ((8, 16), (2.963, 1.969)),
        ((10, 20, 30), (3.710, 2.511, 1.993)),
        ((10, 20, 30, 40, 50), (4.877, 3.357, 2.680, 2.290, 2.031)),
    ],
)
def test_the_bounds_are_the_published_ones(looks: tuple[int, ...], bounds: tuple[float, ...]) -> None:
    found = stats.norm.isf(one_sided_levels(looks, 0.025))
    assert found == pytest.approx(bounds, abs=2e-3)


def test_one_look_has_the_whole_level() -> None:
    assert one_sided_levels((12,), 0.05) == pytest.approx((0.05,), abs=1e-9)
    assert spent(1.0, 0.05) == pytest.approx(0.05)
    assert look_levels([12], 0, 0.05).strict == pytest.approx(0.025)


def rejected(looks: tuple[int, ...], levels: tuple[float, ...], random: np.random.Generator, num: int) -> float:
    values = random.normal(0, 1, (num, looks[-1]))
    any_word = np.zeros(num, dtype=bool)
    for look, level in zip(looks, levels, strict=True):
        seen = values[:, :look]
        ratio = seen.mean(axis=1) / (seen.std(axis=1, ddof=1) / np.sqrt(look))
        any_word |= 2 * stats.t.sf(np.abs(ratio), look - 1) <= 2 * level
    return float(any_word.mean())


def test_three_looks_of_a_t_test_hold_the_level_together_and_naive_ones_do_not() -> None:
    looks = (8, 16, 32)
    random = np.random.default_rng(0)
    # 3 standard errors in 8,000 draws: .0073.
    assert abs(rejected(looks, one_sided_levels(looks, 0.025), random, 8000) - 0.05) < 0.0073
    assert rejected(looks, (0.025,) * 3, random, 8000) > 0.09


def test_looks_are_read_from_the_experiment_file() -> None:
    assert parse_looks("auto: 8, 16,32") == (8, 16, 32)
    for wrong in ("8,16", "auto:", "auto:8,8", "auto:4,8", "auto:8,x", "manual:8"):
        with pytest.raises(UsageError, match="looks"):
            parse_looks(wrong)


def test_wrong_looks_and_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="rising"):
        one_sided_levels((16, 8), 0.05)
    with pytest.raises(ValueError, match="share"):
        spent(0.0, 0.05)
