"""On a GPU: bsexp against a bare loop, a growing run against its parts, several small runs at a time, memory.

Both sides compute in the same way: fp32, bf16, and bf16 with compiled forward and backward passes (CUDA graphs).
Network and images are those of `engine`. Each candidate has a process of its own and they take turns; compiling falls
outside all times. Without a GPU there is nothing to measure; --device cpu tries the program itself out.
"""

import argparse
import contextlib
import csv
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import gpu_loops, programs
from tests.benchmarks.gpu_loops import Way
from tests.benchmarks.measuring import MET, TARGET, Column, Repeats, Report, alternate, number, parser, target
from tests.benchmarks.workers import Candidate

SIZES = (32, 128, 512, 2048)
WAYS = (("fp32", False), ("bf16", False), ("bf16", True))
PARTS = ("ratio", "growing", "runs")

CELLS = """
[run]
model = "cnn-small"
epochs = {epochs}
seeds = "0-{last}"
[arms.grow]
schedule = "growing-batch"
"""


def main() -> None:
    """Measure what is asked for, one table after another."""
    options = arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu: no CUDA device here, nothing to measure (--device cpu tries the program out)")
        return
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    report = Report("gpu", options.json, options.repeats, device=name, sizes=options.sizes)
    report.note(f"device: {name}")
    ways = [Way(options.device, precision, compiled) for precision, compiled in WAYS]
    if "ratio" in options.parts:
        for way in ways:
            against_bare(report, way, options)
    if "growing" in options.parts:
        for way in ways:
            growing(report, way, options)
    if "runs" in options.parts:
        several_runs(report, options)
    report.close()


def arguments() -> argparse.Namespace:
    """What is asked for."""
    made = parser(__doc__ or "", repeats=9)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--parts", type=lambda text: text.split(","), default=PARTS, help=",".join(PARTS))
    made.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES, help="batch sizes")
    made.add_argument("--seconds", type=float, default=0.5, help="about how long one repeat of one candidate takes")
    made.add_argument("--samples", type=int, default=65536, help="samples at each size of the growing run")
    made.add_argument("--cells", type=int, default=16, help="runs of the larger sweep, a multiple of 8")
    made.add_argument("--epochs", type=float, default=20, help="budget of each of these")
    made.add_argument("--at-a-time", type=lambda text: tuple(map(int, text.split(","))), default=(1, 2, 4))
    return made.parse_args()


def against_bare(report: Report, way: Way, options: argparse.Namespace) -> None:
    """Seconds per update of both, at each batch size, and the memory of each."""
    rows = []
    for size in options.sizes:
        with Candidate(gpu_loops.bare_loop) as bare, Candidate(gpu_loops.bsexp_loop) as ours:
            both = {"bare": bare, "ours": ours}
            measures = {name: prepared(candidate, size, way, options) for name, candidate in both.items()}
            times = alternate(measures, options.repeats)
            peaks = {f"{name}_peak": candidate.peak_memory() / 1e6 for name, candidate in both.items()}
        speed = size / times["ours"].median
        row = {"size": size, "ratio": times["bare"].over(times["ours"]), "speed": speed, **times, **peaks}
        rows.append(target(row, 0.95, True))
    columns = (
        Column("batch size", number("size", "d")),
        Column("bare / bsexp (quartiles)", number("ratio", ".3f")),
        TARGET,
        MET,
        Column("bsexp, images/s", number("speed", ",.0f")),
        Column("peak memory, MB: bsexp", number("ours_peak", ",.0f")),
        Column("bare", number("bare_peak", ",.0f")),
    )
    note = "bsexp's memory holds the whole data set as bytes, the bare loop's as floats"
    report.table(f"{way.title}: against a bare loop", columns, rows, note)


def prepared(candidate: Candidate, size: int, way: Way, options: argparse.Namespace) -> Callable[[], float]:
    """Measures the seconds of an update, after a warm-up in which everything is compiled."""
    candidate.prepare(batch_size=size, way=way)
    updates = candidate.calibrate(options.seconds, least=5)
    return lambda: candidate.run(updates) / updates


def growing(report: Report, way: Way, options: argparse.Namespace) -> None:
    """A run from the smallest to the largest size against runs that stay at each of its sizes."""
    sizes, size = [], min(options.sizes)
    while size <= max(options.sizes):
        sizes.append(size)
        size *= 2
    grown, parts = [], []
    with Candidate(partial(gpu_loops.growing_loop, sizes=tuple(sizes))) as run, contextlib.ExitStack() as stack:
        fixed = {size: stack.enter_context(Candidate(gpu_loops.bsexp_loop)) for size in sizes}
        for size, candidate in fixed.items():
            candidate.prepare(batch_size=size, way=way, own_clock=True)
            candidate.run(3)
        for _ in range(options.repeats):
            run.prepare(way=way, samples_per_size=options.samples)
            grown.append(sum(run.run(options.samples // size) for size in sizes))
            parts.append(sum(candidate.run(options.samples // size) for size, candidate in fixed.items()))
        peaks = run.peak_memory() / 1e6, fixed[sizes[-1]].peak_memory() / 1e6
    times = Repeats(tuple(grown)), Repeats(tuple(parts))
    row: dict[str, Any] = {"run": f"{sizes[0]} to {sizes[-1]}", "ratio": times[0].over(times[1])}
    row |= {"grown": times[0], "parts": times[1], "peak": peaks[0], "largest": peaks[1]}
    columns = (
        Column("batch size", number("run")),
        Column("growing / parts (quartiles)", number("ratio", ".3f")),
        TARGET,
        MET,
        Column("growing, s", number("grown")),
        Column("parts, s", number("parts")),
        Column("peak memory, MB", number("peak", ",.0f")),
        Column("at the largest size only", number("largest", ",.0f")),
    )
    report.table(f"{way.title}: a growing run against its parts", columns, [target(row, 1.05, False)])


def several_runs(report: Report, options: argparse.Namespace) -> None:
    """Runs per minute with so many at a time on one GPU, starting and ending of the program apart."""
    half = options.cells // 2
    measures = {
        f"{number} {cells}": partial(sweep, number, cells, options)
        for number in options.at_a_time
        for cells in (options.cells, half)
    }
    times = alternate(measures, max(1, options.repeats // 3))
    rates = {}
    for count in options.at_a_time:
        both = zip(times[f"{count} {options.cells}"].values, times[f"{count} {half}"].values, strict=True)
        rates[count] = Repeats(tuple(60 * (options.cells - half) / (whole - part) for whole, part in both))
    first = rates[options.at_a_time[0]]
    rows = [{"count": count, "rate": rate, "gain": rate.over(first)} for count, rate in rates.items()]
    columns = (
        Column("runs at a time", number("count", "d")),
        Column("runs per minute (quartiles)", number("rate", ".1f")),
        Column("over the first", number("gain")),
    )
    report.table(f"small runs (cnn-small on digits, {options.epochs:g} epochs) on one device", columns, rows)


def sweep(at_a_time: int, cells: int, options: argparse.Namespace) -> float:
    """Seconds of the whole program."""
    how = ("--per-gpu", at_a_time) if options.device == "cuda" else ("--jobs", at_a_time)
    device = "cuda:0" if options.device == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "cells.toml").write_text(CELLS.format(epochs=options.epochs, last=cells - 1))
        words = ("sweep", "cells.toml", "--device", device, *how, "--no-share-prefix", "--no-report", "--quiet")
        ended = programs.bsexp(*words, cwd=place)
        assert ended.code == 0, ended.errors
        with open(place / "results" / "cells" / "runs.csv", newline="") as file:
            ended_well = [row["status"] in ("finished", "collapsed") for row in csv.DictReader(file)]
    assert ended_well == [True] * cells
    return ended.seconds


if __name__ == "__main__":
    main()
