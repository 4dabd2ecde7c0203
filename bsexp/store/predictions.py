"""Test predictions of an experiment's runs, from their folders or from a packed file: the same numbers from both.

The one rule: losses are told in 255 levels, a factor of 2^0.1 apart, which is what a packed file keeps; what one image
costs is known to 3.5 %, and a mean over thousands far better than its own spread.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bsexp.errors import StoreError
from bsexp.store.paths import Experiment, RunFolder
from bsexp.store.reading import read_arrays
from bsexp.store.runs import read_summary

if TYPE_CHECKING:
    import numpy

# Level k stands for a loss of 2^((k - ZERO) / STEPS) nats, from 2^-16 on; level 0 for anything below.
STEPS, ZERO = 10, 161
WHICH = {"": "last", "_ema": "averaged"}


def loss_levels(losses: "numpy.ndarray") -> "numpy.ndarray":
    """The level of each loss in nats, uint8: 0 below 2^-16, 255 from 2^9.4 on.

    >>> import numpy
    >>> loss_levels(numpy.array([0.0, 1.0, 2.0])).tolist()
    [0, 161, 171]
    """
    import numpy

    with numpy.errstate(divide="ignore"):
        levels = numpy.round(numpy.log2(losses.astype(numpy.float64)) * STEPS) + ZERO
    return numpy.clip(levels, 0, 255).astype(numpy.uint8)


def losses_of(levels: "numpy.ndarray") -> "numpy.ndarray":
    """The losses in nats that levels stand for, float32."""
    import numpy

    table = 2.0 ** ((numpy.arange(256) - ZERO) / STEPS)
    table[0] = 0.0
    return table.astype(numpy.float32)[levels]


def read_examples(place: Experiment, outcome: str) -> dict[str, "numpy.ndarray"]:
    """What each run, by config hash, says of each test image: right or not as 0 and 1, or the loss in nats, shape (M,).

    `outcome`: test_accuracy or test_loss, also _ema, of averaged weights. Runs that keep no such predictions are left
    out. StoreError for a damaged file.
    """
    ending = "_ema" if outcome.endswith("_ema") else ""
    metric, which = outcome.removesuffix("_ema"), WHICH[ending]
    if metric not in ("test_accuracy", "test_loss"):
        return {}
    loss = metric == "test_loss"
    kept = (_from_packed if place.packed else _from_folders)(place, which, loss)
    return {key: told if loss else (told == labels).astype("uint8") for key, told, labels in kept}


def read_classes(place: Experiment) -> dict[str, "numpy.ndarray"]:
    """The class that each run, by config hash, predicts for each test image, last weights, shape (M,).

    Runs that keep no predictions are left out. StoreError for a damaged file.
    """
    read = _from_packed if place.packed else _from_folders
    return {config_hash: classes for config_hash, classes, _ in read(place, WHICH[""], False)}


def read_confidences(folder: RunFolder) -> "tuple[numpy.ndarray, numpy.ndarray] | None":
    """Of each test image the probability that the last weights give their prediction, and whether it is right, (M,).

    None where the run keeps no predictions. StoreError for a damaged file.
    """
    if not folder.predictions.exists():
        return None
    arrays = read_arrays(folder.predictions)
    names = ("last_confidences", "last_classes", "labels")
    if any(name not in arrays for name in names):
        return None
    confidences, classes, labels = (arrays[name] for name in names)
    _check(confidences.shape == classes.shape == labels.shape, folder.predictions)
    return confidences, classes == labels


Kept = Iterator[tuple[str, "numpy.ndarray", "numpy.ndarray"]]


def _from_packed(place: Experiment, which: str, loss: bool) -> Kept:
    """Config hash, then of each image the predicted class, or the loss, and the label."""
    if not place.predictions.exists():
        return
    arrays = read_arrays(place.predictions)
    for ending in _endings(arrays):
        name, labels = f"{which}_losses{ending}" if loss else which + ending, f"labels{ending}"
        if name not in arrays or labels not in arrays:
            continue
        columns, hashes = arrays[name], arrays[f"config_hash{ending}"]
        _check(columns.shape == (len(arrays[labels]), len(hashes)), place.predictions)
        columns = losses_of(columns) if loss else columns
        yield from ((str(hashes[k]), columns[:, k], arrays[labels]) for k in range(len(hashes)))


def _endings(arrays: Mapping[str, Any]) -> list[str]:
    """What the names of each test set's arrays end in: nothing for the first, @1 for the second."""
    return [ending for k in range(len(arrays)) if f"config_hash{(ending := f'@{k}' if k else '')}" in arrays]


def _from_folders(place: Experiment, which: str, loss: bool) -> Kept:
    """As `_from_packed` gives it."""
    for config_hash, folder in finished_with_predictions(place):
        arrays = read_arrays(folder.predictions)
        name = f"{which}_{'losses' if loss else 'classes'}"
        if name not in arrays or "labels" not in arrays:
            continue
        _check(arrays[name].shape == arrays["labels"].shape, folder.predictions)
        yield config_hash, losses_of(loss_levels(arrays[name])) if loss else arrays[name], arrays["labels"]


def _check(fits: bool, path: Any) -> None:
    if not fits:
        raise StoreError("results", f"{path}: predictions and labels of different numbers", "restore the file")


def finished_with_predictions(place: Experiment) -> list[tuple[str, RunFolder]]:
    """Runs with predictions, by config hash."""
    found = []
    for folder in place.run_folders():
        summary = read_summary(folder)
        if summary and folder.predictions.exists():
            found.append((str(summary["config_hash"]), folder))
    return sorted(found, key=lambda item: item[0])


def stacked(found: list[tuple[str, RunFolder]], losses: Mapping[str, bool]) -> dict[str, Any]:
    """The arrays of a packed file: `config_hash` names the columns; `last` and `averaged` are classes (images, runs),
    `last_losses` and `averaged_losses` levels where `losses` wants them, `labels` the truth (images,).

    Runs on a second test set have these again, their names ending in @1, and so on.
    """
    tests: dict[tuple[int, bytes], list[tuple[str, dict[str, Any]]]] = {}
    for config_hash, folder in found:
        arrays = read_arrays(folder.predictions)
        truth = arrays["labels"].tobytes() if "labels" in arrays else b""
        tests.setdefault((len(arrays["last_classes"]), truth), []).append((config_hash, arrays))
    whole: dict[str, Any] = {}
    for number, members in enumerate(tests.values()):
        ending = f"@{number}" if number else ""
        whole |= {name + ending: array for name, array in _stacked(members, losses).items()}
    return whole


def _stacked(members: list[tuple[str, dict[str, Any]]], losses: Mapping[str, bool]) -> dict[str, Any]:
    """The arrays of runs on one test set."""
    import numpy

    columns: dict[str, list[Any]] = {}
    for _, arrays in members:
        for which in WHICH.values():
            if f"{which}_classes" in arrays:
                columns.setdefault(which, []).append(arrays[f"{which}_classes"])
                if losses.get(which):
                    columns.setdefault(f"{which}_losses", []).append(loss_levels(arrays[f"{which}_losses"]))
    # Image by image, the runs side by side: they mostly agree, and so compress well.
    whole = {name: numpy.stack(column, axis=1) for name, column in columns.items() if len(column) == len(members)}
    whole["config_hash"] = numpy.array([config_hash for config_hash, _ in members])
    labels = members[0][1].get("labels")
    return whole | ({} if labels is None else {"labels": labels})
