"""The words, against the rule as it is written about intervals, on intervals made from t."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsexp.analysis.exact import Sides
from bsexp.analysis.paired import mean_interval
from bsexp.analysis.twoway import over_seeds
from bsexp.analysis.words import (
    BLIND,
    DISAGREE,
    NEGLIGIBLE,
    WORDS,
    Evidence,
    Word,
    after_failures,
    after_tuning,
    agreed,
    for_new_data,
    levels,
    support,
    word,
)

FIVE = levels(0.05)
NO, YES = Sides(0.5, 0.5), Sides(0.001, 0.999)
UNEVEN = Sides(1.0, 1.0)


def evidence(values: np.ndarray, margin: float) -> Evidence:
    return Evidence(*(over_seeds(shifted).sides for shifted in (values, values + margin, values - margin)))


def by_intervals(claimed: str, values: np.ndarray, m: float) -> str:
    """The specification, word for word."""
    wide, narrow = mean_interval(values, 0.95), mean_interval(values, 0.90)
    assert wide is not None
    assert narrow is not None
    l95, u95, l90, u90 = wide.low, wide.high, narrow.low, narrow.high
    rule = {
        "better": (l95 > 0, u90 < m),
        "worse": (u95 < 0, l90 > -m),
        "equivalent": (-m < l90 and u90 < m, l95 > m or u95 < -m),
        "not-worse": (l90 > -m, u90 < -m),
        "not-better": (u90 < m, l90 > m),
    }
    supported, refuted = rule[claimed]
    return "supported" if supported else "refuted" if refuted else "inconclusive"


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(WORDS),
    st.floats(-3, 3),
    st.floats(0.05, 3),
    st.floats(0, 2),
    st.integers(6, 14),
    st.integers(0, 2**16),
)
def test_words_are_those_of_the_intervals(
    claimed: str, shift: float, spread: float, margin: float, num: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(shift, spread, num)
    found = word(claimed, evidence(values, margin), FIVE, FIVE)
    assert found.verdict == by_intervals(claimed, values, margin)
    narrow = mean_interval(values, 0.90)
    assert narrow is not None
    assert narrow.high is not None
    if claimed == "better" and found.verdict == "supported":
        assert (found.reason == NEGLIGIBLE) == (narrow.high < margin)


@settings(max_examples=100, deadline=None)
@given(st.floats(-2, 2), st.floats(0.1, 1), st.integers(0, 2**16))
def test_swapping_the_arms_mirrors_the_words(shift: float, margin: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(shift, 1, 9)
    mirror = {"better": "worse", "worse": "better", "not-worse": "not-better", "not-better": "not-worse"}
    for claimed in WORDS:
        swapped = word(mirror.get(claimed, claimed), evidence(-values, margin), FIVE, FIVE)
        assert word(claimed, evidence(values, margin), FIVE, FIVE) == swapped


def test_support_is_the_p_that_its_word_is_held_to() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        found = evidence(random.normal(0.4, 1, 8), 0.8)
        for claimed in WORDS:
            assert (support(claimed, found) <= 0.05) == (word(claimed, found, FIVE, FIVE).verdict == "supported")


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match="better"):
        word("best", Evidence(YES, YES, YES), FIVE, FIVE)


@pytest.mark.parametrize("claimed", ["equivalent", "not-worse", "not-better"])
def test_without_the_controls_effect_nothing_is_equivalent(claimed: str) -> None:
    near = Evidence(NO, YES, Sides(0.999, 0.001), control=NO, relative=True)
    assert str(word(claimed, near, FIVE, FIVE)) == f"inconclusive: {BLIND}"
    seen = Evidence(NO, YES, Sides(0.999, 0.001), control=YES, relative=True)
    assert word(claimed, seen, FIVE, FIVE) == Word("supported")


def test_a_share_of_an_unseen_effect_refutes_nothing_but_points_do() -> None:
    far = Evidence(YES, YES, YES, control=NO, relative=True)
    assert word("equivalent", far, FIVE, FIVE).reason == BLIND
    assert word("better", far, FIVE, FIVE) == Word("supported")
    in_points = Evidence(YES, YES, YES, control=NO)
    assert word("equivalent", in_points, FIVE, FIVE) == Word("refuted")


def test_tests_that_give_different_words_give_none() -> None:
    assert str(agreed([Word("supported"), Word("inconclusive")])) == f"inconclusive ({DISAGREE})"
    assert agreed([Word("supported", NEGLIGIBLE), Word("supported")]) == Word("supported")
    assert agreed([Word("refuted"), Word("refuted")]) == Word("refuted")
    assert str(Word("supported", NEGLIGIBLE)) == "supported, but negligible"


def test_new_data_can_take_a_word_away_and_never_give_one() -> None:
    assert for_new_data(Word("supported"), Word("inconclusive")).verdict == "inconclusive"
    assert for_new_data(Word("inconclusive", DISAGREE), Word("supported")) == Word("inconclusive", DISAGREE)
    assert for_new_data(Word("supported", NEGLIGIBLE), Word("supported")) == Word("supported")


@pytest.mark.parametrize(
    ("claimed", "failed", "verdict"),
    [
        ("better", (1, 0), "inconclusive"),
        ("better", (0, 1), "supported"),
        ("equivalent", (0, 1), "inconclusive"),
        ("equivalent", (1, 0), "inconclusive"),
        ("not-worse", (1, 0), "inconclusive"),
        ("not-worse", (0, 1), "supported"),
        ("worse", (1, 0), "supported"),
        ("worse", (0, 1), "inconclusive"),
        ("not-better", (0, 1), "inconclusive"),
    ],
)
def test_a_failure_rules_out_praise_of_the_arm_that_failed(claimed: str, failed: tuple[int, int], verdict: str) -> None:
    assert after_failures(claimed, Word("supported"), failed, UNEVEN, 0.05).verdict == verdict


@pytest.mark.parametrize(
    ("claimed", "verdict"),
    [
        ("better", "refuted"),
        ("equivalent", "refuted"),
        ("not-worse", "refuted"),
        ("worse", "supported"),
        ("not-better", "supported"),
    ],
)
def test_an_arm_that_fails_more_often_is_worse_whatever_its_lucky_runs_did(claimed: str, verdict: str) -> None:
    # 6 of 6 discordant pairs: one-sided p 1/64 <= .025.
    found = after_failures(claimed, Word("inconclusive"), (6, 0), Sides(1 / 64, 1.0), 0.05)
    assert str(found) == f"{verdict} (unstable)"


def test_a_refutation_that_praises_an_arm_with_failures_falls_too() -> None:
    assert after_failures("worse", Word("refuted"), (1, 0), UNEVEN, 0.05).verdict == "inconclusive"
    assert after_failures("better", Word("refuted"), (1, 0), UNEVEN, 0.05).verdict == "refuted"


def test_untuned_and_sensitive_words_say_so() -> None:
    assert str(after_tuning(Word("supported"), tuned=False)) == "supported (untuned)"
    assert (
        str(after_tuning(Word("supported", NEGLIGIBLE), True, flips=True))
        == "supported, but negligible, tuning-sensitive"
    )
    assert after_tuning(Word("inconclusive"), tuned=False) == Word("inconclusive")
