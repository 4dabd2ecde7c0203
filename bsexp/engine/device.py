"""Devices, threads and the allocator: what a process settles once before it trains.

The one rule: `auto` may fall back to the CPU; a device that was named and isn't there is an error.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bsexp.errors import MemoryExhausted, SetupError, UsageError

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


def hold_to(memory: int | None, device: torch.device) -> bool:
    """Let this process have `memory` bytes at most, from now on; on a CUDA device so many there. Whether it is held.

    On a CPU it is Linux that holds it, by the private memory which may be written to: mapped data sets don't count. On
    a GPU None is all that it has. Raises UsageError where there is no limit or can't be one, MemoryExhausted where the
    process has more already.
    """
    if device.type == "cuda":
        if memory is not None:
            whole = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, memory / whole), device)
        return True
    if device.type != "cpu":
        if memory is not None:
            raise UsageError("--memory", f"{memory:,} bytes on {device.type}", "leave it out: the device has its own")
        return True
    if memory is None:
        raise UsageError("--memory", "not given, and this system doesn't say what is free", "give it: --memory 8G")
    if sys.platform.startswith("linux"):
        _hold_process(memory)
        return True
    if process_peak_memory() is None:
        raise UsageError("--memory", "this system doesn't say what a process takes", "use a GPU, or another system")
    return False


def _hold_process(memory: int) -> None:
    import resource

    # Pages: the address space, what is in memory, what of that stands in files; code; -; what may be written to.
    _, resident, _, _, _, writable, *_ = map(int, Path("/proc/self/statm").read_text().split())
    page = resource.getpagesize()
    if memory <= resident * page:
        has = f"a process has {resident * page / 1e6:,.0f} MB before it trains, and may have {memory / 1e6:,.0f} MB"
        raise MemoryExhausted("out of memory", has, "give it more (--memory)")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = writable * page + memory - resident * page
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


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
