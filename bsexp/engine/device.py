"""Devices, threads and the allocator: what a process settles once before it trains.

The one rule: `auto` may fall back to the CPU; a device that was named and isn't there is an error.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import torch

from bsexp.errors import SetupError, UsageError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

# What a CPU's memory running out looks like, as seen under a limit of the operating system.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "std::bad_alloc", "could not create a primitive", "could not create a memory")


def find_device(name: str) -> torch.device:
    """The device called `name`: auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:N, mps.

    Raises SetupError where it isn't there, UsageError for another name.
    """
    kind, colon, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and (kind != "cuda" or not index.isdigit())):
        raise UsageError("device", repr(name), "give auto, cpu, cuda, cuda:N or mps")
    cuda = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    if kind == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if kind == "cuda" and (not cuda or int(index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        found = f"{count} CUDA device{'s'[: count != 1]}" if cuda else "no CUDA device"
        raise SetupError("device", f"{name}: this machine has {found}", "use --device cpu")
    if kind == "mps" and not mps:
        raise SetupError("device", "mps: not available here", "use --device cpu")
    return torch.device(name)


def synchronizer(device: torch.device) -> Callable[[], None] | None:
    """What waits for `device`; None for the CPU, where there is nothing to wait for."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return None


def describe_device(device: torch.device) -> str:
    """A name for tables: `cpu`, or the kind and the GPU's own name."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type


def tune_allocator() -> bool:
    """Tell glibc to keep freed memory instead of giving it back and faulting it in again at each step.

    Large batches ran up to 1.8 times as fast. Returns whether it was done: Linux with glibc only.
    """
    if not _has_glibc():
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` says that memory ran out: on a CPU it is a plain RuntimeError, of torch's or of oneDNN's."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def release_memory(device: torch.device) -> None:
    """Give back what allocators keep of freed memory, after it ran out: in pieces it may be of no use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    elif _has_glibc():
        # 1,066 MB fell to 722 MB in a trial, where every smaller part had failed without it.
        ctypes.CDLL(None).malloc_trim(0)


def process_peak_memory() -> int | None:
    """The process's largest resident size so far, in bytes; None where the system doesn't say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _has_glibc() -> bool:
    return sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"


def set_up(device: str, threads: int | None, deterministic: bool, keep_memory: bool) -> dict[str, Any]:
    """Settle threads, allocator and determinism for this process; returns what to record about it.

    `threads` None leaves torch's own choice (all cores).
    """
    if threads:
        torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    found = find_device(device)
    return {
        "device": describe_device(found),
        "threads": torch.get_num_threads(),
        "allocator": "kept" if keep_memory and tune_allocator() else "system",
        "deterministic": deterministic,
    }
