"""Claims: which process is making a run, told by files alone.

The one rule: a claim is a file `lease-<n>`, created whole and exclusively, and the highest one holds. Whoever creates
one looks again afterwards and steps back when anything has changed; so two never both believe that they hold it, and no
lock of the operating system is needed, which network file systems often lack.
"""

import errno
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bsexp.errors import StoreError
from bsexp.store.files import beside, usable

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
# How file systems without hard links refuse them.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@dataclass(frozen=True)
class Owner:
    """A process, told apart from all others: also from one that got the same number later, or on another machine."""

    boot: str
    namespace: str
    pid: int
    start: str

    @classmethod
    def me(cls) -> "Owner":
        """This process."""
        return cls(_boot(), _namespace(), os.getpid(), _start(os.getpid()))

    def dead(self) -> bool:
        """Whether it is certainly gone: it ran here, and no such process is there now."""
        if (self.boot, self.namespace) != (_boot(), _namespace()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return _start(self.pid) != self.start


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start(pid: int) -> str:
    """When a process was started, in ticks since boot; empty where the system doesn't say; "gone" for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    state, start = fields[0], fields[19]
    # A killed child that its parent hasn't asked for yet still has its number, but does nothing any more.
    return "gone" if state in (b"Z", b"X") else start.decode()


class Observer:
    """Tells live claims from dead ones. What can't be told at once is found by watching: a live one's counter moves.

    A claim is dead when its owner certainly is, or when its counter stood still for STALE_SECONDS on this process's own
    monotonic clock (the owner is stopped, or on a machine that went down).
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Path, str], tuple[int, float]] = {}

    def dead(self, lease: Path) -> bool:
        """Whether the claim is dead; a file that is gone is."""
        try:
            text = lease.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return True
        owner = owner_of(text)
        if owner is not None and owner.dead():
            return True
        now = time.monotonic()
        count, since = self._seen.setdefault((lease, text.partition("\n")[0]), (len(text), now))
        if count != len(text):
            self._seen[lease, text.partition("\n")[0]] = (len(text), now)
            return False
        return now - since >= STALE_SECONDS


def owner_of(text: str) -> Owner | None:
    """Who wrote a lease; None for what isn't one."""
    try:
        return Owner(**json.loads(text.partition("\n")[0])["owner"])
    except (ValueError, TypeError, KeyError):
        return None


def lease_text(owner: Owner) -> str:
    """The line of a new claim. No two are alike, also of one process: so a claim given up and made again is noticed."""
    return json.dumps({"owner": asdict(owner), "claim": secrets.token_hex(8)}) + "\n"


def leases(folder: Path) -> dict[int, Path]:
    """All claims on `folder`, by number."""
    return {
        int(path.name.partition("-")[2]): path
        for path in folder.glob("lease-*")
        if path.name.partition("-")[2].isdigit()
    }


def holder(folder: Path) -> Owner | None:
    """Who holds `folder` as far as can be told at once; None where nobody does."""
    for _, path in sorted(leases(folder).items(), reverse=True):
        try:
            owner = owner_of(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if owner is not None and not owner.dead():
            return owner
    return None


def beats(lease: Path) -> int:
    """How often the owner of a lease said that it lives: about every BEAT_SECONDS."""
    try:
        return len(lease.read_bytes().partition(b"\n")[2])
    except OSError:
        return 0


class Lease:
    """A claim that this process holds. `lost` becomes true when another process has taken over."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number
        self.lost = False

    def held(self) -> bool:
        """Whether it still holds: its file is there and none is higher."""
        if not self.lost:
            self.lost = max(leases(self.path.parent), default=0) != self.number
        return not self.lost

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Say every BEAT_SECONDS that the owner lives, for as long as the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), daemon=True, name="lease")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_SECONDS) and self.held():
            try:
                # Never O_CREAT: a lease that another process has cleared away stays away.
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
                try:
                    os.write(descriptor, b".")
                finally:
                    os.close(descriptor)
            except OSError:
                continue  # gone: `held` sees it; a full disk: the run's own writes tell it

    def release(self) -> None:
        """Give the claim up. Harmless when it was lost or given up before."""
        self.path.unlink(missing_ok=True)


def claim(folder: Path, observer: Observer, above: Callable[[], int] = lambda: 0) -> Lease | None:
    """A claim on `folder`, or None while somebody else has one. Its number is larger than `above()`.

    Raises StoreError where the folder can't be written.
    """
    before = {number: _text(path) for number, path in leases(folder).items()}
    floor = above()
    if any(not observer.dead(path) for path in leases(folder).values()):
        return None
    number = max([floor, *before]) + 1
    path = folder / f"lease-{number}"
    if not _create(path, lease_text(Owner.me())):
        return None
    # Look again: of two that judged the same dead claim, or one that slept since, at least one sees the other here.
    after = {other: _text(place) for other, place in leases(folder).items() if other != number}
    same = all(before.get(other) == text for other, text in after.items())
    if not same or above() != floor:
        path.unlink(missing_ok=True)
        return None
    return Lease(path, number)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""


def _create(path: Path, text: str) -> bool:
    """Create the file with its content in one step; False where it is there already."""
    part = beside(path)
    with usable(path):
        try:
            part.write_text(text, encoding="utf-8")
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create_plainly(path, text)
        finally:
            part.unlink(missing_ok=True)
    return True


def _create_plainly(path: Path, text: str) -> bool:
    """For file systems without hard links: exclusive, though a crash in between leaves an empty claim behind."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    return True


@contextmanager
def locked(folder: Path, patience: float = 300.0) -> Iterator[None]:
    """Hold `folder` for a moment, waiting for others who do. StoreError after `patience` seconds."""
    observer = Observer()
    end = time.monotonic() + patience
    # Numbers that nobody had before: what clears dead claims away below never meets a new one.
    first = time.time_ns()
    while (lease := claim(folder, observer, above=lambda: first)) is None:
        if time.monotonic() > end:
            raise StoreError("results folder", f"{folder}: another process holds it", "look for lease-* in it")
        time.sleep(0.02 + 0.03 * (os.getpid() % 7) / 7)
    try:
        yield
    finally:
        for number, path in leases(folder).items():
            if number < lease.number:
                path.unlink(missing_ok=True)
        lease.release()
