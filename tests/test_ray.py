"""Runs as tasks of Ray clusters; two nodes on this machine: `pip install '.[ray]'`, then `pytest -m ray -n 0`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bsexp.errors import SetupError, StoreError
from bsexp.sweep import ray_nodes
from bsexp.sweep.ray_tasks import Board, Place
from tests.conftest import ROOT, Bsexp
from tests.faults.programs import contents

GRID = """
name = "grid"
[run]
epochs = 20
train_size = 400
evals = 4
seeds = "0-9"
[arms.small]
schedule = "fixed-small"
[arms.large]
schedule = "fixed-large"
[arms.grow]
schedule = "growing-batch"
[arms.decay]
schedule = "lr-decay"
"""
COMMON = ("sweep", "grid.toml", "--no-report", "--threads", "1")


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    (tmp_path / "grid.toml").write_text(GRID)
    return tmp_path


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes with one core each; it is one of Ray's own test utilities."""
    utilities = pytest.importorskip("ray.cluster_utils", reason="needs ray: pip install '.[ray]'")
    for name, value in (*ray_nodes.QUIET.items(), ("PYTHONPATH", str(ROOT))):
        monkeypatch.setenv(name, value)
    # A program on this machine belongs to the first of them, the head.
    cluster = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.mark.ray
def test_forty_runs_on_two_nodes_of_which_one_is_killed_are_those_of_a_local_sweep(
    bsexp: Bsexp, grid: Path, two_nodes: Any
) -> None:
    here = bsexp(*COMMON, "--out", "here")
    assert here.returncode == 0, here.stderr
    command = [sys.executable, "-m", "bsexp", *COMMON, "--out", "there", "--json", "--engine", "ray"]
    command += ["--ray-address", two_nodes.address]
    program = subprocess.Popen(command, cwd=grid, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    place = grid / "there" / "grid" / "runs"
    end = time.monotonic() + 240
    while len([*place.glob("*/summary.json")]) < 20 and time.monotonic() < end and program.poll() is None:
        time.sleep(0.05)
    assert program.poll() is None, program.communicate()
    two_nodes.remove_node(two_nodes.other, allow_graceful=False)
    said, errors = program.communicate(timeout=300)
    assert program.returncode == 0, errors
    assert "40 to make with 2 workers on 2 Ray nodes" in errors
    assert "grid: 40 of 40 runs finished" in errors
    assert '"finished": 40' in said
    assert contents(grid / "here") == contents(grid / "there")
    assert not [*(grid / "there" / "grid").glob(".ray*")]


@pytest.mark.ray
def test_ctrl_c_leaves_checkpoints_and_the_same_command_goes_on(bsexp: Bsexp, tmp_path: Path, two_nodes: Any) -> None:
    options = ("sweep", "--schedule", "growing-batch,lr-decay", "--seeds", "0", "--epochs", "300", "--no-report")
    options = (*options, "--threads", "1", "--checkpoint-seconds", "600", "--no-share-prefix")
    assert bsexp(*options, "--out", "whole").returncode == 0
    there = (*options, "--out", "broken", "--engine", "ray", "--ray-address", two_nodes.address)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bsexp", *there]
    program = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    place = tmp_path / "broken" / "runs" / "runs"
    end = time.monotonic() + 120
    while len([*place.glob("*/attempt-1/evals.csv")]) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    # Long enough for a report to the sweep that both have begun.
    time.sleep(1.5)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 130, errors
    assert "stopping: runs in hand end after their update" in errors
    assert len([*place.glob("*/attempt-1/checkpoint-*.pt")]) == 2
    again = bsexp(*there)
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.ray
def test_a_task_that_kills_its_process_costs_its_run_three_attempts(
    bsexp: Bsexp, tmp_path: Path, two_nodes: Any
) -> None:
    (tmp_path / "own.py").write_text(
        "import os\nfrom torch import nn\n\n\n"
        "def deadly(image_shape, num_classes):\n    os._exit(9)\n\n\n"
        "def plain(image_shape, num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    (tmp_path / "own.toml").write_text(
        '[run]\nepochs = 2\nseeds = "0"\nmodel = "own:plain"\n[arms.good]\nschedule = "fixed-small"\n'
        '[arms.bad]\nschedule = "fixed-small"\nmodel = "own:deadly"\n'
    )
    ray = ("--engine", "ray", "--ray-address", two_nodes.address)
    result = bsexp("sweep", "own.toml", "--no-report", *ray)
    assert result.returncode == 3, result.stderr
    assert "own: 1 of 2 runs finished, 1 failed" in result.stderr
    (failure,) = tmp_path.glob("results/own/runs/*/failure.json")
    assert "its worker died 3 times (WorkerCrashedError)" in failure.read_text()


@pytest.mark.ray
def test_a_cluster_of_this_machines_own_needs_no_address(bsexp: Bsexp, grid: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install '.[ray]'")
    result = bsexp(*COMMON, "--seeds", "0", "--jobs", "2", "--engine", "ray", "--deterministic")
    assert result.returncode == 0, result.stderr
    assert "with 2 workers on 1 Ray node" in result.stderr
    assert bsexp(*COMMON, "--seeds", "0", "--out", "here", "--deterministic").returncode == 0
    assert contents(grid / "here") == contents(grid / "results")


@pytest.mark.ray
def test_a_cluster_that_is_not_there_is_one_line(bsexp: Bsexp, grid: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install '.[ray]'")
    result = bsexp(*COMMON, "--quiet", "--engine", "ray", "--ray-address", "127.0.0.1:1")
    assert result.returncode == 6, result.stderr
    assert "bsexp: --ray-address: 127.0.0.1:1: " in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ray-address", "auto"), "--ray-address: without --engine ray"),
        (("--slurm", "a=1"), "--slurm: without --engine slurm"),
        (("--engine", "ray", "--device", "cuda:1"), "--device: cuda:1 with --engine ray"),
        (("--engine", "ray", "--jobs", "2", "--per-gpu", "2"), "--per-gpu: 2 with --jobs 2"),
    ],
    ids=str,
)
def test_what_ray_has_no_use_for_is_refused(bsexp: Bsexp, grid: Path, arguments: tuple[str, ...], said: str) -> None:
    result = bsexp(*COMMON, "--quiet", *arguments)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_nodes, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="ray is not installed; pip install 'bsexp\\[ray\\]'"):
        ray_nodes.check_ray()


def test_a_node_that_sees_another_folder_gives_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_nodes, "SEEN_SECONDS", 0.0)
    token, proof = tmp_path / ".ray-1", tmp_path / ".ray-1.0"
    assert ray_nodes._answer(token, proof) is None
    assert not proof.exists()
    token.write_text("")
    machine = ray_nodes._answer(token, proof)
    assert machine is not None
    assert machine["torch"]
    assert proof.exists()


def test_a_task_on_a_node_that_came_later_asks_for_the_folder_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsexp.sweep.ray_tasks.node_name", lambda: "later")
    place = Place.here(tmp_path / ".ray-1")
    with pytest.raises(StoreError, match="isn't the same on node later"):
        place.settle()


def test_the_board_tells_once_what_was_reported_and_when_to_stop() -> None:
    board = Board()
    assert not board.report(3, 10, 40, [(20, "a")])
    assert not board.report(3, 20, 40, [])
    assert board.take() == ({3: (20, 40)}, [(3, (20, "a"))])
    assert board.take() == ({}, [])
    board.stop()
    assert board.report(3, 30, 40, [])
