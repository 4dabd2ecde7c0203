"""A Ray cluster: reaching it, and the proof that its nodes can make the runs of a sweep.

The one rule: before anything runs, each node has read and written a file in the results folder and told its versions. A
node that sees another folder, or has another bsexp or torch, is refused; one that joins later is asked by its tasks.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bsexp.errors import SetupError, StoreError
from bsexp.store.files import ensure_folder, usable
from bsexp.sweep.environment import describe_machine

# What all nodes must have alike, for a run may begin on one and go on on another.
ALIKE = ("bsexp", "torch", "torchvision")
# A file that another node has just written may take so long to be seen here.
SEEN_SECONDS = 5.0
REACH_SECONDS = 10.0
# No questions, no reports to anybody, no warnings of Ray's own.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


@dataclass(frozen=True)
class Cluster:
    """A cluster that was reached: how many nodes, what of each kind they have together, whether processors are alike.

    `token`: a file in the results folder that is there as long as the sweep.
    """

    nodes: int
    slots: int
    on_gpu: bool
    alike: bool
    token: Path


def check_ray() -> None:
    """SetupError where Ray is missing."""
    if find_spec("ray") is None:
        raise SetupError("--engine ray", "the package ray is not installed", "pip install 'bsexp[ray]'")


@contextmanager
def connected(address: str | None, num_cpus: int | None) -> Iterator[None]:
    """Connected to the cluster at `address`, or to one of this machine that ends with the block, with `num_cpus`.

    Raises SetupError where there is none, or one of another Python or Ray.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _reach(address)
    import ray

    own = {"num_cpus": num_cpus, "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        cure = "start one with `ray start --head`, or leave --ray-address out" if address else "see the message"
        raise SetupError("--ray-address" if address else "ray", f"{address or 'local'}: {reason}", cure) from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """SetupError where nobody answers at HOST:PORT: Ray itself would try for many minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        cure = "start one with `ray start --head`, or leave --ray-address out"
        raise SetupError("--ray-address", f"{address}: {reason}", cure) from None


@contextmanager
def checked(folder: Path, cpus: int, per_gpu: int | None, device: str) -> Iterator[Cluster]:
    """The cluster that one is connected to, with the proof that all of its nodes share `folder` and have what it takes.

    A run takes `cpus` cores, or a GPU of which `per_gpu` (None: one) runs have a share: on a GPU where `device` says
    so, or says auto and the cluster has one. Raises StoreError, SetupError.
    """
    import ray

    ensure_folder(folder)
    token = folder.resolve() / f".ray-{secrets.token_hex(8)}"
    with usable(token):
        token.write_text(token.name, encoding="ascii")
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        machines = _ask(alive, token)
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in alive)
        on_gpu = device == "cuda" or (device == "auto" and gpus > 0)
        cores = [int(node["Resources"].get("CPU", 0)) for node in alive]
        slots = gpus * (per_gpu or 1) if on_gpu else sum(number // cpus for number in cores)
        if not slots:
            which = "no GPU in the cluster" if on_gpu else f"no node has the {cpus} cores that a run takes"
            raise SetupError("--engine ray", which, "add nodes, or change --device or --threads")
        yield Cluster(len(alive), slots, on_gpu, len({machine["cpu"] for machine in machines}) == 1, token)
    finally:
        token.unlink(missing_ok=True)


def _ask(nodes: list[dict[str, Any]], token: Path) -> list[dict[str, Any]]:
    """What each node is, in the words of `describe_machine`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for number, node in enumerate(nodes):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(_answer).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        asked[node["NodeManagerHostname"], number] = remote.remote(token, token.with_suffix(f".{number}"))
    here = describe_machine()
    machines = []
    for (host, number), answer in asked.items():
        try:
            machine = ray.get(answer)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise SetupError("ray", f"node {host}: {reason}", "install bsexp there, as it is here") from None
        proof = token.with_suffix(f".{number}")
        if machine is None or not _appears(proof):
            cure = "choose an --out on a disk that all nodes have at the same path"
            raise StoreError("results folder", f"{token.parent} isn't the same on node {host}", cure)
        with suppress(OSError):
            proof.unlink()
        for name in ALIKE:
            if machine[name] != here[name]:
                which = f"node {host} has {name} {machine[name] or 'missing'}, this machine {here[name]}"
                raise SetupError("ray", which, "install the same everywhere")
        machines.append(machine)
    return machines


def _answer(token: Path, proof: Path) -> dict[str, Any] | None:
    """On a node: what it is, with a proof that it writes into the same folder; None where it can't see that."""
    if not _appears(token):
        return None
    try:
        proof.write_text(socket.gethostname(), encoding="utf-8")
    except OSError:
        return None
    return describe_machine()


def _appears(path: Path) -> bool:
    until = time.monotonic() + SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
