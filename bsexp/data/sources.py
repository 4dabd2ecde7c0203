"""Whole data sets in memory, by name: built in, installed, downloaded, from a folder or from the user's factory.

The one rule: nothing is used unchecked. Files are compared with known sums before they are read, and whatever was read
must have the shapes, types and labels that `Images` promises.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bsexp import catalog, plugins
from bsexp.data import cache, folders
from bsexp.data.cache import Archive, data_folder
from bsexp.errors import BsexpError, DataError, SetupError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]

__all__ = ["Images", "available", "count_train", "data_folder", "fingerprint", "load_images"]

# Where Debian's package dataset-fashion-mnist puts its files, and the SHA-256 of what is in them when unpacked: the .gz
# files themselves differ from those that are downloaded elsewhere.
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
IDX_FILES = tuple(FASHION_SHA256)

# The class in torchvision.datasets, and the files below the data folder that make a download unnecessary: all of one
# of the lists. (Stated here so that asking needs no import.)
_TORCHVISION: dict[str, tuple[str, list[list[str]]]] = {
    "mnist": ("MNIST", [[f"MNIST/raw/{file}" for file in IDX_FILES]]),
    "fashion-mnist": ("FashionMNIST", [[f"FashionMNIST/raw/{file}" for file in IDX_FILES]]),
    "kmnist": ("KMNIST", [[f"KMNIST/raw/{file}" for file in IDX_FILES]]),
    "emnist-balanced": ("EMNIST", [["EMNIST/raw/gzip.zip"]]),
    "emnist-letters": ("EMNIST", [["EMNIST/raw/gzip.zip"]]),
    "emnist-digits": ("EMNIST", [["EMNIST/raw/gzip.zip"]]),
    "cifar10": ("CIFAR10", [["cifar-10-batches-py"], ["cifar-10-python.tar.gz"]]),
    "cifar100": ("CIFAR100", [["cifar-100-python"], ["cifar-100-python.tar.gz"]]),
    "svhn": ("SVHN", [["train_32x32.mat", "test_32x32.mat"]]),
}


@dataclass(frozen=True)
class Images:
    """Whole splits, in memory or mapped from a disk.

    Images: uint8 (N, H, W, C), contiguous; labels: int64 (N,), 0 to num_classes - 1.
    """

    name: str
    train_images: "Tensor"
    train_labels: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        height, width, channels = self.train_images.shape[1:]
        return channels, height, width


class _Arrays(NamedTuple):
    """What a reader found: images (N, H, W) or (N, H, W, C) and labels, of any type until checked."""

    train_images: "Array"
    train_labels: "Array"
    test_images: "Array"
    test_labels: "Array"


def load_images(name: str, image_size: int | None = None) -> Images:
    """The data set called `name`; `image_size` is the side, in pixels, that images of a `folder:` are brought to (32).

    Raises UsageError for an unknown name or a size where none is allowed, DataError where the data are missing, damaged
    or not what they should be, SetupError where torchvision is needed and can't be imported.
    """
    entry = catalog.find_dataset(name)
    if _is_folder(name):
        return Images(name, *folders.load_folder(folders.folder_path(name), image_size))
    if image_size is not None:
        raise UsageError("image_size", str(image_size), "only images of a folder: are resized")
    if ":" in name:
        return _checked(name, _factory(name), None, "correct what the factory returns")
    cure = "delete the files of this data set and start again"
    return _checked(name, _reader(name)(name), entry, cure)


def fingerprint(name: str) -> str:
    """What tells two states of one's own data apart, 16 hexadecimal digits; empty for data sets of the catalogue.

    A factory has the SHA-256 of its source file, a folder that of its sorted relative names and sizes.
    """
    catalog.find_dataset(name)
    if _is_folder(name):
        return folders.list_folder(folders.folder_path(name)).fingerprint()
    return plugins.source_fingerprint("dataset", name) if ":" in name else ""


def count_train(name: str) -> int:
    """Images in the training file, before a validation split; a factory is called for it, a folder only listed."""
    entry = catalog.find_dataset(name)
    if _is_folder(name):
        listing = folders.list_folder(folders.folder_path(name))
        return len(listing.train) - listing.num_split
    return entry.num_train if entry.num_train is not None else len(load_images(name).train_labels)


def available(name: str) -> str | None:
    """Where the data would come from without a download: "built in", a folder or a module; None where nowhere.

    Only looks whether files are there; they are checked when they are loaded.
    """
    catalog.find_dataset(name)
    if _is_folder(name):
        path = folders.folder_path(name)
        return str(path) if path.is_dir() else None
    if ":" in name:
        return f"module {name.partition(':')[0]}"
    if name == "digits":
        return "built in"
    if name == "fashion-mnist" and _has_fashion():
        return str(FASHION_FOLDER)
    _, choices = _TORCHVISION[name]
    for files in choices:
        if all((data_folder() / file).exists() for file in files):
            return str((data_folder() / files[0]).parent)
    return None


def _is_folder(name: str) -> bool:
    return name.startswith("folder:")


def _reader(name: str) -> Callable[[str], _Arrays]:
    if name == "digits":
        return _digits
    if name == "fashion-mnist" and _has_fashion():
        return _debian_fashion
    return {"EMNIST": _emnist, "CIFAR10": _cifar, "CIFAR100": _cifar, "SVHN": _svhn}.get(_TORCHVISION[name][0], _mnist)


def _checked(name: str, arrays: _Arrays, entry: catalog.Dataset | None, cure: str) -> Images:
    """`Images` of the arrays; without a catalogue entry the number of classes is the largest label + 1."""
    for split, images, labels in (("training", *arrays[:2]), ("test", *arrays[2:])):
        if fault := _fault(images, labels):
            raise DataError(name, f"{split} data: {fault}", cure)
    images, labels, test_images, test_labels = arrays
    if images.ndim == 3:
        images = images[..., None]
    if test_images.ndim == 3:
        test_images = test_images[..., None]
    num_classes = int(max(labels.max(), test_labels.max())) + 1
    _, height, width, channels = images.shape
    if images.shape[1:] != test_images.shape[1:]:
        which = f"training images are {images.shape[1:]} and test images {test_images.shape[1:]} (H, W, C)"
        raise DataError(name, which, cure)
    if entry is not None:
        if (channels, height, width) != entry.image_shape:
            raise DataError(name, f"images are {(channels, height, width)}, expected {entry.image_shape}", cure)
        if num_classes > (entry.num_classes or 0):
            raise DataError(name, f"label {num_classes - 1} is out of range, {entry.num_classes} classes", cure)
        num_classes = entry.num_classes or num_classes
    elif labels.min() == labels.max():
        raise DataError(name, f"all training labels are {labels.min()}", "at least two classes are needed")
    elif num_classes > len(labels):
        which = f"label {num_classes - 1} makes {num_classes} classes of {len(labels)} training images"
        raise DataError(name, which, "number the classes from 0")
    return Images(
        name, _tensor(images), _tensor(labels, "i8"), _tensor(test_images), _tensor(test_labels, "i8"), num_classes
    )


def _fault(images: "Array", labels: "Array") -> str:
    """What is wrong with one split, in a few words; empty when nothing is."""
    received = f"{images.dtype} {images.shape}"
    if str(images.dtype) != "uint8" or images.ndim not in (3, 4):
        return f"images are {received}, expected uint8 (N, H, W), (N, C, H, W) or (N, H, W, C)"
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        return f"images are {received}: 1 or 3 channels are needed"
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        return f"labels are {labels.dtype} {labels.shape}, expected integers (N,)"
    if len(images) != len(labels):
        return f"{len(images)} images, {len(labels)} labels"
    if images.size == 0:
        return f"images are {received}: empty"
    return f"label {labels.min()} is negative" if labels.min() < 0 else ""


def _tensor(array: "Array", dtype: str = "u1") -> "Tensor":
    import numpy as np

    # The memory is shared where it can be: a factory may return arrays that are mapped from a disk.
    return folders.tensor_of(np.require(array, dtype=np.dtype(dtype), requirements=["C"]))


def _digits(name: str) -> _Arrays:
    """1,797 images of 8 x 8 with values 0 to 16, brought to 0 to 255 by `value * 255 // 16`; 360 are for test."""
    import numpy as np
    import torch

    from bsexp.data.splits import generator, stratified

    table = _digits_table()
    images, labels = (table[:, :-1] * 255 // 16).astype(np.uint8).reshape(-1, 8, 8), table[:, -1]
    test = stratified(torch.from_numpy(labels), 360, generator(0, "digits", "test")).numpy()
    train = np.setdiff1d(np.arange(len(images)), test)
    return _Arrays(images[train], labels[train], images[test], labels[test])


def _digits_table() -> "Array":
    """The 64 values and the label of each image, int64 (1797, 65), from the file that scikit-learn brings."""
    import gzip
    from importlib.util import find_spec

    import numpy as np

    spec = find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        # Importing the package as well would cost each process two seconds.
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="ascii") as file:
                return np.loadtxt(file, delimiter=",").astype(np.int64)
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.column_stack([data.data, data.target]).astype(np.int64)


def _factory(name: str) -> _Arrays:
    """What the user's factory returns, images as (N, H, W) or (N, H, W, C)."""
    form = "a factory returns {'train': (images, labels), 'test': (images, labels)}"
    factory = plugins.load("dataset", name)
    try:
        returned = factory()
    except BsexpError:
        raise
    except Exception as error:
        which = f"the factory failed: {type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(name, which, "correct it") from error
    parts: list[Array] = []
    for split in ("train", "test"):
        if not isinstance(returned, dict) or split not in returned:
            received = sorted(map(str, returned)) if isinstance(returned, dict) else type(returned).__name__
            raise DataError(name, f"no {split!r} in what the factory returned: {received}", form)
        pair = returned[split]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise DataError(name, f"{split!r} is not a pair but {type(pair).__name__}", form)
        parts += [_channels_last(_array(name, split, pair[0])), _array(name, split, pair[1])]
    return _Arrays(*parts)


def _array(name: str, split: str, given: Any) -> "Array":
    import numpy as np
    import torch

    try:
        return given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        which = f"{split!r}: {type(given).__name__} is not an array: {' '.join(str(error).split())}"
        raise DataError(name, which, "return numpy arrays or torch tensors") from error


def _channels_last(images: "Array") -> "Array":
    """(N, C, H, W) as (N, H, W, C). Channels come first where the second size is 1 or 3 and the last one is not."""
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        return images.transpose(0, 2, 3, 1)
    return images


def _has_fashion() -> bool:
    # One file is enough to call it installed: a missing one of the four is damage, told when it is loaded.
    return any((FASHION_FOLDER / file).exists() for file in IDX_FILES)


def _debian_fashion(name: str) -> _Arrays:
    cure = "reinstall the package dataset-fashion-mnist, or remove it to have the files downloaded"
    arrays = []
    for file, expected in FASHION_SHA256.items():
        path = FASHION_FOLDER / file
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            which = f"{path}: can't be unpacked ({error}), expected content of SHA-256 {expected}"
            raise DataError(name, which, cure) from error
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise DataError(name, f"{path}: content of SHA-256 {found}, expected {expected}", cure)
        arrays.append(cache.read_idx(name, path, content, cure))
    return _Arrays(*arrays)


def _torchvision(name: str) -> Any:
    """The data set's class in torchvision: its addresses and sums, for some its reader."""
    try:
        import torchvision.datasets
    except Exception as error:  # wheels that do not match raise RuntimeError, missing libraries OSError
        cure = "install matching wheels: pip install --force-reinstall torch torchvision"
        raise SetupError("torchvision", " ".join(str(error).split())[:200] or type(error).__name__, cure) from error
    return getattr(torchvision.datasets, _TORCHVISION[name][0])


def _mnist(name: str) -> _Arrays:
    # The archives are read, not torchvision's unpacked copies: what was checked is what is used.
    source = _torchvision(name)
    raw = data_folder() / source.__name__ / "raw"
    archives = {
        file: Archive(raw / file, md5, tuple(f"{mirror}{file}" for mirror in source.mirrors))
        for file, md5 in source.resources
    }
    cache.fetch(name, list(archives.values()))
    arrays = []
    for file in IDX_FILES:
        archive = archives[file]
        cache.check(name, archive.path, archive.md5)
        arrays.append(cache.unpack_idx(name, archive.path, file, archive.path.read_bytes))
    return _Arrays(*arrays)


def _emnist(name: str) -> _Arrays:
    """EMNIST's images are stored transposed, and the classes of its letters count from 1."""
    import zipfile

    source = _torchvision(name)
    archive = Archive(data_folder() / "EMNIST" / "raw" / "gzip.zip", source.md5, (source.url,))
    cache.fetch(name, [archive])
    cache.check(name, archive.path, archive.md5)
    arrays = []
    for part in ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1"):
        member = f"gzip/{name}-{part}-ubyte.gz"

        def read(member: str = member) -> bytes:
            with zipfile.ZipFile(archive.path) as file:
                return file.read(member)

        arrays.append(cache.unpack_idx(name, archive.path, member, read))
    images, labels, test_images, test_labels = arrays
    if name == "emnist-letters":
        # Signed, so that a 0 becomes a label out of range and not 255.
        labels, test_labels = labels.astype("i8") - 1, test_labels.astype("i8") - 1
    return _Arrays(images.swapaxes(1, 2), labels, test_images.swapaxes(1, 2), test_labels)


def _cifar(name: str) -> _Arrays:
    import os
    import tarfile

    import numpy as np

    source = _torchvision(name)
    unpacked = data_folder() / source.base_folder
    if not unpacked.exists():
        archive = Archive(data_folder() / source.filename, source.tgz_md5, (source.url,))
        cache.fetch(name, [archive])
        with cache.building(unpacked) as part:
            if not unpacked.exists():
                cache.check(name, archive.path, archive.md5)
                with tarfile.open(archive.path) as file:
                    # Its sum is known, so this is for the warning of later Pythons; before 3.11.4 there is no filter.
                    file.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
                    file.extractall(part)
                os.rename(part / source.base_folder, unpacked)
    sums = {unpacked / file: md5 for file, md5 in (*source.train_list, *source.test_list)}
    sums[unpacked / source.meta["filename"]] = source.meta["md5"]
    train, test = _read(name, sums, lambda: [source(data_folder(), train=train) for train in (True, False)])
    return _Arrays(train.data, np.asarray(train.targets), test.data, np.asarray(test.targets))


def _svhn(name: str) -> _Arrays:
    source = _torchvision(name)
    archives = [
        Archive(data_folder() / file, md5, (url,))
        for url, file, md5 in (source.split_list["train"], source.split_list["test"])
    ]
    cache.fetch(name, archives)
    sums = {archive.path: archive.md5 for archive in archives}
    train, test = _read(name, sums, lambda: [source(data_folder(), split=split) for split in ("train", "test")])
    channels_last = (0, 2, 3, 1)
    return _Arrays(train.data.transpose(channels_last), train.labels, test.data.transpose(channels_last), test.labels)


def _read(name: str, sums: dict[Path, str], read: Callable[[], list[Any]]) -> list[Any]:
    """What torchvision's reader gives. It compares all sums but does not say which file is damaged; this does."""
    import warnings

    try:
        with warnings.catch_warnings():
            # CIFAR's pickles are of 2009: unpacking them warns about numpy's old ways.
            warnings.simplefilter("ignore")
            return read()
    except Exception as error:
        for path, md5 in sums.items():
            cache.check(name, path, md5)
        where = next(iter(sums)).parent
        raise DataError(name, f"{where}: can't be read: {' '.join(str(error).split())}", "delete it") from error
