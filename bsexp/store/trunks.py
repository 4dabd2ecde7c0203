"""States of trunks, kept as long as branches may still go on from them.

The one rule: they only save time. One that is missing or damaged is trained again; they go when the last branch has
been made.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from bsexp.store.files import ensure_folder, write_bytes

DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Trunks:
    """A folder of states, each of a run (by the hash of its configuration) after so many samples."""

    folder: Path

    def _file(self, config_hash: str, samples: int) -> Path:
        return self.folder / f"{config_hash[:16]}-{samples}.pt"

    def _places(self, config_hash: str, samples: int) -> list[int]:
        """Up to `samples` after how many there are states, falling."""
        prefix = f"{config_hash[:16]}-"
        places = [int(file.stem.removeprefix(prefix)) for file in self.folder.glob(f"{prefix}*.pt")]
        return sorted((place for place in places if place <= samples), reverse=True)

    def reached(self, config_hash: str, samples: int) -> int:
        """The samples of the state that `latest` would return if it is whole; 0 where there is none."""
        return next(iter(self._places(config_hash, samples)), 0)

    def latest(self, config_hash: str, samples: int) -> bytes | None:
        """The state after the most samples up to `samples`, as it was kept; None where there is none that is whole."""
        for place in self._places(config_hash, samples):
            payload = self._file(config_hash, place).read_bytes()
            digest, content = payload[:DIGEST], payload[DIGEST:]
            if hashlib.sha256(content).digest() == digest:
                return content
        return None

    def keep(self, config_hash: str, samples: int, payload: bytes) -> None:
        """Keep a state, in one go."""
        ensure_folder(self.folder)
        write_bytes(self._file(config_hash, samples), hashlib.sha256(payload).digest() + payload)

    def forget(self) -> None:
        """Take all of them away."""
        shutil.rmtree(self.folder, ignore_errors=True)
