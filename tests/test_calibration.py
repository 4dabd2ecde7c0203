"""The calibration itself: what counts as wrong, by hand; that it runs; and that a judge who errs would be noticed."""

from pathlib import Path

import numpy as np
import pytest

from bsexp.analysis.claims import Record
from bsexp.analysis.judging import judge
from tests.calibration import scenarios
from tests.calibration.__main__ import PARTS, main
from tests.calibration.scenarios import Row, family
from tests.calibration.truth import SEEDS, World, claim, is_wrong


@pytest.mark.parametrize(
    ("word", "verdict", "difference", "margin", "wrong"),
    [
        ("better", "supported", 0.0, 0.5, True),
        ("better", "supported", 0.1, 0.5, False),
        ("better", "refuted", 0.1, 0.5, False),  # better, but by less than the margin
        ("better", "refuted", 0.5, 0.5, True),
        ("better", "refuted", 0.1, 0.0, True),
        ("worse", "refuted", -0.5, 0.5, True),
        ("equivalent", "supported", 0.5, 0.5, True),
        ("equivalent", "refuted", 0.4, 0.5, True),
        ("equivalent", "refuted", 0.6, 0.5, False),
        ("not-worse", "supported", -0.5, 0.5, True),
        ("not-worse", "refuted", -0.4, 0.5, True),
        ("not-better", "supported", 0.6, 0.5, True),
        ("better", "inconclusive", 0.6, 0.5, False),
    ],
)
def test_what_is_wrong(word: str, verdict: str, difference: float, margin: float, wrong: bool) -> None:
    assert is_wrong(word, verdict, difference, margin) == wrong


def test_true_differences_and_margins_are_those_of_the_means() -> None:
    world = World({"a": 0.86, "b": 0.85, "c": 0.83})
    given = claim("equivalent", control="c", margin=0.25)
    assert (world.difference(given), world.margin(given)) == (pytest.approx(0.01), pytest.approx(0.005))
    runs = world.draw(np.random.default_rng(0))
    assert len(runs) == 3 * len(SEEDS)


def test_bounds_are_three_standard_errors() -> None:
    # sqrt(.05 * .95 / 2000) = .004873
    assert Row("", "", "wrong", 129, 2000, 0.05).holds
    assert not Row("", "", "wrong", 130, 2000, 0.05).holds
    assert Row("", "", "wrong", 0, 2000, 0.05).holds
    assert not Row("", "", "covers", 1860, 2000, 0.95).holds
    assert not Row("", "", "covers", 1950, 2000, 0.95).holds


def test_a_judge_who_asks_for_too_little_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world, given = World({"a": 0.85, "b": 0.85}), [claim("better")]
    honest = family("", world, given, 400, 0)
    assert all(row.holds for row in honest)
    real = scenarios.judge
    monkeypatch.setattr(scenarios, "judge", lambda claims, runs, generator: real(claims, runs, alpha=0.3))
    assert not family("", world, given, 400, 0)[0].holds


@pytest.mark.long
def test_everything_holds_on_a_small_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # At 100 experiments the tails of 27 binomial counts reach beyond 3 standard errors in one of ten tries.
    assert main(400, tmp_path) == 0
    told = (tmp_path / "README.md").read_text()
    assert all(f"## {title}" in told for title, _ in PARTS)
    assert "**no**" not in told
    assert "nan" not in (tmp_path / "calibration.csv").read_text()


def test_a_word_that_real_runs_make_up_is_counted_as_wrong() -> None:
    from tests.calibration.real import CLAIMS, SEEDS, Told, rows_of

    random = np.random.default_rng(0)

    def told(gain: float) -> Told:
        """An experiment in which `a` came out better than `b` by `gain`, the control far below both."""
        means = {"a": 0.8 + gain, "b": 0.8, "c": 0.5}
        records = {}
        for arm, mean in means.items():
            for seed in SEEDS:
                accuracy = mean + 0.01 * random.standard_normal()
                records[arm, seed] = Record("finished", {"test_accuracy": accuracy, "test_loss": 1 - accuracy})
        alone = [judge([claim], records, generator=random)[0] for claim in CLAIMS]
        return Told(alone, judge(CLAIMS, records, generator=random))

    rows = {row.what: row for row in rows_of([told(0.0), told(0.2)])}
    # By chance alone `a` and `b` never come out .2 apart: whoever says "better" then, or "not equivalent", errs.
    for what in ("better", "equivalent"):
        assert rows[f"wrong: {what} in test_accuracy"].count == rows[f"wrong: {what} in test_loss"].count == 1
    assert rows["wrong: worse in test_loss"].count == 0
    assert rows["95 % interval over seeds covers 0, test_accuracy"].count == 1
    assert rows["any wrong word in a family of 8"].count == 1
