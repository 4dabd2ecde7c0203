"""Case 28: memory that runs out at a grown batch. The limit of the first tests is the operating system's own."""

import csv
import ctypes
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from bsexp import RunConfig, Training
from bsexp.data.sources import load_images
from bsexp.data.splits import prepare
from bsexp.errors import MemoryExhausted
from bsexp.planning import micro_batch_sizes, smaller_part
from bsexp.records import StepRow
from tests.faults.programs import finish

M_MMAP_THRESHOLD = -3

OWN = """
import torch

def data():
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(256, (6100, 28, 28), dtype=torch.uint8, generator=draw)
    labels = (images.float().mean((1, 2)) > 127.5).long()
    return {"train": (images[:6000], labels[:6000]), "test": (images[6000:], labels[6000:])}

class Greedy(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(64, num_classes)
    def forward(self, x):
        if self.training:
            torch.empty(2**46)
        return self.layer(x.flatten(1))

def greedy(image_shape, num_classes):
    return Greedy(num_classes)
"""
RUN = ("run", "growing-batch", "--dataset", "own:data", "--model", "cnn", "--batch-size", "200", "--no-augment")
GROWING = ("--set", "shape=exponential", "--max-batch", "2600", "--epochs", "2.5", "--lr", "0.01", "--threads", "1")
REST = ("--log-samples", "0", "--evals", "1", "--quiet", "--no-tune-allocator")


def limit_memory() -> None:
    """Room for 325 MB more than this process has now: enough for some hundred images at once, not for a thousand."""
    # Large blocks are given back as soon as they are freed: pieces left in the heap would decide where it ends.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 325_000_000,) * 2)


def rows(out: Path) -> list[dict[str, str]]:
    (path,) = out.glob("runs/runs/*/steps.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


def test_where_memory_runs_out_the_batch_stays_and_its_parts_are_halved(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    finish(tmp_path, *RUN, *GROWING, *REST, "--out", "free")
    finish(tmp_path, *RUN, *GROWING, *REST, "--out", "short", before=limit_memory)
    free, short = rows(tmp_path / "free"), rows(tmp_path / "short")
    assert [row["batch_size"] for row in short] == [row["batch_size"] for row in free]
    assert all(row["micro_batch_size"] == row["batch_size"] for row in free)
    cut = [(int(row["batch_size"]), int(row["micro_batch_size"])) for row in short]
    first = next(k for k, (batch, part) in enumerate(cut) if part != batch)
    # Half of a batch as the limit makes two parts of an even one and three of an odd one; the first part is logged.
    assert cut[first][1] == cut[first][0] // (2 + cut[first][0] % 2)
    assert all(part <= cut[first][0] // 2 for _, part in cut[first:]), "what was found out is kept"
    for one, other in zip(free, short, strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=2e-3)


def test_memory_that_not_even_one_sample_fits_into_ends_the_run_with_7(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    program = finish(tmp_path, "run", "fixed-small", "--model", "own:greedy", "--quiet", expected=7)
    assert program.said().count("\n") == 1
    assert "also with 1 sample at a time" in program.said()


SMALL: dict[str, Any] = {"schedule": "growing-batch", "epochs": 2.0, "train_size": 400, "evals": 2, "log_samples": 0}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def training(state: dict[str, Any] | None = None, **options: Any) -> Training:
    config = RunConfig(**{**SMALL, **options})
    return Training(config, state, data=prepare(config, load_images("digits")), device="cpu")


def fail_above(run: Training, size: int) -> list[int]:
    """Let the network raise torch's own out-of-memory error, after its first layer, for parts above `size`.

    A stand-in: it fails at a known place of the forward pass, which the operating system can't be told to do.
    """
    failed: list[int] = []

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training and len(inputs[0]) > size:
            failed.append(len(inputs[0]))
            raise torch.OutOfMemoryError("no room")

    run.model.get_submodule("head").register_forward_pre_hook(refuse)
    return failed


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.3}, {"model": "cnn-small", "norm": "batch", "ghost_batch": 8, "batch_size": 16, "epochs": 1.0}],
    ids=["dropout", "ghost batches"],
)
def test_a_failed_try_leaves_no_trace_in_weights_buffers_and_masks(options: dict[str, Any]) -> None:
    run, twin = training(**options), training(**options)
    failed = fail_above(run, 20)
    records = [record for record in run if isinstance(record, StepRow)]
    # The twin is told beforehand what the other found out at its first batch above 20.
    expected = []
    for record in twin:
        if isinstance(record, StepRow):
            expected.append(record)
            following = records[len(expected)] if len(expected) < len(records) else None
            if following and following.micro_batch_size != following.batch_size and twin._updater.limit is None:
                twin._updater.limit = run._updater.limit
    assert failed
    assert len(failed) < 4, "what was found out is kept"
    assert [(r.batch_size, r.micro_batch_size) for r in records] == [
        (r.batch_size, r.micro_batch_size) for r in expected
    ]
    for one, other in zip(run.model.state_dict().values(), twin.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_what_memory_allows_is_part_of_the_state() -> None:
    run = training()
    fail_above(run, 20)
    rest = list(run)
    again = training()
    failed = fail_above(again, 20)
    while again._updater.limit is None:
        next(again)
    resumed = training(again.state())
    assert failed
    sizes = [record.micro_batch_size for record in resumed if isinstance(record, StepRow)]
    assert sizes == [record.micro_batch_size for record in rest if isinstance(record, StepRow)][-len(sizes) :]


def test_halves_keep_ghost_batches_whole_and_plain_statistics_are_never_split() -> None:
    plain = RunConfig(schedule="fixed-small", model="cnn", dataset="mnist")
    assert [smaller_part(size, plain) for size in (2000, 3, 2)] == [1000, 1, 1]
    with pytest.raises(MemoryExhausted, match="also with 1 sample at a time"):
        smaller_part(1, plain)
    ghost = RunConfig(schedule="fixed-small", dataset="cifar10", ghost_batch=32)
    assert [smaller_part(size, ghost) for size in (1000, 96, 64)] == [480, 32, 32]
    assert micro_batch_sizes(1000, ghost, 480) == [320, 352, 328]
    with pytest.raises(MemoryExhausted, match="also with 32 samples at a time"):
        smaller_part(32, ghost)
    with pytest.raises(MemoryExhausted, match="statistics over all of it"):
        smaller_part(512, RunConfig(schedule="fixed-small", model="cnn", dataset="mnist", norm="batch"))
