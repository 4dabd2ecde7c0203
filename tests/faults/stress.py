"""Random sweeps under kills, signals, worker deaths and full disks: `python -m tests.faults.stress --minutes 10`.

The one rule: whatever is done to it, in the end every planned run is there once, finished once, and has the bytes of a
sweep that nobody disturbed. Everything else is a violation, printed with the seed of its round; exit code 1.
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.programs import Program, children, contents, finish, workers

ARMS = {
    "steady": 'schedule = "fixed-small"\ndropout = 0.2\n',
    "grow": 'schedule = "growing-batch"\nshape = "exponential"\n',
    "cycle": 'schedule = "one-cycle"\noptimizer = "adamw"\n',
    "parts": 'schedule = "lr-decay"\nmicro_batch = 5\n',
    "wild": 'schedule = "fixed-small"\nlr = 1e6\n',
}
# How a disturbed program may end: finished, with failed runs, on a full disk, by a signal heard or not heard.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
EXPECTED = {0, 3, 5, 129, 130, 138, 143, -signal.SIGKILL, *(-number for number in SIGNALS)}


def main(
    minutes: Annotated[float, typer.Option(help="How long new rounds are begun.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the first round; the others count on.")] = 0,
) -> None:
    """Disturb sweeps for some minutes and count what came of it."""
    counts: Counter[str] = Counter()
    violations: list[str] = []
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            found = Round(Path(folder), seed, counts).play()
        violations += [f"round {seed}: {text}" for text in found]
        counts["rounds"] += 1
        print(f"round {seed}: {'ok' if not found else '; '.join(found)}", flush=True)
        seed += 1
    print("  ".join(f"{name} {number}" for name, number in sorted(counts.items())))
    print(f"{len(violations)} violations")
    sys.exit(bool(violations))


class Round:
    """One experiment, disturbed until it is left alone, then completed and compared."""

    def __init__(self, place: Path, seed: int, counts: Counter[str]) -> None:
        self.place, self.counts = place, counts
        self.draw = random.Random(seed)
        self.programs: list[Program] = []
        self.first_seen: dict[Path, int] = {}
        self.violations: list[str] = []

    def play(self) -> list[str]:
        """The violations of this round."""
        self._plan()
        with small_disk(self.place / "out") as disk:
            self.disk = disk
            until = time.monotonic() + self.draw.uniform(5, 25)
            while time.monotonic() < until:
                self._disturb()
                self._look()
                time.sleep(self.draw.uniform(0, 0.6))
            self._leave_alone()
            self._compare()
        return self.violations

    def _plan(self) -> None:
        draw = self.draw
        names = draw.sample(sorted(ARMS), draw.randint(1, 3))
        tune = '[tune]\nlr = [0.01, 0.05]\nseeds = "50"\n' if draw.random() < 0.3 and names != ["wild"] else ""
        text = "[run]\ntrain_size = 300\nlabel_noise = 0.2\nevals = 4\n"
        text += f'epochs = {draw.choice([2, 6, 20])}\nseeds = "0-{draw.randint(0, 3)}"\n'
        text += tune + "".join(f"[arms.{name}]\n{ARMS[name]}" for name in names)
        (self.place / "e.toml").write_text(text)
        self.checkpoints = draw.choice(["0", "0.05", "0.5"])

    def _command(self) -> tuple[str, ...]:
        planned = (self.place / "out/e/experiment.toml").exists()
        if planned and self.draw.random() < 0.3:
            return ("worker", "out/e", "--checkpoint-seconds", self.checkpoints)
        options = ("--jobs", str(self.draw.randint(1, 2)), "--checkpoint-seconds", self.checkpoints)
        return ("sweep", "e.toml", "--out", "out", "--no-report", *options)

    def _disturb(self) -> None:
        draw, running = self.draw, [program for program in self.programs if program.running]
        if len(running) < 3 and (not running or draw.random() < 0.3):
            self.programs.append(Program(self.place, *self._command(), name=f"p{len(self.programs)}"))
            self.counts["starts"] += 1
            return
        victim = draw.choice(running)
        what = draw.choice(["kill", "worker", "worker", "signal", "pause", "disk"])
        if what == "kill":
            victim.signal(signal.SIGKILL)
        elif what == "worker":
            with suppress(OSError, IndexError):
                started = [*children(victim.pid), *workers(victim.pid)]
                subprocess.run(["kill", "-9", str(draw.choice(started))], check=False, capture_output=True)
        elif what == "signal":
            if not victim.err.exists():
                return  # it is not the program yet that would hear it
            victim.signal(draw.choice(SIGNALS))
        elif what == "pause":
            victim.signal(signal.SIGSTOP)
            time.sleep(draw.uniform(0, 0.5))
            victim.signal(signal.SIGCONT)
        elif self.disk:
            free = shutil.disk_usage(self.place / "out").free
            (self.place / "out" / "ballast").write_bytes(bytes(max(0, free - draw.choice([0, 5_000, 400_000]))))
            time.sleep(draw.uniform(0, 1))
            (self.place / "out" / "ballast").unlink()
        else:
            return
        self.counts[what] += 1

    def _look(self) -> None:
        """A run that is finished stays as it is."""
        for path in self.place.glob("out/e/**/summary.json"):
            with suppress(FileNotFoundError):
                seen = path.stat().st_mtime_ns
                if self.first_seen.setdefault(path, seen) != seen:
                    self._violated(f"{path.parent.name} was made twice")
                    self.first_seen[path] = seen

    def _leave_alone(self) -> None:
        for program in self.programs:
            self._check_end(program, program.wait(300))
        last = ("sweep", "e.toml", "--out", "out", "--no-report", "--retry", "failed")
        program = Program(self.place, *last, name="last")
        code = program.wait(300)
        self._check_end(program, code)
        if code:
            self._violated(f"the last sweep ended with {code}: {program.said().strip().splitlines()[-1:]}")
        self._look()

    def _check_end(self, program: Program, code: int) -> None:
        said = program.said()
        if code not in EXPECTED or "Traceback" in said or "a bug of ours" in said:
            self._violated(f"{program.err.name} ended with {code}: {said[-600:]}")

    def _compare(self) -> None:
        finish(self.place, "sweep", "e.toml", "--out", "alone", "--no-report", "--no-share-prefix")
        for part in ("e/runs", "e/tune/runs"):
            mine, theirs = (contents(self.place / out / part) for out in ("out", "alone"))
            for name in sorted(mine.keys() | theirs.keys()):
                if name not in mine or name not in theirs:
                    self._violated(f"{name} is {'missing' if name in theirs else 'left over'}")
                elif mine[name] != theirs[name]:
                    self._violated(f"{name} differs")
        self.counts["runs"] += len(list(self.place.glob("out/e/**/summary.json")))

    def _violated(self, text: str) -> None:
        self.violations.append(text)


@contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A disk of 12 MB at `place`, or a plain folder for those who may not mount; whether it is a disk."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    disk = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield disk
    finally:
        if disk:
            subprocess.run(["umount", "-l", str(place)], check=True)


if __name__ == "__main__":
    typer.run(main)
