"""The data folder on disk: where it is, who may write to it, how files get into it, and whether they are still whole.

The one rule: a file under its final name is complete. Everything is made in a `.part` folder beside its place, under a
lock, checked, and then renamed.
"""

import gzip
import hashlib
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.errors import DataError

if TYPE_CHECKING:
    import numpy as np

# A server that says nothing for so long is given up, so that runs waiting for the lock are not held for ever.
TIMEOUT_SECONDS = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A downloadable file: its place, its MD5 in hexadecimal and where it can be had, first choice first."""

    path: Path
    md5: str
    urls: tuple[str, ...]


def data_folder() -> Path:
    """Where downloads and decoded images are kept: BSEXP_DATA_DIR, else the user's cache folder."""
    chosen = os.environ.get("BSEXP_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("bsexp", appauthor=False))


@contextmanager
def building(place: Path) -> Iterator[Path]:
    """An empty `.part` folder beside `place`, while nobody else builds there; it is removed in the end.

    Others wait. A folder left by a process that died is emptied first. Raises DataError where the data folder can't be
    written: full, read-only, not a folder.
    """
    from filelock import FileLock

    part = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock")):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                yield part
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        cure = "make room or set BSEXP_DATA_DIR to a folder that can be written"
        raise DataError("data folder", f"{place.parent}: {error.strerror or error}", cure) from error


def fetch(name: str, archives: Sequence[Archive]) -> None:
    """Download those of the data set's `archives` that are not there yet; files that are there are left alone.

    Raises DataError with how to get them by hand where no address gives the right file.
    """
    for archive in archives:
        # Looking before locking: a complete folder may be read-only. And after it: somebody else was quicker.
        if not archive.path.exists():
            with building(archive.path) as part:
                if not archive.path.exists():
                    _download(name, archive, part / archive.path.name)


def _download(name: str, archive: Archive, part: Path) -> None:
    import http.client

    reasons = []
    for url in archive.urls:
        log.info("downloading %s", url)
        try:
            found = _copy(url, part)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}")
            continue
        if found == archive.md5:
            os.replace(part, archive.path)
            return
        size = part.stat().st_size
        reasons.append(f"{url}: cut short or changed, {size} bytes of MD5 {found}, expected {archive.md5}")
    where = "no address is known" if not reasons else "; ".join(" ".join(reason.split()) for reason in reasons)
    cure = f"put {archive.path.name} into {archive.path.parent} by hand, or set BSEXP_DATA_DIR to a folder that has it"
    raise DataError(name, f"{archive.path.name} could not be downloaded ({where})", cure)


def _copy(url: str, to: Path) -> str:
    """The MD5 of what `url` gave."""
    import urllib.request

    md5 = hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": "bsexp"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer, to.open("wb") as file:
        while block := answer.read(1 << 20):
            md5.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return md5.hexdigest()


def check(name: str, path: Path, md5: str) -> None:
    """Raise DataError with both sums unless the file has this MD5."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(name, f"{path}: {error.strerror or error}", f"delete {path} and start again") from error
    if found != md5:
        raise DataError(name, f"{path}: MD5 {found}, expected {md5}", f"delete {path} and start again")


def unpack_idx(name: str, path: Path, member: str, read: Callable[[], bytes]) -> "np.ndarray[Any, Any]":
    """The array in `member` of the archive `path`: gzipped IDX, given by `read`. DataError where it is not that."""
    import zipfile

    cure = f"delete {path} and start again"
    try:
        content = gzip.decompress(read())
    except (OSError, EOFError, zlib.error, KeyError, zipfile.BadZipFile) as error:
        raise DataError(name, f"{path}: {member} can't be unpacked: {error}", cure) from error
    return read_idx(name, path.with_name(Path(member).name), content, cure)


def read_idx(name: str, path: Path, content: bytes, cure: str) -> "np.ndarray[Any, Any]":
    """The uint8 array in IDX `content`: 0, 0, type 8, number of sizes; the sizes, big-endian 32 bits; the values.

    Three sizes where the name of `path` says images, else one. Raises DataError for any other header or length.
    """
    import numpy as np

    wanted = 3 if "images" in path.name else 1
    if content[:4] != bytes((0, 0, 8, wanted)):
        raise DataError(name, f"{path}: magic number {content[:4].hex()}, expected 0000080{wanted}", cure)
    start = 4 + 4 * wanted
    if len(content) < start:
        raise DataError(name, f"{path}: ends after {len(content)} bytes", cure)
    sizes = struct.unpack(f">{wanted}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != np.prod(sizes, dtype=object):
        raise DataError(name, f"{path}: {values.size} values for the sizes {sizes}", cure)
    return values.reshape(sizes)
