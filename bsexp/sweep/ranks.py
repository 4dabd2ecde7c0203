"""Runs of several processes: starting the other ranks, telling them their work, noticing where one is gone.

The one rule: the others keep nothing that is worth saving. They hear no signal that isn't the first rank's to answer,
may be ended at any moment, and end by themselves when the first one has ended or died.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from bsexp.errors import RunsFailed, SetupError, UsageError, shown
from bsexp.sweep.devices import num_gpus
from bsexp.sweep.executors import CONTEXT, ctrl_c_blocked, imports_as_here

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

    from bsexp.engine.ranks import Ranks

# What torchrun says to each process that it starts.
LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HERE = "127.0.0.1"
DEVICE, ENDED, LEFT = "bsexp/device", "bsexp/ended", "bsexp/left"
# How long the first rank, once another one is gone, may take to notice it by itself, and the others to end.
GRACE_SECONDS, END_SECONDS, LOOK_SECONDS = 10.0, 5.0, 0.2


@dataclass(frozen=True)
class Launched:
    """This process is number `number` of `count`, started by torchrun or the like."""

    number: int
    count: int


def launched() -> Launched | None:
    """What a launcher has started this process as, if one has. UsageError for variables that make no sense."""
    found = {name: os.environ.get(name, "") for name in LAUNCHER}
    if not all(found.values()):
        return None
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not found[name].isdecimal():
            raise UsageError(name, shown(found[name]), "a launcher sets it to a whole number: unset it to run alone")
    return Launched(int(found["RANK"]), int(found["WORLD_SIZE"]))


def rank_device(device: str, local: int, count: int) -> str:
    """The device of the rank with the place `local` among `count` on this machine, where --device is `device`.

    Raises UsageError where ranks can't have one each, SetupError where there are fewer GPUs than ranks.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError("nproc", f"{count} on {device}", "each rank takes a GPU of its own: use --device cuda or cpu")
    gpus = num_gpus() if device != "cpu" else 0
    if device == "cpu" or (device == "auto" and not gpus):
        return "cpu"
    if gpus < count:
        which = f"{count}, but this machine has {gpus} CUDA device{'s'[: gpus != 1]}"
        raise SetupError("nproc", which, f"use --device cpu or --nproc {gpus}" if gpus else "use --device cpu")
    return f"cuda:{local}"


@contextmanager
def joined(count: int, device: str, work: dict[str, Any]) -> Iterator["Ranks | None"]:
    """This process as the first of `count` ranks, each of which gets `work` (see `_follow`); None for one alone.

    Raises RunsFailed that names the rank where one of them dies in this block.
    """
    if count == 1:
        yield None
        return
    from bsexp.engine.device import find_device
    from bsexp.engine.ranks import AGAIN, Ranks

    peers = _Launched(count) if launched() else _Started(count)
    try:
        with peers.watched():
            peers.notes.set(DEVICE, "cpu" if device == "cpu" else "cuda")
            ranks = Ranks(peers.meeting, 0, count, find_device(device))
            ranks.told(work)
            yield ranks
            ranks.leave()
    except RunsFailed as error:
        if found := peers.lost():
            raise RunsFailed(*found, AGAIN) from None
        raise error
    finally:
        peers.end()


class _Peers:
    """The other ranks, as the first one sees them. `meeting` is where all meet, `notes` what they leave each other."""

    meeting: "Store"
    notes: "TCPStore"

    def __init__(self, count: int) -> None:
        self.count = count

    @contextmanager
    def watched(self) -> Iterator[None]:
        """In this block the process ends, with 3, where one of the others dies and the main thread is stuck."""
        yield

    def lost(self) -> tuple[str, str] | None:
        """Which rank is gone, and how, as far as it is known a moment after it was noticed."""
        for number in range(1, self.count):
            if self.notes.check([_failed(number)]):
                return f"rank {number}", self.notes.get(_failed(number)).decode()
        return None

    def end(self) -> None:
        """Have the others end."""
        self.notes.set(ENDED, "1")
        end = time.monotonic() + END_SECONDS
        while self.notes.add(LEFT, 0) < self.count - 1 and time.monotonic() < end:
            time.sleep(0.02)


class _Launched(_Peers):
    """Those that a launcher has started, and ends where one dies."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.meeting, self.notes = _launchers_stores()


class _Started(_Peers):
    """Those that this process starts."""

    def __init__(self, count: int) -> None:
        from torch.distributed import TCPStore

        super().__init__(count)
        self.notes = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
        self.meeting = TCPStore(HERE, self.notes.port, is_master=False, wait_for_workers=False)
        _meet_inside_this_machine()
        self._over, self._asking = threading.Event(), threading.Lock()
        self.processes = [_start(number, count, self.notes.port) for number in range(1, count)]

    def codes(self) -> list[int | None]:
        """Their exit codes; None of those that live."""
        # How a process ended can be read once: of two threads that ask at the same time one would find nothing there,
        # which counts as exit code 255.
        with self._asking:
            return [process.exitcode for process in self.processes]

    def _gone(self) -> tuple[int, int] | None:
        return next(((number, code) for number, code in enumerate(self.codes(), 1) if code), None)

    @contextmanager
    def watched(self) -> Iterator[None]:
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _watch(self) -> None:
        while not self._over.is_set() and self._gone() is None:
            codes = self.codes()
            wait(
                [process.sentinel for process, code in zip(self.processes, codes, strict=True) if code is None],
                LOOK_SECONDS,
            )
            if all(code == 0 for code in self.codes()):
                return
        if self._over.wait(GRACE_SECONDS):
            return
        # In the middle of an exchange that will never end, with a GPU for example: nothing else gets it out.
        what, how = self.lost() or ("ranks", "one is gone")
        os.write(2, f"bsexp: {what}: {how}; run the same command again to go on from the last checkpoint\n".encode())
        os._exit(RunsFailed.exit_code)

    def lost(self) -> tuple[str, str] | None:
        end = time.monotonic() + 1
        while self._gone() is None and time.monotonic() < end:
            time.sleep(0.02)
        gone = self._gone()
        if told := super().lost():
            return told
        if gone is None:
            return None
        number, code = gone
        return f"rank {number}", f"died (signal {-code})" if code < 0 else f"died (exit code {code})"

    def end(self) -> None:
        if self._gone() is None:
            super().end()
        for process in self.processes:
            process.kill()
            with self._asking:
                process.join()


def _failed(number: int) -> str:
    return f"bsexp/failed/{number}"


def _meet_inside_this_machine() -> None:
    """Otherwise gloo would look for the address of the machine's name, which may lead nowhere."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def _launchers_stores() -> "tuple[Store, TCPStore]":
    from torch.distributed import TCPStore, rendezvous

    meeting = next(iter(rendezvous("env://")))[0]
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return meeting, TCPStore(host, port, is_master=False, wait_for_workers=False)


def _start(number: int, count: int, port: int) -> BaseProcess:
    arguments = (number, count, port, dict(os.environ))
    process: BaseProcess = CONTEXT.Process(target=_started, args=arguments, daemon=True)
    with ctrl_c_blocked(), imports_as_here():
        process.start()
    return process


def _started(number: int, count: int, port: int, environment: dict[str, str]) -> None:
    """The life of a rank that the first one has started."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    from torch.distributed import TCPStore

    meeting, notes = (TCPStore(HERE, port, is_master=False, wait_for_workers=False) for _ in range(2))
    os._exit(_take_part(meeting, notes, Launched(number, count), number))


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def follow_launched(rank: Launched) -> int:
    """What a process does that a launcher has started as another rank than the first; its exit code."""
    return _take_part(*_launchers_stores(), rank, int(os.environ.get("LOCAL_RANK", rank.number)))


def end_launched() -> None:
    """To be called by the first of launched ranks before it ends: those that wait for it end as well."""
    if launched():
        _launchers_stores()[1].set(ENDED, "1")


def _take_part(meeting: "Store", notes: "TCPStore", rank: Launched, local: int) -> int:
    """Be rank number `rank.number` until the run ends; the exit code."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_first, args=(notes,), daemon=True).start()
    try:
        _follow(meeting, rank, local)
    except Exception as error:
        if not isinstance(error, RunsFailed):
            reason = (str(error).splitlines() or [""])[0]
            with suppress(RuntimeError):
                notes.set(_failed(rank.number), f"failed ({type(error).__name__}: {reason})")
        return 1
    with suppress(RuntimeError):
        notes.add(LEFT, 1)
    return 0


def _end_with_first(notes: "TCPStore") -> None:
    try:
        while not notes.check([ENDED]):
            time.sleep(LOOK_SECONDS)
        notes.add(LEFT, 1)
    except RuntimeError:
        os._exit(1)
    os._exit(0)


def _follow(meeting: "Store", rank: Launched, local: int) -> None:
    """Take part in the run that the first rank tells: `config`, `state` (a checkpoint's payload), `threads`,
    `deterministic`, `keep_memory`.
    """
    # Before there is something to do: the first rank may be waiting for another process, which makes the same run.
    meeting.wait([DEVICE], timedelta(days=30))
    device = "cpu" if meeting.get(DEVICE) == b"cpu" else f"cuda:{local}"
    from bsexp.config import RunConfig
    from bsexp.data.sources import load_images
    from bsexp.data.splits import prepare
    from bsexp.engine.checkpoint import from_bytes
    from bsexp.engine.device import find_device, set_up
    from bsexp.engine.loop import Training
    from bsexp.engine.ranks import Ranks

    ranks = Ranks(meeting, rank.number, rank.count, find_device(device))
    work = ranks.told()
    set_up(device, work["threads"], work["deterministic"], work["keep_memory"])
    config = RunConfig(**work["config"])
    state = None if work["state"] is None else from_bytes(work["state"])
    data = prepare(config, load_images(config.dataset, config.image_size))
    Training(config, state, data=data, device=device, ranks=ranks).follow()
    ranks.leave()
