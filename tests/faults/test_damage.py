"""Cases 4 and 16 to 20: files that are cut, flipped, hostile, foreign, of another time or of another code."""

import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bsexp.cli import run_cli
from bsexp.store.checkpoints import read_checkpoint
from tests.conftest import ROOT
from tests.faults.programs import Program, contents, finish, wait_until

RUN = ("run", "growing-batch", "--epochs", "6", "--threads", "1", "--quiet", "--evals", "5", "--save-model")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was killed in the middle, with two checkpoints, and with the same run as a whole."""
    place = tmp_path_factory.mktemp("stopped")
    finish(place, *RUN, "--out", "whole")
    program = Program(place, *RUN, "--out", "cut", "--checkpoint-seconds", "0")
    wait_until(lambda: len(list(place.glob("cut/runs/runs/*/attempt-1/checkpoint-*.pt"))) == 2, "checkpoints")
    wait_until(lambda: _last(place) > 1500, "progress")
    program.kill()
    for part in place.glob("cut/runs/runs/*/attempt-1/.*.tmp"):
        part.unlink()
    return place


def _last(place: Path) -> int:
    found = [int(path.stem.partition("-")[2]) for path in place.glob("cut/runs/runs/*/attempt-1/checkpoint-*.pt")]
    return max(found, default=0)


@pytest.fixture
def place(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that, to be damaged; the current folder."""
    shutil.copytree(stopped, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def attempt(place: Path) -> Path:
    return next(place.glob("cut/runs/runs/*/attempt-1"))


def checkpoints(place: Path) -> list[Path]:
    """The older and the newer one; a third, where the process was killed before it removed it, goes."""
    found = sorted(attempt(place).glob("checkpoint-*.pt"), key=lambda path: int(path.stem.partition("-")[2]))
    for path in found[:-2]:
        path.unlink()
    return found[-2:]


def started_at(place: Path) -> int:
    """From how many samples the second attempt went on, or 0: what its first new row of steps.csv comes after."""
    return max((int(path.stem.partition("-")[2]) for path in place.glob("cut/runs/runs/*/attempt-2/*.pt")), default=0)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-200] + bytes(200))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], None]] = [cut, emptied, zeroed, flipped]


def resume(place: Path, capfd: pytest.CaptureFixture[str], *more: str, expected: int = 0) -> str:
    """Go on in this process; what it said."""
    code = run_cli([*RUN, "--out", "cut", *more])
    said = capfd.readouterr().err
    assert code == expected, said
    return said


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    place: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    older, newer = checkpoints(place)
    damage(newer)
    said = resume(place, capfd)
    assert f"damaged: {newer.relative_to(place)}" in said
    assert f"going on from {older.relative_to(place)}" in said
    assert contents(place / "cut") == contents(place / "whole")


def test_without_a_whole_checkpoint_the_run_starts_again(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in checkpoints(place):
        cut(path)
    said = resume(place, capfd)
    assert "it starts again" in said
    assert contents(place / "cut") == contents(place / "whole")


@pytest.mark.parametrize("damage", [cut, zeroed, emptied])
@pytest.mark.parametrize("name", ["steps.csv", "evals.csv"])
def test_a_damaged_log_is_noticed_and_mended(
    place: Path, name: str, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    damage(attempt(place) / name)
    said = resume(place, capfd)
    assert f"{name}: not what was written" in said
    assert contents(place / "cut") == contents(place / "whole")


def test_rows_behind_the_checkpoint_are_cut_off(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open(attempt(place) / "steps.csv", "a") as file:
        file.write("9999,9999,1.0,16")
    said = resume(place, capfd)
    assert "damaged" not in said
    assert contents(place / "cut") == contents(place / "whole")


def test_a_damaged_summary_is_told_and_the_run_is_made_again(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (summary,) = place.glob("whole/runs/runs/*/summary.json")
    before = contents(place / "whole")
    cut(summary)
    assert run_cli([*RUN, "--out", "whole"]) == 0
    assert "summary.json" in capfd.readouterr().err
    assert contents(place / "whole") == before


def replace_payload(path: Path, payload: bytes, **changes: Any) -> None:
    """Write a checkpoint whose hash is right over another payload or other words in its head."""
    content = path.read_bytes()
    head, _, rest = content.split(b"\n", 2)
    line, _, old = rest.partition(b"\n")
    meta = {**json.loads(line), **changes}
    rest = json.dumps(meta, sort_keys=True).encode() + b"\n" + (payload or old)
    path.write_bytes(head + b"\n" + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)


class Hostile:
    """Unpickled carelessly it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("ran.txt", "w"))


def test_a_malicious_checkpoint_is_refused_and_nothing_of_it_runs(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = io.BytesIO()
    torch.save({"model": Hostile()}, content)
    for payload in (content.getvalue(), pickle.dumps(Hostile())):
        replace_payload(checkpoints(place)[-1], payload)
        said = resume(place, capfd, expected=5)
        assert "refused, nothing of it was run" in said
        assert len(said.strip().splitlines()) == 2  # the claim that was taken over, and the refusal
        assert not (place / "ran.txt").exists()


def test_a_checkpoint_of_another_run_is_refused_with_the_first_difference(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    newer = checkpoints(place)[-1]
    config = read_checkpoint(newer).meta["config"]
    replace_payload(newer, b"", config={**config, "lr": 0.3}, config_hash="0" * 32)
    said = resume(place, capfd, expected=5)
    assert "lr is 0.3 there and 0.0125 here" in said


def test_a_checkpoint_of_a_newer_format_is_refused(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    newer = checkpoints(place)[-1]
    newer.write_bytes(newer.read_bytes().replace(b"bsexp-checkpoint 1", b"bsexp-checkpoint 2", 1))
    assert "format 2; this bsexp reads up to 1" in resume(place, capfd, expected=5)


@pytest.mark.parametrize(
    ("key", "value"), [("torch", "1.0.0"), ("code", "0123456789abcdef"), ("device", "cuda (Some GPU)")]
)
def test_what_has_changed_is_refused_unless_allowed_and_then_recorded(
    place: Path, key: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    newer = checkpoints(place)[-1]
    before = read_checkpoint(newer).meta
    replace_payload(newer, b"", made_by={**before["made_by"], key: value})
    said = resume(place, capfd, expected=5)
    assert f"made with {key} {value}, now {before['made_by'][key]}" in said
    assert "--allow-changed" in said
    resume(place, capfd, "--allow-changed")
    assert contents(place / "cut").keys() == contents(place / "whole").keys()
    (environment,) = place.glob("cut/runs/runs/*/environment.json")
    (changed,) = json.loads(environment.read_text())["changed"]
    assert changed == {"samples": before["samples"], key: [value, before["made_by"][key]]}


def test_threads_are_those_the_run_began_with_unless_others_are_asked_for(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    newer = checkpoints(place)[-1]
    made_by = {**read_checkpoint(newer).meta["made_by"], "threads": 2}
    for path in checkpoints(place):
        replace_payload(path, b"", made_by=made_by)
    assert "made with threads 2, now 1" in resume(place, capfd, expected=5)
    default = [item for item in RUN if item not in ("--threads", "1")]
    assert run_cli([*default, "--out", "cut"]) == 0
    torch.set_num_threads(1)
    (environment,) = place.glob("cut/runs/runs/*/environment.json")
    assert json.loads(environment.read_text())["threads"] == 2


def test_a_newer_summary_is_refused_everywhere(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (path,) = place.glob("whole/runs/runs/*/summary.json")
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "schema_version": 2}))
    for command in ([*RUN, "--out", "whole"], ["report", "whole/runs"], ["status", "whole"]):
        assert run_cli(command) == 5
        assert "schema version 2; this bsexp reads up to 1" in capfd.readouterr().err


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_checkpoint_is_written_synced_renamed_and_its_folder_synced(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    watched = "trace=openat,fsync,rename,close"
    command = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", watched, sys.executable, "-m", "bsexp", *RUN]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--checkpoint-seconds", "0"], cwd=tmp_path, env=environment, check=True)
    calls = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
    number = next(k for k, call in enumerate(calls) if call.startswith("rename(") and "checkpoint-" in call)
    part, name = (text.split('"')[1] for text in calls[number].split("rename(")[1].split(", ", 1)[0:2])
    before = [call for call in calls[:number] if call.startswith("fsync(")]
    assert Path(part).name in before[-1], "the file reaches the disk before it gets its name"
    assert {"steps.csv", "evals.csv"} <= {call.split("<")[1].split(">")[0].rsplit("/", 1)[-1] for call in before[-3:]}
    after = next(call for call in calls[number + 1 :] if call.startswith("fsync("))
    assert after.split("<")[1].split(">")[0].endswith(str(Path(name).parent)), "and the name before anything else"


def test_what_a_process_left_in_the_middle_of_finishing_is_finished_without_training(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its files are moved one after another, the summary last; here it died after the first one."""
    shutil.copytree(stopped / "whole", tmp_path / "cut")
    (run,) = tmp_path.glob("cut/runs/runs/*")
    left = run / "attempt-1"
    left.mkdir()
    for path in sorted(run.iterdir()):
        if path.is_file() and path.name not in ("config.json", "environment.json"):
            path.rename(left / path.name)
    monkeypatch.chdir(tmp_path)
    before = (left / "summary.json").stat().st_mtime_ns
    resume(tmp_path, capfd)
    assert (run / "summary.json").stat().st_mtime_ns == before
    assert contents(tmp_path / "cut") == contents(stopped / "whole")
