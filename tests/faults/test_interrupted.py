"""Case 42: Ctrl-C while the program is still being imported. And signals at moments when Python drops exceptions."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bsexp.sweep.signals import Stopped, StopSignals
from tests.conftest import ROOT


@pytest.mark.parametrize("module", ["typer", "pydantic", "torch._C", "torch.nn.modules"])
def test_ctrl_c_during_an_import_is_one_line(tmp_path: Path, module: str) -> None:
    """The interpreter says itself what it has just imported; that is when the signal is sent."""
    command = [sys.executable, "-X", "importtime", "-m", "bsexp", "run", "fixed-small", "--epochs", "1"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        said = []
        for line in program.stderr:
            said.append(line)
            if line.split("|")[-1].strip().startswith(module):
                program.send_signal(signal.SIGINT)
                break
        else:
            raise AssertionError(f"{module} was not imported: {said[-5:]}")
        said += program.stderr.readlines()
    words = [line for line in said if not line.startswith("import time:")]
    assert words == ["bsexp: interrupted; run the same command again to go on\n"]
    assert program.returncode == 130
    assert not list(tmp_path.rglob("summary.json"))


def test_a_signal_that_comes_in_a_finalizer_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))
    with StopSignals(("SIGTERM",)) as stop:
        thing = Dying()
        del thing
        assert dropped == [Stopped]
        with pytest.raises(Stopped):
            stop.check()
