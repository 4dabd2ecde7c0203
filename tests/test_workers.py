"""Batches divided over workers and ranks: the weights of one process, a sum where it is asked for, ranks that die."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from bsexp import RunConfig
from bsexp.data.sources import Images
from bsexp.data.stream import SampleStream
from bsexp.errors import SetupError, UsageError
from bsexp.models import build_model
from bsexp.planning import divisors, micro_batch_sizes, noise_parts, times_mean, worker_shares
from bsexp.records import EvalRow, StepRow
from bsexp.schedules import Hyper
from bsexp.sweep.prefix import find_forks
from bsexp.sweep.ranks import _Started, rank_device
from tests.conftest import ROOT
from tests.faults.programs import SLEEPING, Program, alive, contents, finish, kill_all, wait_until, workers
from tests.test_engine import training, updater, weights
from tests.test_prefix import arm, planned

DOUBLE: dict[str, Any] = {"precision": "fp64", "label_noise": 0.0, "evals": 2}
# Running averages take the shares of a batch one after another, the ghost batches of a share as one mean.
RUNNING = 5e-4
SUMMED: dict[str, Any] = {"virtual_workers": 4, "reduce": "sum"}


@pytest.fixture(scope="module", autouse=True)
def _none_left() -> Iterator[None]:
    yield
    kill_all()


def config(**options: Any) -> RunConfig:
    return RunConfig(**{"schedule": "fixed-small", **options})


# -- how a batch is divided


def test_shares_are_as_equal_as_can_be_and_some_are_empty() -> None:
    plain = config()
    assert worker_shares(12, plain, 4) == [3, 3, 3, 3]
    assert worker_shares(10, plain, 4) == [2, 3, 2, 3]
    assert worker_shares(3, plain, 5) == [0, 1, 0, 1, 1]
    assert worker_shares(7, plain, 1) == [7]


def test_ghost_batches_are_not_cut() -> None:
    ghost = config(dataset="mnist", model="cnn", norm="batch", ghost_batch=32)
    assert worker_shares(160, ghost, 2) == [64, 96]
    assert worker_shares(100, ghost, 2) == [32, 68]
    assert worker_shares(20, ghost, 3) == [0, 0, 20]


def test_parts_are_cut_between_workers_and_between_ranks_and_above_the_limit() -> None:
    two = config(virtual_workers=2)
    assert micro_batch_sizes(12, two) == [6, 6]
    assert micro_batch_sizes(12, two, ranks=3) == [4, 2, 2, 4]
    assert micro_batch_sizes(12, two, ranks=2) == [6, 6]
    assert micro_batch_sizes(1, two) == [1]
    assert micro_batch_sizes(14, config(virtual_workers=2, micro_batch=4)) == [3, 4, 3, 4]
    # Statistics over all that a worker has are its own.
    assert micro_batch_sizes(5000, config(dataset="mnist", model="cnn", norm="batch", virtual_workers=2)) == [2500] * 2


def test_what_is_measured_of_noise_is_the_same_for_any_number_of_ranks() -> None:
    assert noise_parts(64, config(virtual_workers=2)) == [32, 32]
    assert noise_parts(64, config()) == [16] * 4


def test_a_sum_divides_by_each_workers_own_samples() -> None:
    summed = config(**SUMMED)
    assert divisors(10, [2, 3, 2, 3], summed) == [2, 3, 2, 3]
    # The second worker's three samples in two parts, one of them on another rank.
    assert divisors(10, [2, 1, 2, 2, 3], summed) == [2, 3, 3, 2, 3]
    assert divisors(3, [1, 1, 1], config(virtual_workers=5, reduce="sum")) == [1, 1, 1]
    assert divisors(10, [2, 3, 2, 3], config(virtual_workers=4)) == [10] * 4
    assert [times_mean(size, summed) for size in (2, 4, 100)] == [2, 4, 4]
    assert times_mean(100, config(virtual_workers=4)) == 1


# -- what a run is


def test_runs_without_workers_keep_their_hashes() -> None:
    """As they were before there were workers."""
    assert config().hash == "044a692ec32347523ec9df90f66e8bba"
    fashion = {"dataset": "fashion-mnist", "epochs": 12.0, "lr": 0.02}
    assert RunConfig(schedule="growing-batch", **fashion).hash == "40788edb9d4925e35dc2bd92519a66cb"
    assert config(virtual_workers=1, reduce="mean").hash == config().hash


def test_workers_and_reduction_are_part_of_what_a_run_is() -> None:
    hashes = {config(**given).hash for given in ({}, {"virtual_workers": 4}, SUMMED)}
    assert len(hashes) == 3


def test_a_sum_over_one_worker_is_refused() -> None:
    with pytest.raises(UsageError, match="reduce: 'sum' with 1 worker"):
        config(reduce="sum")


def test_runs_of_other_workers_share_no_beginning() -> None:
    step = {"shape": "step", "milestones": [0.5], "factor": 4.0}
    same = planned(one=arm("fixed-small"), other=arm("lr-decay", step))
    divided = planned(one=arm("fixed-small"), other=arm("lr-decay", step, virtual_workers=2))
    assert find_forks(same)
    assert not find_forks(divided)


# -- k workers on one device


@pytest.mark.parametrize(
    "options",
    [
        {"virtual_workers": 2},
        {"virtual_workers": 7},
        {"virtual_workers": 5, "batch_size": 3, "schedule": "fixed-small"},
        {"virtual_workers": 3, "micro_batch": 7, "label_smoothing": 0.1},
        {"virtual_workers": 4, "optimizer": "adamw", "clip_norm": 0.5},
        {
            "virtual_workers": 2,
            "model": "cnn-small",
            "norm": "batch",
            "ghost_batch": 8,
            "batch_size": 16,
            "schedule": "fixed-small",
        },
    ],
    ids=str,
)
def test_k_workers_give_the_weights_of_one(digits: Images, options: dict[str, Any]) -> None:
    runs = [training(digits, **{**DOUBLE, **options, "virtual_workers": k}) for k in (1, options["virtual_workers"])]
    sizes = [[row.batch_size for row in run if isinstance(row, StepRow)] for run in runs]
    assert sizes[0] == sizes[1]
    for (name, one), k in zip(runs[0].model.state_dict().items(), weights(runs[1]), strict=True):
        torch.testing.assert_close(k, one, rtol=0, atol=RUNNING if "running" in name else 1e-6)


def test_an_update_by_sum_is_that_of_the_sum_of_the_workers_means(digits: Images) -> None:
    """Ten samples over four workers, 2 + 3 + 2 + 3, by autograd one worker after another; SGD without momentum."""
    update, model, stream = updater(digits, weight_decay=0.0, **SUMMED)
    twin = build_model("mlp", image_shape=(1, 8, 8), num_classes=10, seed=0).double()
    loss, _ = update.update(stream.take(10), Hyper(10, 0.1, 0.0), [2, 3, 2, 3])
    images, labels = update.batches.train(SampleStream(400, 0).take(10))
    means = [cross_entropy(twin(images[a:b]), labels[a:b]) for a, b in ((0, 2), (2, 5), (5, 7), (7, 10))]
    gradients = torch.autograd.grad(torch.stack(means).sum(), list(twin.parameters()))
    for parameter, before, gradient in zip(model.parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter, before - 0.1 * gradient, rtol=0, atol=1e-12)
    # What is written down is the batch's mean loss all the same.
    torch.testing.assert_close(loss, cross_entropy(twin(images), labels).detach(), rtol=0, atol=1e-12)


def distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest difference of two weights."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def trained(digits: Images, **options: Any) -> list[torch.Tensor]:
    run = training(digits, **{**DOUBLE, "schedule": "fixed-small", "batch_size": 16, "weight_decay": 0.0, **options})
    list(run)
    return weights(run)


def test_sum_with_lr_is_mean_with_k_lr_for_sgd_and_not_for_adamw(digits: Images) -> None:
    sgd = trained(digits, lr=0.01, **SUMMED)
    assert distance(sgd, trained(digits, lr=0.04)) < 1e-9
    assert distance(sgd, trained(digits, lr=0.01)) > 0.01
    adam = trained(digits, optimizer="adamw", lr=0.001, **SUMMED)
    assert distance(adam, trained(digits, optimizer="adamw", lr=0.004)) > 0.01
    # Its step doesn't depend on the gradient's size, but for the 1e-8 that it adds to the root of its square.
    assert distance(adam, trained(digits, optimizer="adamw", lr=0.001)) < 1e-3


def test_the_noise_scale_of_a_sum_is_that_of_the_rate_it_amounts_to(digits: Images) -> None:
    """lr .01 summed over 4 workers is lr .04: g = .04 / (1 - .9) * (400 / 16 - 1)."""
    options = {"schedule": "fixed-small", "batch_size": 16, "lr": 0.01, **SUMMED}
    row = next(row for row in training(digits, **options) if isinstance(row, StepRow))
    assert row.noise_scale == pytest.approx(0.04 / 0.1 * 24)
    assert row.lr == 0.01


def test_noise_under_a_sum_is_that_of_the_mean_and_changes_nothing(digits: Images) -> None:
    options = {**DOUBLE, "schedule": "fixed-small", "batch_size": 16, "lr": 0.001, "virtual_workers": 4}

    def rows(**more: Any) -> list[Any]:
        return list(training(digits, log_samples=16, **options, **more))

    first = [
        next(row for row in rows(measure_noise=True, reduce=reduce) if isinstance(row, StepRow))
        for reduce in ("mean", "sum")
    ]
    assert first[1].grad_var == pytest.approx(first[0].grad_var, rel=1e-9)
    evals = [
        [row.val_loss for row in rows(measure_noise=measured, reduce="sum") if isinstance(row, EvalRow)]
        for measured in (False, True)
    ]
    assert evals[0] == evals[1]


# -- n ranks, in real processes

COMMON = ("--threads", "1", "--save-model", "--quiet", "--evals", "5", "--train-size", "300", "--epochs", "3")
FP64 = ("--precision", "fp64")
CNN = ("fixed-small", "--model", "cnn-small", "--norm", "batch")
RUNS = {
    "growing": ("growing-batch", "--norm", "group", "--batch-size", "7", *FP64),
    "few": ("fixed-small", "--batch-size", "2", "--optimizer", "adamw", "--clip-norm", "1", *FP64),
    # 900 samples in 15 updates of 10 ghost batches, 3 + 3 + 4 on three ranks.
    "ghost": (*CNN, "--ghost-batch", "6", "--batch-size", "60", *FP64),
    "statistics": (*CNN, "--virtual-workers", "2", "--batch-size", "20", *FP64),
    "steered": ("adaptive-batch", *FP64),
    "masks": ("growing-batch", "--dropout", "0.4", "--virtual-workers", "4", *FP64),
    "measured": ("growing-batch", "--measure-noise", "--virtual-workers", "2", *FP64),
    "summed": ("fixed-small", "--virtual-workers", "3", "--reduce", "sum", "--lr", "0.004", *FP64),
    # In smaller parts fewer gradients overflow: those that are left out depend on the workers, not on the ranks.
    "half": ("growing-batch", "--precision", "fp16", "--virtual-workers", "2"),
}


def run_folder(out: Path) -> Path:
    (folder,) = (out / "runs" / "runs").iterdir()
    return folder


def rows(out: Path, name: str) -> list[dict[str, str]]:
    with open(run_folder(out) / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def environment(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_folder(out) / "environment.json").read_text(encoding="utf-8"))
    return found


def model_of(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run_folder(out) / "model.pt", weights_only=True)
    return state


def assert_alike(one: Path, other: Path, atol: float = 1e-6, running: float = 1e-6) -> None:
    """Weights to `atol`, running statistics to `running`, losses to 1e-4, accuracies to one sample, counts exactly."""
    mine, theirs = model_of(one), model_of(other)
    assert list(mine) == list(theirs)
    for name in mine:
        torch.testing.assert_close(theirs[name], mine[name], rtol=0, atol=running if "running" in name else atol)
    counts = ("step", "samples", "epoch")
    for a, b in zip(rows(one, "evals.csv"), rows(other, "evals.csv"), strict=True):
        assert [a[name] for name in counts] == [b[name] for name in counts]
        for name in a:
            if "loss" in name:
                assert float(b[name]) == pytest.approx(float(a[name]), abs=1e-4)
            elif "accuracy" in name:
                # 143 samples are held out; the training subset is larger.
                assert abs(float(b[name]) - float(a[name])) <= 1 / 143
    decided = ("step", "samples", "batch_size", "lr")
    for a, b in zip(rows(one, "steps.csv"), rows(other, "steps.csv"), strict=True):
        assert [a[name] for name in decided] == [b[name] for name in decided]


@pytest.mark.parametrize("name", RUNS)
def test_n_ranks_give_the_files_of_one_to_rounding(tmp_path: Path, name: str) -> None:
    ranks = 3 if name in ("few", "ghost") else 2
    for out, number in (("one", 1), ("several", ranks)):
        finish(tmp_path, "run", *RUNS[name], *COMMON, "--nproc", str(number), "--out", out)
    one, several = tmp_path / "one", tmp_path / "several"
    assert_alike(one, several, 1e-4 if name == "half" else 1e-6, RUNNING if name == "ghost" else 1e-6)
    assert run_folder(one).name == run_folder(several).name
    assert (environment(several)["nproc"], environment(several)["threads"]) == (ranks, 1)
    if name == "steered":
        decisions = [
            [(row["samples"], row["batch_size"]) for row in rows(out, "decisions.csv")] for out in (one, several)
        ]
        assert decisions[0] == decisions[1]
        assert len({size for _, size in decisions[0]}) > 1
    if name == "measured":
        for a, b in zip(rows(one, "steps.csv"), rows(several, "steps.csv"), strict=True):
            assert float(a["grad_var"]) > 0
            assert float(b["grad_var"]) == pytest.approx(float(a["grad_var"]), rel=1e-6)
            assert float(b["grad_sq_norm"]) == pytest.approx(float(a["grad_sq_norm"]), rel=1e-6, abs=1e-6)


def test_one_two_and_two_simulated_have_equal_files(tmp_path: Path) -> None:
    same = (
        "run",
        "growing-batch",
        "--dataset",
        "digits",
        "--norm",
        "group",
        "--save-model",
        "--epochs",
        "6",
        "--quiet",
    )
    for out, how in (("one", "--nproc=1"), ("two", "--nproc=2"), ("simulated", "--virtual-workers=2")):
        finish(tmp_path, *same, how, "--out", out)
    assert_alike(tmp_path / "one", tmp_path / "two", atol=1e-4)
    assert_alike(tmp_path / "one", tmp_path / "simulated", atol=1e-4)


def test_a_sum_over_processes_is_one_over_so_many_workers(tmp_path: Path) -> None:
    same = ("run", "fixed-small", "--reduce", "sum", *COMMON, *FP64)
    finish(tmp_path, *same, "--nproc", "2", "--out", "two")
    finish(tmp_path, *same, "--virtual-workers", "2", "--out", "simulated")
    assert run_folder(tmp_path / "two").name == run_folder(tmp_path / "simulated").name
    assert_alike(tmp_path / "two", tmp_path / "simulated")


# -- ranks that die

# Long enough to be ended in the middle.
LONG = ("run", "growing-batch", *COMMON[:-1], "150", "--log-samples", "1000")
TWO = (*LONG, "--nproc", "2")
AGAIN = "run the same command again to go on from the last checkpoint"


def begun(place: Path, *arguments: str, **rest: Any) -> Program:
    """A run that has written a checkpoint."""
    program = Program(place, *arguments, "--checkpoint-seconds", "0.1", "--out", "broken", **rest)
    kept = "broken/runs/runs/*/attempt-*/checkpoint-*.pt"
    wait_until(lambda: not program.running or [*place.glob(kept)], "a checkpoint")
    assert program.running, program.said()
    return program


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of two ranks."""
    place = tmp_path_factory.mktemp("whole")
    finish(place, *TWO, "--out", "whole", OMP_NUM_THREADS="1")
    return place / "whole"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_stops_the_others_and_the_run_goes_on(tmp_path: Path, whole: Path, rank: int) -> None:
    program = begun(tmp_path, *TWO)
    (other,) = workers(program.pid)
    if rank:
        os.kill(other, signal.SIGKILL)
        assert program.wait(30) == 3
        assert program.said().splitlines()[-1] == f"bsexp: rank 1: died (signal 9); {AGAIN}"
        assert "Traceback" not in program.said()
    else:
        program.kill()
    wait_until(lambda: not alive(other), "the other rank's end", 10)
    finish(tmp_path, *TWO, "--out", "broken")
    assert contents(tmp_path / "broken") == contents(whole)


def test_two_threads_that_ask_at_once_hear_the_same_of_a_rank_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    peers = _Started(2)
    peers.processes[0].kill()
    quick = forkserver.read_signed

    def slow(descriptor: int) -> Any:
        time.sleep(0.2)
        return quick(descriptor)

    monkeypatch.setattr(forkserver, "read_signed", slow)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(peers.lost) for _ in range(2)]
        assert [each.result() for each in asked] == [("rank 1", "died (signal 9)")] * 2
    peers.end()


def test_a_signal_to_all_ranks_ends_the_run_after_an_update_with_a_checkpoint(tmp_path: Path, whole: Path) -> None:
    program = begun(tmp_path, *TWO)
    (other,) = workers(program.pid)
    for pid in (other, program.pid):
        os.kill(pid, signal.SIGTERM)
    assert program.wait(30) == 143
    assert not alive(other)
    refused = finish(tmp_path, *LONG, "--nproc", "1", "--out", "broken", expected=5)
    assert "made with nproc 2, now 1; --allow-changed goes on" in refused.said()
    # Without --nproc it goes on with as many as it began with.
    finish(tmp_path, *LONG, "--out", "broken")
    assert contents(tmp_path / "broken") == contents(whole)


def test_it_goes_on_with_another_number_of_ranks_to_rounding(tmp_path: Path) -> None:
    arguments = ("run", "growing-batch", *COMMON[:-1], "100", *FP64)
    finish(tmp_path, *arguments, "--out", "alone")
    program = begun(tmp_path, *arguments, "--nproc", "2")
    program.signal(signal.SIGINT)
    assert program.wait(30) == 130
    changed = finish(tmp_path, *arguments, "--nproc", "3", "--allow-changed", "--out", "broken")
    assert "going on with 3 instead of 2 processes: numbers stay the same to rounding only" in changed.said()
    assert_alike(tmp_path / "alone", tmp_path / "broken")
    assert environment(tmp_path / "broken")["changed"][0]["nproc"] == [2, 3]


def short_patience() -> None:
    import bsexp.engine.ranks
    import bsexp.sweep.ranks

    bsexp.engine.ranks.WAIT_SECONDS = 3.0
    bsexp.sweep.ranks.GRACE_SECONDS = 1.0


def test_a_rank_that_stands_still_stops_the_run_after_the_time_limit(tmp_path: Path) -> None:
    program = begun(tmp_path, *TWO, before=short_patience)
    (other,) = workers(program.pid)
    os.kill(other, signal.SIGSTOP)
    began = time.monotonic()
    assert program.wait(40) == 3
    assert time.monotonic() - began > 2
    assert "ranks: one of 2 doesn't answer" in program.said()
    assert not alive(other)


def test_a_first_rank_that_is_stuck_ends_as_well(tmp_path: Path) -> None:
    """Both sleep in the middle of an update; the first one can't notice by itself that the other is gone."""
    (tmp_path / "own.py").write_text(SLEEPING)
    arguments = ("run", "fixed-small", "--model", "own:net", "--nproc", "2", "--quiet", "--threads", "1")
    program = Program(tmp_path, *arguments, before=short_patience)
    wait_until((tmp_path / "asleep").exists, "the ninth update")
    (other,) = workers(program.pid)
    os.kill(other, signal.SIGKILL)
    assert program.wait(30) == 3
    assert f"bsexp: rank 1: died (signal 9); {AGAIN}" in program.said()


BREAKING = """
import torch

class Net(torch.nn.Linear):
    def forward(self, x):
        if self.training and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise ValueError("broken here")
        return super().forward(x.flatten(1))

def net(image_shape, num_classes):
    return Net(64, num_classes)

def counting(image_shape, num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes), torch.nn.BatchNorm1d(num_classes))
"""


def test_a_rank_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BREAKING)
    arguments = ("run", "fixed-small", "--model", "own:net", "--nproc", "2", "--quiet", "--batch-size", "8")
    failed = finish(tmp_path, *arguments, expected=3)
    assert f"bsexp: rank 1: failed (ValueError: broken here); {AGAIN}" in failed.said()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "cnn-small", "--norm", "batch", "--ghost-batch", "0"), "use --virtual-workers 2 (statistics"),
        (("--model", "own:counting"), "keeps buffers of its own"),
        (("--compile",), "--compile: with 2 processes"),
        (("--device", "mps"), ""),
    ],
    ids=str,
)
def test_what_would_depend_on_the_number_of_ranks_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "own.py").write_text(BREAKING)
    expected = 6 if "mps" in arguments else 2
    program = finish(tmp_path, "run", "fixed-small", "--nproc", "2", "--quiet", *arguments, expected=expected)
    assert said in program.said()
    assert not [*tmp_path.glob("results/runs/runs/*")]


def test_each_rank_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: the number of them is said, not found."""
    monkeypatch.setattr("bsexp.sweep.ranks.num_gpus", lambda: 2)
    assert [rank_device("auto", local, 2) for local in (0, 1)] == ["cuda:0", "cuda:1"]
    assert rank_device("cpu", 1, 2) == "cpu"
    with pytest.raises(
        SetupError, match="nproc: 3, but this machine has 2 CUDA devices; use --device cpu or --nproc 2"
    ):
        rank_device("cuda", 0, 3)
    for device in ("cuda:1", "mps"):
        with pytest.raises(UsageError, match=device):
            rank_device(device, 0, 2)


# -- started by torchrun


def torchrun(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "-m", "bsexp", *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_torchrun_gives_the_files_of_nproc(tmp_path: Path) -> None:
    arguments = ("run", *RUNS["steered"], *COMMON)
    finish(tmp_path, *arguments, "--nproc", "2", "--out", "own")
    result = torchrun(tmp_path, *arguments, "--out", "launched", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["summary"]["status"] == "finished"
    assert contents(tmp_path / "own") == contents(tmp_path / "launched")
    again = torchrun(tmp_path, *arguments, "--out", "launched", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(result.stdout)


def test_under_torchrun_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    # torchrun itself takes `--nproc`, wherever it stands, for the beginning of an option of its own.
    result = torchrun(tmp_path, "run", "fixed-small", BSEXP_NPROC="3")
    assert result.returncode != 0
    assert "bsexp: --nproc: 3 of 2 started processes; leave it out" in result.stderr
    assert not (tmp_path / "results").exists()
