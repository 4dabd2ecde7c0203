"""The real program: exit codes, one-line errors, files, streams."""

import csv
import json
import tomllib
from pathlib import Path

import pytest

from bsexp.options import readme_table
from bsexp.schedules import SCHEDULES
from bsexp.sweep.experiment import at_full_size, read_experiment
from tests.conftest import ROOT, Bsexp

QUICK = ("--epochs", "0.5", "--train-size", "200", "--evals", "2", "--threads", "1")


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("bsexp: ")
    return lines[0]


REFUSED: list[tuple[list[str], str]] = [
    (["run", "growing-bach"], "did you mean 'growing-batch'?"),
    (["run", "fixed-small", "--dataset", "minst"], "did you mean 'mnist'"),
    (["run", "fixed-small", "--model", "resnet19"], "resnet18"),
    (["run", "fixed-small", "--batch-sise", "4"], "--batch-size"),
    (["run", "growing-batch", "--set", "milestons=.5"], "did you mean 'milestones'?"),
    (["run", "fixed-small", "--batch-size", "0"], "--batch-size: '0'; give a whole number from 1"),
    (["run", "fixed-small", "--batch-size", "-4"], "give a whole number from 1"),
    (["run", "fixed-small", "--batch-size", "1.5"], "'1.5'; give a whole number"),
    (["run", "fixed-small", "--batch-size", "true"], "'true'"),
    (["run", "fixed-small", "--batch-size", "64k"], "'64k'"),
    (["run", "fixed-small", "--batch-size", "1000"], "at most num_train // 2 = 646"),
    (["run", "fixed-small", "--lr", "1e400"], "'1e400'; give a number above 0"),
    (["run", "fixed-small", "--lr", "nan"], "'nan'"),
    (["run", "fixed-small", "--lr", "0"], "give a number above 0"),
    (["run", "fixed-small", "--epochs", "0"], "give a number above 0"),
    (["run", "fixed-small", "--momentum", "1"], "below 1"),
    (["run", "lr-decay", "--set", "milestones=.5,.2"], "strictly increasing"),
    (["run", "lr-decay", "--set", "milestones=.5,1.2"], "(0, 1)"),
    (["run", "one-cycle", "--momentum", ".9"], "cycle_momentum"),
    (["run", "fixed-small", "--norm", "batch", "--batch-size", "1"], "--norm group"),
    (["run", "fixed-small", "--image-size", "8"], "folder:"),
    (["run", "fixed-small", "--train-size", "5000"], "only 1293 images"),
    (["run", "nosuch_module:factory"], "no such module"),
    (["sweep", "nosuch.toml"], "no such file"),
    (["sweep", "--seeds", "0-10000"], "--yes"),
    (["sweep", "--schedule", "fixed-small", "--set", "factor=4", "--set", "nosuch=1"], "none of the schedules"),
    (["sweep", "--seeds", "5-2"], "smaller to the larger"),
    (["list", "schedule"], "did you mean 'schedules'?"),
    (["plan", "fixed-small", "--num-train", "10"], "num_train // 2"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), REFUSED, ids=lambda value: "" if isinstance(value, str) else " ".join(value)
)
def test_wrong_usage_is_one_line_with_code_2_and_writes_nothing(
    bsexp: Bsexp, tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = bsexp(*arguments)
    assert result.returncode == 2, result.stderr
    assert said in one_line(result.stderr)
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


TOML: list[tuple[bytes, str]] = [
    (b"[arms.a\n", "e.toml:1"),
    (b'[arms.a]\nschedule = "fixed-small"\nschedule = "cyclic"\n', "e.toml:3"),
    (b'question = "\xff"\n', "e.toml:1: not UTF-8"),
    (b'[arms.a]\nschedule = "fixed-small"\n[run]\nepochs = "yes"\n', "e.toml: run.epochs: 'yes'"),
    (b'[arms.a]\nschedule = "fixed-small"\n[run]\nbatch_size = true\n', "run.batch_size: True"),
    (
        b'[arms.a]\nschedule = "fixed-smal"\n',
        "arms.a: schedule: unknown name 'fixed-smal'; did you mean 'fixed-small'",
    ),
    (
        b'[arms.a]\nschedule = "lr-decay"\nmilestons = [0.5]\n',
        "arms.a.milestons: unknown key; did you mean 'milestones'?",
    ),
    (b'[arms.a]\nschedule = "lr-decay"\nfactor = 1\n', "arms.a.factor: 1; give a number above 1"),
    (b'[arms.a]\nschedule = "fixed-small"\n[runn]\n', "runn: unknown key; did you mean 'run'?"),
    (b'[arms.a]\nschedule = "fixed-small"\n[run]\nlr = [0.1]\n', "[grid]"),
    (b'[arms.a]\nschedule = "fixed-small"\n[grid]\ndropout = []\n', "grid.dropout"),
    (b'[arms.a]\nschedule = "fixed-small"\n[[zip]]\nlr = [0.1]\nepochs = [1, 2]\n', "zip[0]"),
    (b'[arms.a]\nschedule = "fixed-small"\n[tune]\nlr = [0.1]\nseeds = "0"\n', "tune.seeds"),
    (b'[arms.a]\nschedule = "fixed-small"\n[full]\nepoch = 2\n', "full.epoch: unknown key; did you mean 'epochs'?"),
    (b'[arms.a]\nschedule = "fixed-small"\n[full]\nepochs = 2\nupdates = 9\n', "full.updates: beside full.epochs"),
    (b'[arms.a]\nschedule = "fixed-small"\n[full.arms.b]\nepochs = 2\n', "full.arms.b: no such arm"),
    (b"", "arms: none"),
]


@pytest.mark.parametrize(("content", "said"), TOML, ids=[said for _, said in TOML])
def test_wrong_experiment_files_name_file_and_line_or_key(
    bsexp: Bsexp, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "e.toml").write_bytes(content)
    result = bsexp("sweep", "e.toml")
    assert result.returncode == 2, result.stderr
    assert said in one_line(result.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["e.toml"]


def test_a_folder_or_a_huge_file_is_no_experiment(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "d.toml").mkdir()
    assert "a folder" in one_line(bsexp("sweep", "d.toml").stderr)
    with open(tmp_path / "big.toml", "wb") as file:
        file.truncate(100_000_000)
    assert "100 MB" in one_line(bsexp("sweep", "big.toml").stderr)


def test_an_option_that_an_arm_also_sets_is_refused(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text('[arms.a]\nschedule = "fixed-small"\ndropout = 0.5\n')
    result = bsexp("sweep", "e.toml", BSEXP_DROPOUT="0.1")
    assert result.returncode == 2
    assert "arms.a.dropout" in result.stderr
    assert "BSEXP_DROPOUT" in result.stderr


FULL = """
name = "e"
[run]
seeds = "0"
updates = 10
[arms.a]
schedule = "fixed-small"
[arms.b]
schedule = "lr-decay"
batch_size = 8
[full]
epochs = 2
seeds = "0-2"
[full.arms.b]
batch_size = 4
"""


def test_the_full_size_variant_is_what_the_file_says_of_it(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(FULL)
    small, full, longer = (
        json.loads(bsexp("plan", "e.toml", "--json", *options).stdout)
        for options in ((), ("--full",), ("--full", "--epochs", "3", "--name", "mine"))
    )
    assert (small["experiment"], full["experiment"], longer["experiment"]) == ("e", "e-full", "mine")
    assert (small["runs"], full["runs"]) == (2, 6)
    # Ten updates of 16 and of 8 images; two epochs of 1,293, in batches of 16 and of 4, the last ones smaller.
    assert small["samples"] == 10 * (16 + 8)
    assert full["samples"] == 3 * 2 * 2 * 1293
    assert longer["samples"] == 3 * 2 * 3 * 1293
    assert [arm["updates"] for arm in full["arms"]] == ["162", "647"]
    (tmp_path / "e.toml").write_text('[arms.a]\nschedule = "fixed-small"\n')
    result = bsexp("sweep", "e.toml", "--full")
    assert result.returncode == 2
    assert "e.toml: --full: the file has no [full] table" in one_line(result.stderr)


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda path: path.stem)
def test_each_experiment_can_be_read_and_says_how_large_it_can_be(path: Path) -> None:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    asked = read_experiment(document, {}, path.name, path.stem)
    assert asked.name == path.stem
    if path.stem in ("dont-decay-gpu", "fashion", "workers"):  # As large as they are meant to be.
        return
    full = read_experiment(at_full_size(document, path.stem), {}, path.name, path.stem)
    assert full.name == f"{path.stem}-full"
    assert full.arms.keys() == asked.arms.keys()
    grown = [arm for arm in full.arms if full.arms[arm].get("train_size") == 45_000]
    assert grown == [arm for arm in full.arms if path.stem != "tasks" or "cifar" in arm]
    assert all(full.arms[arm]["epochs"] > asked.arms[arm]["epochs"] for arm in grown)


def test_option_beats_environment_beats_file_beats_default(bsexp: Bsexp, tmp_path: Path) -> None:
    def samples(*options: str, **environment: str) -> int:
        document = json.loads(bsexp("plan", "e.toml", "--json", *options, **environment).stdout)
        return int(document["samples"])

    (tmp_path / "e.toml").write_text('[arms.a]\nschedule = "fixed-small"\n[run]\nseeds = "0"\n')
    assert samples() == 20 * 1293
    (tmp_path / "e.toml").write_text('[arms.a]\nschedule = "fixed-small"\n[run]\nseeds = "0"\nepochs = 2\n')
    assert samples() == 2 * 1293
    assert samples(BSEXP_EPOCHS="3") == 3 * 1293
    assert samples("--epochs", "4", BSEXP_EPOCHS="3") == 4 * 1293


def test_ten_million_cells_are_counted_without_being_built(bsexp: Bsexp, tmp_path: Path) -> None:
    values = ", ".join(str(k / 1000) for k in range(1, 216))
    axes = "".join(f"{name} = [{values}]\n" for name in ("lr", "dropout", "weight_decay"))
    text = f'[arms.a]\nschedule = "fixed-small"\n[grid]\n{axes}'
    (tmp_path / "e.toml").write_text(text)
    result = bsexp("plan", "e.toml")
    assert result.returncode == 2
    assert "9,938,375 runs" in result.stderr


def test_a_run_leaves_the_named_files_and_the_exact_budget(bsexp: Bsexp, tmp_path: Path) -> None:
    result = bsexp("run", "growing-batch", *QUICK, "--set", "shape=exponential", "--max-batch", "50", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    folder = tmp_path / document["run_dir"]
    names = {"config.json", "environment.json", "steps.csv", "evals.csv", "summary.json", "test_predictions.npz"}
    assert {path.name for path in folder.iterdir()} == names
    rows = table(folder / "steps.csv")
    assert rows[-1]["samples"] == "100"
    sizes = [int(row["batch_size"]) for row in rows]
    assert sizes[0] == 16
    assert max(sizes) == 24
    evals = table(folder / "evals.csv")
    assert evals[0]["samples"] == "0"
    assert evals[-1]["samples"] == "100"
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.glob("*.json"))


def test_a_finished_run_is_not_made_again_unless_asked(bsexp: Bsexp) -> None:
    bsexp("run", "fixed-small", *QUICK)
    again = bsexp("run", "fixed-small", *QUICK)
    assert again.returncode == 0
    assert "finished already" in again.stderr
    anew = bsexp("run", "fixed-small", *QUICK, "--no-resume")
    assert "finished already" not in anew.stderr
    assert "100.0%" in anew.stderr


def test_status_and_report_find_the_collection_called_runs(bsexp: Bsexp) -> None:
    for seed in ("0", "1"):
        bsexp("run", "fixed-small", *QUICK, "--lr", "0.1", "--epochs", "4", "--seed", seed)
    for folder in ("results", "results/runs"):
        (row,) = json.loads(bsexp("status", folder, "--json").stdout)["counts"]
        assert (row["experiment"], row["runs"], row["finished"]) == ("runs", 2, 2)
    document = json.loads(bsexp("report", "--json").stdout)
    assert document["experiment"] == "runs"
    assert [arm["num_seeds"] for arm in document["arms"]] == [2]


def test_quiet_runs_say_nothing_on_stderr_and_pipes_get_no_control_codes(bsexp: Bsexp) -> None:
    quiet = bsexp("run", "fixed-small", *QUICK, "-q")
    assert quiet.stderr == ""
    assert "test accuracy" in quiet.stdout
    for environment in ({"TERM": "dumb"}, {"NO_COLOR": "1"}, {"COLUMNS": "20"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        result = bsexp("run", "fixed-small", *QUICK, **environment)
        assert result.returncode == 0, result.stderr
        assert "\x1b" not in result.stdout + result.stderr


def test_diverged_and_collapsed_runs_are_results_with_a_warning(bsexp: Bsexp) -> None:
    diverged = bsexp("run", "fixed-small", *QUICK, "--lr", "1e6", "--json")
    assert diverged.returncode == 0
    assert json.loads(diverged.stdout)["summary"]["status"] == "diverged"
    assert "diverged" in diverged.stderr
    collapsed = bsexp("run", "fixed-small", "--lr", "1.6", "--epochs", "3", "--evals", "1", "--threads", "1", "--json")
    assert json.loads(collapsed.stdout)["summary"]["status"] == "collapsed"


def test_a_missing_device_is_an_error_of_the_environment(bsexp: Bsexp) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = bsexp("run", "fixed-small", *QUICK, "--device", "cuda:7")
    assert result.returncode == 6
    assert "--device cpu" in one_line(result.stderr.splitlines()[-1])


def test_a_missing_data_folder_is_an_error_of_the_data(bsexp: Bsexp) -> None:
    result = bsexp("run", "fixed-small", "--dataset", "folder:nowhere")
    assert result.returncode == 4
    assert "nowhere" in one_line(result.stderr)


def test_an_unusable_results_folder_is_told_before_training(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for out in ("file", "link"):
        result = bsexp("run", "fixed-small", *QUICK, "--out", out)
        assert result.returncode == 5, result.stderr
        one_line(result.stderr)


def test_blanks_umlauts_and_a_newline_in_paths_work(bsexp: Bsexp, tmp_path: Path) -> None:
    for name in ("a b", "größe", "two\nlines"):
        folder = tmp_path / name
        folder.mkdir()
        result = bsexp("run", "fixed-small", *QUICK, cwd=folder)
        assert result.returncode == 0, result.stderr


def test_plan_agrees_with_hand_arithmetic(bsexp: Bsexp) -> None:
    command = "plan growing-batch --num-train 50000 --epochs 200 --batch-size 128 --lr 0.1 --max-batch 5120 --json"
    settings = ("--set", "shape=step", "--set", "milestones=.3,.6,.8", "--set", "factor=5")
    document = json.loads(bsexp(*command.split(), *settings).stdout)
    assert (document["num_train"], document["samples"]) == (50000, 10_000_000)
    # 3,000,000 / 128 = 23,437.5: 23,438 updates end at 3,000,064. From there 2,999,936 / 640 = 4,687.4: 4,688 updates
    # end at 6,000,384; 1,999,616 / 3,200 = 624.9: 625 end at 8,000,384; 1,999,616 samples are left, 390.55 batches of
    # 5,120: 389 whole ones and two that share 7,936. 23,438 + 4,688 + 625 + 389 + 2 = 29,142.
    assert document["updates"] == 29_142
    rows = document["rows"]
    assert [rows[k]["batch_size"] for k in (0, 23_437, 23_438, 28_126, 28_751, -2, -1)] == [
        *(128, 128, 640, 3200, 5120, 3968, 3968)
    ]
    assert rows[28_751]["samples"] == 8_000_384
    assert rows[0]["noise_scale"] == pytest.approx(389.625)
    # 128 * 125 = 16,000 was wanted: the rate takes over 5,120 / 16,000 of it.
    assert rows[-1]["lr"] == pytest.approx(0.1 * 5120 / 16000)


def test_a_plan_can_be_drawn(bsexp: Bsexp, tmp_path: Path) -> None:
    result = bsexp("plan", "one-cycle", "--figure", "plan.png", "--rows", "4")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_lists_and_init_are_complete(bsexp: Bsexp, tmp_path: Path) -> None:
    items = json.loads(bsexp("list", "schedules", "--json").stdout)["items"]
    assert [item["name"] for item in items] == list(SCHEDULES)
    (tmp_path / "init.toml").write_text(bsexp("init").stdout)
    document = json.loads(bsexp("plan", "init.toml", "--json").stdout)
    assert (document["runs"], document["tuning_runs"]) == (18, 16)


def test_the_readme_holds_the_table_of_options_and_every_schedule() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- options: made by `python -m bsexp.options` -->\n")[2].partition("<!-- end")[0]
    assert table == readme_table()
    for name in SCHEDULES:
        assert f"`{name}`" in text


def test_the_readmes_own_module_trains(bsexp: Bsexp, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(text.partition("```python\n")[2].partition("```")[0])
    command = next(line for line in text.splitlines() if line.startswith("bsexp run mine:doubling"))
    result = bsexp(*command.split()[1:], "--threads", "1", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    rows = table(tmp_path / document["run_dir"] / "steps.csv")
    assert (rows[0]["batch_size"], rows[-1]["samples"]) == ("16", "900")
    assert "32" in {row["batch_size"] for row in rows}
