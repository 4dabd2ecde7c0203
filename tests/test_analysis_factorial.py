"""Effects of a factorial, on tables worked out by hand and against statsmodels' regression."""

from itertools import product

import numpy as np
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from bsexp.analysis.factorial import contrast, effects, table_of

FACTORS = {"anneal": ("none", "lr"), "dropout": ("0", "p")}


def test_main_effects_and_interaction_by_hand() -> None:
    # Cells none/0 1, none/p 2, lr/0 3, lr/p 8: anneal 5.5 - 1.5 = 4; dropout 5 - 2 = 3; together (8 - 3) - (2 - 1) = 4.
    table = np.array([[[1.0, 2.0], [3.0, 8.0]]])
    assert contrast(table, {1: (-1, 1)}) == pytest.approx([4.0])
    assert contrast(table, {2: (-1, 1)}) == pytest.approx([3.0])
    assert contrast(table, {1: (-1, 1), 2: (-1, 1)}) == pytest.approx([4.0])


def test_effects_agree_with_a_paired_test_and_statsmodels() -> None:
    import pandas as pd

    table = np.random.default_rng(0).normal(0, 1, (10, 2, 2)) + np.array([[0.0, 0.5], [1.0, 3.0]])
    found = {effect.factors: effect for effect in effects(table, FACTORS)}
    assert set(found) == {("anneal",), ("dropout",), ("anneal", "dropout")}
    rows = table.mean(axis=2)
    assert found["anneal",].p == pytest.approx(stats.ttest_rel(rows[:, 1], rows[:, 0]).pvalue)
    assert found["anneal",].levels == (("none", "lr"),)
    cells = [{"seed": s, "a": a, "d": d, "y": table[s, a, d]} for s, a, d in product(range(10), range(2), range(2))]
    fit = smf.ols("y ~ a * d + C(seed)", pd.DataFrame(cells)).fit()
    assert found["anneal", "dropout"].estimate.mean == pytest.approx(fit.params["a:d"])


def test_three_levels_are_held_against_the_first() -> None:
    table = np.array([[1.0, 2.0, 5.0], [2.0, 3.0, 8.0]])
    found = effects(table, {"shape": ("step", "linear", "cosine")})
    assert [(each.levels, each.estimate.mean) for each in found] == [
        ((("step", "linear"),), 1.0),
        ((("step", "cosine"),), 5.0),
    ]


def test_luck_of_a_seed_is_in_no_effect() -> None:
    table = np.arange(6.0).reshape(6, 1, 1) * 10 + np.array([[0.0, 0.5], [1.0, 1.5]])
    found = {effect.factors: effect for effect in effects(table, FACTORS)}
    assert found["anneal",].estimate.half_width == 0.0
    assert (found["anneal", "dropout"].estimate.mean, found["anneal", "dropout"].p) == (0.0, 1.0)


def test_rounding_is_no_interaction() -> None:
    table = np.tile(np.array([[0.1, 0.2], [0.3, 0.4]]), (8, 1, 1))
    assert (0.4 - 0.3) - (0.2 - 0.1) != 0
    found = {effect.factors: effect for effect in effects(table, FACTORS)}["anneal", "dropout"]
    assert (found.estimate.mean, found.p, found.p_sign_flip) == (0.0, 1.0, 1.0)


def test_a_seed_that_lacks_a_cell_is_left_out_whole() -> None:
    cells = {((a, d), seed): float(seed) for a, d in product(*FACTORS.values()) for seed in range(3)}
    cells[("lr", "p"), 1] = float("nan")
    table, seeds = table_of(cells, FACTORS)
    assert (table.shape, seeds) == ((2, 2, 2), (0, 2))
    none, seeds = table_of({}, FACTORS)
    assert (none.shape, seeds) == ((0, 2, 2), ())


def test_one_seed_has_effects_without_p() -> None:
    found = effects(np.ones((1, 2, 2)), FACTORS)
    assert all(each.p is None and each.estimate.low is None for each in found)


@pytest.mark.parametrize(
    "weights", [{}, {1: (1, 1)}, {1: (-1, 0, 1)}, {3: (-1, 1)}], ids=["none", "not a contrast", "too many", "no axis"]
)
def test_weights_that_are_no_contrast_are_refused(weights: dict[int, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=r"weights|axes"):
        contrast(np.ones((2, 2, 2)), weights)


def test_a_factor_of_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match="two different levels"):
        table_of({}, {"a": ("x",)})
    with pytest.raises(ValueError, match="levels"):
        effects(np.ones((2, 2)), FACTORS)
