"""Measuring finished runs afterwards: from their kept weights and predictions to the rows of inspected.csv.

The one rule: nothing is trained and no file of a run is touched; what was measured before is not measured again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from bsexp.analysis.outcomes import arm_of, twins_of
from bsexp.config import RunConfig
from bsexp.data.sources import Images, load_images
from bsexp.data.splits import prepare
from bsexp.engine import checkpoint
from bsexp.engine.landscape import Landscape, Weights
from bsexp.errors import BsexpError, StoreError
from bsexp.records import InspectedRow
from bsexp.signals.calibration import calibration_error
from bsexp.signals.sharpness import lr_sharpness
from bsexp.store.files import usable
from bsexp.store.inspected import read_inspected, write_inspected
from bsexp.store.paths import Experiment, RunFolder
from bsexp.store.predictions import read_confidences
from bsexp.store.runs import read_summary
from bsexp.store.tables import Results, load_results

Tell = Callable[[str], None]
FINISHED = "finished"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ended:
    """A finished run: its folder, its arm, and the rate of its last update."""

    folder: RunFolder
    arm: str
    config: RunConfig
    lr: float

    @property
    def place(self) -> tuple[str, int, float]:
        """Arm, seed and learning rate: what the run of a twin has, but for the arm."""
        return self.arm, self.config.seed, self.config.lr


def inspect_runs(place: Experiment, device: str, tell: Tell) -> list[InspectedRow]:
    """Measure every finished run of `place`, and write inspected.csv after each; the rows of all of them.

    Sharpness and barriers are those of runs made with `--save-model`; barriers need a twin in the experiment
    (analysis.twins) and a network without batch statistics. `tell` hears of each run. Raises StoreError for a folder
    without runs.
    """
    if not place.has_runs:
        why = "its run folders are gone" if place.packed else "no runs in it"
        raise StoreError("results", f"{place.path}: {why}", "inspect before packing, where the sweep was made")
    results = load_results(place.path)
    runs = _ended(results)
    twins = twins_of(results)
    by_place = {run.place: run for run in runs}
    rows = {key: row for key, row in read_inspected(place.inspected).items() if key in {r.config.hash for r in runs}}
    for number, run in enumerate(runs, start=1):
        mate = by_place.get((twins[run.arm], *run.place[1:])) if run.arm in twins else None
        before = rows.get(run.config.hash)
        row = _row(run, mate, before, device)
        if row != before:
            rows[run.config.hash] = row
            write_inspected(place.inspected, rows.values())
            tell(f"{number}/{len(runs)}  {run.folder.path.name}")
    return [rows[run.config.hash] for run in runs]


def _ended(results: Results) -> list[_Ended]:
    last = results.steps.groupby("config_hash")["lr"].last()
    found = []
    for folder in results.place.run_folders():
        summary = read_summary(folder)
        if summary is not None and summary["status"] == FINISHED:
            key = str(summary["config_hash"])
            config = RunConfig(**results.configs[key])
            found.append(_Ended(folder, arm_of(results, str(summary["arm"])), config, float(last[key])))
    return found


def _row(run: _Ended, mate: _Ended | None, before: InspectedRow | None, device: str) -> InspectedRow:
    """What can be measured of a run; what stands in `before` isn't measured again."""
    row = before or _of_predictions(run)
    if not run.folder.weights.exists():
        return row
    if mate is not None and (not mate.folder.weights.exists() or run.config.norm == "batch"):
        mate = None
    between = mate is not None and (row.twin != mate.arm or row.barrier is None)
    if row.sharpness is not None and not between:
        return row
    landscape, weights = _landscape(run, device), _weights(run.folder)
    if row.sharpness is None:
        row = _with_sharpness(row, run, landscape, weights)
    if mate is not None and between and not landscape.has_statistics:
        row = replace(row, twin=mate.arm, barrier=landscape.barrier(weights, _weights(mate.folder)))
    return row


def _of_predictions(run: _Ended) -> InspectedRow:
    """The row of a run without what needs its weights."""
    found = read_confidences(run.folder)
    error = None if found is None else calibration_error(*(column.astype(float).tolist() for column in found))
    return InspectedRow(run.arm, run.config.seed, run.config.hash, error, run.lr, None, None, "", None)


def _with_sharpness(row: InspectedRow, run: _Ended, landscape: Landscape, weights: Weights) -> InspectedRow:
    try:
        sharpness = landscape.sharpness(weights)
    except ValueError as error:
        log.warning("%s: sharpness not found: %s", run.folder.path.name, error)
        return row
    return replace(row, sharpness=sharpness, lr_sharpness=lr_sharpness(sharpness, run.lr))


def _landscape(run: _Ended, device: str) -> Landscape:
    config = run.config
    return Landscape(config, prepare(config, _images(config.dataset, config.image_size)), device)


@lru_cache(maxsize=1)
def _images(dataset: str, image_size: int | None) -> Images:
    return load_images(dataset, image_size)


def _weights(folder: RunFolder) -> Weights:
    with usable(folder.weights):
        content = folder.weights.read_bytes()
    try:
        return checkpoint.from_bytes(content)
    except BsexpError as error:
        raise error.within(str(folder.weights)) from None
