"""Sweeps with real worker processes: the same bytes whatever the workers, nothing twice, interruption, failures."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bsexp.errors import RunsFailed, UsageError
from bsexp.records import TIME_COLUMNS
from bsexp.sweep.experiment import read_experiment
from bsexp.sweep.tuning import Tune, choose
from tests.conftest import ROOT, Bsexp

TINY = """
name = "tiny"
question = "Does it work?"
[run]
epochs = 4
train_size = 200
label_noise = 0.2
evals = 3
seeds = "0-1"
[tune]
lr = [0.05, 0.1]
seeds = "7"
[arms.steady]
schedule = "fixed-small"
dropout = 0.2
[arms.grow]
schedule = "growing-batch"
[arms.own-rate]
schedule = "lr-decay"
lr = 0.07
"""


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def contents(folder: Path) -> dict[str, object]:
    """Every file of the runs below a folder, time columns aside."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".csv" and "report" not in path.parts:
            found[name] = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in table(path)]
        elif path.name in ("config.json", "test_predictions.npz"):
            found[name] = path.read_bytes()
        elif path.name == "summary.json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k not in TIME_COLUMNS}
    return found


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def test_any_number_of_workers_gives_the_same_files_and_a_second_call_makes_nothing(bsexp: Bsexp, tiny: Path) -> None:
    for jobs in ("1", "2"):
        result = bsexp("sweep", "tiny.toml", "--jobs", jobs, "--out", f"out{jobs}", "--json")
        assert result.returncode == 0, result.stderr
        document = json.loads(result.stdout)
        assert (document["planned"], document["finished"], document["failed"]) == (6, 6, 0)
        # Two tuned arms at two rates on one seed, and six runs, of 800 samples each.
        assert document["samples_trained"] == 8000
    one, two = contents(tiny / "out1" / "tiny"), contents(tiny / "out2" / "tiny")
    assert len([name for name in one if name.endswith("summary.json")]) == 10
    assert one == two
    report = tiny / "out2" / "tiny" / "report"
    assert {"report.md", "report.html", "arms.csv", "final.png", "curves.svg"} <= {
        path.name for path in report.iterdir()
    }
    again = json.loads(bsexp("sweep", "tiny.toml", "--out", "out2", "--json", "--no-report").stdout)
    assert (again["finished"], again["samples_trained"]) == (6, 0)
    status = json.loads(bsexp("status", "out2", "--json").stdout)["counts"]
    assert [(row["experiment"], row["finished"]) for row in status] == [("tiny", 6), ("tiny (tuning)", 4)]


def test_the_same_run_alone_has_the_files_of_the_sweep(bsexp: Bsexp, tiny: Path) -> None:
    bsexp("sweep", "tiny.toml", "--no-report")
    options = "--epochs 4 --train-size 200 --label-noise 0.2 --evals 3 --lr 0.07 --seed 1 --threads 1"
    alone = json.loads(bsexp("run", "lr-decay", *options.split(), "--json").stdout)
    (swept,) = (tiny / "results" / "tiny" / "runs").glob("own-rate-lr0.07-s1-*")
    assert swept.name.rpartition("-")[2] == Path(alone["run_dir"]).name.rpartition("-")[2]
    mine, theirs = contents(tiny / alone["run_dir"]), contents(swept)
    assert mine["steps.csv"] == theirs["steps.csv"]
    assert mine["evals.csv"] == theirs["evals.csv"]
    assert mine["test_predictions.npz"] == theirs["test_predictions.npz"]


def test_a_packed_folder_gives_the_same_report(bsexp: Bsexp, tiny: Path) -> None:
    bsexp("sweep", "tiny.toml")
    place = tiny / "results" / "tiny"
    assert bsexp("report", "results/tiny", "--pack").returncode == 0
    before = {path.name: path.read_bytes() for path in (place / "report").iterdir()}
    subprocess.run(["rm", "-r", str(place / "runs"), str(place / "tune"), str(place / "report")], check=True)
    result = bsexp("report", "results/tiny")
    assert result.returncode == 0, result.stderr
    assert {path.name: path.read_bytes() for path in (place / "report").iterdir()} == before


def test_arms_and_seeds_are_added_and_an_arm_keeps_its_meaning(bsexp: Bsexp, tiny: Path) -> None:
    bsexp("sweep", "tiny.toml", "--no-report")
    (tiny / "tiny.toml").write_text(TINY.replace("0-1", "0-2") + '[arms.new]\nschedule = "cyclic"\nlr = 0.07\n')
    more = json.loads(bsexp("sweep", "tiny.toml", "--no-report", "--json").stdout)
    # Three seeds of four arms; new are one seed of three arms and three of the new one.
    assert (more["planned"], more["samples_trained"]) == (12, 4800)
    (tiny / "tiny.toml").write_text(TINY.replace("dropout = 0.2", "dropout = 0.3"))
    other = bsexp("sweep", "tiny.toml")
    assert other.returncode == 5
    assert "arm 'steady' has dropout = 0.2 there, 0.3 now" in other.stderr


def test_jobs_zero_plans_and_stops(bsexp: Bsexp, tiny: Path) -> None:
    (tiny / "tiny.toml").write_text(TINY.replace('[tune]\nlr = [0.05, 0.1]\nseeds = "7"\n', ""))
    assert bsexp("sweep", "tiny.toml", "--jobs", "0").returncode == 0
    (row,) = json.loads(bsexp("status", "--json").stdout)["counts"]
    assert (row["runs"], row["waiting"], row["finished"]) == (6, 6, 0)


def started(tiny: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bsexp", "sweep", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=tiny, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(pattern: str, folder: Path, number: int = 1) -> list[Path]:
    for _ in range(600):
        found = sorted(folder.glob(pattern))
        if len(found) >= number:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {folder}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_sweep_goes_on_where_it_was(bsexp: Bsexp, tiny: Path, number: int, code: int) -> None:
    (tiny / "tiny.toml").write_text(TINY.replace("epochs = 4", "epochs = 20"))
    sweep = started(tiny, "tiny.toml", "--jobs", "1", "--no-report")
    wait_for("results/tiny/**/summary.json", tiny, 2)
    sweep.send_signal(number)
    _, said = sweep.communicate(timeout=60)
    assert sweep.returncode == code, said
    assert "run the same command again" in said.splitlines()[-1]
    # The run in hand keeps a checkpoint, and no claim of a process that has ended.
    assert all(list(attempt.glob("checkpoint-*.pt")) for attempt in tiny.glob("results/tiny/**/attempt-*")), said
    assert not list(tiny.glob("results/tiny/**/lease-*")), said
    before = {path: path.stat().st_mtime_ns for path in tiny.glob("results/tiny/**/summary.json")}
    assert bsexp("sweep", "tiny.toml", "--no-report").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert bsexp("sweep", "tiny.toml", "--no-report", "--out", "whole").returncode == 0
    assert contents(tiny / "results" / "tiny") == contents(tiny / "whole" / "tiny")


DYING = """
import os, torch
from pathlib import Path

def net(image_shape, num_classes):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
    mark = Path("died")
    if not mark.exists():
        mark.write_text("once")
        os.kill(os.getpid(), 9)
    return model

class Failing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        if self.training and self.calls > 9:
            raise RuntimeError("no luck")
        return self.layer(x.flatten(1))

def failing(image_shape, num_classes):
    return Failing()
"""


def test_a_worker_that_is_killed_costs_its_run_one_attempt(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DYING)
    options = "--schedule fixed-small --model mine:net --epochs 0.2 --seeds 0-2 --jobs 2 --no-report --json"
    result = bsexp("sweep", *options.split())
    assert (tmp_path / "died").exists()
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["finished"] == 3


def test_a_run_that_fails_is_recorded_and_the_others_go_on(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DYING)
    (tmp_path / "e.toml").write_text(
        '[run]\nepochs = 0.2\nseeds = "0"\n[arms.bad]\nschedule = "fixed-small"\nmodel = "mine:failing"\n'
        '[arms.good]\nschedule = "fixed-small"\n'
    )
    result = bsexp("sweep", "e.toml", "--json")
    assert result.returncode == 3
    assert "no luck" in result.stderr
    document = json.loads(result.stdout)
    assert (document["finished"], document["failed"]) == (1, 1)
    (row,) = json.loads(bsexp("status", "--json").stdout)["counts"]
    assert (row["finished"], row["failed"]) == (1, 1)


def test_comma_lists_become_axes_and_doubles_merge(bsexp: Bsexp, tmp_path: Path) -> None:
    options = "--schedule fixed-small,lr-decay --lr 0.02,0.05,0.02 --epochs 0.2 --seeds 0 --json"
    result = bsexp("sweep", *options.split())
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["planned"] == 4
    rows = table(tmp_path / "results" / "runs" / "runs.csv")
    assert sorted((row["schedule"], float(row["lr"])) for row in rows) == [
        *[("fixed-small", 0.02), ("fixed-small", 0.05), ("lr-decay", 0.02), ("lr-decay", 0.05)]
    ]


def test_grid_zip_and_exclude_make_the_stated_cells(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(
        '[run]\nseeds = "0-1"\n[arms.a]\nschedule = "fixed-small"\n[arms.b]\nschedule = "lr-decay"\n'
        "[grid]\nfactor = [2, 4]\ndropout = [0.0, 0.25]\n[[zip]]\nbatch_size = [16, 32]\nlr = [0.05, 0.1]\n"
        '[[exclude]]\narm = "b"\nfactor = 4\ndropout = 0.25\n'
    )
    result = bsexp("plan", "e.toml", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    # a has no factor: 2 x 2 cells; b: 2 x 2 x 2 less the 2 that are excluded; two seeds.
    assert document["runs"] == 2 * (4 + 6)
    assert "a has no factor" in bsexp("plan", "e.toml").stderr


def trial(arm: str, lr: float, loss: float | None, seed: int = 7, status: str = "finished") -> dict[str, object]:
    return {"arm": arm, "lr": lr, "seed": seed, "val_loss": loss, "status": status}


def test_a_rate_may_be_chosen_by_the_loss_of_averaged_weights() -> None:
    trials = [trial("a", 0.1, 0.5) | {"val_loss_ema": 0.45}, trial("a", 0.2, 0.6) | {"val_loss_ema": 0.4}]
    assert [row["lr"] for row in choose(trials) if row["chosen"]] == [0.1]
    assert [row["lr"] for row in choose(trials, "val_loss_ema") if row["chosen"]] == [0.2]
    assert [row["val_loss"] for row in choose(trials, "val_loss_ema")] == [0.45, 0.4]
    document = {"arms": {"a": {"schedule": "fixed-small"}}, "tune": {"lr": [0.1, 0.2], "metric": "val_loss_ema"}}
    asked = read_experiment(document, {}, "", "x")
    assert asked.tune is not None
    assert asked.tune.metric == "val_loss_ema"
    assert Tune.of(asked.tune.stored()) == asked.tune
    # Results tuned before there was a choice are those of the last weights.
    assert Tune.of({"lr": [0.1], "seeds": [7]}).metric == "val_loss"
    with pytest.raises(UsageError, match="arm a averages no weights"):
        read_experiment({**document, "run": {"averaging": "none"}}, {}, "", "x")
    with pytest.raises(UsageError, match=r"tune.metric: 'test_loss'"):
        read_experiment({**document, "tune": {"lr": [0.1], "metric": "test_loss"}}, {}, "", "x")


def test_the_rate_with_the_lowest_mean_validation_loss_is_chosen() -> None:
    rows = choose([trial("a", 0.1, 0.5), trial("a", 0.1, 0.7, 8), trial("a", 0.2, 0.4), trial("a", 0.2, 0.75, 8)])
    assert [(row["lr"], row["val_loss"], row["chosen"], row["place"]) for row in rows] == [
        (0.1, 0.6, False, "1 of 2"),
        (0.2, 0.575, True, "2 of 2"),
    ]


def test_a_rate_at_which_a_seed_did_not_train_is_never_chosen() -> None:
    rows = choose([trial("a", 0.1, 0.9), trial("a", 0.2, 0.1), trial("a", 0.2, None, 8, "diverged")])
    assert [(row["lr"], row["chosen"], row["status"]) for row in rows] == [
        (0.1, True, "finished"),
        (0.2, False, "diverged finished"),
    ]
    with pytest.raises(RunsFailed, match="learned at none"):
        choose([trial("a", 0.1, None, 7, "collapsed")])
