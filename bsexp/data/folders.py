"""`folder:PATH`: class folders of image files, decoded once and then mapped into memory from the data folder.

The one rule: what an image becomes depends on its file and the wanted size only, and nothing is skipped in silence:
an image that can't be read is an error that names it.
"""

import functools
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bsexp.data import cache
from bsexp.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
DEFAULT_SIZE = 32
TEST_SHARE = 0.2
# Decoded at a time: enough for all threads, little memory also at 224 x 224.
BLOCK = 256

# 8 bits and less, with or without alpha. 16 bits are cut to 8; wider grey values have no agreed range and are refused.
_GREY = ("1", "L", "LA", "La")
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class File:
    """An image file: its class number, its path and what tells a change."""

    path: Path
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """What is in the folder, before anything is decoded. `test` is empty where bsexp makes the split."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[File, ...]
    test: tuple[File, ...]

    @property
    def num_split(self) -> int:
        """Images that bsexp takes out of `train` for the test split."""
        return 0 if self.test else round(TEST_SHARE * len(self.train))

    def fingerprint(self) -> str:
        """SHA-256 over the sorted relative names and sizes, as 16 hexadecimal digits."""
        return self._digest(lambda file: f"{file.size}")

    def _digest(self, of: Callable[[File], str]) -> str:
        lines = (f"{file.path.relative_to(self.root).as_posix()}\0{of(file)}\n" for file in (*self.train, *self.test))
        return hashlib.sha256("".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()[:16]

    def cache_key(self, image_size: int) -> str:
        """The fingerprint and the size; times too, since a retouched image often keeps its name and size."""
        return f"{self.fingerprint()}-{image_size}-{self._digest(lambda file: f'{file.mtime_ns}')[:8]}"


def folder_path(name: str) -> Path:
    """The PATH of `folder:PATH`. Raises UsageError where it is empty."""
    text = name.partition(":")[2]
    if not text:
        raise UsageError("dataset", repr(name), "name the folder: folder:PATH")
    return Path(text).expanduser()


def list_folder(root: Path) -> Listing:
    """The images of `root`, by class and name; nothing is opened.

    Raises DataError where the folder, a class or a class's images are missing, there are fewer than two classes, or
    train/ and test/ have different ones.
    """
    if not os.path.isdir(root):
        raise DataError("folder", f"{root} {'is not a folder' if os.path.exists(root) else 'does not exist'}", _LAYOUT)
    if not (os.path.isdir(root / "train") and os.path.isdir(root / "test")):
        classes, train = _list_classes(root)
        alone = [number for number, count in Counter(file.label for file in train).items() if count < 2]
        if alone:
            which = f"{root / classes[alone[0]]} has one image"
            raise DataError("folder", which, "add one: training and test need one each")
        return Listing(root, classes, train, ())
    classes, train = _list_classes(root / "train")
    others, test = _list_classes(root / "test")
    if single := sorted(set(classes) ^ set(others)):
        there, missing = ("train", "test") if single[0] in classes else ("test", "train")
        raise DataError(
            "folder", f"{root / there / single[0]} has no counterpart in {missing}/", "both need all classes"
        )
    return Listing(root, classes, train, test)


_LAYOUT = "it needs PATH/CLASS/IMAGES, or PATH/train/CLASS/IMAGES and PATH/test/CLASS/IMAGES"


def _list_classes(root: Path) -> tuple[tuple[str, ...], tuple[File, ...]]:
    names = [entry.name for entry in _entries(root) if entry.is_dir()]
    files: list[File] = []
    for label, name in enumerate(names):
        found = [entry for entry in _entries(root / name) if _is_image(entry)]
        if not found:
            raise DataError("folder", f"{root / name} has no images", f"add some or remove it; {_LAYOUT}")
        files += [_stat(entry, label) for entry in found]
    if len(names) < 2:
        which = f"only one class, {names[0]}" if names else "no class folders"
        raise DataError("folder", f"{root} has {which}", _LAYOUT)
    return tuple(names), tuple(files)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError("folder", f"{folder}: {error.strerror or error}", "make it readable") from error


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir()


def _stat(entry: "os.DirEntry[str]", label: int) -> File:
    try:
        status = entry.stat()
    except OSError as error:  # a dangling link, for example: leaving it out would change the data in silence
        _unreadable(Path(entry.path), error)
    return File(Path(entry.path), label, status.st_size, status.st_mtime_ns)


def load_folder(root: Path, image_size: int | None = None) -> tuple["Tensor", "Tensor", "Tensor", "Tensor", int]:
    """Training images and labels, test images and labels, and the number of classes.

    Images are uint8 (N, `image_size`, `image_size`, C), mapped read-only from the data folder. Where there is no test/,
    20 % of each class (largest remainder) are taken, the same for everybody.
    """
    import torch

    from bsexp.data.splits import generator, stratified

    if image_size is not None and image_size < 1:
        raise UsageError("image_size", str(image_size), "at least 1")
    listing = list_folder(root)
    train, test = listing.train, listing.test
    if not test:
        labels = torch.tensor([file.label for file in train])
        chosen = set(stratified(labels, listing.num_split, generator(0, "folder", "test")).tolist())
        train = tuple(file for index, file in enumerate(listing.train) if index not in chosen)
        test = tuple(file for index, file in enumerate(listing.train) if index in chosen)
    place = cache.data_folder() / "decoded" / listing.cache_key(image_size or DEFAULT_SIZE)
    arrays = _decoded(place, (train, test), image_size or DEFAULT_SIZE)
    train_images, test_images = (tensor_of(array) for array in arrays)
    train_labels, test_labels = (torch.tensor([file.label for file in files]) for files in (train, test))
    return train_images, train_labels, test_images, test_labels, len(listing.classes)


def tensor_of(array: "np.ndarray[Any, Any]") -> "Tensor":
    """The array's own memory as a tensor, also where it is read-only: nothing writes into images or labels."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


Splits = tuple[Sequence[File], Sequence[File]]


def _decoded(place: Path, splits: Splits, image_size: int) -> list["np.ndarray[Any, Any]"]:
    """The arrays in `place`; decoded first where they are missing or damaged."""
    if (arrays := _map(place, splits, image_size)) is not None:
        return arrays
    with cache.building(place) as part:
        if (arrays := _map(place, splits, image_size)) is not None:  # somebody else was quicker
            return arrays
        _decode_all(part, splits, image_size)
        if place.exists():
            os.rename(place, part / "damaged")
        os.rename(part / "arrays", place)
        arrays = _map(place, splits, image_size)
    if arrays is None:
        raise DataError("data folder", f"{place} can't be read back", "check the disk, or set BSEXP_DATA_DIR")
    return arrays


def _map(place: Path, splits: Splits, image_size: int) -> list["np.ndarray[Any, Any]"] | None:
    """Both arrays, read-only; None unless both are there and fit.

    Copy-on-write would please torch, but the kernel refuses it for more than there is memory.
    """
    import numpy as np

    try:
        arrays = [np.load(place / f"{split}.npy", mmap_mode="r") for split in ("train", "test")]
    except (OSError, ValueError, EOFError):
        return None
    channels = arrays[0].shape[-1:]
    fits = channels in ((1,), (3,)) and all(
        array.dtype == np.uint8 and array.shape == (len(files), image_size, image_size, *channels)
        for array, files in zip(arrays, splits, strict=True)
    )
    return arrays if fits else None


def _decode_all(part: Path, splits: Splits, image_size: int) -> None:
    """Write train.npy and test.npy below part/arrays, block by block: folders may be larger than memory."""
    import numpy as np

    # The first image says whether the data set is grey or colour; any other that disagrees is an error.
    first = splits[0][0]
    channels = decode(first, image_size).shape[-1]
    one = functools.partial(_decode_alike, first=first, channels=channels, image_size=image_size)
    (part / "arrays").mkdir()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        for split, files in zip(("train", "test"), splits, strict=True):
            shape = (len(files), image_size, image_size, channels)
            # Written, not mapped: on a full disk a write raises, a mapped page kills the process.
            with (part / "arrays" / f"{split}.npy").open("wb") as out:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, header)
                remaining = iter(files)
                while block := list(itertools.islice(remaining, BLOCK)):
                    out.write(np.stack(list(pool.map(one, block))).tobytes())
                out.flush()
                os.fsync(out.fileno())


def _decode_alike(file: File, first: File, channels: int, image_size: int) -> "np.ndarray[Any, Any]":
    pixels = decode(file, image_size)
    if pixels.shape[-1] != channels:
        grey, colour = (first.path, file.path) if channels == 1 else (file.path, first.path)
        raise DataError("folder", f"{grey} is grey and {colour} is in colour", "convert all images to one kind")
    return pixels


def decode(file: File, size: int) -> "np.ndarray[Any, Any]":
    """The image as uint8 (size, size, C), C 1 for grey and 3 for colour; the first picture of several.

    The shorter side is brought to `size` (bicubic with anti-aliasing), then the centre is cut out; an image that has
    the size already is left as it is. Palettes count as colour, transparency is dropped, 16-bit grey is cut to 8 bits.
    Raises DataError with the file where it can't be decoded.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file.path) as opened:
            image = _eight_bit(opened)
    except Exception as error:  # damaged files raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        _unreadable(file.path, error)
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        left, top = (width - size) // 2, (height - size) // 2
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        image = resized.crop((left, top, left + size, top + size))
    return np.asarray(image, dtype=np.uint8).reshape(size, size, -1)


def _eight_bit(image: "Image.Image") -> "Image.Image":
    """The image in mode L or RGB."""
    import numpy as np
    from PIL import Image

    # Pillow's own conversion of 16-bit grey clips at 255 and turns most of the picture white. It gives the 16-bit
    # values of these formats as mode I in some versions.
    if image.mode in _GREY_16 or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"{image.mode} pixels of 32 bits have no agreed range: convert them to 8 or 16 bits")
    if image.mode in _GREY:
        return image.convert("L")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _unreadable(path: Path, error: Exception) -> NoReturn:
    # Pillow puts the path into its own text; once is enough.
    reason = "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error) or type(error).__name__
    reason = getattr(error, "strerror", None) or reason
    raise DataError("folder", f"{path} can't be read: {' '.join(reason.split())}", "repair or remove it") from error
