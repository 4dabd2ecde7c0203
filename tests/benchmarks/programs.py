"""Programs that are measured as their users start them: as a process of their own, from its start to its end."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


@dataclass(frozen=True)
class Ended:
    """How a program ended: seconds by the clock and of its own CPU time, peak memory in bytes."""

    code: int
    output: str
    errors: str
    seconds: float
    cpu_seconds: float
    peak_memory: int


def python(*arguments: Any, cwd: Path | None = None) -> Ended:
    """Run Python with `arguments`, with this repository's bsexp and on one thread."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BSEXP_")}
    environment |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        # Not `wait`: only this call also tells what the child used.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        return Ended(
            process.returncode,
            output.read(),
            errors.read(),
            seconds,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        )


def bsexp(*arguments: Any, cwd: Path | None = None) -> Ended:
    """Run bsexp with `arguments`."""
    return python("-m", "bsexp", *arguments, cwd=cwd)
