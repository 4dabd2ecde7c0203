"""Packing: what a repository should keep of an experiment.

The one rule: the packed files hold what a report reads, nothing is deleted, and the same results give the same bytes.
"""

import gzip
import io
from typing import TYPE_CHECKING, Any

from bsexp.errors import StoreError
from bsexp.store.files import write_bytes, write_json, write_text
from bsexp.store.paths import Experiment, RunFolder
from bsexp.store.reading import read_arrays
from bsexp.store.runs import read_summary
from bsexp.store.tables import load_results

if TYPE_CHECKING:
    import pandas


def pack(place: Experiment) -> int:
    """Write runs.csv, evals.csv.gz, steps.csv.gz (the first seed of each arm), test_predictions.npz and
    environments.json beside the run folders; bytes written. A folder that is packed already is left alone.

    Predictions are classes only: arrays `last` and `averaged` (test images, runs), `config_hash` names the columns.
    """
    if not place.has_runs:
        if place.packed:
            return 0
        raise StoreError("results", f"{place.path}: no runs in it", "bsexp sweep makes some")
    results = load_results(place.path)
    first = results.steps.groupby("arm")["seed"].transform("min")
    write_text(place.runs_table, _text(results.runs))
    _write_zipped(place.evals_table, _text(results.evals))
    _write_zipped(place.steps_table, _text(results.steps[results.steps["seed"] == first]))
    write_json(place.environments, {"environments": results.environments})
    _write_predictions(place)
    files = (place.runs_table, place.evals_table, place.steps_table, place.environments, place.predictions)
    return sum(path.stat().st_size for path in files if path.exists())


def _text(frame: "pandas.DataFrame") -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def _write_zipped(path: Any, text: str) -> None:
    # No time and no name in the header: the same content has the same bytes.
    write_bytes(path, gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _write_predictions(place: Experiment) -> None:
    import numpy

    found = _finished(place)
    columns: dict[str, list[Any]] = {"last": [], "averaged": []}
    hashes = []
    for config_hash, folder in found:
        arrays = read_arrays(folder.predictions)
        hashes.append(config_hash)
        for which, column in columns.items():
            if f"{which}_classes" in arrays:
                column.append(arrays[f"{which}_classes"])
    if not hashes:
        return
    if len({len(column) for column in columns["last"]}) > 1:
        raise StoreError("pack", f"{place.path}: runs on test sets of different sizes", "pack one data set at a time")
    # Image by image, the runs side by side: they mostly agree, and so compress well.
    stacked = {which: numpy.stack(column, axis=1) for which, column in columns.items() if len(column) == len(hashes)}
    content = io.BytesIO()
    packed: dict[str, Any] = {"config_hash": numpy.array(hashes), **stacked}
    numpy.savez_compressed(content, **packed)
    write_bytes(place.predictions, content.getvalue())


def _finished(place: Experiment) -> list[tuple[str, RunFolder]]:
    """Runs with predictions, by config hash."""
    found = []
    for folder in place.run_folders():
        summary = read_summary(folder)
        if summary and folder.predictions.exists():
            found.append((str(summary["config_hash"]), folder))
    return sorted(found, key=lambda item: item[0])
