"""What claims can come to before the data: held against statsmodels, and against counting sign flips by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.power import TTestPower

from bsexp.analysis.declared import Declared, Design, read_claims
from bsexp.analysis.outlook import Outlook, outlooks
from tests.conftest import Bsexp

CLAIM = {"text": "a is better", "compare": ["a", "b"], "metric": "test_loss", "expect": "better"}
EQUIVALENT = {**CLAIM, "text": "equal", "expect": "equivalent", "control": "c", "margin": 0.25}


def declared(num: int, *claims: dict[str, Any], looks: tuple[int, ...] = ()) -> list[Declared]:
    design = Design({"a": {}, "b": {}, "c": {}}, tuple(range(num)), (), looks)
    return read_claims(claims, design)


def outlook(num: int, *claims: dict[str, Any], looks: tuple[int, ...] = ()) -> Outlook:
    return outlooks(declared(num, *claims, looks=looks))[0]


def others(count: int) -> list[dict[str, Any]]:
    return [{**CLAIM, "text": f"other {k}"} for k in range(count)]


def test_the_smallest_p_is_that_of_all_signs_alike() -> None:
    # Two-sided for a difference, one-sided for a margin.
    assert outlook(8, CLAIM).min_p == 2 / 256
    assert outlook(8, EQUIVALENT).min_p == 1 / 256


def test_too_few_seeds_for_so_many_claims_are_lacking() -> None:
    assert outlook(5, CLAIM).lacking == "fewer than 6 seeds give no word"
    assert not outlook(6, CLAIM).lacking  # 2/64 = .031 for one claim at .05
    two = outlook(6, CLAIM, *others(1))
    assert two.alpha == 0.025
    assert two.lacking == "6 seeds reach p 0.031 at best, 0.025 is needed"
    assert not outlook(8, CLAIM, *others(5)).lacking  # 2/256 = .0078 for .05 / 6 = .0083
    assert outlook(8, CLAIM, *others(6)).lacking


@pytest.mark.parametrize("claims", [1, 6])
def test_the_effect_that_is_found_is_that_of_the_paired_t(claims: int) -> None:
    expected = TTestPower().solve_power(nobs=12, power=0.8, alpha=0.05 / claims)
    assert outlook(12, CLAIM, *others(claims - 1)).effect == pytest.approx(expected, abs=0.011)


def test_stated_spread_and_effect_give_the_power_of_the_paired_t() -> None:
    stated = {**CLAIM, "sd": 0.01, "effect": 0.012}
    expected = TTestPower().power(1.2, 12, 0.05)
    found = outlook(12, stated)
    assert found.power == pytest.approx(expected, abs=1e-6)
    assert not found.lacking
    weak = outlook(12, {**stated, "effect": 0.008})
    assert weak.power == pytest.approx(TTestPower().power(0.8, 12, 0.05), abs=1e-5)
    assert weak.lacking.startswith("power 0.71 at the stated sd and effect")
    assert outlook(12, {**CLAIM, "sd": 0.01}).power is None


def test_a_margin_that_is_a_share_needs_an_effect_of_the_control_that_many_times_larger() -> None:
    # Were the control's effect known exactly, an equivalence within .25 of it would need .25 * effect = margin.
    found = outlook(12, EQUIVALENT).effect
    assert found is not None
    low, high = 4 * 0.9, 4 * 1.5
    assert low < found < high
    half = outlook(12, {**EQUIVALENT, "margin": 0.5}).effect
    assert half is not None
    assert half < 0.7 * found


def test_an_absolute_margin_needs_no_stated_effect() -> None:
    claim = {key: value for key, value in EQUIVALENT.items() if key != "margin"}
    stated = outlook(12, {**claim, "margin_points": 1.5, "sd": 0.01})
    # Within 1.5 standard deviations of a true difference of 0; both one-sided t at .05, 11 degrees of freedom.
    one_side = TTestPower().power(1.5, 12, 0.05, alternative="larger")
    assert stated.power == pytest.approx(2 * one_side - 1, abs=0.005)


def test_looks_leave_less_for_each() -> None:
    assert outlook(16, CLAIM, looks=(8, 16)).alpha < outlook(16, CLAIM).alpha


def test_ratios_have_a_smallest_p_and_no_effect() -> None:
    ratio = {**CLAIM, "metric": "train_seconds", "kind": "ratio"}
    found = outlook(8, ratio)
    assert (found.min_p, found.effect, found.power) == (2 / 256, None, None)
    assert math.isclose(found.alpha, 0.05)


FILE = """
[run]
dataset = "digits"
epochs = 0.1
seeds = "0-4"
[arms.a]
schedule = "fixed-small"
[arms.b]
schedule = "lr-decay"
[[claims]]
text = "a is better"
compare = ["a", "b"]
metric = "test_loss"
expect = "better"
"""


def test_an_underpowered_sweep_is_refused_before_anything_is_written(tmp_path: Path, bsexp: Bsexp) -> None:
    (tmp_path / "few.toml").write_text(FILE)
    refused = bsexp("sweep", "few.toml")
    assert refused.returncode == 2
    assert refused.stderr == (
        "bsexp: few.toml: claims[0]: fewer than 6 seeds give no word; declare more seeds, or add --underpowered\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["few.toml"]


def test_plan_tells_what_claims_can_come_to_then_refuses(tmp_path: Path, bsexp: Bsexp) -> None:
    (tmp_path / "few.toml").write_text(FILE)
    refused = bsexp("plan", "few.toml")
    assert refused.returncode == 2
    assert "1 claim, one family" in refused.stdout
    assert "fewer than 6 seeds" in refused.stderr
    told = bsexp("plan", "few.toml", "--underpowered", "--json")
    assert told.returncode == 0, told.stderr
    (claim,) = json.loads(told.stdout)["claims"]
    assert claim["min_p"] == 2 / 32
    assert claim["lacking"]
