"""What only a GPU can show: the whole program on one, in each precision, compiled, stopped, several runs at a time.

The one rule: everything here is skipped, with that reason, where there is no CUDA device.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bsexp import RunConfig, Training
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.records import DecisionRow, EvalRow
from tests.conftest import PYTHONPATH, Bsexp
from tests.test_engine import timeless, weights

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # torch's own, while it compiles: that TF32 is off, and that the first graph it records is empty.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),
]

GROWING: dict[str, Any] = {
    "schedule": "growing-batch", "parameters": {"shape": "step", "milestones": [0.3, 0.6], "factor": 2},
    "model": "cnn-small", "epochs": 4.0, "train_size": 1200, "batch_size": 25, "max_batch": 100, "label_noise": 0.2,
    "evals": 4, "augment": True, "dropout": 0.1,
}  # fmt: skip


def training(
    digits: Images, device: str = "cuda", state: dict[str, Any] | None = None, compile: bool = False, **options: Any
) -> Training:
    config = RunConfig(**{**GROWING, **options})
    return Training(config, state, data=prepare(config, digits), device=device, compile=compile)


def ended(run: Training) -> Training:
    for _ in run:
        pass
    assert run.outcome is not None
    assert run.outcome.status == "finished", run.outcome.reason
    return run


@pytest.fixture
def exact() -> Any:
    """Deterministic kernels only, as `--deterministic` has it."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -- numbers


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu_ends_where_one_on_a_cpu_does(digits: Images, precision: str, compile: bool) -> None:
    options: dict[str, Any] = {"dropout": 0.0}
    there = ended(training(digits, "cpu", **options)).outcome
    here = ended(training(digits, compile=compile, precision=precision, **options)).outcome
    assert there is not None
    assert here is not None
    assert here.device.startswith("cuda (")
    assert (here.updates, here.samples) == (there.updates, there.samples)
    assert here.peak_memory_bytes is not None
    assert here.peak_memory_bytes > 1_000_000
    # The same samples in the same order: rounding alone sets them apart.
    near = 0.01 if precision == "fp32" else 0.05
    assert here.test_loss == pytest.approx(there.test_loss, rel=near)


def test_fp64_on_a_gpu_is_that_of_a_cpu(digits: Images) -> None:
    options: dict[str, Any] = {"precision": "fp64", "dropout": 0.0, "epochs": 2.0}
    runs = [training(digits, device, **options) for device in ("cpu", "cuda")]
    assert len({len(list(run)) for run in runs}) == 1
    for one, two in zip(*map(weights, runs), strict=True):
        torch.testing.assert_close(one, two.cpu(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"precision": "fp16"}], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("share", [0.1, 0.55])
def test_with_deterministic_kernels_a_stopped_run_goes_on_to_the_same_bytes(
    digits: Images, options: dict[str, Any], share: float, exact: None
) -> None:
    whole = training(digits, **options)
    expected = [timeless(record) for record in whole]
    first = training(digits, **options)
    begun = [timeless(next(first)) for _ in range(round(share * len(expected)))]
    second = training(digits, state=first.state(), **options)
    assert begun + [timeless(record) for record in second] == expected
    assert all(torch.equal(one, two) for one, two in zip(weights(whole), weights(second), strict=True))


def test_dropout_and_augmentation_go_on_where_they_were(digits: Images, exact: None) -> None:
    # A generator on the GPU that was left where it stood would give the second half other masks.
    one, two = training(digits, dropout=0.5), training(digits, dropout=0.5)
    torch.cuda.manual_seed(1)
    first = [timeless(record) for record in one if isinstance(record, EvalRow)]
    torch.cuda.manual_seed(2)
    assert [timeless(record) for record in two if isinstance(record, EvalRow)] == first


def test_a_batch_too_large_for_the_memory_is_run_in_parts(digits: Images) -> None:
    options: dict[str, Any] = {
        "schedule": "fixed-small",
        "parameters": {},
        "batch_size": 600,
        "max_batch": 600,
        "dropout": 0.0,
        "lr": 0.1,
        "epochs": 40.0,
    }
    whole = ended(training(digits, **options))
    assert whole.outcome is not None
    assert whole.outcome.peak_memory_bytes is not None
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.7 * whole.outcome.peak_memory_bytes / total)
    try:
        parts = ended(training(digits, **options))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert parts._updater.limit is not None
    assert parts._updater.limit < 600
    assert parts.outcome is not None
    assert parts.outcome.test_loss == pytest.approx(whole.outcome.test_loss, rel=0.01)


@pytest.mark.parametrize("policy", ["noise", "diversity", "cosine"])
def test_a_closed_loop_goes_on_to_the_same_bytes(digits: Images, policy: str, exact: None) -> None:
    options: dict[str, Any] = {"schedule": "adaptive-batch", "parameters": {"policy": policy}, "epochs": 6.0}
    whole = training(digits, **options)
    expected = [timeless(record) for record in whole]
    assert any(isinstance(record, DecisionRow) for record in training(digits, **options))
    first = training(digits, **options)
    begun = [timeless(next(first)) for _ in range(len(expected) // 2)]
    second = training(digits, state=first.state(), **options)
    assert begun + [timeless(record) for record in second] == expected


# -- the program


def test_a_killed_run_is_continued_to_the_bytes_of_a_whole_one(tmp_path: Path) -> None:
    words = ("run", "growing-batch", "--model", "cnn-small", "--epochs", "60", "--max-batch", "200", "--quiet")
    command = [
        sys.executable,
        "-m",
        "bsexp",
        *words,
        "--device",
        "cuda",
        "--deterministic",
        "--checkpoint-seconds",
        "0.5",
    ]

    def begin(out: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--out", out], cwd=tmp_path, env={**os.environ, "PYTHONPATH": PYTHONPATH})

    assert begin("whole").wait(300) == 0
    killed = begin("killed")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/runs/runs/*/checkpoint*.pt")):
        assert time.monotonic() < deadline
        assert killed.poll() is None, "it was over before it could be killed"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list(tmp_path.glob("killed/runs/runs/*/summary.json"))
    assert begin("killed").wait(300) == 0
    for name in ("evals.csv", "steps.csv"):
        one, two = (next(tmp_path.glob(f"{out}/runs/runs/*/{name}")) for out in ("whole", "killed"))
        untimed = [
            [{key: value for key, value in row.items() if "seconds" not in key} for row in rows(path)]
            for path in (one, two)
        ]
        assert untimed[0] == untimed[1]
        assert len(untimed[0]) > 10


def test_several_runs_at_a_time_share_a_gpu(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "few.toml").write_text(
        '[run]\nmodel = "cnn-small"\nepochs = 2\nseeds = "0-2"\n[arms.a]\nschedule = "fixed-small"\n'
        '[arms.b]\nschedule = "growing-batch"\n'
    )
    result = bsexp("sweep", "few.toml", "--device", "cuda", "--per-gpu", "3")
    assert result.returncode == 0, result.stderr
    assert "3 workers on cuda:0" in result.stderr + result.stdout
    runs = rows(tmp_path / "results/few/runs.csv")
    assert [row["status"] for row in runs] == ["finished"] * 6
    assert all(row["device"].startswith("cuda (") for row in runs)
    assert all(float(row["peak_memory_bytes"]) > 0 for row in runs)


def test_shared_beginnings_change_nothing_with_deterministic_kernels(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "few.toml").write_text(
        '[run]\nmodel = "cnn-small"\nepochs = 3\nseeds = "0-1"\n[arms.a]\nschedule = "fixed-small"\n'
        '[arms.b]\nschedule = "lr-decay"\nmilestones = [0.5]\n'
    )
    for out, more in (("shared", ()), ("alone", ("--no-share-prefix",))):
        result = bsexp("sweep", "few.toml", "--device", "cuda", "--deterministic", "--out", out, "--no-report", *more)
        assert result.returncode == 0, result.stderr
    losses = [[row["test_loss"] for row in rows(tmp_path / out / "few/runs.csv")] for out in ("shared", "alone")]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 4


def test_a_gpu_is_measured(bsexp: Bsexp, tmp_path: Path) -> None:
    sizes = ("--batch-sizes", "1,32,512", "--repeats", "3", "--model", "cnn-small")
    result = bsexp("measure", *sizes, "--device", "cuda", "--json")
    assert result.returncode == 0, result.stderr
    found = rows(tmp_path / "results/hardware/hardware.csv")
    assert all(row["device"].startswith("cuda") for row in found)
    assert [int(row["batch_size"]) for row in found] == [1, 32, 512]
    for row in found:
        rate = float(row["samples_per_second"])
        assert rate == pytest.approx(int(row["batch_size"]) / float(row["seconds_per_update"]))
    memory = [float(row["peak_memory_bytes"]) for row in found]
    assert memory[0] < memory[1] < memory[2]


def test_the_largest_batch_fits_into_the_memory_that_is_given(bsexp: Bsexp) -> None:
    common = ("--model", "cnn-small", "--batch-sizes", "16,64", "--repeats", "3", "--device", "cuda")
    result = bsexp("find-batch", *common, "--memory", "60M", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["smallest_refused"] is not None
    assert 0 < document["smallest_refused"] - document["largest"] <= max(1, document["largest"] / 32)
    peaks = {row["batch_size"]: row["peak_memory_bytes"] for row in document["rows"] if row["fits"]}
    assert 30_000_000 < peaks[document["largest"]] <= 60_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "fixed-small", "--device", "cuda:9"), "cuda:9"),
        (("run", "fixed-small", "--nproc", "99", "--device", "cuda"), "nproc"),
    ],
)
def test_a_gpu_that_is_not_there_is_told_in_one_line(bsexp: Bsexp, words: tuple[str, ...], said: str) -> None:
    result = bsexp(*words)
    assert result.returncode in (2, 6)
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_one_rank_on_a_gpu_is_a_run(bsexp: Bsexp, tmp_path: Path) -> None:
    words = ("run", "growing-batch", "--epochs", "2", "--device", "cuda", "--json")
    alone, ranked = (bsexp(*words, *more) for more in ((), ("--nproc", "1", "--name", "ranked")))
    assert alone.returncode == ranked.returncode == 0, ranked.stderr
    losses = [json.loads(result.stdout)["summary"]["test_loss"] for result in (alone, ranked)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_sharpness_signals_and_rates_are_found_on_a_gpu(bsexp: Bsexp, tmp_path: Path) -> None:
    run = bsexp(
        *("run", "fixed-small", "--model", "cnn-small", "--epochs", "2", "--measure-noise", "--save-model"),
        *("--device", "cuda", "--json"),
    )
    assert run.returncode == 0, run.stderr
    place = Path(json.loads(run.stdout)["run_dir"])
    assert any(float(row["b_simple"] or 0) > 0 for row in rows(tmp_path / place / "steps.csv"))
    found = bsexp("inspect", "results/runs", "--device", "cuda", "--json")
    assert found.returncode == 0, found.stderr
    assert '"sharpness"' in found.stdout
    gradient = bsexp(
        "measure", "--only", "gradient", "--batch-sizes", "1,32", "--train-size", "300", "--device", "cuda"
    )
    assert gradient.returncode == 0, gradient.stderr
    rate = bsexp("find-lr", "--updates", "300", "--device", "cuda", "--json")
    assert rate.returncode == 0, rate.stderr


def test_advice_is_given_on_a_gpu(bsexp: Bsexp, tmp_path: Path) -> None:
    words = ("--dataset", "digits", "--epochs", "4", "--minutes", "5", "--device", "cuda", "--json")
    result = bsexp("advise", *words)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["candidates"]) > 3
