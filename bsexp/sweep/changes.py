"""What must be the same when a run goes on: code, torch, device, threads, processes, compiled or not.

The one rule: device, threads, nproc and compile are those that the run began with unless others are asked for; whatever
differs is refused, or, with --allow-changed, recorded.
"""

import hashlib
import logging
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata, resources
from typing import Any

from bsexp import plugins
from bsexp.catalog import is_factory
from bsexp.config import RunConfig
from bsexp.errors import StoreError, UsageError
from bsexp.store.checkpoints import Checkpoint
from bsexp.sweep.ranks import rank_device
from bsexp.sweep.tasks import Execution

log = logging.getLogger(__name__)

# The parts of this package whose code makes numbers.
CODE = (
    "data",
    "engine",
    "models",
    "schedules",
    "signals",
    "catalog.py",
    "config.py",
    "planning.py",
    "records.py",
    "seeding.py",
)


@dataclass(frozen=True)
class Surroundings:
    """What a run's numbers depend on beside its config. `code`: a hash of bsexp's and the user's own sources; `threads`
    of each of `nproc` processes.
    """

    code: str
    torch: str
    device: str
    threads: int
    compile: bool = False
    nproc: int = 1

    def recorded(self) -> dict[str, Any]:
        """As environment.json and checkpoints keep it."""
        return asdict(self)


def settle(config: RunConfig, execution: Execution, found: Checkpoint | None) -> tuple[str, Surroundings]:
    """The device to train on, and all surroundings; threads are set for this process.

    Where the run goes on from `found`, its device, threads, nproc and compile are taken unless `execution` was asked
    for others. Several processes share the threads that one would have.
    """
    import torch

    from bsexp.engine.device import describe_device, find_device

    before = found.meta["made_by"] if found else {}
    device = execution.device
    if before.get("device") == "cpu" and "device" not in execution.asked:
        device = "cpu"
    nproc = execution.nproc if "nproc" in execution.asked else before.get("nproc", execution.nproc)
    if nproc > 1:
        device = rank_device(device, 0, nproc)
    threads = execution.threads
    if before.get("threads") and "threads" not in execution.asked:
        threads = before["threads"]
    elif threads is None and nproc > 1:
        threads = max(1, execution.environment.get("threads", torch.get_num_threads()) // nproc)
    if threads and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    compile = execution.compile if "compile" in execution.asked else before.get("compile", execution.compile)
    name = describe_device(find_device(device))
    code = code_hash(config.model, config.schedule)
    if compile and nproc > 1:
        raise UsageError("--compile", f"with {nproc} processes", "leave it out, or --nproc")
    return device, Surroundings(code, torch.__version__, name, torch.get_num_threads(), compile, nproc)


def check_unchanged(
    config: RunConfig, now: Surroundings, found: Checkpoint | None, allowed: bool
) -> list[dict[str, Any]]:
    """What has changed since the checkpoint, for the record.

    Raises StoreError where that isn't `allowed`, and for the checkpoint of another run.
    """
    if found is None:
        return []
    if found.meta["config_hash"] != config.hash:
        raise StoreError("checkpoint", f"{found.path}: of another run: {_first_difference(config, found)}", "delete it")
    before = found.meta["made_by"]
    # What wasn't recorded yet was not to be had.
    before = {"nproc": 1, **before}
    changed = {key: [before.get(key), value] for key, value in now.recorded().items() if before.get(key) != value}
    if changed and not allowed:
        key, (old, new) = next(iter(changed.items()))
        cure = "--allow-changed goes on all the same, --no-resume trains a run anew"
        raise StoreError("checkpoint", f"{found.path}: made with {key} {old}, now {new}", cure)
    if "nproc" in changed:
        old, new = changed["nproc"]
        log.warning("going on with %d instead of %d processes: numbers stay the same to rounding only", new, old)
    return [{"samples": found.meta["samples"], **changed}] if changed else []


def _first_difference(config: RunConfig, found: Checkpoint) -> str:
    now, before = config.model_dump(), found.meta["config"]
    for key in sorted({*now, *before}):
        if now.get(key) != before.get(key):
            return f"{key} is {before.get(key)!r} there and {now.get(key)!r} here"
    return "its configuration has another hash"


@lru_cache(maxsize=256)
def code_hash(model: str, schedule: str) -> str:
    """SHA-256 of the sources that make a run's numbers, bsexp's and the user's own, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    package = resources.files("bsexp")
    for name in CODE:
        place = package / name
        files = [place] if place.is_file() else sorted(place.iterdir(), key=lambda item: item.name)
        for file in files:
            if file.name.endswith(".py"):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    for what, factory in (("model", model), ("schedule", schedule)):
        if is_factory(factory):
            digest.update(plugins.source_fingerprint(what, factory).encode())
        elif ":" in factory:
            digest.update(metadata.version("torchvision").encode())
    return digest.hexdigest()[:16]
