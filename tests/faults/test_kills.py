"""Cases 1, 8, 9 and 15 of the faults: ended anywhere, the same command goes on to the bytes of an uninterrupted run."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.programs import SLEEPING, Program, contents, finish, wait_until

OWN = """
import torch

def data():
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(256, (660, 12, 12), dtype=torch.uint8, generator=draw)
    labels = (images.float().mean((1, 2)) > 127.5).long()
    return {"train": (images[:600], labels[:600]), "test": (images[600:], labels[600:])}
"""
COMMON = ("--threads", "1", "--save-model", "--quiet", "--evals", "7")
RUNS = {
    "ramp": ("growing-batch", "--set", "shape=exponential", "--epochs", "60", "--dropout", "0.3"),
    "cycle": ("one-cycle", "--optimizer", "adamw", "--epochs", "40", "--log-samples", "0"),
    "parts": ("hybrid", "--micro-batch", "5", "--epochs", "12", "--label-noise", "0.2", "--clip-norm", "1"),
    "statistics": ("cyclic", "--model", "cnn-small", "--norm", "batch", "--batch-size", "32", "--epochs", "2"),
    "augmentation": (
        "late-switch",
        "--dataset",
        "own:data",
        "--model",
        "cnn-small",
        "--batch-size",
        "16",
        "--epochs",
        "5",
    ),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def kill_until_finished(
    place: Path, arguments: tuple[str, ...], draw: random.Random, span: float, growth: float = 1.05
) -> int:
    """Run the command again and again, killed after random times up to `span` seconds, until it ends; the kills."""
    kills = 0
    while True:
        program = Program(place, *arguments)
        end = time.monotonic() + draw.uniform(0, span)
        while program.running and time.monotonic() < end:
            time.sleep(0.002)
        if not program.running:
            assert program.wait() == 0, program.said()
            return kills
        program.kill()
        kills += 1
        # Some attempts must get somewhere, or no run would ever end: the next one may take longer.
        span *= growth


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_moments_has_the_bytes_of_an_uninterrupted_one(place: Path, name: str) -> None:
    arguments = ("run", *RUNS[name], *COMMON)
    finish(place, "list", "schedules")  # starts the server of programs, which takes longer than the run
    began = time.monotonic()
    finish(place, *arguments, "--out", "whole")
    span = time.monotonic() - began
    killed = (*arguments, "--out", "killed", "--checkpoint-seconds", "0.02")
    # Half of it: the same run may well be faster the second time, and the first attempt must not get to its end.
    kills = kill_until_finished(place, killed, random.Random(name), span / 2, growth=1.3)
    assert kills
    assert contents(place / "killed") == contents(place / "whole")


@pytest.mark.hand
def test_a_hundred_kills_of_one_run(place: Path) -> None:
    arguments = ("run", "growing-batch", "--set", "shape=exponential", "--epochs", "400", "--dropout", "0.3", *COMMON)
    finish(place, *arguments, "--out", "whole")
    kills, number = 0, 0
    while kills < 100:
        killed = (*arguments, "--out", f"killed{number}", "--checkpoint-seconds", "0.02")
        kills += kill_until_finished(place, killed, random.Random(number), 1.0)
        assert contents(place / f"killed{number}") == contents(place / "whole")
        number += 1
    print(f"{kills} kills of {number} runs")


def killed_before(place: Path, call: str, number: int, out: str) -> bool:
    """Start a run that the system kills before its `number`-th system call of this name; whether it was killed."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
    command += [sys.executable, "-m", "bsexp", "run", *SHORT, "--out", out]
    result = subprocess.run(command, cwd=place, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=False)
    return result.returncode == -signal.SIGKILL


SHORT = ("growing-batch", "--epochs", "3", "--checkpoint-seconds", "0", *COMMON)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@needs_strace
@pytest.mark.parametrize(("call", "number"), [("rename", 1), ("rename", 9), ("fsync", 12), ("link", 1)])
def test_killed_at_a_named_point_the_run_goes_on(place: Path, call: str, number: int) -> None:
    assert killed_before(place, call, number, "killed")
    finish(place, "run", *SHORT, "--out", "killed")
    finish(place, "run", *SHORT, "--out", "whole")
    assert contents(place / "killed") == contents(place / "whole")


@needs_strace
@pytest.mark.hand
@pytest.mark.parametrize("call", ["rename", "fsync", "unlink", "mkdir", "rmdir", "write"])
def test_killed_at_every_seventh_point_the_run_goes_on(place: Path, call: str) -> None:
    finish(place, "run", *SHORT, "--out", "whole")
    number = 1
    while killed_before(place, call, number, f"killed{number}"):
        finish(place, "run", *SHORT, "--out", f"killed{number}")
        assert contents(place / f"killed{number}") == contents(place / "whole"), f"{call} {number}"
        number += 7 if call != "write" else 101
    assert number > 1


def evaluated(out: Path) -> bool:
    """Whether a run below `out` has been trained for a while."""
    return any(len(path.read_text().splitlines()) > 2 for path in out.glob("runs/runs/*/attempt-*/evals.csv"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)]
)
def test_a_signal_ends_the_run_after_its_update_with_a_checkpoint(place: Path, number: int, code: int) -> None:
    arguments = ("run", *RUNS["ramp"], *COMMON, "--checkpoint-seconds", "1000")
    program = Program(place, *arguments, "--out", "stopped")
    wait_until(lambda: evaluated(place / "stopped"), "a row of evals.csv after the first")
    program.signal(number)
    assert program.wait() == code
    assert "run the same command again to go on" in program.said()
    (checkpoint,) = place.glob("stopped/runs/runs/*/attempt-1/checkpoint-*.pt")
    assert int(checkpoint.stem.partition("-")[2]) > 0
    assert not list(place.glob("stopped/runs/runs/*/lease-*"))
    # Case 15: the folder is moved, and goes on where it is now.
    (place / "stopped").rename(place / "moved")
    finish(place, *arguments, "--out", "moved")
    finish(place, *arguments, "--out", "whole")
    assert contents(place / "moved") == contents(place / "whole")


def test_a_second_ctrl_c_ends_the_run_at_once(place: Path) -> None:
    """The update in hand sleeps for a minute: only an end at once can come before that."""
    (place / "own.py").write_text(SLEEPING)
    program = Program(place, "run", "fixed-small", "--model", "own:net", "--epochs", "1", *COMMON)
    wait_until((place / "asleep").exists, "the update")
    program.signal(signal.SIGINT)
    time.sleep(0.5)
    assert program.running
    program.signal(signal.SIGINT)
    assert program.wait(10) == 130
    (place / "awake").touch()
    finish(place, "run", "fixed-small", "--model", "own:net", "--epochs", "1", *COMMON)


def test_a_signal_during_a_checkpoint_lets_it_be_written(place: Path) -> None:
    """Checkpoints after every update: whenever the signal comes, one is being written or has just been."""
    arguments = ("run", *RUNS["ramp"], *COMMON, "--checkpoint-seconds", "0")
    for attempt, wait in ((1, 0.0), (2, 0.013), (3, 0.029)):
        program = Program(place, *arguments, "--out", "stopped")
        mine = f"stopped/runs/runs/*/attempt-{attempt}/checkpoint-*.pt"
        known = {path.name for path in place.glob("stopped/runs/runs/*/attempt-*/checkpoint-*.pt")}
        wait_until(lambda: {path.name for path in place.glob(mine)} - known, "a new checkpoint")  # noqa: B023
        time.sleep(wait)
        program.signal(signal.SIGTERM)
        assert program.wait() == 143
        assert not list(place.glob("stopped/runs/runs/*/attempt-*/.*.tmp"))
    finish(place, *arguments, "--out", "stopped", "--checkpoint-seconds", "1000")
    finish(place, *arguments, "--out", "whole", "--checkpoint-seconds", "1000")
    assert contents(place / "stopped") == contents(place / "whole")
