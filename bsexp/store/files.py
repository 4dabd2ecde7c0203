"""Writing and reading single files so that a reader never sees half of one, also after a power cut.

The one rule: write beside, fsync, rename, fsync the folder; what the operating system refuses becomes a StoreError with
the file's name.
"""

import contextlib
import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bsexp.errors import NewerSchema, StoreError
from bsexp.records import SCHEMA_VERSION

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turns what the operating system says about `path` into a StoreError."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename).name if error.filename else path.name
        cure = "free some space and run the same command again" if error.errno in FULL else "choose another --out"
        raise StoreError("results folder", f"{path}: {error.strerror or error} ({place})", cure) from error


def check_results(out: Path) -> None:
    """StoreError where `out` can't be the folder of all results.

    Its parent must be there: where a disk isn't mounted, results for it belong nowhere else.
    """
    if out.is_symlink() and not out.exists():
        raise StoreError("results folder", f"{out} is a link to nothing", "choose another --out")
    if os.path.exists(out) and not os.path.isdir(out):
        raise StoreError("results folder", f"{out} is not a folder", "choose another --out")
    if not os.path.exists(out.parent):
        raise StoreError("results folder", f"{out}: there is no {out.parent}", "make it, or choose another --out")


def ensure_folder(path: Path) -> None:
    """Make `path` and its parents; StoreError where that can't be."""
    with usable(path):
        path.mkdir(parents=True, exist_ok=True)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, have reached the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def beside(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`; one name for each process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def leftovers(folder: Path) -> list[Path]:
    """What processes that died in the middle of `write_bytes` left in `folder`."""
    return list(folder.glob(".*.tmp"))


def sync_all(paths: Iterable[Path]) -> None:
    """`sync` for several at once: a disk writes them together, and takes hardly longer than for one."""
    from concurrent.futures import ThreadPoolExecutor

    together = list(paths)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(sync, together))
    except RuntimeError:
        # Where memory is short a thread can't be started.
        for path in together:
            sync(path)


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Replace the file at `path` in one go. Not `durable`: somebody else syncs it, or can do without it."""
    part = beside(path)
    with usable(path):
        try:
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(part, path)
            if durable:
                sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace the text file at `path` in one go (UTF-8, other bytes of names as JSON spells them)."""
    write_bytes(path, text.encode(errors="backslashreplace"), durable)


def write_json(path: Path, document: Mapping[str, Any], durable: bool = True) -> None:
    """Replace the JSON file at `path` in one go."""
    write_text(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n", durable)


def read_json(path: Path, cure: str = "delete the run's folder and run the sweep again") -> dict[str, Any]:
    """The JSON document at `path`; StoreError with `cure` where it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError("results", f"{path}: {reason}", cure) from None
    if not isinstance(document, dict):
        raise StoreError("results", f"{path}: not an object", cure)
    return document


def check_schema(path: Path, version: object) -> None:
    """StoreError for what is no schema version, NewerSchema for one of a later bsexp."""
    if not isinstance(version, int):
        raise StoreError("results", f"{path}: schema version {version!r}", "restore the file")
    if version > SCHEMA_VERSION:
        raise NewerSchema("results", f"{path}: schema version {version}", f"this bsexp reads up to {SCHEMA_VERSION}")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> str:
    """Rows as CSV: shortest decimals that give the same number back, empty for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of values without a header, spelled as `csv_text` spells them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def plain(value: Any) -> Any:
    """`value` for JSON: not-a-number and infinities become None."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
