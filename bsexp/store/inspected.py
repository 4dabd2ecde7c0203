"""inspected.csv: what was measured of finished runs afterwards, one row a run.

The one rule: a table that a person may have edited is checked where it is read; what is wrong is told with file and
line, never guessed.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bsexp.records import InspectedRow, columns
from bsexp.store.files import csv_text, write_text
from bsexp.store.reading import KEY, TEXT, Column, read_cells, read_values

CURE = "restore the file, or delete it and measure again (bsexp inspect)"
SIZE = Column("number", empty=True)
# Between two minima the loss may well overflow.
BARRIER = Column("number", empty=True, low=0.0, endless=True)
KINDS: dict[str, Column] = {
    **{name: KEY[name] for name in ("arm", "seed", "config_hash")},
    "calibration_error": Column("number", empty=True, low=0.0, high=1.0),
    # A rate that has decayed to its end may be 0.
    "lr": Column("number", low=0.0),
    "sharpness": SIZE,
    "lr_sharpness": SIZE,
    "twin": TEXT,
    "barrier": BARRIER,
}


def read_inspected(path: Path) -> dict[str, InspectedRow]:
    """The rows of inspected.csv by config hash; none where there is no file. StoreError with file and line."""
    if not path.exists():
        return {}
    table = read_cells(path, KINDS, CURE)
    values = {name: read_values(table, name, KINDS[name]) for name in columns(InspectedRow)}
    found: dict[str, InspectedRow] = {}
    for number, cells in enumerate(zip(*values.values(), strict=True)):
        row = _row(dict(zip(values, cells, strict=True)))
        if row.config_hash in found:
            raise table.refuse(number, f"the run {row.config_hash} again")
        found[row.config_hash] = row
    return found


def _row(values: dict[str, Any]) -> InspectedRow:
    told: dict[str, Any] = {name: None if value != value else value for name, value in values.items()}
    return InspectedRow(**{**told, "seed": int(told["seed"])})


def write_inspected(path: Path, rows: Iterable[InspectedRow]) -> None:
    """Write inspected.csv in one go, by arm, seed and hash. StoreError where that can't be."""
    ordered = sorted(rows, key=lambda row: (row.arm, row.seed, row.config_hash))
    write_text(path, csv_text(columns(InspectedRow), map(asdict, ordered)))
