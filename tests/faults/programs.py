"""Real processes of the program, cheap enough to be killed by the dozen, and what must be equal afterwards.

The one rule: every process here is one of its own, with its own number, files and signals. It is forked from a server
that has imported torch but done nothing else, which saves the seconds of importing and changes nothing about dying.
"""

import contextlib
import csv
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bsexp.records import TIME_COLUMNS
from tests.conftest import ROOT

PRELOADED = [
    "bsexp.cli",
    "bsexp.commands.run",
    "bsexp.commands.sweep",
    "bsexp.sweep.runner",
    "torch._dynamo",
    "importlib.readers",
]
# What the same run may differ in: how long it took, how often it was begun, and with what words.
FREE = (*TIME_COLUMNS, "attempts", "arguments", "earlier_attempts_seconds", "beginning", "jobs")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


# A network whose ninth update takes a minute, until there is a file called awake.
SLEEPING = """
import time
from pathlib import Path
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(64, num_classes)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 9 and not Path("awake").exists():
            Path("asleep").touch()
            time.sleep(60)
        return self.layer(x.flatten(1))

def net(image_shape, num_classes):
    return Net(num_classes)
"""

STARTED: list["Program"] = []


def kill_all() -> None:
    """End whatever is left: a stopped program would keep its parent from ending for ever."""
    while STARTED:
        STARTED.pop().kill()


class Program:
    """A running `bsexp ARGUMENTS` in the folder `cwd`; what it says is kept in files there, called after `name`."""

    def __init__(
        self,
        cwd: Path,
        *arguments: str,
        before: Callable[[], None] | None = None,
        name: str = "said",
        **environment: str,
    ) -> None:
        self.out, self.err = cwd / f"{name}.out", cwd / f"{name}.err"
        self._process = _context.Process(target=_become, args=(str(cwd), arguments, environment, before, name))
        # The server looks for modules where it is started: here, not in what else may be installed.
        with contextlib.chdir(ROOT):
            self._process.start()
        STARTED.append(self)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal; harmless when the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self._process.join()

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code, negative for a signal as Python has it; an error after `seconds`."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError(f"still running after {seconds} s; it said: {self.said()}")
        return self._process.exitcode

    @property
    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self._process.is_alive()

    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self.err.read_text(encoding="utf-8") if self.err.exists() else ""

    def document(self) -> Any:
        """The JSON that it wrote to stdout."""
        return json.loads(self.out.read_text(encoding="utf-8"))


def _become(
    cwd: str, arguments: tuple[str, ...], environment: dict[str, str], before: Callable[[], None] | None, said: str
) -> None:
    from bsexp.__main__ import main

    os.chdir(cwd)
    os.setsid()
    os.environ.update(environment)
    for name, number in ((f"{said}.out", 1), (f"{said}.err", 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    if before is not None:
        before()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.argv = ["bsexp", *arguments]
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


def finish(
    cwd: Path, *arguments: str, expected: int = 0, before: Callable[[], None] | None = None, **environment: str
) -> Program:
    """The ended program; an error for another exit code than `expected`."""
    program = Program(cwd, *arguments, before=before, **environment)
    code = program.wait(300)
    assert code == expected, program.said()
    return program


def wait_until(true: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """What `true` returns as soon as it is true; an error after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s for {what}")


def alive(pid: int) -> bool:
    """Whether a process is there and does anything: one that was killed keeps its number until somebody asks for it."""
    try:
        return _state(pid) not in (b"Z", b"X")
    except OSError:
        return False


def _state(pid: int) -> bytes:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]


def hold(pid: int) -> None:
    """Let a process stand still; it does when this returns: a signal that came before would be given to it first."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _state(pid) == b"T", "a process to stand still")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pending(pid: int) -> set[int]:
    """The signals that a process, standing still, has not yet been given."""
    (mask,) = re.findall(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return {number for number in signal.valid_signals() if int(mask, 16) >> (number - 1) & 1}


def workers(pid: int) -> list[int]:
    """The workers of a sweep: the copies of the server that it has started."""
    return [worker for server in children(pid) for worker in children(server)]


def contents(folder: Path) -> dict[str, Any]:
    """All that runs below `folder` have left, by relative name, without what may differ from attempt to attempt."""
    return dict(_contents(folder))


def _contents(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or "report" in path.parts:
            continue
        name = str(path.relative_to(folder))
        if path.suffix == ".csv":
            rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
            yield name, [{key: value for key, value in row.items() if key not in FREE} for row in rows]
        elif path.suffix == ".json":
            yield name, {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k not in FREE}
        else:
            yield name, path.read_bytes()
