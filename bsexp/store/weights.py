"""Weights that a run kept, with the settings that it was made with: a checkpoint, or model.pt beside its config.json.

The one rule: what they belong to is read with them, never asked of the user; reading executes nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsexp.errors import StoreError
from bsexp.store.checkpoints import MAGIC, Damaged, read_checkpoint
from bsexp.store.files import read_json
from bsexp.store.paths import RunFolder
from bsexp.store.reading import config_of

CURE = "name a checkpoint-N.pt, or a model.pt beside its config.json (run --save-model)"


@dataclass(frozen=True)
class Kept:
    """Weights in torch's format, or, where `whole`, a training's state with them; of a run of `config`.

    `samples`: how many it had seen.
    """

    config: dict[str, Any]
    samples: int
    payload: bytes
    whole: bool


def read_kept(path: Path) -> Kept:
    """What is kept at `path`. StoreError where it isn't whole, or nothing says what it belongs to."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError("--checkpoint", f"{path}: {error.strerror or error}", CURE) from None
    if content.startswith(MAGIC):
        try:
            found = read_checkpoint(path)
        except Damaged as error:
            raise StoreError("--checkpoint", str(error), CURE) from None
        return Kept(found.meta["config"], int(found.meta["samples"]), found.payload, whole=True)
    folder = RunFolder(path.parent)
    if path != folder.weights or not folder.config.exists() or not folder.summary.exists():
        raise StoreError("--checkpoint", f"{path}: no config.json and summary.json of its run beside it", CURE)
    config = config_of(folder.config, read_json(folder.config))
    return Kept(config, int(read_json(folder.summary)["samples"]), content, whole=False)
