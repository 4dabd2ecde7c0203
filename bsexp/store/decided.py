"""decisions.csv of a run, and decisions.csv.gz of a packed folder: reading what was decided along runs.

The one rule: as in `reading`, what isn't as it was written is told with file and line.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from bsexp.records import DecisionRow
from bsexp.store.reading import CURE, KEY, WHOLE_CURE, Cells, Column, columns_of, frame_of, read_cells

if TYPE_CHECKING:
    import pandas

ALONG = ("step", "samples", "epoch")
# A decision follows an update.
DECISIONS = columns_of(DecisionRow) | {
    "samples": Column("whole", low=1),
    "epoch": Column("number", low=0.0, open_low=True),
    "policy": Column("text"),
    "lr_factor": Column("number", low=0.0),
}


def read_decisions(path: Path, end: int) -> "pandas.DataFrame":
    """decisions.csv of a run that ended at `end` samples, where each policy's rows go forward.

    Raises StoreError with file and line.
    """
    table = read_cells(path, DECISIONS, CURE)
    frame = frame_of(table, DECISIONS)
    _check_forward(table, frame, ["policy"])
    for row, samples in enumerate(frame["samples"].to_list()):
        _check_end(table, row, samples, end)
    return frame


def read_packed_decisions(path: Path, runs: "pandas.DataFrame") -> "pandas.DataFrame":
    """decisions.csv.gz of a packed folder, whose rows must belong to `runs`. Raises StoreError with file and line."""
    wanted = {name: KEY[name] for name in KEY if name != "lr"} | DECISIONS
    table = read_cells(path, wanted, WHOLE_CURE)
    frame = frame_of(table, wanted)
    _check_forward(table, frame, ["arm", "config_hash", "policy"])
    ends = {tuple(run): end for *run, end in runs[["arm", "config_hash", "samples"]].itertuples(index=False, name=None)}
    for row, (arm, key, samples) in enumerate(frame[["arm", "config_hash", "samples"]].itertuples(False, None)):
        if (arm, key) not in ends:
            raise table.refuse(row, f"{arm} {key} is not in runs.csv")
        _check_end(table, row, samples, ends[arm, key])
    return frame


def _check_end(table: Cells, row: int, samples: int, end: int) -> None:
    if samples > end:
        raise table.refuse(row, f"decided at {samples} samples, the run ended at {end}")


def _check_forward(table: Cells, frame: "pandas.DataFrame", key: list[str]) -> None:
    """Rows of one policy of one run go forward."""
    last: dict[tuple[str, ...], tuple[float, ...]] = {}
    places = frame[list(ALONG)].itertuples(index=False, name=None)
    for row, (place, *which) in enumerate(zip(places, *(table.cells[name] for name in key), strict=True)):
        before = last.get(tuple(which), (-1.0,) * len(ALONG))
        for name, now, then in zip(ALONG, place, before, strict=True):
            if not now > then:
                raise table.refuse(row, f"{name} {table.cells[name][row]} of {' '.join(which)} after {then:g}")
        last[tuple(which)] = place
