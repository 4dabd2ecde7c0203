"""States of trunks, kept as long as branches may still go on from them.

The one rule: they only save time. One that is missing is trained again; they go when the last branch has been made.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from bsexp.store.files import ensure_folder, write_bytes


@dataclass(frozen=True)
class Trunks:
    """A folder of states, each of a run (by the hash of its configuration) after so many samples."""

    folder: Path

    def _file(self, config_hash: str, samples: int) -> Path:
        return self.folder / f"{config_hash[:16]}-{samples}.pt"

    def read(self, config_hash: str, samples: int) -> bytes | None:
        """The state, as it was kept; None where it wasn't."""
        file = self._file(config_hash, samples)
        return file.read_bytes() if file.exists() else None

    def keep(self, config_hash: str, samples: int, payload: bytes) -> None:
        """Keep a state, in one go."""
        ensure_folder(self.folder)
        write_bytes(self._file(config_hash, samples), payload)

    def forget(self) -> None:
        """Take all of them away."""
        shutil.rmtree(self.folder, ignore_errors=True)
