"""How much memory is free for what is started here.

The one rule: the tightest of the limits that the system tells of counts; where it tells of none, that is said.
"""

from pathlib import Path


def free_memory() -> int | None:
    """Bytes that this process and its children may still have: the machine's free ones, or its control group's.

    None where the system doesn't say.
    """
    found = [_available(), *_groups()]
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def _available() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _groups() -> list[int]:
    """What is left to each control group (version 2) around this process that has a limit."""
    found = []
    for line in _lines(Path("/proc/self/cgroup")):
        if line.startswith("0::"):
            root = Path("/sys/fs/cgroup")
            place = root / line[3:].strip().lstrip("/")
            for folder in (place, *place.parents):
                limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
                if limit is not None and used is not None:
                    found.append(limit - used)
                if folder == root:
                    break
    return found


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
