"""What a run was made with: versions, machine, arguments. Recorded, but not part of the run id.

The one rule: no absolute path gets in, since results folders are moved, copied and committed.
"""

import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("bsexp", "torch", "torchvision", "numpy", "scikit-learn")


@lru_cache(maxsize=1)
def describe_machine() -> dict[str, Any]:
    """Python, packages, operating system, processor, cores and the git commit of the working folder."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "commit": _commit(),
    }


def shown_arguments(arguments: list[str]) -> list[str]:
    """Command-line arguments with absolute paths cut down to their last part.

    >>> shown_arguments(["sweep", "/tmp/x.toml", "--out=/a/b"])
    ['sweep', 'x.toml', '--out=b']
    """
    shown = []
    for argument in arguments:
        key, equals, value = argument.rpartition("=")
        shown.append(key + equals + (Path(value).name if os.path.isabs(value) else value))
    return shown


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def python_arguments() -> list[str]:
    """This process's arguments, without the program's name."""
    return shown_arguments(sys.argv[1:])
