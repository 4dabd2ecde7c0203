"""`bsexp inspect`: what finished runs' kept weights and predictions say.

The one rule: it measures and writes one table; what follows from it, claims among it, is told by the report.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bsexp.commands.given import absent, talk_of, values_of
from bsexp.console import Talk
from bsexp.errors import StoreError
from bsexp.options import OPTIONS
from bsexp.records import InspectedRow
from bsexp.store.paths import Experiment
from bsexp.sweep.devices import check_device

MEASURED = ("sharpness", "lr_sharpness", "barrier", "calibration_error")
COLUMNS = ("arm", "runs", "sharpness", "lr x sharpness", "twin", "loss barrier", "calibration error")


def main(folder: str, given: dict[str, Any]) -> int:
    """Measure what isn't measured yet, write inspected.csv, print each arm's means."""
    talk = talk_of(given)
    values = values_of(given)
    place = Experiment(Path(folder))
    if not place.path.is_dir():
        raise StoreError("results", f"{folder}: {absent(place.path)}", "name a folder below results/")
    rows = inspect_experiment(place, values, talk)
    if values.get("json"):
        talk.document({"experiment": place.name, "file": str(place.inspected), "rows": [asdict(row) for row in rows]})
        return 0
    talk.table(COLUMNS, _means(rows), title=place.name)
    talk.result(f"file: {place.inspected}")
    return 0


def inspect_experiment(place: Experiment, options: dict[str, Any], talk: Talk) -> list[InspectedRow]:
    """Measure what isn't measured yet of the finished runs in `place`, on the device and threads of `options`."""
    from bsexp.engine.device import set_up
    from bsexp.sweep.inspecting import inspect_runs

    device = options.get("device", OPTIONS["device"].default)
    check_device(device)
    set_up(device, options.get("threads"), False, options.get("tune_allocator", True))
    return inspect_runs(place, device, talk.note)


def _means(rows: Sequence[InspectedRow]) -> list[list[str]]:
    """A line per arm: its runs, and the means of what was measured of them."""
    told = []
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        means = [_mean([getattr(row, name) for row in mine]) for name in MEASURED]
        twins = ", ".join(dict.fromkeys(row.twin for row in mine if row.twin)) or "-"
        told.append([arm, str(len(mine)), *means[:2], twins, *means[2:]])
    return told


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{math.fsum(known) / len(known):.4g}" if known else "-"
