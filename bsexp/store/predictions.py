"""Test predictions of an experiment's runs, from their folders or from a packed file: the same numbers from both.

The one rule: of answers and losses, a packed file keeps sums of products over images (store.products), not images. For
these to be exact, whatever the order of adding up, losses are told in whole multiples of 2^-12 nats.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bsexp.errors import StoreError
from bsexp.store.paths import Experiment, RunFolder
from bsexp.store.products import Products, Row
from bsexp.store.reading import read_arrays
from bsexp.store.runs import read_summary

if TYPE_CHECKING:
    import numpy

PER_NAT, MOST = 4096, 512
WHICH = {"": "last", "_ema": "averaged"}
KEPT = ("classes", "losses")  # By a run, of each test image.
HASHES = {which: f"config_hash{ending}" for ending, which in WHICH.items()}
PRODUCTS = {"test_accuracy": "_accuracy_products", "test_loss": "_loss_products"}
Arrays = Mapping[str, Any]


def told_losses(losses: "numpy.ndarray") -> "numpy.ndarray":
    """Losses in nats as whole multiples of 2^-12, from 0 to 512, float64; NaN counts as 512.

    Sums of products of these are exact while below 2^29: for 10,000 images, up to a root mean square of 230 nats.

    >>> import numpy
    >>> told_losses(numpy.array([0.0001, 0.0002, 1.0, 600.0, numpy.nan])).tolist()
    [0.0, 0.000244140625, 1.0, 512.0, 512.0]
    """
    import numpy

    numbers = numpy.nan_to_num(losses.astype(numpy.float64), nan=MOST)
    return numpy.round(numpy.clip(numbers, 0, MOST) * PER_NAT) / PER_NAT


def read_examples(place: Experiment, outcome: str) -> dict[str, Row]:
    """What each run, by config hash, says of each test image, as its row in the table of all runs on that test set.

    `outcome`: test_accuracy (right or not, as 1 and 0) or test_loss (nats), also _ema, of averaged weights. Runs that
    keep no such predictions are left out. StoreError for a damaged file.
    """
    ending = "_ema" if outcome.endswith("_ema") else ""
    metric, which = outcome.removesuffix("_ema"), WHICH[ending]
    if metric not in PRODUCTS:
        return {}
    tables = _tables(place, which, metric)
    return {key: Row(table, k) for hashes, table in tables for k, key in enumerate(hashes)}


def read_classes(place: Experiment) -> list[dict[str, "numpy.ndarray"]]:
    """The class that each run, by config hash, predicts for each test image, last weights, shape (M,): a dict for each
    test set.

    Runs that keep no predictions are left out. StoreError for a damaged file.
    """
    which = WHICH[""]
    if place.packed:
        stacks = [(a[HASHES[which] + end].tolist(), a[which + end]) for end, a in _packed(place) if which + end in a]
    else:
        tests = (_having(members, which) for members in _by_test_set(finished_with_predictions(place)))
        stacks = [(_hashes(members), _stack(members, which)) for members in tests if members]
    for hashes, columns in stacks:
        _check(columns.ndim == 2 and columns.shape[1] == len(hashes), place.predictions)
    return [{key: columns[:, k] for k, key in enumerate(hashes)} for hashes, columns in stacks]


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


def _tables(place: Experiment, which: str, metric: str) -> Iterator[tuple[list[str], Products]]:
    """Of each test set: config hashes of its runs, and the table of their answers or losses."""
    if not place.packed:
        for members in _by_test_set(finished_with_predictions(place)):
            if having := _having(members, which):
                yield _hashes(having), _table(having, which, metric)
        return
    for end, arrays in _packed(place):
        if (name := which + PRODUCTS[metric] + end) in arrays:
            _check(HASHES[which] + end in arrays, place.predictions)
            hashes = arrays[HASHES[which] + end].tolist()
            yield hashes, _unpacked(arrays[name], len(hashes), place)


def _packed(place: Experiment) -> Iterator[tuple[str, Arrays]]:
    """The packed arrays with what the names of each test set's end in: nothing for the first, @1 for the second."""
    if not place.predictions.exists():
        return
    arrays = read_arrays(place.predictions)
    ends = dict.fromkeys(f"{at}{end}" for _, at, end in (name.partition("@") for name in arrays))
    yield from ((end, arrays) for end in ends)


def finished_with_predictions(place: Experiment) -> list[tuple[str, RunFolder]]:
    """Runs with predictions, by config hash."""
    found = []
    for folder in place.run_folders():
        summary = read_summary(folder)
        if summary and folder.predictions.exists():
            found.append((str(summary["config_hash"]), folder))
    return sorted(found, key=lambda item: item[0])


Members = list[tuple[str, Arrays]]


def _by_test_set(found: Iterable[tuple[str, RunFolder]]) -> list[Members]:
    """The runs that keep labels, with their arrays, a list for each test set."""
    tests: dict[bytes, Members] = {}
    for config_hash, folder in found:
        arrays = read_arrays(folder.predictions)
        if "labels" in arrays:
            names = [f"{which}_{kept}" for which in WHICH.values() for kept in KEPT]
            shapes = {arrays[name].shape for name in names if name in arrays}
            _check(shapes <= {arrays["labels"].shape}, folder.predictions)
            tests.setdefault(arrays["labels"].tobytes(), []).append((config_hash, arrays))
    return list(tests.values())


def _having(members: Members, which: str) -> Members:
    """Those with predictions of these weights."""
    return [(key, arrays) for key, arrays in members if all(f"{which}_{kept}" in arrays for kept in KEPT)]


def _hashes(members: Members) -> list[str]:
    return [key for key, _ in members]


def _check(fits: bool, path: Any) -> None:
    if not fits:
        raise StoreError(
            "results", f"{path}: what it keeps of runs and of images does not fit together", "restore the file"
        )


def stacked(found: Iterable[tuple[str, RunFolder]], names: Iterable[str]) -> dict[str, Any]:
    """The arrays of a packed file, of those in `names`, with `config_hash` to name the runs (runs,).

    `last_loss_products` and `averaged_loss_products`: of the table of losses in nats with a row of ones above, the
    sums of products of any two rows, its lower triangle row by row, float64; `last_accuracy_products` and
    `averaged_accuracy_products`: the same of answers, 1 where right, uint32; `last`, `averaged`: classes (images,
    runs). `config_hash_ema` names the runs that have averaged weights. Runs on a second test set have these again,
    their names ending in @1, and so on.
    """
    whole: dict[str, Any] = {}
    for number, members in enumerate(_by_test_set(found)):
        end = f"@{number}" if number else ""
        whole |= {name + end: array for name, array in _stacked(members, set(names)).items()}
    return whole


def _stacked(members: Members, names: set[str]) -> dict[str, Any]:
    """The arrays of runs on one test set."""
    import numpy

    whole: dict[str, Any] = {}
    for which in WHICH.values():
        having = _having(members, which)
        found = {which: _stack(having, which)} if which in names and having else {}
        for metric, ending in PRODUCTS.items():
            if having and which + ending in names:
                kind = numpy.uint32 if metric == "test_accuracy" else numpy.float64
                found[which + ending] = _packed_table(_table(having, which, metric)).astype(kind)
        if found:
            whole |= {HASHES[which]: numpy.array(_hashes(having)), **found}
    return whole


def _stack(members: Members, which: str) -> "numpy.ndarray":
    """(images, runs). Image by image, the runs side by side: their classes mostly agree, and so compress well."""
    import numpy

    return numpy.stack([arrays[f"{which}_classes"] for _, arrays in members], axis=1)


def _table(members: Members, which: str, metric: str) -> Products:
    if metric == "test_loss":
        return Products.of([told_losses(arrays[f"{which}_losses"]) for _, arrays in members])
    return Products.of([arrays[f"{which}_classes"] == arrays["labels"] for _, arrays in members])


def _packed_table(table: Products) -> "numpy.ndarray":
    import numpy

    whole = numpy.block([[numpy.array([[table.num]]), table.sums[None, :]], [table.sums[:, None], table.products]])
    triangle: numpy.ndarray = whole[numpy.tril_indices(len(whole))]
    return triangle


def _unpacked(triangle: "numpy.ndarray", runs: int, place: Experiment) -> Products:
    import numpy

    rows, columns = numpy.tril_indices(runs + 1)
    _check(triangle.shape == rows.shape, place.predictions)
    whole = numpy.empty((runs + 1, runs + 1))  # In float64, counts too.
    whole[rows, columns] = whole[columns, rows] = triangle
    return Products(int(whole[0, 0]), whole[1:, 0], whole[1:, 1:])
