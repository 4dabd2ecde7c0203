"""Damaged, edited, missing, incomplete and old results as `report` and `status` meet them.

What is damaged here are copies of the results that version 0.1 wrote, kept in tests/data: nothing is trained.
"""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bsexp.errors import BsexpError, StoreError
from bsexp.report.figures import draw
from bsexp.report.groups import make_groups
from bsexp.report.tables import arm_tables
from bsexp.store.tables import Results, load_results
from tests.faults.inside import DATA, said

OLD = DATA / "results-0.1"
# Right answers of the two seeds among 360 test images.
STEADY, GROW = (254 + 251) / 720, (214 + 284) / 720


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Two arms, two seeds, as run folders."""
    return Path(shutil.copytree(OLD / "old", tmp_path / "old"))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """The same, packed."""
    return Path(shutil.copytree(OLD / "old-packed", tmp_path / "old-packed"))


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the content of a file, the unpacked one of a .gz."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(change(gzip.decompress(content))))
    else:
        path.write_bytes(change(content))


def cell(line: int, name: str, value: str) -> Callable[[bytes], bytes]:
    """What puts `value` into a column of a line, counted from 1."""

    def change(content: bytes) -> bytes:
        lines = content.decode().splitlines()
        cells = lines[line - 1].split(",")
        cells[lines[0].split(",").index(name)] = value
        lines[line - 1] = ",".join(cells)
        return "\n".join([*lines, ""]).encode()

    return change


def without_line(number: int) -> Callable[[bytes], bytes]:
    return lambda content: b"".join(line for k, line in enumerate(content.splitlines(True), 1) if k != number)


def again(content: bytes) -> bytes:
    """The last line twice."""
    return content + content.splitlines(True)[-1]


def extra(content: bytes) -> bytes:
    head, *rest = content.splitlines()
    return b"\n".join([head + b",more", *(line + b",1" for line in rest), b""])


def crlf(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def marked(content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


RUN = "runs/steady-lr0.05-s0-*"

# evals.csv has rows at 0, 200 and 400 samples: lines 2 to 4. steps.csv has one at each 100 samples or soon after it.
EDITED: list[tuple[str, str, Callable[[bytes], bytes], str]] = [
    ("an extra column", "evals.csv", extra, ":1: unknown column 'more'"),
    (
        "a column less",
        "evals.csv",
        lambda c: re.sub(rb"(?m),[^,\n]*$", b"", c),
        ":1: column 'val_accuracy_ema' is missing",
    ),
    ("a text in a number", "evals.csv", cell(3, "val_loss", "high"), ":3: val_loss is 'high', expected a number"),
    ("a digit separator", "evals.csv", cell(3, "samples", "2_00"), ":3: samples is '2_00', expected a number"),
    ("CRLF", "evals.csv", crlf, ":1: lines end with CR LF"),
    ("a byte order mark", "steps.csv", marked, ":1: begins with a byte order mark"),
    ("a doubled row", "evals.csv", again, ":5: step 25 after step 25"),
    ("a missing last row", "evals.csv", without_line(4), ":3: ends at 208 samples, the run ended at 400"),
    ("no rows", "evals.csv", lambda c: c.splitlines(True)[0], ":1: has no rows, the run ended at 400"),
    ("nothing at all", "evals.csv", lambda c: b"", ":1: empty"),
    ("a blank line", "steps.csv", lambda c: c.replace(b"\n", b"\n\n", 1), ":2: 0 values for 13 columns"),
    ("an empty cell", "steps.csv", cell(3, "batch_size", ""), ":3: batch_size is empty"),
    ("half an update", "steps.csv", cell(2, "step", "5.5"), ":2: step is 5.5, expected a whole number"),
    ("a batch of nothing", "steps.csv", cell(2, "batch_size", "0"), ":2: batch_size is 0, expected a number from 1"),
    ("an infinite rate", "steps.csv", cell(2, "lr", "inf"), ":2: lr is inf, expected a finite number"),
    ("percents", "evals.csv", cell(4, "val_accuracy", "91.5"), ":4: val_accuracy is 91.5, expected a number up to 1"),
    ("Latin 1", "evals.csv", lambda c: c[:-2] + b"\xe4\n", ":4: not UTF-8"),
    ("a tail of zeros", "evals.csv", lambda c: c[:-9] + bytes(9), ":4: val_accuracy_ema is "),
    ("an open quote", "evals.csv", lambda c: c.replace(b"\n0,", b'\n"0,'), ":4: unexpected end of data"),
    ("broken JSON", "summary.json", lambda c: c[:-20], "summary.json: "),
    (
        "a text for a number",
        "summary.json",
        lambda c: re.sub(rb'"updates": \d+', b'"updates": "many"', c),
        "updates is 'many'",
    ),
    ("an unknown status", "summary.json", lambda c: c.replace(b'"finished"', b'"fine"'), "status 'fine'"),
    ("no seed", "summary.json", lambda c: c.replace(b'"seed": 0', b'"seed": null'), "seed is None"),
    ("a NaN", "summary.json", lambda c: re.sub(rb'"lr": [\d.]+', b'"lr": NaN', c), "lr is nan"),
    ("a key less", "summary.json", lambda c: c.replace(b'"arm"', b'"arms"'), "'arm' is missing"),
    ("a newer schema", "summary.json", lambda c: c.replace(b'version": 1', b'version": 2'), "schema version 2"),
    ("an empty config", "config.json", lambda c: b"{}", "no table 'config'"),
    ("no parameters", "config.json", lambda c: c.replace(b'"parameters"', b'"p"'), "config.parameters is None"),
    ("a list", "environment.json", lambda c: b"[]", "not an object"),
]


@pytest.mark.parametrize(("file", "change", "words"), [case[1:] for case in EDITED], ids=[case[0] for case in EDITED])
def test_an_edited_run_is_refused_by_file_and_line_or_left_out(
    whole: Path, file: str, change: Callable[[bytes], bytes], words: str
) -> None:
    (path,) = whole.glob(f"{RUN}/{file}")
    edit(path, change)
    refused = said("report", whole)
    assert refused.code == 5
    assert f"{path}" in refused.line
    assert words in refused.line
    assert not (whole / "report").exists()
    errors: list[BsexpError] = []
    left = load_results(whole, errors.append)
    assert left.runs["arm"].value_counts().to_dict() == {"grow": 2, "steady": 1}
    assert set(left.evals["config_hash"]) == set(left.steps["config_hash"]) == set(left.runs["config_hash"])
    # The run is there and isn't unfinished; whoever reads the report must see what it lacks, and no place of a machine.
    assert left.planned == 3
    assert left.left_out[0].startswith(f"{path.relative_to(whole)}")
    assert [words in str(error) for error in errors] == [True]


def test_a_report_without_damaged_files_says_so(whole: Path) -> None:
    (path,) = whole.glob(f"{RUN}/evals.csv")
    edit(path, crlf)
    skipped = said("report", whole, "--skip-bad", "--json")
    assert skipped.code == 0
    assert f"bsexp: warning: left out: results: {path}:1: lines end with CR LF" in skipped.err
    document = json.loads(skipped.out)
    assert {arm["arm"]: arm["finished"] for arm in document["arms"]} == {"steady": 1, "grow": 2}
    note = f"Damaged and left out: {path.relative_to(whole)}:1: lines end with CR LF: saved by another program."
    assert note in document["notes"]
    assert "Damaged and left out" in (whole / "report" / "report.md").read_text("utf-8")


def test_a_missing_file_of_a_run_is_named(whole: Path) -> None:
    for file in ("evals.csv", "config.json", "environment.json"):
        (path,) = whole.glob(f"{RUN}/{file}")
        content = path.read_bytes()
        path.unlink()
        refused = said("report", whole)
        assert (refused.code, f"{path}: No such file" in refused.line) == (5, True)
        path.write_bytes(content)


PACKED: list[tuple[str, str, Callable[[bytes], bytes], str]] = [
    ("an extra column", "runs.csv", extra, ":1: unknown column 'more'"),
    ("a text in a number", "runs.csv", cell(3, "test_accuracy", "high"), ":3: test_accuracy is 'high'"),
    ("an unknown status", "runs.csv", cell(2, "status", "fine"), ":2: status 'fine'"),
    ("CRLF", "runs.csv", crlf, ":1: lines end with CR LF"),
    ("a byte order mark", "runs.csv", marked, ":1: begins with a byte order mark"),
    ("a doubled run", "runs.csv", again, ":6: the same run as on line 5"),
    ("a run less", "runs.csv", without_line(2), "evals.csv.gz:2: grow "),
    ("a value too many", "runs.csv", lambda c: c.rstrip() + b",1\n", ":5: 36 values for 35 columns"),
    ("not a text", "runs.csv", lambda c: b"\x1f\x8b\0\xff", ":1: not UTF-8"),
    ("nothing", "runs.csv", lambda c: b"", ":1: empty"),
    ("an extra column", "evals.csv.gz", extra, ":1: unknown column 'more'"),
    ("a text in a number", "evals.csv.gz", cell(4, "val_loss", "high"), ":4: val_loss is 'high'"),
    ("doubled rows", "evals.csv.gz", again, ":14: step 25 after step 25"),
    ("doubled blocks", "evals.csv.gz", lambda c: c + b"".join(c.splitlines(True)[1:]), ":14: rows of grow "),
    ("a last row less", "evals.csv.gz", without_line(13), ":12: steady "),
    ("a run less", "evals.csv.gz", lambda c: b"".join(c.splitlines(True)[:10]), "evals.csv.gz: no rows of steady "),
    ("a value too many", "steps.csv.gz", lambda c: c.rstrip() + b",1\n", ":9: 17 values for 16 columns"),
    ("an empty cell", "steps.csv.gz", cell(3, "lr", ""), ":3: lr is empty"),
    ("no rows", "steps.csv.gz", lambda c: c.splitlines(True)[0], "steps.csv.gz: no rows of grow "),
    ("a text in a number", "tune.csv", cell(2, "lr", "small"), ":2: lr is 'small'"),
    ("a maybe", "tune.csv", cell(2, "chosen", "maybe"), ":2: chosen is 'maybe', expected True or False"),
    ("a value less", "tune.csv", lambda c: c.rstrip().rpartition(b",")[0] + b"\n", ":3: 6 values for 7 columns"),
    ("no list", "environments.json", lambda c: b"{}", "environments.json: no list"),
    ("no tables", "environments.json", lambda c: b'{"environments": [3]}', "environments.json: no list"),
]


@pytest.mark.parametrize(
    ("file", "change", "words"), [case[1:] for case in PACKED], ids=[f"{case[1]}: {case[0]}" for case in PACKED]
)
def test_an_edited_packed_folder_is_refused_by_file_and_line(
    packed: Path, file: str, change: Callable[[bytes], bytes], words: str
) -> None:
    edit(packed / file, change)
    refused = said("report", packed)
    assert refused.code == 5
    assert words in refused.line
    # The table of runs can't be done without.
    errors: list[BsexpError] = []
    if file == "runs.csv" and "evals" not in words:
        with pytest.raises(StoreError):
            load_results(packed, errors.append)
    elif file != "runs.csv":
        left = load_results(packed, errors.append)
        assert (len(left.runs), left.left_out[0].startswith(file), len(errors)) == (4, True, 1)
        draw_all(left)


def draw_all(results: Results) -> None:
    """What a report would draw and tell of it fails nowhere, also without curves or without traces."""
    for group in make_groups(results):
        draw(group)
        arm_tables(group)


def test_a_cut_or_garbled_archive_is_told_as_that(packed: Path) -> None:
    for file in ("evals.csv.gz", "steps.csv.gz"):
        content = (packed / file).read_bytes()
        for damaged in (content[:-20], b"\x1f\x8b\0\xff" * 9, b"", content[:30] + b"\xff" * 30 + content[60:]):
            (packed / file).write_bytes(damaged)
            refused = said("report", packed)
            assert refused.code == 5
            assert file in refused.line
        (packed / file).write_bytes(content)
    (packed / "evals.csv.gz").unlink()
    assert "evals.csv.gz: missing beside runs.csv" in said("report", packed).line


def test_damaged_predictions_are_told_when_they_are_packed(whole: Path) -> None:
    (path,) = whole.glob(f"{RUN}/test_predictions.npz")
    path.write_bytes(path.read_bytes()[:-50])
    result = said("report", whole, "--pack", "-q")
    assert result.code == 5
    assert f"{path}: can't be read" in result.line


DEFINITIONS = [
    ("a = [", "experiment.toml: "),
    ("arms = 1", "arms is not what was written"),
    ("[arms]\nsteady = 1", "arms.steady is not"),
    ("seeds = 3", "seeds is not"),
    ("[tune]\nlr = 0.1\nseeds = [1]", "tune.lr is not"),
    ("schema_version = 2", "schema version 2; this bsexp reads up to 1"),
    ('schema_version = "new"', "schema version 'new'"),
]


def test_an_edited_definition_is_refused_with_its_key(whole: Path) -> None:
    for text, words in DEFINITIONS:
        (whole / "experiment.toml").write_text(text)
        for command in ("report", "worker"):
            refused = said(command, whole)
            assert (refused.code, words in refused.line) == (5, True), (text, refused.err)


def test_status_names_a_damaged_file_too(whole: Path, packed: Path) -> None:
    edit(packed / "runs.csv", cell(3, "status", "fine"))
    assert "runs.csv:3: status 'fine'" in said("status", packed).line
    (path,) = whole.glob(f"{RUN}/summary.json")
    path.write_text("{")
    damaged = said("status", whole, "--json")
    # What can't be read is made again by the next sweep, so here it is waiting.
    assert (damaged.code, str(path) in damaged.line) == (0, True)
    assert sum(counts["waiting"] for counts in json.loads(damaged.out)["counts"]) == 1


# -- results that are there and say little


def test_no_results_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, words in (("file", "not a folder"), ("empty", "no results in it"), ("nowhere", "no such folder")):
        result = said("report", tmp_path / name)
        assert (result.code, words in result.line) == (5, True), result.err
    nothing = said("status", tmp_path / "empty")
    assert (nothing.code, "no results in it" in nothing.out) == (0, True)
    assert "not a folder" in said("status", tmp_path / "file").line
    assert [path.name for path in (tmp_path / "empty").iterdir()] == []


def test_unfinished_runs_are_counted(whole: Path) -> None:
    folders = sorted((whole / "runs").iterdir())
    (folders[0] / "summary.json").unlink()
    one = json.loads(said("report", whole, "--json").out)
    assert "Unfinished: 1 of 4 planned runs is missing. Estimates will change." in one["notes"]
    for folder in folders[1:]:
        (folder / "summary.json").unlink()
    none = said("report", whole)
    assert none.code == 0, none.err
    assert "No run has finished yet: 0 of 4 planned runs are here. There is nothing to report." in none.err
    assert not [path for path in (whole / "report").iterdir() if path.suffix in (".png", ".svg")]


def test_one_seed_has_estimates_without_intervals(whole: Path) -> None:
    for folder in (whole / "runs").glob("*-s1-*"):
        shutil.rmtree(folder)
    result = said("report", whole)
    assert result.code == 0
    assert "One finished run per arm: no intervals. Chance alone may explain any difference." in result.err
    assert "±" not in result.out
    assert "nan" not in (whole / "report" / "report.md").read_text("utf-8")


def test_when_all_diverged_that_is_said(whole: Path) -> None:
    for path in (whole / "runs").glob("*/summary.json"):
        document = json.loads(path.read_text("utf-8"))
        measured = [name for name in document if "accuracy" in name or "loss" in name]
        document |= {"status": "diverged", "reason": "loss became nan at step 25", **dict.fromkeys(measured)}
        path.write_text(json.dumps(document))
    result = said("report", whole)
    assert result.code == 0, result.err
    assert "All 4 runs diverged. There is no outcome to compare." in result.err
    # What the schedules did is known all the same; nothing else is drawn.
    assert {path.name for path in (whole / "report").glob("*.svg")} == {"schedules.svg"}
    assert "nan" not in (whole / "report" / "arms.csv").read_text("utf-8")


# -- results of every release


@pytest.mark.parametrize("folder", ["old", "old-packed"])
def test_results_of_version_0_1_are_read(tmp_path: Path, folder: str) -> None:
    place = shutil.copytree(OLD / folder, tmp_path / folder)
    (row,) = [
        row for row in json.loads(said("status", place, "--json").out)["counts"] if "tuning" not in row["experiment"]
    ]
    assert (row["runs"], row["finished"]) == (4, 4)
    report = said("report", place, "--json")
    assert report.code == 0, report.err
    document = json.loads(report.out)
    assert [arm["arm"] for arm in document["arms"]] == ["steady", "grow"]
    accuracies = {arm["arm"]: arm["test_accuracy"] for arm in document["arms"]}
    assert accuracies == pytest.approx({"steady": STEADY, "grow": GROW})
    (difference,) = [row for row in document["differences"] if row["outcome"] == "test_accuracy"]
    assert (difference["difference"], difference["num_pairs"]) == (pytest.approx(GROW - STEADY), 2)
    text = (tmp_path / folder / "report" / "report.md").read_text("utf-8")
    assert "Is a results folder of version 0.1 still read?" in text
    assert "chosen, 1 of 2" in text


def test_both_forms_give_the_same_tables(whole: Path, packed: Path) -> None:
    for place in (whole, packed):
        assert said("report", place, "-q").code == 0
    for name in ("arms.csv", "differences.csv"):
        assert (whole / "report" / name).read_bytes() == (packed / "report" / name).read_bytes()
