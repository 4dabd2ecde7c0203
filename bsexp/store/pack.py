"""Packing: what a repository should keep of an experiment.

The one rule: the packed files hold what a report reads, nothing is deleted, and the same results give the same bytes.
"""

import gzip
import io
from typing import TYPE_CHECKING, Any

from bsexp.errors import StoreError
from bsexp.store.files import write_bytes, write_json, write_text
from bsexp.store.paths import Experiment
from bsexp.store.predictions import WHICH, finished_with_predictions, stacked
from bsexp.store.tables import load_results, read_definition

if TYPE_CHECKING:
    import pandas


def pack(place: Experiment) -> int:
    """Write runs.csv, evals.csv.gz, steps.csv.gz (the first seed of each arm), test_predictions.npz, environments.json
    and, where something was decided along runs, decisions.csv.gz beside the run folders; bytes written. A folder that
    is packed already is left alone.

    Of predictions the classes are kept, and the losses of single images where a claim is about them.
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
    if results.decisions is not None:
        _write_zipped(place.decisions_table, _text(results.decisions))
    write_json(place.environments, {"environments": results.environments})
    _write_predictions(place)
    tables = (place.runs_table, place.evals_table, place.steps_table, place.decisions_table)
    files = (*tables, place.environments, place.predictions)
    return sum(path.stat().st_size for path in files if path.exists())


def _text(frame: "pandas.DataFrame") -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def _write_zipped(path: Any, text: str) -> None:
    # No time and no name in the header: the same content has the same bytes.
    write_bytes(path, gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _write_predictions(place: Experiment) -> None:
    import numpy

    found = finished_with_predictions(place)
    if not found:
        return
    content = io.BytesIO()
    numpy.savez_compressed(content, **stacked(found, _losses_claimed(place)))
    write_bytes(place.predictions, content.getvalue())


def _losses_claimed(place: Experiment) -> dict[str, bool]:
    """Of which weights the losses of single images are kept: those that a claim speaks of, for they take space."""
    metrics = {claim.get("metric") for claim in read_definition(place).get("claims", [])}
    return {which: f"test_loss{ending}" in metrics for ending, which in WHICH.items()}
