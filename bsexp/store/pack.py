"""Packing: what a repository should keep of an experiment.

The one rule: the packed files hold what a report reads, nothing is deleted, and the same results give the same bytes.
"""

import gzip
import io
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bsexp.errors import StoreError
from bsexp.store.files import write_bytes, write_json, write_text
from bsexp.store.paths import Experiment
from bsexp.store.predictions import PRODUCTS, WHICH, finished_with_predictions, stacked
from bsexp.store.tables import load_results

if TYPE_CHECKING:
    import pandas

    from bsexp.store.tables import Results

# Of decisions, what a report doesn't read and only replaying them needs.
SEEN = ["loss", "grad_sq_norm", "grad_var", "b_simple", "cosine", "val_loss"]
BY_IMAGE = ("test_loss", "test_accuracy", "test_loss_ema", "test_accuracy_ema", "disagreement")


def pack(place: Experiment) -> int:
    """Write runs.csv, evals.csv.gz, steps.csv.gz (the first seed of each arm), test_predictions.npz, environments.json
    and, where something was decided along runs, decisions.csv.gz beside the run folders (what policies saw, of the
    first seed of each arm as well); bytes written. A folder that is packed already is left alone. Of the variants of
    [sensitivity], which only verdicts speak of, neither updates nor decisions are kept.

    Of predictions is kept what claims speak of, of the arms that they name: sums over the images of answers or losses,
    and of products of two runs', which is all that intervals depend on (store.products); classes where twins are
    compared. Where no claim speaks of images, the sums of all runs' answers.
    """
    if not place.has_runs:
        if place.packed:
            return 0
        raise StoreError("results", f"{place.path}: no runs in it", "bsexp sweep makes some")
    results = load_results(place.path)
    steps = _without_variants(results, results.steps)
    write_text(place.runs_table, _text(results.runs))
    _write_zipped(place.evals_table, _text(results.evals))
    _write_zipped(place.steps_table, _text(steps[_of_first_seed(steps)]))
    if results.decisions is not None:
        decisions = _without_variants(results, results.decisions).copy()
        decisions.loc[~_of_first_seed(decisions), SEEN] = float("nan")
        _write_zipped(place.decisions_table, _text(decisions))
    write_json(place.environments, _told_once(results.environments))
    _write_predictions(place, results)
    tables = (place.runs_table, place.evals_table, place.steps_table, place.decisions_table)
    files = (*tables, place.environments, place.predictions)
    return sum(path.stat().st_size for path in files if path.exists())


def _of_first_seed(frame: "pandas.DataFrame") -> "pandas.Series[bool]":
    return frame["seed"] == frame.groupby("arm")["seed"].transform("min")


def _without_variants(results: "Results", frame: "pandas.DataFrame") -> "pandas.DataFrame":
    return frame[~frame["arm"].str.partition(" (")[0].isin(results.definition.get("variants", {}))]


def _told_once(environments: list[dict[str, Any]]) -> dict[str, Any]:
    """environments.json: what all runs were made with alike as `common`, beside what each has of its own."""
    first, *others = environments or [{}]
    common = {key: value for key, value in first.items() if all(key in e and e[key] == value for e in others)}
    own = [{key: value for key, value in e.items() if key not in common} for e in environments]
    return {"common": common, "environments": own}


def _text(frame: "pandas.DataFrame") -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def _write_zipped(path: Any, text: str) -> None:
    # No time and no name in the header: the same content has the same bytes.
    write_bytes(path, gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _write_predictions(place: Experiment, results: "Results") -> None:
    import numpy

    wanted, claimed = _claimed(results)
    names = {
        which + ending
        for suffix, which in WHICH.items()
        for metric, ending in PRODUCTS.items()
        if metric + suffix in claimed or (wanted is None and metric == "test_accuracy")
    }
    names |= {WHICH[""]} if "disagreement" in claimed else set()
    found = [(key, folder) for key, folder in finished_with_predictions(place) if wanted is None or key in wanted]
    if not found:
        return
    arrays = stacked(found, names)
    content = io.BytesIO()
    # A tenth smaller than what numpy's own function writes; its `load` reads either.
    with zipfile.ZipFile(content, "w", zipfile.ZIP_BZIP2) as file:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_BZIP2
            with file.open(entry, "w") as member:
                numpy.lib.format.write_array(member, array)
    write_bytes(place.predictions, content.getvalue())


def _claimed(results: "Results") -> tuple[set[str] | None, set[str]]:
    """Config hashes of the runs whose single images claims speak of (None: no claim does), and in which metrics."""
    claims = [claim for claim in results.definition.get("claims", []) if claim.get("metric") in BY_IMAGE]
    if not claims:
        return None, set()
    metrics = {claim["metric"] for claim in claims}
    if "disagreement" in metrics:
        # That of an arm is with its twin, which claims don't name.
        return set(results.runs["config_hash"]), metrics
    names = {name for claim in claims for name in _texts([claim.get("compare"), claim.get("control")])}
    variants = results.definition.get("variants", {})
    arms = results.runs["arm"].str.partition(" (")[0]
    origins = arms.map(lambda arm: variants[arm]["of"] if arm in variants else arm)
    # A name that is no arm's own stands for all cells of one.
    spoken = origins.isin(names) | origins.str.partition("[")[0].isin(names - set(origins))
    return set(results.runs["config_hash"][spoken]), metrics


def _texts(value: Any) -> Iterator[str]:
    """The texts in lists in lists, and in tables' values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
