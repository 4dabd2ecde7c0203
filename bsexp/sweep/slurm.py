"""Workers on a Slurm cluster: an array of `bsexp worker`, submitted with submitit.

The one rule: the cluster only says where workers run. What is to be made and what is finished is in the results folder,
which all of them share; a job that is preempted keeps its checkpoint and is queued again.
"""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bsexp.errors import RunsFailed, SetupError, UsageError, shown
from bsexp.options import options_of
from bsexp.sweep.signals import StopSignals

LOOK_SECONDS = 0.5
# What a worker ends with where runs of its failed: they are recorded, and the sweep tells.
FINE = (0, 3)


@dataclass
class WorkerJob:
    """One job of the array: `command` in the folder `cwd`. submitit pickles it, calls it, and asks for a checkpoint."""

    command: list[str]
    cwd: str
    _process: Any = field(default=None, repr=False)
    _code: int | None = field(default=None, repr=False)

    def __call__(self) -> int:
        self._process = subprocess.Popen(self.command, cwd=self.cwd)
        threading.Thread(target=self._listen, daemon=True).start()
        code = self._ended()
        if code not in FINE:
            raise RuntimeError(f"bsexp worker ended with {code}")
        return code

    def _listen(self) -> None:
        self._code = self._process.wait()

    def _ended(self) -> int:
        # Without a lock: the signal that asks for a checkpoint may come in the middle of this, and ends here too.
        while self._code is None:
            time.sleep(0.05)
        return self._code

    def checkpoint(self) -> Any:
        """Before the job is taken away: the run in hand is kept, and the same job is queued again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGUSR1)
            self._ended()
        return DelayedSubmission(WorkerJob(self.command, self.cwd))


def slurm_settings(text: str) -> dict[str, Any]:
    """The parameters of submitit in `--slurm KEY=VALUE,...`, whole numbers as such."""
    pairs = (part.split("=", 1) for part in text.split(",") if part)
    return {key: int(value) if value.isdecimal() else value for key, value in pairs}


def check_slurm(settings: Mapping[str, Any]) -> None:
    """SetupError where submitit or, unless another cluster is named, Slurm is missing."""
    if find_spec("submitit") is None:
        raise SetupError("--engine slurm", "the package submitit is not installed", "pip install 'bsexp[slurm]'")
    if "cluster" not in settings and shutil.which("srun") is None:
        cure = "start it on a login node; --slurm cluster=local tries it here"
        raise SetupError("--engine slurm", "there is no srun on this machine", cure)


def worker_command(folder: Path, options: Mapping[str, Any]) -> list[str]:
    """`bsexp worker` for `folder` with those of a sweep's options that it takes."""
    command = [sys.executable, "-m", "bsexp", "worker", str(folder.resolve()), "--quiet"]
    for option in options_of("worker"):
        value = options.get(option.name)
        if value is None or option.name in ("json", "quiet", "verbose", "debug"):
            continue
        if option.kind == "flag":
            command += [option.flag] if value else [f"--no-{option.flag[2:]}"] * (option.no_form is not None)
        else:
            command += [option.flag, str(value)]
    return command


def run_workers(command: list[str], number: int, logs: Path, settings: Mapping[str, Any], stop: StopSignals) -> None:
    """Submit `number` workers as one array and wait until all have ended.

    `logs` is the folder of submitit's own files, which goes where all is well. Raises RunsFailed with the first worker
    that didn't end by itself, UsageError for a parameter that submitit doesn't know. A signal cancels them.
    """
    import submitit

    rest = {key: value for key, value in settings.items() if key != "cluster"}
    try:
        executor = submitit.AutoExecutor(logs, cluster=settings.get("cluster", "slurm"))
        executor.update_parameters(name="bsexp", **rest)
    except (NameError, ValueError, TypeError) as error:
        raise UsageError("--slurm", shown(dict(settings)), str(error).splitlines()[0]) from None
    work = WorkerJob(command, str(Path.cwd()))
    jobs: Sequence[Any] = []
    try:
        with stop.gentle():
            with executor.batch():
                jobs = [executor.submit(work) for _ in range(number)]
            _wait(jobs, stop)
    finally:
        for job in jobs:
            with suppress(Exception):
                if not job.done():
                    job.cancel()
    for job in jobs:
        if (failure := job.exception()) is not None:
            reason = next((line for line in reversed(str(failure).splitlines()) if line.strip()), "it failed")
            cure = f"see {logs}, then run the same command again"
            raise RunsFailed("slurm", f"job {job.job_id}: {reason.strip()[:200]}", cure)
    shutil.rmtree(logs, ignore_errors=True)


def _wait(jobs: Sequence[Any], stop: StopSignals) -> None:
    while not all(job.done() for job in jobs):
        time.sleep(LOOK_SECONDS)
        stop.check()
