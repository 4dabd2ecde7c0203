"""What several test files use. The one rule: every test writes below its own temporary folder, on one thread."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bsexp.data.sources import Images, load_images

ROOT = Path(__file__).parent.parent
# Where the program is found, and what whoever runs the tests has besides.
PYTHONPATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
SHARED = ROOT.parent / "shared" / "data"

Bsexp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option and no width from the environment of whoever runs the tests."""
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in list(os.environ):
        if name.startswith("BSEXP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Images:
    return load_images("digits")


@pytest.fixture
def bsexp(tmp_path: Path) -> Bsexp:
    """Runs the real program in a temporary folder: bsexp("run", "fixed-small", ...)."""

    def run(
        *arguments: str, cwd: Path = tmp_path, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bsexp", *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
        )

    return run
