"""What a growing batch costs beyond its parts: a run from batch 32 to 4096 beside runs at each of these sizes.

Both are trained by bsexp, in fresh processes, in turns: so many updates at 32 of the growing run, as many of a run that
stays at 32, then the same at 64, and so on. The ratio is the growing run's seconds over the sum of the parts: what is
above 1 are first updates at a new size. The parts begin after two updates of their own, outside the time.
"""

import argparse
from functools import partial
from typing import Any

from tests.benchmarks import loops
from tests.benchmarks.measuring import MET, TARGET, Column, Repeats, Report, number, parser, target
from tests.benchmarks.workers import Candidate

SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
Times = tuple[list[float], list[float]]


def main() -> None:
    """Repeat the whole comparison, then show it by size and in sum."""
    made = parser(__doc__ or "", repeats=5)
    made.add_argument("--samples", type=int, default=8192, help="samples trained at each size, a multiple of 4096")
    loops.add_conditions(made)
    options = made.parse_args()
    conditions = loops.Conditions.of(options)
    report = Report("growing", options.json, options.repeats, samples_per_size=options.samples, **conditions._asdict())
    times, peaks = [], []
    for _ in range(options.repeats):
        with Candidate(partial(loops.growing_loop, sizes=SIZES)) as growing, Candidate(loops.bsexp_loop) as fixed:
            times.append(in_turns(growing, fixed, conditions, options))
            peaks.append(growing.peak_memory())
    show(report, times)
    show_memory(report, peaks, conditions)
    report.close()


def in_turns(growing: Candidate, fixed: Candidate, conditions: loops.Conditions, options: argparse.Namespace) -> Times:
    """Seconds at each size: of the growing run, and of a run that stays there."""
    grown, parts = [], []
    growing.prepare(samples_per_size=options.samples, conditions=conditions)
    for size in SIZES:
        updates = options.samples // size
        fixed.prepare(batch_size=size, conditions=conditions)
        fixed.run(2)
        grown.append(growing.run(updates))
        parts.append(fixed.run(updates))
    return grown, parts


def show(report: Report, times: list[Times]) -> None:
    """The sum first, then each size."""
    rows: list[dict[str, Any]] = []
    for k, size in [(None, "32 to 4096"), *enumerate(map(str, SIZES))]:
        grown, parts = (
            Repeats(tuple(sum(turn[side]) if k is None else turn[side][k] for turn in times)) for side in (0, 1)
        )
        row = {"size": size, "ratio": grown.over(parts), "grown": grown, "parts": parts}
        rows.append(target(row, 1.05, False) if k is None else row)
    columns = (
        Column("batch size", number("size")),
        Column("growing / parts (quartiles)", number("ratio", ".3f")),
        TARGET,
        MET,
        Column("growing, s", number("grown")),
        Column("parts, s", number("parts")),
    )
    report.table("a growing run against the sum of its parts", columns, rows)


def show_memory(report: Report, peaks: list[int], conditions: loops.Conditions) -> None:
    """Peak memory of processes that trained nothing else: growing, and at the largest size only."""
    with Candidate(loops.bsexp_loop) as largest:
        largest.prepare(batch_size=SIZES[-1], conditions=conditions)
        largest.run(2)
        alone = largest.peak_memory()
    peak = Repeats(tuple(peak / 1e6 for peak in peaks))
    rows = [
        {"run": "growing, 32 to 4096", "peak": peak, "ratio": peak.median / (alone / 1e6)},
        {"run": "fixed at 4096", "peak": alone / 1e6},
    ]
    columns = (
        Column("run", number("run")),
        Column("peak memory of its process, MB", number("peak", ",.0f")),
        Column("ratio", number("ratio")),
    )
    report.table("peak memory", columns, rows)


if __name__ == "__main__":
    main()
