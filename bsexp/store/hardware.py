"""hardware.csv and what is kept beside it: reading and writing seconds per update by batch size.

The one rule: a table that a person may have edited is checked where it is read; what is wrong is told with file and
line, never guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bsexp.errors import StoreError
from bsexp.records import HardwareRow, columns
from bsexp.store.files import csv_text, ensure_folder, read_json, write_json, write_text
from bsexp.store.paths import about_table
from bsexp.store.reading import Column, read_cells, read_values

CURE = "restore the file, or measure again (bsexp measure)"
POSITIVE = Column("number", low=0.0, open_low=True)
KINDS: dict[str, Column] = {
    "device": Column("text"),
    "batch_size": Column("whole", low=1),
    "micro_batch_size": Column("whole", low=1),
    "seconds_per_update": POSITIVE,
    "spread": Column("number", low=0.0),
    "samples_per_second": POSITIVE,
    "peak_memory_bytes": Column("whole", empty=True, low=1),
}
# The rate may have been rounded by hand; more than that is another measurement.
ROUNDED = 0.01


def read_hardware(path: Path) -> list[HardwareRow]:
    """The rows of a hardware table, by rising batch size, all of one device. StoreError with file and line."""
    table = read_cells(path, KINDS, CURE)
    if not table.lines:
        raise StoreError("results", f"{path}:1: no rows", CURE)
    values = {name: read_values(table, name, KINDS[name]) for name in columns(HardwareRow)}
    rows = [_row(dict(zip(values, cells, strict=True))) for cells in zip(*values.values(), strict=True)]
    for number, row in enumerate(rows):
        if why := _wrong(row, rows[number - 1] if number else None):
            raise table.refuse(number, why)
    return rows


def _row(values: dict[str, Any]) -> HardwareRow:
    peak = values["peak_memory_bytes"]
    whole = {name: int(values[name]) for name in ("batch_size", "micro_batch_size")}
    return HardwareRow(**{**values, **whole, "peak_memory_bytes": None if peak != peak else int(peak)})


def _wrong(row: HardwareRow, before: HardwareRow | None) -> str:
    """What is wrong with a row that comes after `before`; empty where nothing is."""
    if before and row.device != before.device:
        return f"device {row.device!r} after {before.device!r}: a table speaks of one device"
    if before and row.batch_size <= before.batch_size:
        return f"batch_size {row.batch_size} after batch_size {before.batch_size}"
    if row.micro_batch_size > row.batch_size:
        return f"micro_batch_size {row.micro_batch_size} of a batch of {row.batch_size}"
    rate = row.batch_size / row.seconds_per_update
    if abs(row.samples_per_second - rate) > ROUNDED * rate:
        return f"samples_per_second is {row.samples_per_second:g}, batch_size / seconds_per_update is {rate:g}"
    return ""


def read_about(path: Path) -> dict[str, Any]:
    """What the table at `path` was measured with, from the file beside it; empty where there is none."""
    about = about_table(path)
    return read_json(about) if about.exists() else {}


def write_hardware(path: Path, rows: Sequence[HardwareRow], about: Mapping[str, Any]) -> None:
    """Write hardware.csv and, before it, what it was measured with; each in one go. StoreError where that can't be."""
    ensure_folder(path.parent)
    write_json(about_table(path), about)
    write_text(path, csv_text(columns(HardwareRow), map(asdict, rows)))
