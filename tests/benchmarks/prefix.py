"""Beginnings trained once: what is trained of three grids, and how long it takes, beside training each run alone.

The share of samples is exact, for both sweeps count them; the time is that of the whole program, with two workers. All
files are compared, time columns aside, and must be the same.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import programs
from tests.benchmarks.measuring import MET, TARGET, Column, Report, alternate, number, parser, target
from tests.faults.programs import contents

ARMS = """
[run]
epochs = {epochs}
seeds = "0-1"
[arms.fixed]
schedule = "fixed-small"
[arms.decay]
schedule = "lr-decay"
milestones = [0.5, 0.75]
[arms.grow]
schedule = "growing-batch"
milestones = [0.5, 0.75]
"""
GRID = """
[run]
epochs = {epochs}
seeds = "0-1"
[grid]
milestones = [[0.4, 0.8], [0.5, 0.8], [0.6, 0.8], [0.7, 0.8]]
factor = [2, 3, 4]
[arms.grow]
schedule = "growing-batch"
"""
LADDER = """
[run]
warmup_epochs = 0.5
seeds = "0-1"
[grid]
epochs = [{eighth}, {quarter}, {half}, {epochs}]
[arms.wsd]
schedule = "lr-decay"
shape = "wsd"
"""


def main() -> None:
    """Make each experiment with and without sharing, in turns."""
    made = parser(__doc__ or "", repeats=3)
    made.add_argument("--epochs", type=int, default=40, help="budget of a run, on digits")
    options = made.parse_args()
    report = Report("prefix", options.json, options.repeats, epochs=options.epochs)
    rows = [
        compare("3 arms, first milestone at .5", ARMS, 0.70, options),
        compare("4 x 3 milestones and factors", GRID, 0.60, options),
        compare("4 rungs with a common trunk", LADDER, 1.35, options, over_longest=True),
    ]
    columns = (
        Column("experiment", number("experiment")),
        Column("samples trained / alone", number("share", ".3f")),
        Column("trained / longest run", number("longest", ".3f")),
        TARGET,
        MET,
        Column("seconds / alone (quartiles)", number("time")),
        Column("files", number("files")),
    )
    report.table("beginnings trained once", columns, rows)
    report.close()


def compare(
    title: str, text: str, limit: float, options: argparse.Namespace, over_longest: bool = False
) -> dict[str, Any]:
    """One row: shares of samples and of time, and that the files are the same."""
    n = options.epochs
    text = text.format(epochs=n, half=n / 2, quarter=n / 4, eighth=n / 8)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, dict[str, Any]] = {}
        measures = {which: partial(_sweep, Path(folder), text, which, found) for which in ("share", "no-share")}
        times = alternate(measures, options.repeats)
        together, alone = found["share"], found["no-share"]
        assert alone["samples_trained"] == alone["samples_total"]
        files = contents(Path(folder) / "share")
        same = files == contents(Path(folder) / "no-share")
    # Two seeds, each with one run of the whole budget.
    longest = together["samples_trained"] / (2 * round(n * 1293))
    share = together["samples_trained"] / alone["samples_trained"]
    row = {"experiment": title, "share": share, "longest": longest, "time": times["share"].over(times["no-share"])}
    row |= {"files": f"{len(files)} identical" if same else "DIFFERENT", "ratio": longest if over_longest else share}
    return target(row, limit, False)


def _sweep(place: Path, text: str, which: str, found: dict[str, dict[str, Any]]) -> float:
    file = place / "e.toml"
    file.write_text(text)
    out = place / which
    if out.exists():
        out.rename(Path(tempfile.mkdtemp(dir=place)) / which)
    words = ("sweep", file, "--out", out, f"--{which}-prefix", "--jobs", 2, "--no-report", "--json")
    ended = programs.bsexp(*words, cwd=place)
    assert ended.code == 0, ended.errors
    found[which] = json.loads(ended.output)
    return ended.seconds


if __name__ == "__main__":
    main()
