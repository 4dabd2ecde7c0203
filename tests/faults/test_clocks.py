"""Case 14: the wall clock jumps. A stand-in: setting the machine's own clock would disturb everything else on it."""

import csv
import json
import os
from pathlib import Path

from tests.faults.programs import contents, finish

RUN = (
    "run",
    "growing-batch",
    "--epochs",
    "3",
    "--threads",
    "1",
    "--evals",
    "5",
    "--quiet",
    "--checkpoint-seconds",
    "0",
)


def turn_back_the_clock() -> None:
    """Every look at the wall clock shows an hour less, also in files' times."""
    import datetime
    import time

    hours = iter(range(10**9))
    started = time.time()
    time.time = lambda: started - 3600 * next(hours)  # type: ignore[assignment]
    time.time_ns = lambda: int(time.time() * 1e9)  # type: ignore[assignment]
    assert time.time() > time.time() > datetime.datetime(2001, 1, 1).timestamp()
    rename = os.replace

    def and_age(old: str, new: str) -> None:
        rename(old, new)
        now = time.time()
        os.utime(new, (now, now))

    os.replace = and_age  # type: ignore[assignment]


def test_durations_never_run_backwards_when_the_wall_clock_does(tmp_path: Path) -> None:
    finish(tmp_path, *RUN, "--out", "jumping", before=turn_back_the_clock)
    finish(tmp_path, *RUN, "--out", "steady")
    assert contents(tmp_path / "jumping") == contents(tmp_path / "steady")
    (summary,) = tmp_path.glob("jumping/runs/runs/*/summary.json")
    took = json.loads(summary.read_text())
    assert 0 < took["train_seconds"] <= took["wall_seconds"] < 300
    (steps,) = tmp_path.glob("jumping/runs/runs/*/steps.csv")
    seconds = [float(row["train_seconds"]) for row in csv.DictReader(steps.read_text().splitlines())]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
