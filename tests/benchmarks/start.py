"""Start-up and scale of the tool: help, status of 10,000 runs, report on 1,000, a grid of a million cells.

Every time is that of a whole process, from its start to its end. The runs are made up, in the real format; they lie in
the file system's cache, for they were written just before.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bsexp.store.paths import Experiment
from tests.benchmarks import folders, programs
from tests.benchmarks.measuring import MET, TARGET, Column, Repeats, Report, alternate, number, parser, target

GRID = """
name = "million"
[arms.steady]
schedule = "fixed-small"
[grid]
lr = [{rates}]
weight_decay = [{decays}]
dropout = [{shares}]
"""


def main() -> None:
    """Measure one after the other."""
    made = parser(__doc__ or "", repeats=15)
    made.add_argument("--status-runs", type=int, default=10_000)
    made.add_argument("--report-runs", type=int, default=1_000)
    made.add_argument("--cpu-time", action="store_true", help="CPU time instead of the clock's, for a busy machine")
    options = made.parse_args()
    report = Report("start", options.json, options.repeats, cpu_time=options.cpu_time)
    few = max(1, options.repeats // 5)
    with tempfile.TemporaryDirectory() as folder:
        help_(report, options.repeats, options.cpu_time)
        rows = [*grid(Path(folder), few, options.cpu_time)]
        rows.append(status(Path(folder), options.status_runs, few, options.cpu_time))
        rows.append(reporting(Path(folder), options.report_runs, few, options.cpu_time))
    columns = (
        Column("command", number("command")),
        Column("seconds (quartiles)", number("ratio")),
        TARGET,
        MET,
        Column("peak memory, MB", number("peak", ",.0f")),
        Column("what it said", number("said")),
    )
    report.table("scale", columns, rows)
    report.close()


def help_(report: Report, repeats: int, cpu_time: bool) -> None:
    """`bsexp --help` beside the help of a program that typer alone makes up."""
    measures = {
        "bsexp": partial(_seconds, ("-m", "bsexp", "--help"), cpu_time),
        "command": partial(_seconds, ("-m", "bsexp", "run", "--help"), cpu_time),
        "bare": partial(_seconds, ("-m", "tests.benchmarks.bare", "--help"), cpu_time),
        "python": partial(_seconds, ("-c", "pass"), cpu_time),
    }
    times = alternate(measures, repeats)
    shown = {"bsexp": "bsexp --help", "command": "bsexp run --help", "bare": "bare typer program", "python": "python"}
    rows = []
    for name, title in shown.items():
        row = {"program": title, "seconds": times[name], "ratio": times[name].over(times["bare"])}
        rows.append(target(row, 1.5, False) if name == "bsexp" else row)
    columns = (
        Column("program", number("program")),
        Column("over the bare one (quartiles)", number("ratio")),
        TARGET,
        MET,
        Column("seconds", number("seconds", ".3f")),
    )
    report.table("help", columns, rows)


def _seconds(arguments: tuple[str, ...], cpu_time: bool) -> float:
    ended = programs.python(*arguments)
    assert ended.code == 0, ended.errors
    return ended.cpu_seconds if cpu_time else ended.seconds


def grid(folder: Path, repeats: int, cpu_time: bool) -> list[dict[str, Any]]:
    """A million cells, given to `sweep` and to `plan`: counted and refused, not built."""
    axis = [k / 1000 for k in range(1, 101)]
    text = ", ".join(map(str, axis))
    file = folder / "million.toml"
    file.write_text(GRID.format(rates=text, decays=text, shares=text), encoding="utf-8")
    rows = []
    for command in ("sweep", "plan"):
        row, ended = _measured((command, file), repeats, cpu_time, folder)
        assert "1,000,000" in ended.errors, ended.errors or ended.output
        said = ended.errors.strip().rpartition(": ")[2].replace(str(folder), "")
        rows.append({"command": f"{command}, 10^6 cells", **row, "said": f"exit {ended.code}: {said}"})
    return rows


def status(folder: Path, runs: int, repeats: int, cpu_time: bool) -> dict[str, Any]:
    """`status` of many runs."""
    place = Experiment(folder / "many")
    states = folders.make_runs(place, runs, unfinished=0.02)
    row, ended = _measured(("status", place.path, "--json"), repeats, cpu_time, folder)
    assert f'"finished": {states["finished"]}' in ended.output, ended.output
    return target({"command": f"status, {runs:,} runs", **row}, 2, False)


def reporting(folder: Path, runs: int, repeats: int, cpu_time: bool) -> dict[str, Any]:
    """`report` on many runs."""
    place = Experiment(folder / "some")
    folders.make_runs(place, runs)
    row, _ = _measured(("report", place.path), repeats, cpu_time, folder)
    return target({"command": f"report, {runs:,} runs", **row}, 15, False)


def _measured(
    arguments: tuple[Any, ...], repeats: int, cpu_time: bool, folder: Path
) -> tuple[dict[str, Any], programs.Ended]:
    """The time of a command, under `ratio` as the table's other numbers, its peak memory, and how it last ended."""
    ends = [programs.bsexp(*arguments, cwd=folder) for _ in range(repeats)]
    assert all(ended.code in (0, 2) for ended in ends), ends[-1].errors
    times = Repeats(tuple(ended.cpu_seconds if cpu_time else ended.seconds for ended in ends))
    return {"ratio": times, "peak": max(ended.peak_memory for ended in ends) / 1e6}, ends[-1]


if __name__ == "__main__":
    main()
