"""Writing and reading single files so that a reader never sees half of one.

The one rule: write beside, then rename; what the operating system refuses becomes a StoreError with the file's name.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bsexp.errors import StoreError


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turns what the operating system says about `path` into a StoreError."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename).name if error.filename else path.name
        cure = "free some space and run the same command again" if error.errno == 28 else "choose another --out"
        raise StoreError("results folder", f"{path}: {error.strerror or error} ({place})", cure) from error


def ensure_folder(path: Path) -> None:
    """Make `path` and its parents; StoreError where that can't be."""
    with usable(path):
        if path.is_symlink() and not path.exists():
            raise StoreError("results folder", f"{path} is a link to nothing", "choose another --out")
        path.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` in one go."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with usable(path):
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace the text file at `path` in one go (UTF-8, newline at line ends)."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the JSON file at `path` in one go."""
    write_text(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON document at `path`; StoreError where it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError("results", f"{path}: {error}", "delete the run's folder and run the sweep again") from None
    if not isinstance(document, dict):
        raise StoreError("results", f"{path}: not an object", "delete the run's folder and run the sweep again")
    return document


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> str:
    """Rows as CSV: shortest decimals that give the same number back, empty for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plain(value: Any) -> Any:
    """`value` for JSON: not-a-number and infinities become None."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
