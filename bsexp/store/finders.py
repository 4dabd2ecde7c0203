"""Files of `find-lr` and `find-batch`: rows as CSV, beside them what they were made with and what was found.

The one rule: all of them are written at the end, each in one go, the rows last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bsexp.records import FitRow, RampRow, columns
from bsexp.store.files import csv_text, ensure_folder, write_bytes, write_json, write_text
from bsexp.store.paths import Experiment


def write_ramp(
    place: Experiment, rows: Sequence[RampRow], about: Mapping[str, Any], figures: Mapping[str, bytes]
) -> None:
    """Write find_lr.csv, .json and its figures, by ending. StoreError where that can't be."""
    ensure_folder(place.path)
    for ending, content in figures.items():
        write_bytes(place.find_lr(ending), content)
    write_json(place.find_lr("json"), about)
    write_text(place.find_lr("csv"), csv_text(columns(RampRow), map(asdict, rows)))


def write_fits(place: Experiment, rows: Sequence[FitRow], about: Mapping[str, Any]) -> None:
    """Write find_batch.csv and .json. StoreError where that can't be."""
    ensure_folder(place.path)
    write_json(place.find_batch("json"), about)
    write_text(place.find_batch("csv"), csv_text(columns(FitRow), map(asdict, rows)))
