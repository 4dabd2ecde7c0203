"""`bsexp doctor`: what works here, and the cure for what doesn't."""

import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from bsexp.catalog import DATASETS
from bsexp.commands.given import talk_of

MATCH = "install matching wheels: pip install --force-reinstall torch torchvision"


class Finding(NamedTuple):
    """One thing looked at. `needed`: training can't work without it."""

    what: str
    found: str
    cure: str = ""
    needed: bool = False


def main(given: dict[str, Any]) -> int:
    """Look at everything; 6 where training can't work."""
    talk = talk_of(given)
    findings = list(examine())
    broken = any(finding.cure and finding.needed for finding in findings)
    if given.get("json"):
        talk.document({"findings": [finding._asdict() for finding in findings], "works": not broken})
    else:
        for finding in findings:
            talk.result(f"{'problem' if finding.cure else 'ok':8} {finding.what}: {finding.found}")
            if finding.cure:
                talk.result(f"{'':8} {'needed' if finding.needed else 'optional'}: {finding.cure}")
    return 6 if broken else 0


def examine() -> Iterator[Finding]:
    """All findings, in the order in which they matter."""
    yield from _torch()
    yield from _torchvision()
    for package in ("pandas", "matplotlib", "scipy", "scikit-learn", "pydantic"):
        yield Finding(package, *_version(package, True), needed=True)
    yield from _data()
    yield _writable("results", Path("results"))


def _version(package: str, needed: bool) -> tuple[str, str]:
    try:
        return metadata.version(package), ""
    except metadata.PackageNotFoundError:
        return "not installed", f"pip install {package}"


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding("torch", f"{type(error).__name__}: {error}", "pip install torch torchvision", needed=True)
        return
    yield Finding("torch", torch.__version__)
    gpus = (
        [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    yield Finding(
        "devices",
        ", ".join([*gpus, *(["mps"] if torch.backends.mps.is_available() else []), f"cpu ({os.cpu_count()} cores)"]),
    )


def _torchvision() -> Iterator[Finding]:
    try:
        import torchvision
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        yield Finding("torchvision", f"{reason} (digits and folder: work without it)", MATCH)
        return
    yield Finding("torchvision", torchvision.__version__)


def _data() -> Iterator[Finding]:
    from bsexp.data.sources import available, data_folder

    yield _writable("data folder", data_folder())
    for name in DATASETS:
        yield Finding(name, available(name) or "not here; downloaded when it is first used")


def _writable(what: str, folder: Path) -> Finding:
    """Whether a file can be written in `folder`, or in the nearest parent that is there."""
    place = folder
    while not place.exists() and place.parent != place:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return Finding(what, f"{folder}: writable")
    except OSError as error:
        return Finding(
            what,
            f"{folder}: {error.strerror}",
            "choose another place with --out or BSEXP_DATA_DIR",
            needed=what == "results",
        )
