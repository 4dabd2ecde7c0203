"""Which workers a sweep starts. A GPU is only counted here, never used, so counting it stands in for having it."""

import pytest
import torch

from bsexp.errors import SetupError, UsageError
from bsexp.sweep import devices
from bsexp.sweep.devices import is_exact, shares_exactly, worker_devices


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two GPUs and four cores."""
    monkeypatch.setattr(devices, "num_gpus", lambda: 2)
    monkeypatch.setattr(devices, "num_cores", lambda: 4)
    return monkeypatch


def test_one_worker_per_gpu_or_as_many_as_asked_in_turn(machine: pytest.MonkeyPatch) -> None:
    assert worker_devices("auto", None) == ("cuda:0", "cuda:1")
    assert worker_devices("cuda", "auto", 2) == ("cuda:0", "cuda:1", "cuda:0", "cuda:1")
    assert worker_devices("auto", 3) == ("cuda:0", "cuda:1", "cuda:0")
    assert worker_devices("cuda:1", None) == ("cuda:1",)
    assert worker_devices("cuda:1", None, 3) == ("cuda:1",) * 3
    assert worker_devices("cpu", None) == ("cpu",) * 4
    assert worker_devices("auto", 0) == ()


def test_without_a_gpu_one_per_core(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(devices, "num_gpus", lambda: 0)
    assert worker_devices("auto", None) == ("auto",) * 4
    assert worker_devices("mps", None) == ("mps",)
    with pytest.raises(SetupError, match="--per-gpu: 2, but there is no GPU here"):
        worker_devices("auto", None, 2)


def test_per_gpu_is_refused_beside_jobs_and_off_the_gpu(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--per-gpu: 2 with --jobs 3"):
        worker_devices("auto", 3, 2)
    with pytest.raises(SetupError, match="no GPU"):
        worker_devices("cpu", None, 2)


def test_only_a_cpu_is_exact_without_being_told(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(devices.sys, "platform", "linux")
    assert [is_exact(device) for device in ("cpu", "auto", "cuda:0", "mps")] == [True, False, False, False]
    machine.setattr(devices, "num_gpus", lambda: 0)
    assert is_exact("auto")
    machine.setattr(devices.sys, "platform", "darwin")
    assert not is_exact("auto")


def test_beginnings_are_shared_where_every_run_would_have_made_the_same_bytes(machine: pytest.MonkeyPatch) -> None:
    assert shares_exactly(["cpu", "cpu"], deterministic=False, compiled=False)
    assert not shares_exactly(["cpu", "cuda:0"], deterministic=False, compiled=False)
    assert shares_exactly(["cuda:0"], deterministic=True, compiled=False)
    # Arms are compiled for other sizes, and round otherwise, whatever the kernels.
    assert not shares_exactly(["cpu"], deterministic=True, compiled=True)


def test_torch_is_asked_where_there_is_any_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for sign in ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd", "C:/Windows/System32/nvcuda.dll"):
        monkeypatch.setattr(devices, "glob", lambda pattern, sign=sign: [pattern] if pattern == sign else [])
        assert devices.num_gpus() == 3
    monkeypatch.setattr(devices, "glob", lambda pattern: [])
    assert devices.num_gpus() == 0
