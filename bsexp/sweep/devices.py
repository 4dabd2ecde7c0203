"""Which devices a sweep can use, found out without torch where that is possible.

The one rule: torch is imported only on a machine that has a GPU driver.
"""

import os
import sys
from collections.abc import Sequence
from glob import glob

from bsexp import catalog
from bsexp.errors import SetupError, UsageError

# Signs of a driver: NVIDIA's on Linux, that of Linux inside Windows, AMD's, NVIDIA's on Windows.
DRIVERS = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd", "C:/Windows/System32/nvcuda.dll")


def num_gpus() -> int:
    """GPUs that torch can use."""
    if not any(map(glob, DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count()


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_gpu(device: str) -> bool:
    """Whether runs on `device` are runs on a CUDA GPU."""
    return device.startswith("cuda") or (device == "auto" and num_gpus() > 0)


def is_exact(device: str) -> bool:
    """Whether `device` gives the same bytes each time without being told to."""
    return device == "cpu" or (device == "auto" and sys.platform != "darwin" and not num_gpus())


def shares_exactly(devices: Sequence[str], deterministic: bool, compiled: bool) -> bool:
    """Whether a beginning that one run trains is, to the byte, what each of several would have trained.

    On a CPU, or with deterministic kernels. Never where runs are compiled: for which batch sizes, and so to which
    rounding, depends on the whole run.
    """
    return not compiled and (deterministic or all(map(is_exact, devices)))


def check_device(device: str) -> None:
    """SetupError where a device that was named isn't there: before a worker is started for it. `auto` always is."""
    if device not in ("auto", "cpu"):
        from bsexp.engine.device import find_device

        find_device(device)


def describe_workers(devices: Sequence[str]) -> str:
    """` with N workers on DEVICES`, nothing for none; `auto` is told as the CPU where that is known without torch."""
    if not devices:
        return ""
    # On a Mac `auto` may mean its GPU, which only torch knows.
    kinds = {"cpu (no GPU found)" if d == "auto" and sys.platform != "darwin" else d for d in devices}
    return f" with {len(devices)} worker{'s'[: len(devices) != 1]} on {', '.join(sorted(kinds))}"


def default_model(dataset: str, device: str) -> str:
    """The data set's own model; on a GPU the larger one where it has two."""
    entry = catalog.find_dataset(dataset)
    return entry.gpu_model if entry.gpu_model and on_gpu(device) else entry.model


def worker_devices(device: str, jobs: int | str | None, per_gpu: int | None = None) -> tuple[str, ...]:
    """The device of each worker: `jobs` of them, or (auto) `per_gpu` (None: one) on each GPU, or one per core.

    Raises UsageError where both numbers are given, SetupError for `per_gpu` without a GPU.
    """
    gpus = num_gpus() if device.startswith("cuda") or device == "auto" else 0
    automatic = jobs in (None, "auto")
    if per_gpu is not None:
        if not automatic:
            raise UsageError("--per-gpu", f"{per_gpu} with --jobs {jobs}", "--jobs counts all runs at a time: give one")
        if not gpus:
            raise SetupError("--per-gpu", f"{per_gpu}, but there is no GPU here to run on", "use --jobs")
    if gpus and device in ("auto", "cuda"):
        return tuple(f"cuda:{k % gpus}" for k in range(gpus * (per_gpu or 1) if automatic else int(jobs or 0)))
    one = device.startswith("cuda") or device == "mps"
    return (device,) * ((per_gpu or 1 if one else num_cores()) if automatic else int(jobs or 0))
