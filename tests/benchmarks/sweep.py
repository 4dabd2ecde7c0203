"""Sweeps: cells per minute with one and with two workers, what a cell costs beyond its training, and Ray Tune beside.

A cell is one run on digits, one thread each. Each sweep is a program of its own, in a folder of its own. What a cell
costs with warm workers is told by the difference between a sweep and one of half as many cells, so that starting the
program falls out; the comparison with Ray Tune has starting and ending in it, on both sides. Ray trains the same cells
with the same engine, reports as often as bsexp evaluates, and keeps no checkpoints and no predictions. What two workers
can win at most is measured beside it: two plain training loops at once over one alone.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks import programs
from tests.benchmarks.limits import two_over_one
from tests.benchmarks.measuring import (
    MET,
    TARGET,
    Column,
    Repeats,
    Report,
    alternate,
    installed,
    number,
    parser,
    target,
)

FILE = """
[run]
epochs = {epochs}
seeds = "0-{last}"
[arms.steady]
schedule = "fixed-small"
[arms.grow]
schedule = "growing-batch"
"""


def main() -> None:
    """Repeat all sweeps in turn, then show them."""
    made = parser(__doc__ or "", repeats=5)
    made.add_argument("--cells", type=int, default=80, help="cells of the larger sweep, a multiple of 4")
    made.add_argument("--epochs", type=float, default=20, help="budget of a cell")
    options = made.parse_args()
    report = Report("sweep", options.json, options.repeats, cells=options.cells, epochs=options.epochs)
    trained: list[float] = []
    measures: dict[str, Callable[[], float]] = {
        f"{jobs} {cells}": partial(sweep, cells, jobs, options, trained if (jobs, cells) == (1, options.cells) else [])
        for jobs in (1, 2)
        for cells in (options.cells, options.cells // 2)
    }
    measures["limit"] = two_over_one
    if installed("ray"):
        measures["ray"] = partial(ray_tune, options.cells, options)
    times = alternate(measures, options.repeats)
    show(report, times, trained, options)
    report.close()


def sweep(cells: int, jobs: int, options: argparse.Namespace, trained: list[float]) -> float:
    """Seconds of the whole program; to `trained` comes what training and evaluation took in a cell of it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "cells.toml").write_text(FILE.format(epochs=options.epochs, last=cells // 2 - 1))
        words = ("sweep", "cells.toml", "--jobs", jobs, "--no-share-prefix", "--no-report", "--quiet")
        ended = programs.bsexp(*words, cwd=place)
        assert ended.code == 0, ended.errors
        with open(place / "results" / "cells" / "runs.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["status"] for row in rows] == ["finished"] * cells
    trained.append(sum(float(row["train_seconds"]) + float(row["eval_seconds"]) for row in rows) / cells)
    return ended.seconds


def ray_tune(cells: int, options: argparse.Namespace) -> float:
    """Seconds of the whole program."""
    with tempfile.TemporaryDirectory() as folder:
        ended = programs.python("-m", "tests.benchmarks.ray_cells", cells, options.epochs, folder)
        assert ended.code == 0, ended.errors[-2000:]
        assert json.loads(ended.output.strip().splitlines()[-1])["finished"] == cells, ended.output
        return ended.seconds


def show(report: Report, times: dict[str, Repeats], trained: list[float], options: argparse.Namespace) -> None:
    """Rates with warm workers, what a cell costs beyond its training, and the comparison."""
    half = options.cells - options.cells // 2
    warm = {
        jobs: Repeats(
            tuple(
                (whole - part) / half
                for whole, part in zip(
                    times[f"{jobs} {options.cells}"].values, times[f"{jobs} {options.cells // 2}"].values, strict=True
                )
            )
        )
        for jobs in (1, 2)
    }
    inside = Repeats(tuple(trained))
    beyond = Repeats(tuple(1000 * (one - mine) for one, mine in zip(warm[1].values, inside.values, strict=True)))
    per_minute = {jobs: Repeats(tuple(60 / one for one in warm[jobs].values)) for jobs in (1, 2)}
    gained = per_minute[2].over(per_minute[1])
    rows = [
        {"what": "cells per minute, 1 worker", "value": per_minute[1]},
        {"what": "cells per minute, 2 workers", "value": per_minute[2]},
        target({"what": "2 workers over 1", "ratio": gained}, 1.8, True),
        {"what": "two plain training loops over one: what this machine allows", "value": times["limit"]},
        target(
            {"what": "2 workers over 1, of what this machine allows", "ratio": gained.over(times["limit"])}, 0.9, True
        ),
        {"what": "training and evaluation in a cell, ms", "value": Repeats(tuple(1000 * one for one in trained))},
        target({"what": "what a cell costs beyond, ms", "ratio": beyond}, 50, False),
    ]
    ours = times[f"2 {options.cells}"]
    rows.append({"what": f"{options.cells} cells with 2 workers, whole program, s", "value": ours})
    if "ray" in times:
        rows.append({"what": "Ray Tune, the same cells, 2 at a time, s", "value": times["ray"]})
        rows.append(target({"what": "Ray Tune over bsexp", "ratio": times["ray"].over(ours)}, 1, True))
    else:
        rows.append({"what": "Ray Tune: not installed"})
    for row in rows:
        row["shown"] = row.get("ratio", row.get("value"))
    columns = (Column("what", number("what")), Column("median (quartiles)", number("shown")), TARGET, MET)
    report.table("sweeps on digits, one thread a run", columns, rows)


if __name__ == "__main__":
    main()
