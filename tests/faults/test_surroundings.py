"""Cases 10, 38, 39, 41 and 42: readers that go away, terminals, encodings, names of all kinds, what isn't installed."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT, Bsexp
from tests.faults.inside import DATA, said
from tests.faults.programs import finish

RUN = ("run", "fixed-small", "--epochs", "0.5", "--train-size", "200", "--evals", "2", "--threads", "1")
ESCAPE = "\x1b"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Results of two arms and two seeds."""
    return Path(shutil.copytree(DATA / "results-0.1" / "old", tmp_path / "old"))


# -- case 10: nobody reads


def without_reader(*numbers: int) -> None:
    """Let what this process writes to `numbers` go to a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    for number in numbers:
        os.dup2(writer, number)
    os.close(writer)


READ = [
    ("report", "old"),
    ("status", "old"),
    ("status", "old", "--json"),
    ("list", "schedules"),
    ("plan", "fixed-small"),
    ("plan", "fixed-small", "--json"),
    ("init",),
    ("doctor",),
    ("--version",),
    ("run", "--help"),
]


@pytest.mark.parametrize("command", READ, ids=" ".join)
def test_a_reader_that_has_seen_enough_ends_the_program_in_silence(old: Path, command: tuple[str, ...]) -> None:
    program = finish(old.parent, *command, before=partial(without_reader, 1))
    assert program.said() == ""


def test_talk_that_nobody_reads_ends_no_run(tmp_path: Path) -> None:
    finish(tmp_path, *RUN, before=partial(without_reader, 1, 2))
    assert list(tmp_path.glob("results/runs/runs/*/summary.json"))


def onto_full_disk(number: int) -> None:
    """Let what this process writes to `number` meet a disk without room."""
    file = os.open("/dev/full", os.O_WRONLY)
    os.dup2(file, number)
    os.close(file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("command", [READ[1], READ[2], READ[5], *READ[-2:]], ids=" ".join)
def test_output_onto_a_full_disk_is_one_line_and_5(old: Path, command: tuple[str, ...]) -> None:
    program = finish(old.parent, *command, expected=5, before=partial(onto_full_disk, 1))
    (line,) = program.said().splitlines()
    assert line.startswith("bsexp: output: No space left on device; free some space")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_talk_onto_a_full_disk_ends_no_run(tmp_path: Path) -> None:
    program = finish(tmp_path, *RUN, before=partial(onto_full_disk, 2))
    assert "test accuracy" in program.out.read_text("utf-8")


# -- case 39: streams, terminals, encodings, names


@pytest.mark.parametrize(
    ("closed", "command", "code"),
    [
        ("<&-", ("list", "models"), 0),
        (">&-", ("list", "models"), 0),
        ("2>&-", ("list", "models"), 0),
        ("<&- >&- 2>&-", ("list", "models"), 0),
        ("2>&-", ("list", "nosuch"), 2),
    ],
)
def test_closed_streams_change_nothing_else(tmp_path: Path, closed: str, command: tuple[str, ...], code: int) -> None:
    result = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "bsexp", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code
    assert result.stderr == ""
    assert ("resnet18" in result.stdout) == (code == 0 and ">&- " not in f" {closed} ".replace("2>&-", ""))


def onto_terminal(name: str) -> None:
    """Make a terminal this process's own: its input and its output."""
    file = os.open(name, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(file, number)
    os.close(file)


def on_terminal(cwd: Path, *command: str, width: int = 100, **environment: str) -> str:
    """What the program shows on a real terminal, control codes and all."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    shown: list[bytes] = []
    ended = threading.Event()

    def read() -> None:
        while True:
            ready = select.select([master], [], [], 0.1)[0]
            if ready:
                shown.append(os.read(master, 65536))
            elif ended.is_set():
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        surroundings = {"COLUMNS": "", "TERM": "xterm", **environment}
        finish(cwd, *command, before=partial(onto_terminal, os.ttyname(slave)), **surroundings)
    finally:
        ended.set()
        reader.join()
        os.close(slave)
        os.close(master)
    return b"".join(shown).decode()


def test_a_terminal_has_a_moving_bar_and_colours_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    hidden_cursor, colour = f"{ESCAPE}[?25l", re.compile(r"\x1b\[(?:\d;)*[39][0-7]m")
    usual = on_terminal(tmp_path, *RUN, "--lr", "1e6")
    assert hidden_cursor in usual
    assert colour.search(usual), "the warning about the divergence"
    assert not colour.search(on_terminal(tmp_path, *RUN, "--lr", "1e6", NO_COLOR="1"))
    dumb = on_terminal(tmp_path, *RUN, "--no-resume", TERM="dumb")
    assert ESCAPE not in dumb
    assert "100.0%  epoch    0.50" in dumb


def test_in_20_columns_every_value_can_be_read(tmp_path: Path) -> None:
    shown = on_terminal(tmp_path, *RUN, width=20)
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()
    assert {"status: finished", "updates: 7", "samples: 100"} <= set(lines)
    # What moves keeps to its line.
    assert all(len(line) <= 20 for line in lines if "%" in line and "accuracy" not in line)


def test_a_table_that_is_too_wide_is_a_list(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    lines = said("report", old).out.splitlines()
    assert lines[:4] == ["old", "arm: steady", "  lr: 0.05", "  updates: 25"]
    # .7056 and .6972 are right: their mean, and 12.706 times half their distance.
    assert "  test accuracy %: 70.14 ± 5.29" in lines
    assert said("status", old).out.splitlines()[:3] == ["experiment: old", "  runs: 4", "  finished: 4"]
    for width in ("abc", "-5", "0", ""):
        monkeypatch.setenv("COLUMNS", width)
        assert re.search("\n old +4 +4 +0 +0 +0 +0 +0 *\n", said("status", old).out), width


def test_logs_have_neither_bars_nor_control_codes_whatever_is_forced(tmp_path: Path) -> None:
    said_ = finish(tmp_path, *RUN, FORCE_COLOR="1").said()
    assert "100.0%  epoch    0.50" in said_
    assert ESCAPE not in finish(tmp_path, *RUN, "--no-resume").said()


def test_what_an_encoding_lacks_is_spelt(bsexp: Bsexp, old: Path) -> None:
    result = bsexp("report", "old", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "70.14 +/- 5.29" in result.stdout
    assert "→" in (old / "report" / "report.md").read_text("utf-8"), "files are UTF-8 all the same"


# What a folder may be called, and how it is spelt in talk and in documents.
ODD = [
    (f"größe 1\n2 {ESCAPE}[31m", r"größe 1\n2 \x1b[31m", r"größe 1\n2 \x1b[31m"),
    (os.fsdecode(b"b\xffd"), os.fsdecode(b"b\xffd"), r"b\udcffd"),
]


@pytest.mark.parametrize(("name", "talk", "title"), ODD, ids=["control codes", "bytes that are no UTF-8"])
def test_odd_names_are_shown_on_one_line_and_work(
    tmp_path: Path, name: str, talk: str, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = said(*RUN, "--out", name, "--name", name)
    assert made.code == 0, made.err
    (files,) = (line for line in made.out.splitlines() if line.startswith("files: "))
    assert files.startswith(f"files: {talk}/{talk}/runs/fixed-small-lr0.0125-s0-")
    again = said(*RUN, "--out", name, "--name", name, "--json")
    assert "finished already" in again.err
    assert json.loads(again.out)["run_dir"].startswith(f"{name}/{name}/")
    report = said("report", Path(name) / name)
    assert f"report: {talk}/{talk}/report/report.html" in report.out.splitlines()
    assert f"<h1>{title}</h1>" in (Path(name) / name / "report" / "report.html").read_text("utf-8")
    assert title in said("status", name).out
    refused = said("report", f"{name}x")
    assert refused.line.endswith("no such folder; bsexp sweep makes one")
    assert ESCAPE not in made.out + made.err + report.out + report.err + refused.err


def test_a_sweep_finds_its_definition_below_an_odd_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xffd")
    (tmp_path / "e.toml").write_text('[arms.a]\nschedule = "fixed-small"\n[run]\ntrain_size = 200\nepochs = 0.5\n')
    command = ("sweep", tmp_path / "e.toml", "--seeds", "0", "--jobs", "0", "--out", tmp_path / name, "--name", name)
    for _ in range(2):
        assert "1 of 1 runs wait" in said(*command).err
    assert (
        f'name = "{ascii(name)[1:-1]}"'.replace("\\", "\\\\")
        in (tmp_path / name / name / "experiment.toml").read_text()
    )
