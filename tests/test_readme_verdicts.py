"""README's verdicts are those of the committed results, and the committed results give their verdicts again.

The one rule: nothing in README about what was found is written by hand.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bsexp.analysis.verdicts import judge_results
from bsexp.commands.report import main
from bsexp.report.verdicts import verdict_frame, verdicts_csv
from bsexp.store.paths import Experiment
from bsexp.store.tables import load_results
from tests.conftest import ROOT
from tests.planted import arm, plant
from tests.readme_verdicts import BEGIN, CHANGED, END, judged, section, updated, verdicts

COMMITTED = judged(ROOT / "results")
README = (ROOT / "README.md").read_text("utf-8")


def test_readme_says_what_the_committed_verdicts_say() -> None:
    assert updated(README, section(ROOT / "results")) == README
    # Without any verdict there is no section either, not even an empty one.
    assert (BEGIN in README) == (END in README) == bool(COMMITTED)


def test_every_claim_of_a_committed_experiment_is_in_readme() -> None:
    for place in COMMITTED:
        table = pd.read_csv(verdicts(place))
        assert README.count(f"](results/{place.name}/report/report.md) | `bsexp report") == len(table)


@pytest.mark.parametrize("place", COMMITTED, ids=lambda place: place.name)
def test_committed_results_give_their_verdicts_again(place: Experiment) -> None:
    results = load_results(place.path)
    assert verdicts_csv(verdict_frame(judge_results(results), results)) == verdicts(place).read_text("utf-8")


@pytest.mark.long
@pytest.mark.parametrize("place", COMMITTED, ids=lambda place: place.name)
def test_one_command_makes_the_verdicts_again_byte_for_byte(place: Experiment, tmp_path: Path) -> None:
    shutil.copytree(place.path, tmp_path / place.name)
    again = Experiment(tmp_path / place.name)
    shutil.rmtree(again.report)
    assert main(str(again.path), {"quiet": True}) == 0
    assert verdicts(again).read_bytes() == verdicts(place).read_bytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with one experiment of four claims, reported, and one without claims."""
    results = tmp_path_factory.mktemp("readme") / "results"
    arms = {"a": arm(1, 0.3), "b": arm(0), "c": arm(0.02, 0.3)}
    claims: list[dict[str, Any]] = [
        {"text": "a|b", "expect": "better"},
        {"text": "not a", "expect": "worse"},
        {
            "text": "c and b",
            "expect": "worse",
            "compare": ["c", "b"],
            "metric": "test_loss",
            "sd": 0.003,
            "effect": 0.002,
        },
        {"text": "c like b", "expect": "equivalent", "compare": ["c", "b"], "control": "a", "margin_points": 0.3},
    ]
    plant(results / "good", arms, claims, question="Is a <better>?")
    assert main(str(results / "good"), {"quiet": True}) == 0
    plant(results / "mute", arms, [])
    assert main(str(results / "mute"), {"quiet": True}) == 0
    (results / "calibration").mkdir()
    return results


def test_each_claim_is_a_row_with_its_word_its_number_and_its_certainty(made: Path) -> None:
    text = section(made)
    assert text.startswith(BEGIN)
    assert text.endswith(f"{END}\n")
    assert text.count("### ") == 1
    assert "### Is a &lt;better&gt;?" in text
    end = "[good](results/good/report/report.md) | `bsexp report results/good` |"
    rows = [line for line in text.split("\n") if end in line]
    table = pd.read_csv(made / "good" / "report" / "verdicts.csv")
    assert len(rows) == len(table) == 4
    cells = [row.replace("a\\|b", "a or b").strip("| ").split(" | ") for row in rows]
    assert [row[0] for row in cells] == ["a or b", "not a", "c and b", "c like b"]
    low, high = (f"{100 * table[end][0]:+.2f}" for end in ("low", "high"))
    assert cells[0][1] == f"better: supported; +1.00 [{low}, {high}] points"
    assert cells[0][2] == f"p {table['p_holm'][0]:.2g} after Holm; 12 seeds"
    assert cells[1][1].startswith("worse: refuted; +1.00 [")
    assert cells[1][2] == f"p {table['p'][1]:.2g} of no difference; 12 seeds"
    # A loss keeps its own direction, and what could have been seen is told where nothing was.
    assert cells[2][1].startswith("worse: inconclusive; −0.0002 [")
    assert cells[2][2] == (
        f"p {table['p'][2]:.2g} of no difference; 12 seeds; planned with power {table['power'][2]:.2f}; "
        f"a true difference of {table['detectable'][2]:.4f} nats would be found in four of five"
    )
    # a is no worse arm than b, so that this experiment can't see what a control would show.
    assert cells[3][1].startswith("equivalent: inconclusive: the experiment cannot see the effect; +0.02 [")
    assert "(margin 0.30) would be found in four of five" in cells[3][2]


def test_the_difference_that_would_be_found_is_found_four_times_in_five(made: Path) -> None:
    table = pd.read_csv(made / "good" / "report" / "verdicts.csv")
    from statsmodels.stats.power import TTestPower

    # The third claim's differences have a standard deviation of .003; its level is not below .05 / 4.
    power = [TTestPower().power(table["detectable"][2] / 0.003, 12, level) for level in (0.05 / 4, 0.05)]
    assert power[0] - 0.01 <= 0.8 <= power[1] + 0.01


def test_claims_that_were_changed_after_the_data_are_not_called_declared(made: Path, tmp_path: Path) -> None:
    assert CHANGED not in section(made)
    shutil.copytree(made / "good", tmp_path / "results" / "good")
    file = verdicts(Experiment(tmp_path / "results" / "good"))
    table = pd.read_csv(file)
    table.loc[1, "verdict"] = "exploratory"
    table.to_csv(file, index=False)
    assert section(tmp_path / "results").count(CHANGED) == 1


def test_a_section_is_put_in_replaced_and_taken_out_again() -> None:
    plain = "# x\n\nwords\n\n## Strategies\n\nmore\n"
    first, second = f"{BEGIN}\nold\n{END}\n", f"{BEGIN}\nnew\nnew\n{END}\n"
    with_first = updated(plain, first)
    assert with_first == f"# x\n\nwords\n\n{first}\n## Strategies\n\nmore\n"
    assert updated(with_first, second) == with_first.replace("old", "new\nnew")
    assert updated(with_first, "") == plain
    assert updated(plain, "") == plain
    with pytest.raises(ValueError, match="no heading"):
        updated("# x\n", first)
    with pytest.raises(ValueError, match="end of verdicts"):
        updated(f"{BEGIN}\n", first)


def test_without_verdicts_there_is_no_section(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "mute", tmp_path / "results" / "mute")
    assert section(tmp_path / "results") == ""


def test_a_report_made_again_elsewhere_has_the_same_verdicts(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "good", tmp_path / "good")
    shutil.rmtree(tmp_path / "good" / "report")
    assert main(str(tmp_path / "good"), {"quiet": True}) == 0
    written = [(folder / "good" / "report" / "verdicts.csv").read_bytes() for folder in (made, tmp_path)]
    assert written[0] == written[1]
    # Ten digits: what is beyond them differs between processors.
    assert all(len(cell.lstrip("-0.").replace(".", "").partition("e")[0]) <= 10 for cell in _numbers(written[0]))


def _numbers(content: bytes) -> list[str]:
    rows = content.decode().split("\n")[1:]
    return [cell for row in rows for cell in row.split(",")[5:16] if cell and json.loads(cell) is not None]
