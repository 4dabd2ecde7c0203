"""Cases 5 to 7: disks that are full, read-only or not there. The full and the read-only disk are real, small ones."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bsexp.cli import run_cli
from bsexp.store.checkpoints import read_checkpoint
from tests.faults.programs import contents, finish

# 26,000 weights: a checkpoint with momentum and average is about 320 kB.
RUN = (
    "run",
    "growing-batch",
    "--epochs",
    "3",
    "--threads",
    "1",
    "--evals",
    "9",
    "--checkpoint-seconds",
    "0",
    "--quiet",
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount the small disk that this test fills")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def leave(disk: Path, free: int) -> Path:
    """Fill the disk up to `free` bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free)))
    return ballast


@pytest.mark.parametrize("kilobytes", [0, 12, 20, 200, 400, 800])
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(disk: Path, tmp_path: Path, kilobytes: int) -> None:
    ballast = leave(disk, 1000 * kilobytes)
    program = finish(tmp_path, *RUN, "--out", "disk", expected=5)
    said = program.said()
    assert "No space left on device" in said
    assert said.strip().endswith("free some space and run the same command again")
    assert len(said.strip().splitlines()) == 1
    kept = list(disk.rglob("checkpoint-*.pt"))
    assert bool(kept) == (kilobytes >= 400)
    for path in kept:
        read_checkpoint(path)
    ballast.unlink()
    finish(tmp_path, *RUN, "--out", "disk")
    finish(tmp_path, *RUN, "--out", "whole")
    assert contents(disk / "runs") == contents(tmp_path / "whole" / "runs")


def test_a_full_disk_ends_the_report_with_one_line(disk: Path, tmp_path: Path) -> None:
    finish(tmp_path, *RUN, "--out", "disk")
    ballast = leave(disk, 20_000)
    program = finish(tmp_path, "report", "disk", expected=5)
    assert "No space left on device" in program.said()
    assert "Traceback" not in program.said()
    ballast.unlink()
    finish(tmp_path, "report", "disk")


def test_a_read_only_disk_is_refused_before_training(disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    program = finish(tmp_path, *(word for word in RUN if word != "--quiet"), "--out", "disk", expected=5)
    assert "Read-only file system" in program.said()
    assert "train loss" not in program.said()


def become_nobody() -> None:
    # What the program imports on its way may not be readable for others, so it goes that way once before.
    run_cli([*RUN, "--out", "mine", "--epochs", "0.1"])
    os.setgid(65534)
    os.setuid(65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_folder_of_somebody_else_is_refused_before_training(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "theirs").mkdir(mode=0o755)
    program = finish(tmp_path, *RUN, "--out", "theirs", expected=5, before=become_nobody)
    assert "Permission denied" in program.said()
    assert not list((tmp_path / "theirs").iterdir())


@pytest.mark.parametrize(
    ("out", "what"), [("file", "is not a folder"), ("dangling", "a link to nothing"), ("no/where", "there is no no;")]
)
def test_a_results_folder_that_cannot_be_is_refused_in_one_line(tmp_path: Path, out: str, what: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nothing")
    before = sorted(tmp_path.iterdir())
    for command in (RUN, ("sweep", "--schedule", "fixed-small", "--epochs", "0.1")):
        said = finish(tmp_path, *command, "--out", out, expected=5).said()
        assert what in said
        assert len(said.strip().splitlines()) == 1
    assert [path for path in sorted(tmp_path.iterdir()) if not path.name.startswith("said")] == before
