"""The report: its numbers against hand-worked ones, its words, its files."""

import csv
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bsexp.errors import StoreError
from bsexp.report import write_report
from bsexp.report.document import markdown
from bsexp.store.tables import Results
from tests.made_results import empty, results


def written(made: Results, folder: Path) -> tuple[str, str]:
    write_report(made, folder)
    return (folder / "report.md").read_text("utf-8"), (folder / "report.html").read_text("utf-8")


def row(markdown_text: str, title: str, name: str) -> dict[str, str]:
    """A row of the Markdown table under a heading, by its first cell."""
    section = markdown_text.split(title, 1)[1]
    lines = section.split("\n\n|", 1)[1].split("\n\n", 1)[0].split("\n")
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return next(dict(zip(cells[0], line, strict=True)) for line in cells[2:] if line[0] == name)


def test_the_arms_table_has_the_hand_worked_values(tmp_path: Path) -> None:
    text, _ = written(results(), tmp_path)
    small = row(text, "## Outcomes", "small")
    # .80 .82 .84: mean .82, half width 4.302653 * .02 / sqrt 3 = .04968
    assert small["Test accuracy"] == "82.00 % [77.03, 86.97]"
    assert small["Test loss (nats)"] == "0.1800 [0.1303, 0.2297]"
    assert small["Test accuracy, averaged weights"] == "83.00 % [78.03, 87.97]"
    assert small["Train accuracy"] == "87.00 %"
    assert small["Train − test accuracy (points)"] == "+5.00"
    assert small["Runs finished"] == "3 of 3"
    grow = row(text, "## What each arm did", "grow")
    assert grow["Batch size"] == "10 → 40"
    assert grow["Updates"] == "20"
    assert grow["Samples"] == "400"
    assert grow["Training time (s)"] == "2"
    assert grow["Learning rate"] == "0.1"


def test_the_differences_are_paired_by_seed(tmp_path: Path) -> None:
    text, _ = written(results(), tmp_path)
    title = "## Estimates, no verdict: differences from small, paired by seed"
    large = row(text, title, "large")
    # -.01, -.02, 0: mean -.01, s = .01, half width 4.302653 * .01 / sqrt 3 = .02484
    assert large["Test accuracy (points)"] == "−1.00 [−3.48, +1.48]"
    assert large["Test loss (nats)"] == "+0.0100 [−0.0148, +0.0348]"
    assert large["Pairs"] == "3"
    # .10 in every seed: an interval of no length.
    assert row(text, title, "grow")["Test accuracy (points)"] == "+10.00 [+10.00, +10.00]"


def test_the_frames_hold_shares_and_nats(tmp_path: Path) -> None:
    report = write_report(results(), tmp_path)
    arms = report.arms.set_index("arm")
    assert arms.loc["small", "test_accuracy"] == pytest.approx(0.82)
    assert arms.loc["small", "test_accuracy_low"] == pytest.approx(0.82 - 0.0496826, abs=1e-6)
    assert arms.loc["grow", ["batch_size_first", "batch_size_last", "updates"]].tolist() == [10, 40, 20]
    found = report.differences.set_index(["arm", "outcome"]).loc[("large", "test_accuracy")]
    assert found["difference"] == pytest.approx(-0.01)
    assert found["num_pairs"] == 3
    assert found["reference"] == "small"
    with (tmp_path / "arms.csv").open(newline="") as file:
        assert [line["arm"] for line in csv.DictReader(file)] == ["small", "large", "grow"]


def test_the_json_has_plain_types_and_null_for_what_is_missing(tmp_path: Path) -> None:
    report = write_report(results(accuracies={"small": (0.8,), "grow": (0.9,)}), tmp_path)
    document = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert set(document) == {"arms", "differences", "verdicts", "claims", "notes"}
    assert document["verdicts"] == document["claims"] == []
    assert document["arms"][0]["memorised"] is None
    assert document["differences"][0]["low"] is None
    assert document["differences"][0]["num_pairs"] == 1


def test_diverged_runs_are_counted_and_never_averaged(tmp_path: Path) -> None:
    made = results(status={("large", 2): "diverged", ("large", 1): "oom"})
    made.runs.loc[made.runs["status"] == "diverged", "test_accuracy"] = 0.001
    text, _ = written(made, tmp_path)
    large = row(text, "## Outcomes", "large")
    assert large["Test accuracy"] == "79.00 %"
    assert large["Runs finished"] == "1 of 3 (1 of 3 diverged, 1 of 3 ran out of memory)"
    assert row(text, "paired by seed", "large")["Pairs"] == "1"
    counts = row(text, "## What each arm did", "large")
    assert (counts["Finished"], counts["Diverged"], counts["Out of memory"]) == ("1", "1", "1")
    assert "large: 1 of 3 diverged, 1 of 3 ran out of memory; not in its means." in text


def test_missing_runs_are_counted(tmp_path: Path) -> None:
    assert "Unfinished: 3 of 12 planned runs are missing." in written(results(planned=12), tmp_path)[0]


def test_one_seed_has_no_intervals_and_says_so(tmp_path: Path) -> None:
    text, _ = written(results(accuracies={"small": (0.8,), "grow": (0.9,)}), tmp_path)
    assert "One finished run per arm: no intervals." in text
    assert row(text, "## Outcomes", "small")["Test accuracy"] == "80.00 %"
    assert row(text, "paired by seed", "grow")["Test accuracy (points)"] == "+10.00"


@pytest.mark.parametrize("planned", [6, 0])
def test_an_experiment_without_runs_is_one_clear_sentence(tmp_path: Path, planned: int) -> None:
    report = write_report(empty(planned), tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert report.figures == []
    assert report.notes == [
        "No run has finished yet: 0 of 6 planned runs are here. There is nothing to report."
        if planned
        else "There are no runs here. There is nothing to report."
    ]
    assert report.notes[0] in text
    assert "![" not in text
    assert [line["finished"] for line in report.as_json()["arms"]] == [0, 0, 0]
    assert report.as_json()["differences"] == []


def test_when_all_diverged_it_says_so_and_shows_no_empty_figure(tmp_path: Path) -> None:
    report = write_report(
        results(status={(a, s): "diverged" for a in ("small", "large", "grow") for s in range(3)}), tmp_path
    )
    assert report.notes[0] == "All 9 runs diverged. There is no outcome to compare."
    assert report.figures == ["schedules.png", "schedules.svg"]
    assert "## Outcomes" not in (tmp_path / "report.md").read_text("utf-8")


CASES = {
    "plain": results,
    "one seed": lambda: results(accuracies={"small": (0.8,)}),
    "ties": lambda: results(accuracies={"small": (1.0, 1.0), "grow": (1.0, 1.0)}),
    "no pair": lambda: results(status={("small", 0): "diverged", ("small", 1): "collapsed", ("small", 2): "failed"}),
    "empty": empty,
}


@pytest.mark.parametrize("case", CASES)
def test_no_nan_in_any_table(tmp_path: Path, case: str) -> None:
    text, page = written(CASES[case](), tmp_path)
    visible = re.sub(r"(?s)<script>.*?</script>|base64,[^\"]*", "", page)
    for content in (text, visible, *((tmp_path / name).read_text() for name in ("arms.csv", "differences.csv"))):
        assert not re.search(r"\b(nan|NaN|None|inf|NaT)\b", content)


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_report(results(), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert str(tmp_path) not in (tmp_path / "one" / "report.html").read_text("utf-8")


class Reader(html.parser.HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_loads_nothing_and_every_figure_is_described_with_numbers(tmp_path: Path) -> None:
    _, page = written(results(), tmp_path)
    tags = Reader(page).tags
    loads = [value for _, attributes in tags for key, value in attributes.items() if key in ("src", "srcset", "data")]
    assert loads
    assert all(value and value.startswith("data:image/svg+xml;base64,") for value in loads)
    assert not any(tag in ("link", "iframe", "object", "embed", "base") for tag, _ in tags)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", page)
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 4
    assert all(re.search(r"\d", str(image["alt"])) for image in images)
    assert "small 82.00 %, loss 0.1800" in str(images[0]["alt"])


def test_text_of_the_user_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>|[a](https://example.org)'
    made = results(accuracies={evil: (0.8, 0.9), "grow": (0.9, 0.95)}, question=evil, name="<i>name")
    text, page = written(made, tmp_path)
    assert "<script>alert" not in page
    assert sum(tag == "script" for tag, _ in Reader(page).tags) == 1
    assert "<i>" not in page
    assert "<script>" not in text
    assert "](https:" not in text
    widths = {
        len(re.findall(r"(?<!\\)\|", line)) for line in text.split("## Outcomes")[1].split("\n") if line[:1] == "|"
    }
    assert len(widths) <= 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("growing-batch", "growing-batch"),
        ("82 % [80.1, −3]", "82 % [80.1, −3]"),
        ("[1](x)", r"\[1\](x)"),
        ("two\nlines", "two lines"),
        ("a & <b>", "a &amp; &lt;b&gt;"),
        ("*x*", r"\*x\*"),
    ],
)
def test_markdown_escapes_what_would_be_markup(given: str, expected: str) -> None:
    assert markdown(given) == expected


def test_a_demonstration_says_that_it_is_no_evidence(tmp_path: Path) -> None:
    text, page = written(results(demonstration=True), tmp_path)
    assert "demonstration on a tiny task" in text
    assert "not evidence" in page
    assert "demonstration on a tiny task" not in written(results(), tmp_path)[0]


def test_no_arm_is_called_better_or_worse(tmp_path: Path) -> None:
    text, page = written(results(), tmp_path)
    for content in (text, page):
        assert not re.search(r"\b(better|worse|best|worst|equivalent|superior|significant\w*|wins?)\b", content, re.I)


TUNING = pd.DataFrame(
    {
        "arm": ["grow"] * 3 + ["small"] * 3,
        "lr": [0.1, 0.2, 0.4] * 2,
        "seeds": 1,
        "val_loss": [0.5, 0.4, 0.3, 0.5, 0.4, None],
        "place": ["1 of 3", "2 of 3", "3 of 3"] * 2,
        "chosen": [False, False, True, False, True, False],
        "status": ["finished"] * 5 + ["diverged"],
    }
)


def test_tuning_shows_the_choice_and_names_the_edge_of_the_grid(tmp_path: Path) -> None:
    text, _ = written(results(tuning=TUNING), tmp_path)
    assert "grow: the chosen learning rate 0.4 lies at the edge of its grid (3 of 3)" in text
    assert "small: the chosen" not in text
    table = text.split("## Tuning")[1]
    assert "| small | 0.2 | 0.4000 | 1 | finished | chosen, 2 of 3 |" in table
    assert "| small | 0.4 | – | 1 | diverged |  |" in table
    assert table.index("| small") < table.index("| grow")


def test_a_single_learning_rate_is_called_untuned(tmp_path: Path) -> None:
    tuning = TUNING.iloc[:1].assign(place="1 of 1", chosen=True)
    assert "a single learning rate, 0.1, was tried; nothing was tuned." in written(results(tuning=tuning), tmp_path)[0]


def test_data_sets_and_models_are_kept_apart(tmp_path: Path) -> None:
    made = results()
    made.runs.loc[made.runs["arm"] == "grow", "dataset"] = "folder:/home/somebody/pets"
    report = write_report(made, tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "## digits, mlp" in text
    assert "## folder:pets, mlp" in text
    assert "somebody" not in text + (tmp_path / "arms.csv").read_text()
    assert set(report.differences["arm"]) == {"large"}
    assert "final--folder-pets-mlp.png" in report.figures
    assert "](final--folder-pets-mlp.png)" in text


def test_learning_rates_of_one_arm_are_not_averaged_together(tmp_path: Path) -> None:
    made = results(accuracies={"small": (0.8, 0.9)})
    made.runs["seed"] = 0
    made.runs["lr"] = [0.1, 0.2]
    report = write_report(made, tmp_path)
    assert report.arms["arm"].tolist() == ["small lr 0.1", "small lr 0.2"]
    assert report.arms["test_accuracy"].tolist() == [0.8, 0.9]


def test_runs_that_differ_outside_the_tables_stand_alone(tmp_path: Path) -> None:
    made = results(accuracies={"small": (0.8, 0.9)})
    made.runs["seed"] = 0
    renamed = {"small-0": "abcdef0", "small-1": "123456f"}
    for frame in (made.runs, made.evals, made.steps):
        frame["config_hash"] = frame["config_hash"].map(renamed)
    report = write_report(made, tmp_path)
    assert report.arms["arm"].tolist() == ["small abcdef", "small 123456"]
    assert any("several runs of one seed differ" in note for note in report.notes)


def test_figures_of_an_earlier_report_are_removed_and_other_files_kept(tmp_path: Path) -> None:
    write_report(results(), tmp_path)
    (tmp_path / "final-thoughts.png").write_bytes(b"mine")
    write_report(empty(), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["arms.csv", "differences.csv", "final-thoughts.png", "report.html", "report.md"]


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match=r"report: .*taken") as caught:
        write_report(empty(), tmp_path / "taken")
    assert "\n" not in str(caught.value)


def test_reports_never_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.made_results import empty, results\n"
        "from bsexp.report import write_report; write_report(results(), Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[1])
