"""Workers as jobs of a cluster, with submitit's local executor: there is no Slurm where these tests run."""

import os
import signal
import sys
from pathlib import Path

import pytest

from bsexp.sweep.slurm import WorkerJob, slurm_settings, worker_command
from tests.conftest import ROOT, Bsexp
from tests.faults.programs import children, contents, hold, pending, wait_until

submitit = pytest.importorskip("submitit")
# submitit keeps its processes' handles until the interpreter ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

TINY = """
name = "tiny"
[run]
epochs = 1
train_size = 300
evals = 3
seeds = "0-1"
[tune]
lr = [0.05, 0.1]
seeds = "7"
[arms.small]
schedule = "fixed-small"
[arms.grow]
schedule = "growing-batch"
"""
LOCAL = ("--engine", "slurm", "--slurm", "cluster=local,timeout_min=5")


def rows(path: Path) -> int:
    """The whole rows of a table."""
    return path.read_bytes().count(b"\n") - 1


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def test_jobs_of_a_cluster_make_the_files_of_workers_here(bsexp: Bsexp, tiny: Path) -> None:
    common = ("sweep", "tiny.toml", "--no-report", "--no-share-prefix", "--jobs", "2")
    here = bsexp(*common, "--out", "here")
    assert here.returncode == 0, here.stderr
    there = bsexp(*common, *LOCAL, "--out", "there")
    assert there.returncode == 0, there.stderr
    assert "tiny: 4 of 4 runs finished; 4 made now" in there.stderr
    # runs.csv of tuning is there in both; nothing of submitit's stays.
    assert contents(tiny / "here") == contents(tiny / "there")
    again = bsexp(*common, *LOCAL, "--out", "there")
    assert "nothing to make" in again.stderr


def test_a_job_that_is_preempted_keeps_its_run_and_is_queued_again(
    bsexp: Bsexp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--schedule", "growing-batch", "--seeds", "0", "--epochs", "300", "--no-report")
    options = ("sweep", *options, "--checkpoint-seconds", "600", "--threads", "1")
    assert bsexp(*options, "--jobs", "1", "--out", "whole").returncode == 0
    assert bsexp(*options, "--jobs", "0", "--out", "broken").returncode == 0
    place = tmp_path / "broken" / "runs"
    command = worker_command(place, {"checkpoint_seconds": 600.0, "threads": 1})
    executor = submitit.AutoExecutor(tmp_path / "logs", cluster="local")
    executor.update_parameters(timeout_min=5)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = executor.submit(WorkerJob(command, str(tmp_path)))
    # An attempt without a row would be left without a trace, and the next one be the first again.
    wait_until(lambda: any(rows(path) > 0 for path in place.glob("runs/*/attempt-1/evals.csv")), "a row")
    # The number of the job is that of submitit's controller here. The worker stands still meanwhile: a slow machine
    # might let its run end before the signal comes.
    (task,) = children(int(job.job_id))
    (worker,) = children(task)
    hold(worker)
    assert not [*place.glob("runs/*/summary.json")]
    # What Slurm sends before it takes a job away.
    os.kill(task, signal.SIGUSR2)
    wait_until(lambda: signal.SIGUSR1 in pending(worker), "the signal for the worker")
    os.kill(worker, signal.SIGCONT)
    assert job.result() == 0
    assert "Requeued job" in job.stdout()
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    (folder,) = place.glob("runs/*")
    assert '"attempts": 2' in (folder / "environment.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--engine", "slurm"), 2, "--jobs: auto with --engine slurm; say how many workers"),
        ((*LOCAL, "--jobs", "0"), 2, "--jobs: auto with --engine slurm"),
        (("--engine", "slurm", "--jobs", "2"), 6, "there is no srun on this machine"),
        (("--engine", "slurm", "--jobs", "2", "--slurm", "partition"), 2, "give KEY=VALUE, separated by commas"),
        (
            ("--engine", "slurm", "--jobs", "2", "--slurm", "cluster=local,nonsense=3"),
            2,
            "--slurm: {'cluster': 'local'",
        ),
    ],
    ids=str,
)
def test_what_no_cluster_could_do_is_one_line(
    bsexp: Bsexp, tiny: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = bsexp("sweep", "tiny.toml", "--quiet", *arguments, PATH=os.path.dirname(sys.executable))
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_settings_are_numbers_where_they_are_whole() -> None:
    found = slurm_settings("timeout_min=240,slurm_partition=gpu")
    assert found == {"timeout_min": 240, "slurm_partition": "gpu"}


def test_workers_get_those_options_of_a_sweep_that_are_theirs(tmp_path: Path) -> None:
    given = {"jobs": 4, "threads": 2, "deterministic": True, "share_prefix": False, "retry": "failed", "json": True}
    command = worker_command(tmp_path, given)
    assert command[3:6] == ["worker", str(tmp_path), "--quiet"]
    assert sorted(command[6:]) == sorted(
        ["--threads", "2", "--deterministic", "--no-share-prefix", "--retry", "failed"]
    )
