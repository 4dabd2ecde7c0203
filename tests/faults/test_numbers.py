"""Cases 27, 29 to 31, 33 and 34: runs that fail in their numbers, batches that do not fit, ties, the same bytes by any
way.
"""

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bsexp import RunConfig, Training
from bsexp.data.sources import load_images
from bsexp.data.splits import prepare
from tests.faults.inside import said
from tests.faults.programs import contents, finish


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*arguments: str) -> str:
    """The one line of a command that is refused as wrong usage, with nothing written."""
    before = sorted(Path().rglob("*"))
    result = said(*arguments)
    assert (result.code, result.out) == (2, ""), result
    assert sorted(Path().rglob("*")) == before
    return result.line


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


# -- 27


def test_diverged_and_collapsed_runs_keep_their_rows_and_the_sweep_goes_on(here: Path) -> None:
    # One worker, runs that are as long: the arms of 10^6 and of 1.6 are made before the one that learns.
    arms = "".join(
        f'[arms.{name}]\nschedule = "fixed-small"\nlr = {lr}\n'
        for name, lr in (("wild", "1e6"), ("stuck", "1.6"), ("fine", "0.05"))
    )
    (here / "e.toml").write_text(f'[run]\nseeds = "0"\nepochs = 3\nevals = 3\nlog_samples = 0\n{arms}')
    program = finish(here, "sweep", "e.toml", "--jobs", "1", "--json")
    counts = {name: program.document()[name] for name in ("planned", "finished", "diverged", "collapsed", "failed")}
    assert counts == {"planned": 3, "finished": 1, "diverged": 1, "collapsed": 1, "failed": 0}
    assert "diverged: wild-" in program.said()
    assert "collapsed: stuck-" in program.said()
    summaries: dict[str, Any] = {}
    for path in (here / "results" / "e" / "runs").glob("*/summary.json"):
        summaries[path.parent.name.partition("-")[0]] = {**json.loads(path.read_text()), "folder": path.parent}
    wild, stuck, fine = summaries["wild"], summaries["stuck"], summaries["fine"]
    steps = rows(wild["folder"] / "steps.csv")
    bad = next(row["step"] for row in steps if not math.isfinite(float(row["train_loss"])))
    assert wild["status"] == "diverged"
    assert wild["reason"].endswith(f"at step {bad}")
    assert wild["test_accuracy"] is None
    # It ends with the update that is the first to fail, whose row is kept too; every update has 16 samples.
    assert steps[-1]["step"] == bad
    assert len(steps) == int(bad) + 1
    assert int(steps[-1]["samples"]) == wild["samples"] == 16 * len(steps)
    assert [row["samples"] for row in rows(wild["folder"] / "evals.csv")] == ["0"]
    assert stuck["status"] == "collapsed"
    assert "nothing was learned" in stuck["reason"]
    # As bad as guessing among ten, or worse: log 10 = 2.303.
    assert stuck["train_loss"] > 0.95 * math.log(10)
    assert stuck["samples"] == fine["samples"] == 3 * 1293
    assert all(math.isfinite(float(row["train_loss"])) for row in rows(stuck["folder"] / "steps.csv"))
    assert fine["test_accuracy"] > 0.5
    table = {row["arm"]: row for row in rows(here / "results" / "e" / "report" / "arms.csv")}
    assert {arm: (row["finished"], row["diverged"], row["collapsed"]) for arm, row in table.items()} == {
        "wild": ("0", "1", "0"),
        "stuck": ("0", "0", "1"),
        "fine": ("1", "0", "0"),
    }
    report = (here / "results" / "e" / "report" / "report.md").read_text()
    assert "wild: 1 of 1 diverged" in report
    assert "stuck: 1 of 1 collapsed" in report


# -- 29


def test_a_batch_of_more_than_half_the_data_is_refused_by_every_command() -> None:
    # 1,437 images less a tenth for validation are 1,293; half of them 646.
    line = "batch_size: 647; at most num_train // 2 = 646 of 1293 samples"
    for command in (["run"], ["run", "--dry-run"], ["plan"]):
        assert refusal(*command, "fixed-small", "--batch-size", "647") == f"bsexp: {line}"
    Path("e.toml").write_text('[arms.a]\nschedule = "fixed-small"\nbatch_size = 647\n')
    for command in (["sweep"], ["sweep", "--dry-run"], ["plan"]):
        assert refusal(*command, "e.toml") == f"bsexp: e.toml: arms.a: {line}"
    assert "max_batch: 647; at most" in refusal("run", "growing-batch", "--max-batch", "647")
    assert said("run", "fixed-small", "--batch-size", "646", "--dry-run").code == 0


@pytest.mark.parametrize(("options", "cap"), [([], 129), (["--max-batch", "200"], 200), (["--max-batch", "16"], 16)])
def test_growth_ends_at_the_cap_and_the_plan_shows_it(options: list[str], cap: int) -> None:
    # Three factors of 5 want 16 -> 80 -> 400 -> 2,000; the cap is 1,293 // 10 = 129 unless it is given.
    plan = json.loads(said("plan", "growing-batch", *options, "--json").out)
    sizes = [row["batch_size"] for row in plan["rows"]]
    assert max(sizes) == cap
    assert sum(sizes) == 20 * 1293
    assert sizes[:-2] == sorted(sizes[:-2])
    wide = said("plan", "growing-batch", *options, "--rows", "3")
    assert (f"batch 16 to {cap}" if cap > 16 else "batch 16,") in wide.out


# -- 30


@pytest.mark.parametrize(
    ("epochs", "sizes"),
    [
        # 33 = 16 + 17: of the 17, which are no two batches, each of the last updates takes half.
        ("1", [16, 9, 8]),
        # 66 = 16 + 16 + 16 + 18: across the end of the first epoch, too.
        ("2", [16, 16, 16, 9, 9]),
    ],
)
def test_a_remainder_of_one_makes_no_tiny_update(epochs: str, sizes: list[int]) -> None:
    options = ("--train-size", "33", "--epochs", epochs, "--log-samples", "0", "--evals", "1", "--json", "-q")
    result = said("run", "fixed-small", *options)
    assert result.code == 0, result
    document = json.loads(result.out)
    assert [int(row["batch_size"]) for row in rows(Path(document["run_dir"]) / "steps.csv")] == sizes
    assert document["summary"]["samples"] == 33 * int(epochs)
    assert document["summary"]["updates"] == len(sizes)


@pytest.mark.parametrize("parts", [None, 5])
def test_each_sample_goes_through_the_network_once_per_epoch(parts: int | None) -> None:
    config = RunConfig(
        schedule="fixed-small", train_size=33, batch_size=16, epochs=3.0, evals=1, micro_batch=parts, averaging="none"
    )
    data = prepare(config, load_images("digits"))
    training = Training(config, data=data, device="cpu")
    seen: list[torch.Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            seen.append(inputs[0].detach().clone())

    training.model.register_forward_pre_hook(note)
    list(training)
    images = torch.cat(seen).flatten(1)
    assert len(images) == 99
    where = torch.arange(1437) if data.train.index is None else data.train.index
    expected = (load_images("digits").train_images[where].float() - data.mean[0]) / data.std[0]
    for epoch in images.split(33):
        assert same_rows(epoch, expected.flatten(1))
    assert not torch.equal(images[:33], images[33:66]), "another order in each epoch"


def same_rows(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tables of distinct rows hold the same ones, in any order."""
    distance = torch.cdist(one.double(), other.double())
    pairs = distance < 1e-4
    return one.shape == other.shape and bool((pairs.sum(0) >= 1).all() and (pairs.sum(1) >= 1).all())


# -- 31

BATCH_NORM = ("--model", "cnn-small", "--norm", "batch")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["fixed-small", "--batch-size", "1"], "a batch of 1 in parts of 1 sample; use --norm group or larger batches"),
        (
            ["fixed-small", "--micro-batch", "1"],
            "a batch of 16 in parts of 1 sample; use --norm group or larger parts (--micro-batch)",
        ),
        # 5 in parts of at most 2 are 1 + 2 + 2.
        (["fixed-small", "--batch-size", "5", "--micro-batch", "2"], "a batch of 5 in parts of 1 sample"),
        # An eighth of 8, before it grows.
        (["batch-warmup", "--batch-size", "8"], "a batch of 1 in parts of 1 sample"),
        # A budget of one sample.
        (["fixed-small", "--epochs", "0.001"], "a batch of 1 in parts of 1 sample"),
        (["fixed-small", "--ghost-batch", "1"], "ghost_batch: 1; a statistic needs at least 2 samples"),
    ],
)
def test_batch_statistics_of_one_sample_are_refused_before_training(options: list[str], words: str) -> None:
    for command in (["run"], ["run", "--dry-run"], ["plan"]):
        assert words in refusal(*command, *options, *BATCH_NORM)
    schedule, *rest = options
    assert words in refusal("sweep", "--schedule", schedule, *rest, *BATCH_NORM)


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (34, ["--batch-size", "2"]),
        (32, ["--micro-batch", "2"]),
        # 17 in ghost batches of 16 are one of 17, not 16 and 1.
        (34, ["--batch-size", "17", "--ghost-batch", "16"]),
    ],
)
def test_batch_statistics_of_two_samples_train(samples: int, options: list[str]) -> None:
    short = ("--train-size", str(samples), "--epochs", "1", "--evals", "1", "--json", "-q")
    result = said("run", "fixed-small", *options, *BATCH_NORM, *short)
    assert result.code == 0, result
    assert json.loads(result.out)["summary"]["samples"] == samples


# -- 33

EASY = """
import torch

def data():
    labels = torch.arange(240) % 2
    draw = torch.Generator().manual_seed(1)
    images = labels[:, None, None] * 200 + torch.randint(40, (240, 8, 8), generator=draw)
    images = images.to(torch.uint8)
    return {"train": (images[:160], labels[:160]), "test": (images[160:], labels[160:])}
"""
TABLES = ("report.md", "arms.csv", "differences.csv")
NOT_NUMBERS = re.compile(r"\b(nan|NaN|None|inf|NaT)\b")


def train_easy(seed: str) -> None:
    for schedule in ("fixed-small", "lr-decay"):
        few = ("--epochs", "1", "--batch-size", "8", "--lr", "0.01", "--evals", "2", "--model", "mlp", "--threads", "1")
        result = said("run", schedule, "--dataset", "easy_images:data", *few, "--seed", seed, "--json", "-q")
        assert json.loads(result.out)["summary"]["test_accuracy"] == 1.0, result


def reported() -> dict[str, Any]:
    """The document of `report`; no table of it holds a number that is none."""
    result = said("report", "--json")
    assert result.code == 0, result
    folder = Path("results/runs/report")
    for text in (result.out, *((folder / name).read_text("utf-8") for name in TABLES)):
        assert not NOT_NUMBERS.search(text)
    return dict(json.loads(result.out))


def test_arms_that_are_all_right_everywhere_differ_by_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real ties: every run of both arms has 100 % accuracy, at one seed, then at two."""
    (here / "easy_images.py").write_text(EASY)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "easy_images", raising=False)
    train_easy("0")
    one = reported()
    assert "One finished run per arm: no intervals. Chance alone may explain any difference." in one["notes"]
    train_easy("1")
    two = reported()
    for document, end, right, seeds in ((one, None, None, 1), (two, 0.0, 1.0, 2)):
        (found,) = [row for row in document["differences"] if row["outcome"] == "test_accuracy"]
        assert (found["difference"], found["low"], found["high"], found["num_pairs"]) == (0.0, end, end, seeds)
        for arm in document["arms"]:
            assert (arm["test_accuracy"], arm["test_accuracy_low"], arm["test_accuracy_high"]) == (1.0, right, right)
    text = Path("results/runs/report/report.md").read_text("utf-8")
    assert text.count("| 100.00 % [100.00, 100.00] |") >= 2
    assert "| 0.00 [0.00, 0.00] |" in text
    assert {path.stem for path in Path("results/runs/report").glob("*.png")} >= {"final", "curves"}


# -- 34


@pytest.mark.long
def test_one_worker_and_eight_give_the_same_bytes(here: Path) -> None:
    options = ("--schedule", "fixed-small,growing-batch", "--seeds", "0-3", "--train-size", "200", "--dropout", "0.2")
    short = ("--epochs", "2", "--evals", "2", "--no-report", "-q")
    for jobs in ("1", "8"):
        finish(here, "sweep", *options, *short, "--jobs", jobs, "--out", jobs)
    one, eight = contents(here / "1"), contents(here / "8")
    assert len([name for name in one if name.endswith("summary.json")]) == 8
    assert one == eight
