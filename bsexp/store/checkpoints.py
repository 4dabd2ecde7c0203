"""Checkpoints as files: one file each, with the hash of everything in its head, and the logs that belong to it.

The one rule: nothing of a checkpoint is believed before its hash is right, and it counts only together with the part of
the logs that was written before it. What the payload means is the engine's business.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bsexp.errors import NewerSchema
from bsexp.store.files import write_bytes
from bsexp.store.paths import RunFolder

KEPT = 2
MAGIC, FORMAT = b"bsexp-checkpoint", 1

log = logging.getLogger(__name__)


class Damaged(Exception):  # noqa: N818
    """A file is not what was written; the text says which and how."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole. `meta` is what the writer said of it, `payload` the training's state.

    `logs` holds the bytes of each log up to the checkpoint.
    """

    path: Path
    meta: dict[str, Any]
    payload: bytes
    logs: dict[str, bytes]


@dataclass
class Log:
    """A file that only grows: its length so far in bytes, and the SHA-256 of them."""

    path: Path
    length: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)

    def append(self, content: bytes) -> None:
        """Add whole rows. What a failed write left behind isn't counted, and is cut off when the run goes on."""
        with open(self.path, "ab") as file:
            file.write(content)
        self.length += len(content)
        self.sha256.update(content)

    def extent(self) -> list[Any]:
        """Length and hash, as a checkpoint's meta keeps them."""
        return [self.length, self.sha256.hexdigest()]


def write_checkpoint(attempt: RunFolder, samples: int, meta: Mapping[str, Any], payload: bytes) -> None:
    """Write checkpoint-<samples>.pt: format, SHA-256 of the rest and `meta` as JSON, a line each; then the payload.

    The last KEPT ones stay.
    """
    rest = json.dumps(meta, sort_keys=True, allow_nan=False).encode() + b"\n" + payload
    head = b"%s %d\n%s\n" % (MAGIC, FORMAT, hashlib.sha256(rest).hexdigest().encode())
    write_bytes(attempt.checkpoint(samples), head + rest)
    for old in attempt.checkpoints()[:-KEPT]:
        old.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path` with its logs.

    Raises Damaged for what isn't as it was written, NewerSchema for the format of a later version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror or error}") from None
    first, _, rest = content.partition(b"\n")
    found, _, rest = rest.partition(b"\n")
    magic, _, version = first.partition(b" ")
    if magic != MAGIC or not version.isdigit():
        raise Damaged(f"{path}: not a checkpoint")
    if int(version) > FORMAT:
        raise NewerSchema("checkpoint", f"{path}: format {int(version)}", f"this bsexp reads up to {FORMAT}")
    if hashlib.sha256(rest).hexdigest().encode() != found:
        raise Damaged(f"{path}: its SHA-256 is not that of its content")
    line, _, payload = rest.partition(b"\n")
    meta = json.loads(line)
    return Checkpoint(
        path, meta, payload, {name: _log(path.parent / name, *meta["logs"][name]) for name in meta["logs"]}
    )


def _log(path: Path, length: int, sha256: str) -> bytes:
    try:
        content = path.read_bytes()[:length]
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror or error}") from None
    if len(content) < length or hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{path}: not what was written in its first {length} bytes")
    return content


def newest(folder: RunFolder) -> Checkpoint | None:
    """The newest whole checkpoint of an unfinished run, over all attempts; damaged ones are told and passed over.

    None where there is none: the run starts again.
    """
    candidates = [path for attempt in folder.attempts() for path in RunFolder(attempt).checkpoints()]
    candidates.sort(key=samples_of, reverse=True)
    damaged = False
    for path in candidates:
        try:
            found = read_checkpoint(path)
        except Damaged as error:
            log.warning("damaged: %s", error)
            damaged = True
            continue
        if damaged:
            log.warning("going on from %s instead", path)
        return found
    if damaged:
        log.warning("no other checkpoint of %s: it starts again", folder.path)
    return None


def samples_of(checkpoint: Path) -> int:
    """How many samples had been seen at a checkpoint, from its name."""
    return int(checkpoint.stem.partition("-")[2])
