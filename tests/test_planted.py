"""Planted truth: results folders made by hand must get the right words from `bsexp report FOLDER`.

The one rule: expected words follow by hand from what was planted; numbers come from scipy; all of it is read from what
a user reads, verdicts.csv, --json and report.md, which must agree (`Told`).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bsexp.commands.report import main
from bsexp.errors import StoreError
from bsexp.store.lock import claims_hash
from bsexp.store.tables import Results
from tests.conftest import Bsexp
from tests.planted import LR, NOISE, OTHER, POINT, SEEDS, THIRD, arm, plant, report

# Of twelve pairs that differ by `spread` points in standard deviation, the 95 % interval reaches .635 spreads to each
# side and the 90 % interval .518: t(11) = 2.201 and 1.796, over the root of 12.
PLAIN = arm(0)
CONTROL = arm(-3, 0.3, OTHER)
EQUIVALENT = {"expect": "equivalent", "control": "c", "margin_points": 0.5}
BETTER = {"expect": "better"}


@pytest.fixture(autouse=True)
def _without_the_figures_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the arms' figures show is tested elsewhere, and they take most of a report's time."""
    monkeypatch.setattr("bsexp.report.figures.draw", lambda group: {})


def planted(shift: float, spread: float) -> dict[str, tuple[float, ...]]:
    """a is `shift` points above b, with a spread of `spread`; c, the control, 3 points below."""
    return {"a": arm(shift, spread), "b": PLAIN, "c": CONTROL}


@pytest.mark.parametrize(
    ("shift", "spread", "claim", "word"),
    [
        # Equal: the interval lies inside the margin of half a point, and on both sides of 0.
        (0.0, 0.3, EQUIVALENT, "supported"),
        (0.0, 0.3, BETTER, "inconclusive"),
        (0.0, 0.3, BETTER | {"margin_points": 0.5}, "refuted"),
        (0.0, 0.3, {"expect": "worse", "margin_points": 0.5}, "refuted"),
        # Equal to the last digit: nothing is better than itself, and there is no spread that could hide anything.
        (0.0, 0.0, EQUIVALENT, "supported"),
        (0.0, 0.0, BETTER, "inconclusive"),
        # Equal, but so noisy (.518 spreads are more than half a point) that nothing follows.
        (0.0, 1.1, EQUIVALENT, "inconclusive"),
        # A point, seen and beyond the margin.
        (1.0, 0.3, BETTER, "supported"),
        (1.0, 0.3, BETTER | {"margin_points": 0.5}, "supported"),
        (1.0, 0.3, EQUIVALENT, "refuted"),
        (1.0, 0.3, {"expect": "worse"}, "refuted"),
        (1.0, 0.3, {"expect": "not-better", "control": "c", "margin_points": 0.5}, "refuted"),
        (1.0, 0.3, {"expect": "not-worse", "control": "c", "margin_points": 0.5}, "supported"),
        (-1.0, 0.3, {"expect": "worse"}, "supported"),
        # A tenth of a point: not seen at a spread of .3, yet inside half a point; a margin of .2 is too narrow.
        (0.1, 0.3, BETTER, "inconclusive"),
        (0.1, 0.3, EQUIVALENT, "supported"),
        (0.1, 0.3, EQUIVALENT | {"margin_points": 0.2}, "inconclusive"),
        # Seen at a spread of .1, and still equal for whoever declared half a point to be nothing.
        (0.1, 0.1, BETTER | {"margin_points": 0.5}, "supported, but negligible"),
        (0.1, 0.1, EQUIVALENT, "supported"),
        # The margin as a share: a tenth of the control's 3 points is less than .1 + .518 * .5.
        (0.1, 0.5, EQUIVALENT | {"margin_points": None, "margin": 0.1}, "inconclusive"),
        (0.1, 0.3, EQUIVALENT | {"margin_points": None, "margin": 0.25}, "supported"),
    ],
)  # fmt: skip
def test_planted_differences_get_their_words_and_numbers(
    tmp_path: Path, capsys: Any, shift: float, spread: float, claim: dict[str, Any], word: str
) -> None:
    given = {key: value for key, value in claim.items() if value is not None}
    plant(tmp_path / "x", planted(shift, spread), [given])
    told = report(tmp_path / "x", capsys)
    assert told.word() == word
    assert told.number("num_pairs") == 12
    assert told.number("difference") == pytest.approx(POINT * shift, abs=1e-12)
    assert told.number("low") == pytest.approx(POINT * (shift - 0.6354 * spread), abs=1e-6)
    assert told.number("high") == pytest.approx(POINT * (shift + 0.6354 * spread), abs=1e-6)
    if spread:
        values = shift + spread * NOISE
        assert told.number("p") == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
        # Sums that differ by rounding are ties.
        flips = stats.permutation_test(
            (values,), lambda v, axis: np.round(v.sum(axis), 9), permutation_type="samples", n_resamples=10_000
        )
        assert told.number("p_signflip") == pytest.approx(flips.pvalue)
    said = "0.00" if not shift else f"{shift:+.2f}".replace("-", "−")
    assert f"a less b is {said} points" in told.text


def test_equal_arms_beside_a_control_that_shows_nothing_are_not_equivalent(tmp_path: Path, capsys: Any) -> None:
    arms = planted(0, 0.3) | {"c": arm(0, 0.3, OTHER)}
    plant(tmp_path / "x", arms, [EQUIVALENT, {"text": "and not worse", **EQUIVALENT, "expect": "not-worse"}])
    told = report(tmp_path / "x", capsys)
    for claim in (0, 1):
        assert told.word(claim) == "inconclusive: the experiment cannot see the effect"
    assert "“a against b” is inconclusive: the experiment cannot see the effect" in told.text


def test_a_margin_in_points_is_told_as_a_share_of_the_controls_effect_and_in_test_images(
    tmp_path: Path, capsys: Any
) -> None:
    plant(tmp_path / "x", planted(0, 0.3), [EQUIVALENT])
    predictions(tmp_path / "x", {"a": range(200), "b": range(200), "c": range(230)})
    # Half a point of 3 points, and of 1,000 images.
    assert "Margin: 0.50 points, 17 % of the control's effect, 5.0 test images." in report(tmp_path / "x", capsys).text


def predictions(folder: Path, wrong: dict[str, range]) -> None:
    """test_predictions.npz: each arm errs on the same images of 1,000, whatever the seed."""
    hashes = [f"{name}-{seed}" for name in wrong for seed in SEEDS]
    right = np.ones((1 + len(hashes), 1000))  # A row of ones above.
    for number, images in enumerate(wrong.values()):
        right[1 + number * len(SEEDS) : 1 + (number + 1) * len(SEEDS), images] = 0
    products = (right @ right.T)[np.tril_indices(len(right))]
    np.savez(folder / "test_predictions.npz", last_accuracy_products=products, config_hash=np.array(hashes))


def test_a_difference_that_rests_on_a_few_test_images_is_not_called_better(tmp_path: Path, capsys: Any) -> None:
    # Of 1,000 images b alone misses 8 and a alone 5, for every seed: .3 points, certain here. New images differ by
    # (8 + 5 - .009) / 999 in variance, so that .3 points are .83 standard errors.
    plant(tmp_path / "x", {"a": arm(0.3, 0.02), "b": PLAIN}, [BETTER])
    assert report(tmp_path / "x", capsys).word() == "supported"
    predictions(tmp_path / "x", {"a": range(195, 200), "b": range(200, 208)})
    told = report(tmp_path / "x", capsys)
    assert told.word() == "inconclusive (on new test data)"
    assert told.number("low") > 0
    assert "over new test images as well it is" in told.text


# -- failures, missing seeds, few seeds


def failed(number: int, how: str = "diverged", name: str = "a") -> dict[tuple[str, int], str]:
    return {(name, seed): how for seed in range(number)}


def absurd(made: Results) -> None:
    """What a run that failed may have left in its summary: nothing that anybody should average."""
    made.runs.loc[made.runs["status"] != "finished", ["test_accuracy", "test_loss"]] = (0.1, 1e9)


@pytest.mark.parametrize("how", ["diverged", "collapsed", "oom"])
def test_one_failed_seed_is_counted_and_rules_praise_out(tmp_path: Path, capsys: Any, how: str) -> None:
    claims = [
        EQUIVALENT,
        {"text": "better", "expect": "better", "compare": ["a", "c"]},
        {"text": "turned round", "expect": "better", "compare": ["b", "c"]},
    ]
    plant(tmp_path / "x", planted(0, 0.3), claims, status=failed(1, how), edit=absurd)
    told = report(tmp_path / "x", capsys)
    assert told.word(0) == told.word(1) == "inconclusive (failures rule it out)"
    # The arms that never failed are judged as if nothing had happened.
    assert told.word(2) == "supported"
    assert told.number("num_pairs") == 11
    assert told.number("num_pairs", 2) == 12
    # The mean is that of the eleven pairs that are there.
    assert told.number("difference") == pytest.approx(POINT * 0.3 * NOISE[1:].mean(), abs=1e-12)
    assert "a: 1 of 12 runs failed to train (95 % interval 0% to 38%)." in told.text
    assert "1 of 36 failed to train; they are counted, never averaged" in told.text
    words = {"diverged": "diverged", "collapsed": "collapsed", "oom": "ran out of memory"}
    assert f"11 of 12 (1 of 12 {words[how]})" in told.text


@pytest.mark.parametrize(
    ("number", "better", "worse"),
    [
        # Exact McNemar of 5 against 0: 1/32, above the .025 of each side. Those that trained are better by a point.
        (2, "inconclusive (failures rule it out)", "inconclusive (failures rule it out)"),
        (5, "inconclusive (failures rule it out)", "inconclusive (failures rule it out)"),
        # 6 against 0: 1/64.
        (6, "refuted (unstable)", "supported (unstable)"),
        (12, "refuted (unstable)", "supported (unstable)"),
    ],
)
def test_an_arm_that_fails_often_is_never_better_and_worse_once_it_fails_more_often_than_chance(
    tmp_path: Path, capsys: Any, number: int, better: str, worse: str
) -> None:
    for word, expected in (("better", better), ("worse", worse)):
        plant(tmp_path / word, planted(1, 0.3), [{"expect": word}], status=failed(number), edit=absurd)
        told = report(tmp_path / word, capsys)
        assert told.word() == expected
        assert told.verdicts["num_pairs"].to_list() == [12 - number]
        assert f"a: {number} of 12 runs failed to train" in told.text
        assert f"exact McNemar p {min(1, 2 * 0.5**number):.2g}" in told.text or "unstable" in expected


def test_two_arms_that_fail_alike_are_not_told_apart_by_it(tmp_path: Path, capsys: Any) -> None:
    status = failed(6) | {("b", seed): "diverged" for seed in range(6, 12)}
    plant(tmp_path / "x", planted(1, 0.3), [{"expect": "worse"}], status=status)
    told = report(tmp_path / "x", capsys)
    assert told.word().startswith("inconclusive")
    assert told.verdicts["num_pairs"].to_list() == [0]


@pytest.mark.parametrize("name", ["a", "c"])
def test_a_missing_seed_leaves_a_claim_without_a_word(tmp_path: Path, capsys: Any, name: str) -> None:
    claims = [EQUIVALENT, {"text": "b and c", "compare": ["b", "c"], "expect": "better"}]
    plant(tmp_path / "x", planted(0, 0.3), claims, missing=[(name, 7)])
    told = report(tmp_path / "x", capsys)
    assert told.word() == "inconclusive (unfinished: 1 of 12 seeds missing)"
    assert f"Not there: {name} seed 7." in told.text
    assert told.word(1) == ("supported" if name == "a" else "inconclusive (unfinished: 1 of 12 seeds missing)")


@pytest.mark.parametrize(("num", "word"), [(3, "inconclusive (fewer than 6 pairs)"), (6, "supported")])
def test_three_seeds_give_no_word_whatever_they_show(tmp_path: Path, capsys: Any, num: int, word: str) -> None:
    arms = {name: values[:num] for name, values in planted(10, 0.3).items()}
    plant(tmp_path / "x", arms, [BETTER], seeds=list(range(num)))
    told = report(tmp_path / "x", capsys)
    assert told.word() == word
    assert told.number("difference") == pytest.approx(POINT * (10 + 0.3 * NOISE[:num].mean()))
    # Two of 2^n sign flips are as extreme as all signs alike.
    assert told.number("min_p") == told.number("p_signflip") == 2 / 2**num


# -- what was declared before the data


def changed(folder: Path, **changes: Any) -> None:
    """The folder again, with a definition that differs from the one that was locked."""
    lock = (folder / "claims.lock").read_text() if (folder / "claims.lock").exists() else None
    other = folder.parent / "other"
    plant(other, planted(1, 0.3), **changes)
    (folder / "experiment.toml").write_text((other / "experiment.toml").read_text())
    assert lock is None or (folder / "claims.lock").read_text() == lock


SECOND = {"text": "b and c", "compare": ["b", "c"], "expect": "better"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"claims": [EQUIVALENT | {"margin_points": 2.0}, SECOND]}, "margin_points 0.5 became 2.0"),
        ({"claims": [EQUIVALENT | {"expect": "not-worse"}, SECOND]}, 'expect "equivalent" became "not-worse"'),
        ({"claims": [EQUIVALENT | {"compare": ["b", "a"]}, SECOND]}, 'compare ["a", "b"] became ["b", "a"]'),
        ({"claims": [EQUIVALENT | {"metric": "test_loss"}, SECOND]}, 'metric "test_accuracy" became "test_loss"'),
        ({"claims": [EQUIVALENT | {"text": "a above b", "expect": "better"}, SECOND]}, "claim added: a above b"),
    ],
)
def test_a_claim_changed_after_the_data_gets_no_word_and_the_others_keep_theirs(
    tmp_path: Path, capsys: Any, now: dict[str, Any], said: str
) -> None:
    plant(tmp_path / "x", planted(1, 0.3), [EQUIVALENT, SECOND])
    assert report(tmp_path / "x", capsys).word() == "refuted"
    changed(tmp_path / "x", **now)
    told = report(tmp_path / "x", capsys)
    assert told.word() == "exploratory"
    assert told.word(1) == "supported"
    assert told.verdicts["p_holm"].isna().to_list()[:2] == [True, False]
    assert "Changed afterwards: " in told.text
    assert said in told.text.replace("\\", "")
    assert "Declared or changed after runs had ended: an estimate, not a finding." in told.text


def test_a_claim_cannot_be_taken_back_after_the_data(tmp_path: Path, capsys: Any) -> None:
    # Alone, this claim would be supported: p is .034. Beside the second one it needs half of .05.
    arms = {"a": arm(0.21, 0.3), "b": PLAIN, "c": CONTROL}
    doubtful = {"text": "a and b, as well", "expect": "worse"}
    plant(tmp_path / "x", arms, [BETTER, doubtful])
    told = report(tmp_path / "x", capsys)
    expected = stats.ttest_1samp(0.21 + 0.3 * NOISE, 0).pvalue
    assert 0.025 < expected < 0.05
    assert told.number("p_holm") == pytest.approx(2 * expected, rel=0.2)
    assert told.word() == "inconclusive"
    changed(tmp_path / "x", claims=[BETTER])
    again = report(tmp_path / "x", capsys)
    assert "Changed afterwards: claim removed: a and b, as well." in again.text
    assert again.word() == "inconclusive"
    assert again.number("p_holm") == told.number("p_holm")
    assert again.verdicts["claim"].to_list() == ["a against b", "a and b, as well"]
    assert again.word(1) == told.word(1)


def test_a_claim_added_after_the_data_takes_nothing_from_those_before(tmp_path: Path, capsys: Any) -> None:
    arms = {"a": arm(0.21, 0.3), "b": PLAIN, "c": CONTROL}
    plant(tmp_path / "x", arms, [BETTER])
    told = report(tmp_path / "x", capsys)
    assert told.word() == "supported"
    changed(tmp_path / "x", claims=[BETTER, SECOND])
    again = report(tmp_path / "x", capsys)
    assert (again.word(), again.word(1)) == ("supported", "exploratory")
    assert again.number("p_holm") == told.number("p_holm")


def test_another_tuning_rule_after_the_data_leaves_no_word(tmp_path: Path, capsys: Any) -> None:
    plant(tmp_path / "x", planted(1, 0.3), [BETTER])
    changed(tmp_path / "x", claims=[BETTER], tune={"lr": [0.1], "seeds": [100, 101]})
    told = report(tmp_path / "x", capsys)
    assert told.word() == "exploratory"
    assert "Its tune changed after runs had ended" in told.text


def test_seeds_that_were_not_declared_are_not_used(tmp_path: Path, capsys: Any) -> None:
    # Eight declared seeds, on which a is no better; four more, on which it is by far.
    best = (*PLAIN[:8], *(value + 0.05 for value in PLAIN[8:]))
    plant(tmp_path / "x", {"a": best, "b": PLAIN, "c": CONTROL}, [BETTER], seeds=list(range(8)))
    changed(tmp_path / "x", claims=[BETTER])
    told = report(tmp_path / "x", capsys)
    assert told.number("num_pairs") == 8
    assert told.number("difference") == 0
    assert told.word() == "inconclusive"
    assert "Changed afterwards: seeds added: 8, 9, 10, 11." in told.text
    assert "Seeds 8, 9, 10, 11 are not part of the claim and were not used." in told.text


def test_without_a_lock_or_with_one_made_after_the_data_there_is_no_word(tmp_path: Path, capsys: Any) -> None:
    plant(tmp_path / "x", planted(1, 0.3), [BETTER])
    lock = tmp_path / "x" / "claims.lock"
    document = json.loads(lock.read_text())
    lock.unlink()
    told = report(tmp_path / "x", capsys)
    assert told.word() == "exploratory"
    assert "Declared without a claims.lock" in told.text
    lock.write_text(json.dumps(document | {"runs_before": 3}))
    told = report(tmp_path / "x", capsys)
    assert told.word() == "exploratory"
    assert "Declared when 3 runs were there already." in told.text


def test_a_lock_that_was_edited_is_refused(tmp_path: Path) -> None:
    plant(tmp_path / "x", planted(1, 0.3), [EQUIVALENT])
    lock = tmp_path / "x" / "claims.lock"
    document = json.loads(lock.read_text())
    document["claims"][0]["margin_points"] = 2.0
    assert claims_hash(document) != document["hash"]
    lock.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="not what was written"):
        main(str(tmp_path / "x"), {"quiet": True})


# -- learning rates, and what else differs


def test_a_rate_on_the_edge_of_its_grid_is_named_with_its_place(tmp_path: Path, capsys: Any) -> None:
    plant(tmp_path / "x", planted(1, 0.3), [BETTER], place="3 of 3")
    told = report(tmp_path / "x", capsys)
    assert told.word() == "supported"
    for name in "abc":
        note = f"{name}: the chosen learning rate 0.1 lies at the edge of its grid (3 of 3); one beyond it may do more."
        assert note in told.document["notes"]
        assert note in told.text
    assert "a: the chosen learning rate is number 3 of 3, at the edge of its grid." in told.text
    plant(tmp_path / "y", planted(1, 0.3), [BETTER])
    assert "edge of its grid" not in report(tmp_path / "y", capsys).text


def test_an_untuned_word_says_so(tmp_path: Path, capsys: Any) -> None:
    plant(tmp_path / "x", planted(1, 0.3), [BETTER, {"text": "equal", **EQUIVALENT}], place=None)
    told = report(tmp_path / "x", capsys)
    assert (told.word(0), told.word(1)) == ("supported (untuned)", "refuted (untuned)")
    assert "a: untuned; a difference may be one of learning rates." in told.text


@pytest.mark.parametrize(("half", "word"), [(0.0, "supported (tuning-sensitive)"), (0.8, "supported")])
def test_a_word_that_is_another_one_at_half_the_rates_is_tuning_sensitive(
    tmp_path: Path, capsys: Any, half: float, word: str
) -> None:
    arms = planted(1, 0.3) | {"a[lr_factor=0.5]": arm(half, 0.3, THIRD), "b[lr_factor=0.5]": PLAIN}
    variants = {f"{name}[lr_factor=0.5]": {"of": name, "what": "lr_factor=0.5"} for name in "ab"}
    rates = {f"{name}[lr_factor=0.5]": {"of": name, "times": 0.5} for name in "ab"}

    def halved(made: Results) -> None:
        for frame in (made.runs, made.evals):
            frame.loc[frame["arm"].isin(variants), "lr"] = LR / 2

    plant(tmp_path / "x", arms, [BETTER], edit=halved, variants=variants, rates=rates)
    told = report(tmp_path / "x", capsys)
    assert told.word() == word
    threat = "Claim 1: Tuning-sensitive: at half or twice the learning rates the word is another one."
    assert (threat in told.text) == (not half)
    flipped = "inconclusive" if not half else "supported"
    row = next(line for line in told.text.split("\n") if line.startswith("| 1. | with lr\\_factor=0.5"))
    assert f"| {flipped} |" in row


@pytest.mark.parametrize(("shrink", "told_apart"), [(0.0112, True), (0.0110, False)])
def test_a_planted_difference_in_weight_decay_is_told_with_its_size(
    tmp_path: Path, capsys: Any, shrink: float, told_apart: bool
) -> None:
    def decayed(made: Results) -> None:
        made.runs.loc[made.runs["arm"] == "a", "total_shrink"] = shrink

    plant(tmp_path / "x", planted(1, 0.3), [BETTER], edit=decayed)
    # .010 is 10.7 % less than .0112, and 9.1 % less than .0110: only the first is above 10 %.
    sentence = "Total shrink (sum of lr x weight decay) differs by 11 %: a 0.0112, b 0.01. Weight decay may explain"
    text = report(tmp_path / "x", capsys).text
    assert (sentence in text) == told_apart
    assert ("Total shrink" in text) == told_apart


def test_a_changed_warm_up_is_told_in_samples(tmp_path: Path, capsys: Any) -> None:
    asked = plant(tmp_path / "x", planted(1, 0.3), [BETTER])
    assert "Warm-up differs" not in report(tmp_path / "x", capsys).text
    asked["arms"]["a"]["warmup_epochs"] = 0.4
    # .4 epochs of 100 samples.
    plant(tmp_path / "y", planted(1, 0.3), [BETTER], arms=asked["arms"])
    told = report(tmp_path / "y", capsys)
    assert told.word() == "supported"
    assert "Claim 1: Warm-up differs: a 40 samples, b 0." in told.text


def test_losses_are_told_in_their_own_direction(tmp_path: Path, capsys: Any) -> None:
    # Made losses are 1 less the accuracy: a, better by a point, has .01 nats less.
    plant(tmp_path / "x", planted(1, 0.3), [BETTER | {"metric": "test_loss"}])
    told = report(tmp_path / "x", capsys)
    assert told.word() == "supported"
    assert told.number("difference") == pytest.approx(-0.01)
    assert told.number("low") < told.number("high") < 0
    assert "in test loss a less b is −0.0100 nats" in told.text


def test_the_program_itself_tells_the_same(tmp_path: Path, capsys: Any, bsexp: Bsexp) -> None:
    plant(tmp_path / "results" / "x", planted(0.1, 0.3), [EQUIVALENT, SECOND])
    here = report(tmp_path / "results" / "x", capsys)
    verdicts = (tmp_path / "results" / "x" / "report" / "verdicts.csv").read_bytes()
    found = bsexp("report", "results/x", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == here.document
    assert (tmp_path / "results" / "x" / "report" / "verdicts.csv").read_bytes() == verdicts
    assert (tmp_path / "results" / "x" / "report" / "final.png").exists()
