"""Verdicts on experiments with a planted truth, on degenerate ones, and on families of claims."""

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bsexp.analysis.claims import Claim, Failures, Record, Verdict
from bsexp.analysis.exact import holm, sign_flip
from bsexp.analysis.gathering import gather, pick
from bsexp.analysis.judging import explore, judge
from bsexp.analysis.paired import Estimate
from bsexp.analysis.words import BLIND, NEGLIGIBLE, WORDS
from bsexp.errors import UsageError
from bsexp.store.products import Products, Row

SEEDS = tuple(range(12))
Runs = dict[tuple[str, int], Record]


def finished(**values: float | None) -> Record:
    return Record("finished", values)


def runs(seeds: Iterable[int] = SEEDS, spread: float = 0.003, key: int = 0, **means: float) -> Runs:
    """Arms whose seeds share luck (.01) and some of their own (`spread`): accuracies, and losses 1 less them."""
    random = np.random.default_rng(key)
    found: Runs = {}
    for seed in seeds:
        luck = random.normal(0, 0.01)
        for arm, mean in means.items():
            accuracy = mean + luck + random.normal(0, spread)
            found[arm, seed] = finished(test_accuracy=accuracy, test_loss=1 - accuracy)
    return found


def claim(word: str = "better", **changes: Any) -> Claim:
    settings_of: dict[str, Any] = {
        "name": "c",
        "arms": ("a", "b"),
        "outcome": "test_accuracy",
        "word": word,
        "seeds": SEEDS,
    }
    return Claim(**{**settings_of, **changes})


def only(verdicts: list[Verdict]) -> Verdict:
    assert len(verdicts) == 1
    assert_no_nan(verdicts[0])
    return verdicts[0]


def assert_no_nan(verdict: Verdict) -> None:
    for each in fields(verdict):
        value = getattr(verdict, each.name)
        parts = [value] if isinstance(value, float) else []
        if isinstance(value, Estimate):
            parts = [part for part in (value.mean, value.low, value.high) if part is not None]
        if isinstance(value, tuple):
            parts = [part for part in value if isinstance(part, float)]
        assert not any(math.isnan(part) for part in parts), each.name


EQUIVALENT = {"word": "equivalent", "control": "c", "margin": 0.25}


def test_equal_arms_are_equivalent_where_the_control_shows_an_effect() -> None:
    found = only(judge([claim(**EQUIVALENT, num_test=10_000)], runs(a=0.85, b=0.85, c=0.80)))
    assert found.text == "supported"
    assert found.num_pairs == 12
    assert found.control_effect is not None
    assert found.control_effect.mean == pytest.approx(0.05, abs=0.004)
    # A quarter of some 5 points: 1.25 points, 125 of 10,000 images.
    assert found.margin == pytest.approx(0.25 * found.control_effect.mean)
    assert found.margin_images == pytest.approx(125, abs=10)
    assert found.margin_share == 0.25


def test_equal_arms_beside_a_control_that_is_equal_too_say_nothing() -> None:
    for word in ("equivalent", "not-worse", "not-better"):
        found = only(judge([claim(**{**EQUIVALENT, "word": word})], runs(a=0.85, b=0.85, c=0.85)))
        assert found.text == f"inconclusive: {BLIND}"
    in_points = claim("equivalent", control="c", margin_points=1.0)
    assert only(judge([in_points], runs(a=0.85, b=0.85, c=0.85))).text == f"inconclusive: {BLIND}"


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("better", "supported"),
        ("worse", "refuted"),
        ("equivalent", "refuted"),
        ("not-worse", "supported"),
        ("not-better", "refuted"),
    ],
)
def test_a_shift_of_a_point_is_seen_by_every_word(word: str, text: str) -> None:
    # 1 point, spread of a difference .42 points, standard error .12; the margin is a quarter of 2 points.
    found = only(judge([claim(word, control="c", margin=0.25)], runs(a=0.86, b=0.85, c=0.83)))
    assert found.text == text
    assert found.estimate is not None
    assert found.estimate.mean == pytest.approx(0.01, abs=0.004)


def test_a_control_that_ended_better_gives_no_margin() -> None:
    found = only(judge([claim("equivalent", control="c", margin=0.25)], runs(a=0.85, b=0.85, c=0.87)))
    assert found.text == "inconclusive: the experiment cannot see the effect"
    assert found.margin is None
    assert "No margin: the control c didn't end worse, and the margin is a share of that." in found.notes


def test_a_shift_of_a_tenth_of_a_point_is_too_small_to_be_a_word_and_small_enough_to_be_equivalent() -> None:
    data = runs(a=0.851, b=0.85, c=0.80)
    assert only(judge([claim()], data)).text == "inconclusive"
    assert only(judge([claim(**EQUIVALENT)], data)).text == "supported"


def test_a_certain_but_small_difference_is_called_negligible() -> None:
    data = runs(a=0.851, b=0.85, c=0.80, spread=0.0003)
    found = only(judge([claim("better", control="c", margin=0.25)], data))
    assert found.text == f"supported, {NEGLIGIBLE}"


def test_losses_are_negated_so_that_better_means_lower() -> None:
    data = runs(a=0.86, b=0.85)
    by_loss = only(judge([claim(outcome="test_loss")], data))
    assert by_loss.text == "supported"
    assert by_loss.estimate is not None
    assert by_loss.estimate.mean > 0
    assert only(judge([claim(outcome="test_loss", lower_is_better=False)], data)).text == "refuted"


def test_numbers_agree_with_scipy() -> None:
    data = runs(a=0.853, b=0.85)
    found = only(judge([claim()], data))
    first, second = ([data[arm, seed].values["test_accuracy"] for seed in SEEDS] for arm in "ab")
    expected = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.estimate is not None
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p_sign_flip == sign_flip(np.subtract(first, second)).two_sided  # type: ignore[arg-type]
    assert found.min_p == 2 / 2**12


def test_equivalence_agrees_with_statsmodels() -> None:
    from statsmodels.stats.weightstats import ttost_paired

    data = runs(a=0.852, b=0.85, c=0.8)
    found = only(judge([claim("equivalent", control="c", margin_points=0.5)], data))
    first, second = (np.array([data[arm, seed].values["test_accuracy"] for seed in SEEDS], dtype=float) for arm in "ab")
    assert found.p_equivalence == pytest.approx(ttost_paired(first, second, -0.005, 0.005)[0])


def fail(data: Runs, arm: str, seeds: Iterable[int], status: str = "diverged") -> Runs:
    return {**data, **{(arm, seed): Record(status) for seed in seeds}}


@pytest.mark.parametrize("status", ["diverged", "collapsed", "oom"])
def test_one_failure_rules_out_better_and_equivalent_and_nothing_is_averaged_over_it(status: str) -> None:
    data = fail(runs(a=0.86, b=0.85, c=0.8), "a", [3], status)
    found = only(judge([claim()], data))
    assert found.text == "inconclusive (failures rule it out)"
    assert found.num_pairs == 11
    assert found.failures["a"] == Failures(1, 12, pytest.approx(0.0021, abs=1e-4), pytest.approx(0.3848, abs=1e-4))
    assert found.p_failures == 1.0
    assert any("1 of 12 runs failed" in note for note in found.notes)
    assert only(judge([claim(**EQUIVALENT)], fail(runs(a=0.85, b=0.85, c=0.8), "b", [3], status))).text.startswith(
        "inc"
    )
    assert only(judge([claim(arms=("b", "a"), word="worse")], data)).text == "inconclusive (failures rule it out)"


def test_a_finished_run_with_an_infinite_loss_has_failed() -> None:
    data = {**runs(a=0.86, b=0.85), ("a", 2): finished(test_loss=math.inf)}
    found = only(judge([claim(outcome="test_loss")], data))
    assert (found.num_pairs, found.failures["a"].count) == (11, 1)


def test_an_arm_that_fails_on_half_its_seeds_is_worse() -> None:
    data = fail(runs(a=0.9, b=0.85), "a", range(6))
    assert only(judge([claim()], data)).text == "refuted (unstable)"
    assert only(judge([claim("worse")], data)).text == "supported (unstable)"
    two = fail(runs(a=0.9, b=0.85), "a", range(2))
    # 2 against 0 has an exact p of .5: no praise, and no verdict either.
    assert only(judge([claim("worse")], two)).text != "supported (unstable)"
    assert only(judge([claim()], two)).text == "inconclusive (failures rule it out)"


def test_where_everything_diverged_there_is_no_estimate_and_no_word() -> None:
    data = fail(fail(runs(a=0.9, b=0.85), "a", SEEDS), "b", SEEDS)
    found = only(judge([claim()], data))
    assert (found.text, found.num_pairs, found.estimate, found.p) == (
        "inconclusive (fewer than 6 pairs)",
        0,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (None, "unfinished: 1 of 12 seeds missing"),
        (Record("failed"), "unfinished: 1 of 12 seeds missing"),
        (finished(test_accuracy=None), "not measured on 1 of 12 seeds"),
        (finished(test_accuracy=math.nan), "not measured on 1 of 12 seeds"),
    ],
)
def test_a_missing_seed_leaves_the_claim_unfinished(record: Record | None, why: str) -> None:
    data = runs(a=0.86, b=0.85)
    del data["b", 4]
    if record:
        data["b", 4] = record
    found = only(judge([claim()], data))
    assert found.text == f"inconclusive ({why})"
    assert found.num_pairs == 11
    assert any("b seed 4" in note for note in found.notes)


def test_seeds_added_later_are_not_used() -> None:
    data = {**runs(a=0.85, b=0.85), **runs(range(12, 40), a=0.95, b=0.85)}
    found = only(judge([claim()], data))
    assert found.num_pairs == 12
    assert any("12, 13" in note and "not part of the claim" in note for note in found.notes)


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_fewer_than_six_pairs_get_no_word(num: int) -> None:
    data = runs(range(num), a=0.95, b=0.85, c=0.5, spread=1e-5)
    for word in ("better", "equivalent"):
        found = only(judge([claim(word, seeds=tuple(range(num)), control="c", margin=0.25)], data))
        assert found.text == "inconclusive (fewer than 6 pairs)"
        assert found.estimate is not None
        assert found.estimate.num == num
    assert (found.p is None) == (num == 1)


def constant(**values: float) -> Runs:
    return {(arm, seed): finished(test_accuracy=value) for arm, value in values.items() for seed in SEEDS}


def test_degenerate_outcomes_have_defined_verdicts() -> None:
    perfect = only(judge([claim()], constant(a=1.0, b=1.0)))
    assert (perfect.text, perfect.estimate, perfect.p, perfect.p_sign_flip) == (
        "inconclusive",
        Estimate(0.0, 0.0, 0.0, 12),
        1.0,
        1.0,
    )
    assert any("no spread" in note for note in perfect.notes)
    assert only(judge([claim(**EQUIVALENT)], constant(a=1.0, b=1.0, c=0.9))).text == "supported"
    assert only(judge([claim(**EQUIVALENT)], constant(a=1.0, b=1.0, c=1.0))).text == f"inconclusive: {BLIND}"
    shifted = only(judge([claim()], constant(a=0.9, b=0.8)))
    assert (shifted.text, shifted.p) == ("supported", 0.0)
    # .3 - .2 and .2 - .1 in floating point: rounding is no difference.
    rounded = only(judge([claim("equivalent", control="c", margin_points=10.0)], constant(a=0.3, b=0.2, c=0.0)))
    assert rounded.text == "inconclusive"


def test_an_outlier_that_t_and_sign_flips_see_differently_gives_no_word() -> None:
    # All 8 differences above 0: sign flips say 2/256. One of them is huge: t says .3.
    values = [0.01, 0.011, 0.012, 0.013, 0.014, 0.015, 0.016, 0.9]
    data = {("a", k): finished(test_accuracy=value) for k, value in enumerate(values)}
    data |= {("b", k): finished(test_accuracy=0.0) for k in range(8)}
    found = only(judge([claim(seeds=tuple(range(8)))], data))
    assert found.p is not None
    assert found.p > 0.3
    assert found.p_sign_flip == 2 / 256
    assert found.text == "inconclusive (tests disagree)"


def with_examples(data: Runs, random: np.random.Generator, shared: float) -> Runs:
    """Adds per-image losses that average to test_loss and whose differences between arms share a part over seeds."""
    pattern = {arm: random.normal(0, shared, 400) for arm in {arm for arm, _ in data}}
    losses = []
    for (arm, _), record in data.items():
        noise = pattern[arm] + random.normal(0, 0.01, 400)
        losses.append(record.values["test_loss"] + noise - noise.mean())
    table = Products.of(losses)
    return {
        key: Record(record.status, record.values, {"test_loss": Row(table, place)})
        for place, (key, record) in enumerate(data.items())
    }


def test_a_difference_that_rests_on_this_test_set_is_no_word() -> None:
    data = runs(a=0.86, b=0.85)
    small = only(judge([claim(outcome="test_loss")], with_examples(data, np.random.default_rng(0), 0.01)))
    assert small.text == "supported"
    large = only(judge([claim(outcome="test_loss")], with_examples(data, np.random.default_rng(0), 0.5)))
    assert large.text == "inconclusive (on new test data)"
    assert large.new_data is not None
    assert large.estimate is not None
    assert large.new_data.mean == pytest.approx(large.estimate.mean)
    assert large.new_data.half_width > 3 * large.estimate.half_width  # type: ignore[operator]


def test_a_family_is_tested_by_holm_over_its_least_favourable_tests() -> None:
    data = runs(a=0.8505, b=0.85, d=0.87, e=0.8512)
    pairs = [("a", "b"), ("d", "b"), ("e", "b")]
    claims = [claim(name=f"{one}{other}", arms=(one, other)) for one, other in pairs]
    found = judge(claims, data)
    p_values = [max(each.p, each.p_sign_flip) for each in found]  # type: ignore[type-var]
    expected = holm(p_values)  # type: ignore[arg-type]
    assert [each.alpha for each in found] == list(expected.alphas)
    assert [each.p_holm for each in found] == pytest.approx(list(expected.adjusted))
    assert [each.verdict for each in (v.word for v in found) if each] == ["inconclusive", "supported", "inconclusive"]
    alone = only(judge([claims[0]], data))
    assert alone.alpha == 0.05
    for each in found:
        assert each.word is not None
        assert (each.word.verdict == "supported") == ((each.p_holm or 0) <= 0.05)


def test_with_looks_the_adjusted_p_is_below_alpha_exactly_where_the_look_gives_the_word() -> None:
    seeds = tuple(range(16))
    words = []
    for key in range(12):
        data = runs(seeds, spread=0.006, key=key, a=0.858, b=0.85)
        pair = [
            claim(name=name, arms=arms, seeds=seeds, looks=(12, 16))
            for name, arms in (("1", ("a", "b")), ("2", ("b", "a")))
        ]
        found = judge(pair, data)[0]
        assert found.word is not None
        words.append((found.word.verdict, found.look))
        assert (found.word.verdict == "supported") == ((found.p_holm or 0) <= 0.05)
    # Both looks give words, and one of the experiments gives none.
    assert {"supported", "inconclusive"} <= {verdict for verdict, _ in words}
    assert {look for verdict, look in words if verdict == "supported"} == {12, 16}


def test_a_family_too_large_for_its_seeds_is_told_so() -> None:
    data = runs(range(6), a=0.9, b=0.8)
    seeds = tuple(range(6))
    claims = [claim(name=str(k), seeds=seeds, outcome=o) for k, o in enumerate(["test_accuracy", "test_loss"])]
    for found in judge(claims, data):
        # 2/64 = .031 is above .05 / 2.
        assert found.text == "inconclusive (tests disagree)"
        assert any("smallest sign-flip p of 6 pairs is 0.031" in note for note in found.notes)


def test_the_best_of_a_set_is_picked_on_tuning_seeds_alone() -> None:
    arms = (("a", "a2"), ("b", "b2"))
    data = runs(a=0.90, a2=0.86, b=0.85, b2=0.80)
    tuning = {"a": 0.5, "a2": 0.4, "b": 0.4, "b2": 0.6}
    data |= {(arm, seed): finished(val_loss=loss) for arm, loss in tuning.items() for seed in (100, 101)}
    best = claim(arms=arms, kind="best-of-a-set", tuning_seeds=(100, 101))
    found = only(judge([best], data))
    # a is best where it is reported, but a2 was best where it could be looked at.
    assert found.arms == ("a2", "b")
    assert found.text == "supported"
    assert any("a2 was picked of a, a2" in note for note in found.notes)
    data["a2", 101] = Record("diverged")
    assert only(judge([best], data)).arms == ("a", "b")
    assert pick(["b2", "b"], data, [100, 101]) == "b"
    none = only(judge([best], {key: value for key, value in data.items() if key[1] < 100}))
    assert (none.text, none.num_pairs) == ("inconclusive", 0)
    # A set of one has nothing to pick: with another's rate it has no tuning of its own.
    one = claim(arms=(("a", "a2"), ("b",)), kind="best-of-a-set", tuning_seeds=(100, 101))
    found = only(judge([one], {key: value for key, value in data.items() if key not in (("b", 100), ("b", 101))}))
    assert (found.arms, found.text) == (("a", "b"), "supported")


def costs(first: list[float], second: list[float]) -> Runs:
    found = {("a", k): finished(samples_to_target=cost) for k, cost in enumerate(first)}
    return found | {("b", k): finished(samples_to_target=cost) for k, cost in enumerate(second)}


def test_a_ratio_of_costs_is_judged_by_signs_and_counts_misses() -> None:
    eight = tuple(range(8))
    ratio = claim(kind="ratio", outcome="samples_to_target", seeds=eight)
    data = costs([50.0] * 7 + [60.0], [100.0] * 6 + [math.inf, 120.0])
    found = only(judge([ratio], data))
    assert found.text == "supported"
    assert found.p_sign_flip == 2 / 256
    assert found.median is not None
    assert found.median[0] == 1.0
    assert found.estimate is None
    data["a", 0] = Record("diverged")
    data["a", 1] = finished(samples_to_target=math.inf)
    assert only(judge([ratio], data)).text == "inconclusive"
    missed = only(
        judge(
            [claim("equivalent", kind="ratio", outcome="samples_to_target", margin=0.5, seeds=eight)],
            costs([math.inf] * 8, [math.inf] * 8),
        )
    )
    assert missed.text == "inconclusive"
    assert any("missed the target on 8 seeds" in note for note in missed.notes)


def test_a_slope_is_fitted_per_seed() -> None:
    random = np.random.default_rng(0)
    arms, positions = ("b16", "b32", "b64", "b128"), (16.0, 32.0, 64.0, 128.0)
    data = {
        (arm, seed): finished(best_lr=0.01 * (place / 16) ** 0.5 * 2 ** random.normal(0, 0.05))
        for arm, place in zip(arms, positions, strict=True)
        for seed in SEEDS
    }
    slope: dict[str, Any] = {"kind": "slope", "arms": arms, "positions": positions, "outcome": "best_lr", "margin": 0.1}
    assert only(judge([claim("equivalent", expected=0.5, **slope)], data)).text == "supported"
    linear = only(judge([claim("equivalent", expected=1.0, **slope)], data))
    assert linear.text == "refuted"
    logs = np.log2([[data[arm, seed].values["best_lr"] for arm in arms] for seed in SEEDS])  # type: ignore[arg-type]
    slopes = [stats.linregress(np.log2(positions), row).slope for row in logs]
    assert linear.estimate is not None
    assert linear.estimate.mean == pytest.approx(np.mean(slopes) - 1.0)


def test_the_first_look_with_a_word_stands() -> None:
    seeds = tuple(range(32))
    looking = claim(seeds=seeds, looks=(8, 16, 32))
    large = only(judge([looking], runs(range(16), a=0.9, b=0.85)))
    # 8 pairs have a sign-flip p of .0078 at least, more than the first look may spend: the second one says it.
    assert (large.look, large.num_pairs, large.text) == (16, 16, "supported")
    early = only(judge([looking], runs(range(11), a=0.9, b=0.85)))
    assert (early.look, early.num_pairs, early.text) == (8, 8, "inconclusive (tests disagree)")
    last = only(judge([looking], runs(seeds, a=0.85, b=0.85), generator=np.random.default_rng(0)))
    assert (last.look, last.text) == (32, "inconclusive")
    late = {**runs(range(16), a=0.9, b=0.85), **runs(range(16, 32), a=0.5, b=0.85)}
    assert only(judge([looking], late)).look == 16


def test_a_pair_that_nobody_declared_gets_an_estimate_and_no_word() -> None:
    found = explore("a", "b", "test_accuracy", runs(a=0.9, b=0.85), SEEDS)
    assert (found.text, found.word, found.num_pairs) == ("exploratory", None, 12)
    assert found.estimate is not None
    assert found.notes[-1].startswith("Nobody declared")


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"word": "beter"}, "did you mean 'better'"),
    ({"kind": "ratios"}, "ratio"),
    ({"word": "equivalent"}, "needs a margin"),
    ({"word": "equivalent", "margin_points": 1.0}, "needs an arm that is known to be worse"),
    ({"margin": 0.25}, "share of an effect"),
    ({"margin": 0.25, "margin_points": 1.0, "control": "c"}, "give one"),
    ({"margin_points": 0.0}, "above 0"),
    ({"margin_points": math.nan}, "above 0"),
    ({"seeds": ()}, "at least one seed"),
    ({"seeds": (1, 1)}, "each once"),
    ({"tuning_seeds": (0, 100)}, "never reported"),
    ({"arms": ("a", "a")}, "two different arms"),
    ({"arms": ("a", "b", "c")}, "two different arms"),
    ({"arms": (("a",), ("b",))}, "best-of-a-set"),
    ({"kind": "best-of-a-set", "arms": (("a",), ("b",))}, "picked on seeds"),
    ({"kind": "slope", "arms": ("a", "b", "c"), "positions": (1.0, 2.0)}, "3"),
    ({"kind": "ratio", "margin_points": 1.0}, "own unit"),
    ({"looks": (8, 16)}, "rise"),
    ({"looks": (12, 8)}, "rise"),
]


@pytest.mark.parametrize(("changes", "message"), CHANGES)
def test_a_claim_that_cannot_be_judged_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        claim(**changes)


def test_no_claims_and_doubled_ones() -> None:
    assert judge([], {}) == []
    with pytest.raises(UsageError, match="name each once"):
        judge([claim(), claim()], {})
    nothing = only(judge([claim()], {}))
    assert (nothing.text, nothing.num_pairs) == ("inconclusive (unfinished: 12 of 12 seeds missing)", 0)


def test_margins_are_contrasts_within_seeds_not_of_means() -> None:
    # g - .75 d - .25 c and g - 1.25 d + .25 c, per seed; the control effects are .02 and .1, the margins .005 and .025.
    outcomes = {"a": (0.86, 0.80), "b": (0.85, 0.80), "c": (0.83, 0.70)}
    data = {(arm, seed): finished(test_accuracy=values[seed]) for arm, values in outcomes.items() for seed in (0, 1)}
    found = gather(claim(**{**EQUIVALENT, "seeds": (0, 1)}), data)
    assert found is not None
    assert found.contrasts.difference == pytest.approx([0.01, 0.0])
    assert found.contrasts.lower == pytest.approx([0.015, 0.025])
    assert found.contrasts.upper == pytest.approx([0.005, -0.025])
    assert found.contrasts.control == pytest.approx([0.02, 0.1])


def test_refutations_are_tested_at_the_families_share_whatever_holm_passes_on() -> None:
    # One claim is supported, so Holm tests the other at .05; its refutation has a p between .025 and .05.
    def refuting(key: int) -> float:
        data = runs(key=key, a=0.8485, b=0.85)
        values = np.array([data["a", s].values["test_accuracy"] - data["b", s].values["test_accuracy"] for s in SEEDS])  # type: ignore[operator]
        p_values = (stats.ttest_1samp(values, 0, alternative="less").pvalue, sign_flip(values).below)
        return max(p_values) if min(p_values) > 0.025 else 1.0

    key = next(key for key in range(1000) if refuting(key) < 0.05)
    data = {**runs(key=key, a=0.8485, b=0.85), **runs(key=5, d=0.95, e=0.85)}
    first, second = judge([claim(name="1"), claim(name="2", arms=("d", "e"))], data)
    assert (first.alpha, second.text) == (0.05, "supported")
    assert first.text == "inconclusive"
    assert only(judge([claim()], data)).text == "refuted"


def test_a_claim_that_failures_rule_out_hands_no_level_on() -> None:
    data = fail({**runs(a=0.9, b=0.85), **runs(key=1, d=0.85, e=0.85)}, "a", [3])
    first, second = judge([claim(name="1"), claim(name="2", arms=("d", "e"))], data)
    assert (first.p_support, first.p_holm, second.alpha) == (1.0, 1.0, 0.025)


def test_for_a_ratio_a_failure_is_a_miss_and_no_more() -> None:
    data = costs([50.0] * 12, [100.0] * 12)
    data["a", 4] = Record("diverged")
    found = only(judge([claim(kind="ratio", outcome="samples_to_target")], data))
    # 11 of 12 signs: 2 (1 + 12) / 4096 = .0063.
    assert (found.text, found.num_pairs) == ("supported", 12)
    assert found.p_sign_flip == pytest.approx(26 / 4096)
    # The miss is counted among the signs, and nowhere else.
    assert found.p_holm == pytest.approx(26 / 4096)


def test_between_a_ratio_and_a_miss_the_median_is_the_miss() -> None:
    data = costs([50.0] * 12, [100.0] * 6 + [math.inf] * 6)
    found = only(judge([claim(kind="ratio", outcome="samples_to_target")], data))
    assert found.median is not None
    assert found.median[0] == math.inf


def test_an_arm_that_always_misses_needs_infinitely_more() -> None:
    data = costs([50.0] * 12, [math.inf] * 12)
    found = only(judge([claim(kind="ratio", outcome="samples_to_target")], data))
    assert (found.text, found.median) == ("supported", (math.inf, math.inf, math.inf))


def test_new_data_are_judged_on_the_seeds_on_which_both_arms_trained() -> None:
    data = with_examples(runs(a=0.86, b=0.85), np.random.default_rng(0), 0.01)
    data["b", 3] = Record("diverged")
    found = only(judge([claim(outcome="test_loss")], data))
    assert found.text == "supported"
    assert found.new_data is not None
    assert found.new_data.num == 11


records = st.builds(
    Record,
    st.sampled_from(["finished"] * 8 + ["diverged", "collapsed", "oom", "failed"]),
    st.fixed_dictionaries(
        {
            "test_accuracy": st.sampled_from([0.0, 0.5, 0.5001, 0.9, 1.0, None, math.nan]),
            "test_loss": st.sampled_from([0.1, 0.1, 0.3, 1e30, math.inf, None]),
            "samples_to_target": st.sampled_from([1.0, 2.0, 64.0, math.inf]),
        }
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(0, 7)), records), st.sampled_from(WORDS))
def test_whatever_the_runs_are_a_verdict_is_defined(data: Runs, word: str) -> None:
    seeds = tuple(range(8))
    claims = [
        claim(word, name="1", seeds=seeds, control="c", margin=0.25),
        claim(word, name="2", seeds=seeds, control="c", margin_points=1.0, outcome="test_loss"),
        claim(word, name="3", seeds=seeds, kind="ratio", margin=0.5, outcome="samples_to_target"),
    ]
    for found in judge(claims, data):
        assert_no_nan(found)
        assert found.word is not None
        assert found.word.verdict in ("supported", "refuted", "inconclusive")
        assert str(found.word)
    swapped = {(("b", "a", "c")["abc".index(arm)], seed): record for (arm, seed), record in data.items()}
    for claimed, mirrored in (("better", "worse"), ("worse", "better")):
        one = only(judge([claim(claimed, seeds=seeds)], data))
        other = only(judge([claim(mirrored, seeds=seeds)], swapped))
        assert one.text == other.text
