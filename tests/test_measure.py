"""`bsexp measure` of gradients: its document, its files, points and checkpoints, and what is refused."""

import csv
import json
from pathlib import Path

import pytest

from bsexp.records import GradientRow, columns
from bsexp.report.measured import faster, write_measured
from bsexp.store.measured import read_gradients
from bsexp.store.paths import Experiment
from tests.conftest import Bsexp
from tests.test_hardware import ROWS, TABLE, affine

GRADIENT = ("measure", "--only", "gradient", "--threads", "1", "--train-size", "300", "--batch-sizes", "1,8,64")


def test_one_document_holds_gradients_and_hardware(bsexp: Bsexp, tmp_path: Path) -> None:
    sizes = ("--batch-sizes", "1,16", "--repeats", "3", "--threads", "1", "--train-size", "200")
    result = bsexp("measure", *sizes, "--name", "mine", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["num_train"] == 200
    names = {"batch_size", "gradient_error", "cosine", "b_simple", "seconds_per_update", "samples_per_second"}
    assert all(names | {"peak_memory_bytes"} <= set(row) for row in document["rows"])
    first, last = document["rows"]
    assert first["gradient_error"] > 10 * last["gradient_error"] > 0
    assert 0 < first["cosine"] < last["cosine"] < 1
    place = tmp_path / "results" / "mine"
    assert {path.name for path in place.iterdir()} == {
        *("gradient.csv", "gradient.json", "hardware.csv", "hardware.json", "report")
    }
    assert {path.stem for path in (place / "report").iterdir()} == {"measured", "gradient", "throughput", "memory"}
    with (place / "gradient.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))) == columns(GradientRow)
    rows = read_gradients(place / "gradient.csv")
    assert [row.batch_size for row in rows] == [1, 1, 16, 16]
    assert document["gradient"][0]["gradient_error"] == rows[0].gradient_error == first["gradient_error"]
    about = json.loads((place / "gradient.json").read_text())
    assert (about["num_train"], about["train_size"], about["model"]) == (200, 200, "mlp")
    assert str(tmp_path) not in json.dumps(about)
    text = (place / "report/measured.md").read_text("utf-8")
    assert "The smaller the batch, the further its gradient is from the exact one" in text
    assert "The knee is batch" in text


def test_gradients_along_a_training_agree_with_those_of_its_checkpoint(bsexp: Bsexp, tmp_path: Path) -> None:
    along = bsexp(*GRADIENT, "--at", "0,2", "--batch-size", "20", "--json")
    assert along.returncode == 0, along.stderr
    rows = json.loads(along.stdout)["gradient"]
    assert [row["samples"] for row in rows] == [0] * 6 + [600] * 6
    assert not (tmp_path / "results/hardware/hardware.csv").exists()
    run = ("run", "fixed-small", "--batch-size", "20", "--train-size", "300", "--epochs", "2", "--threads", "1")
    kept = json.loads(bsexp(*run, "--save-model", "--json").stdout)["run_dir"]
    sizes = ("--only", "gradient", "--threads", "1", "--batch-sizes", "1,8,64")
    there = bsexp("measure", "--checkpoint", f"{kept}/model.pt", *sizes, "--name", "kept", "--json")
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout)["gradient"] == rows[6:]
    said = bsexp("measure", "--checkpoint", f"{kept}/model.pt", *sizes, "--name", "kept", "--lr", "1").stderr
    assert "--lr: beside --checkpoint; its run's own settings hold" in said


def test_a_checkpoint_of_an_unfinished_run_is_read(bsexp: Bsexp, tmp_path: Path) -> None:
    import signal

    from tests.faults.programs import Program, wait_until

    options = ("run", "fixed-small", "--epochs", "40", "--train-size", "300", "--checkpoint-seconds", "0", "--quiet")
    run = Program(tmp_path, *options, "--threads", "1")
    found = lambda: sorted(tmp_path.glob("results/runs/runs/*/attempt-*/checkpoint-*.pt"))  # noqa: E731
    wait_until(lambda: len(found()) > 1, run)
    run.signal(signal.SIGKILL)
    run.wait()
    path = found()[-1]
    sizes = ("--only", "gradient", "--threads", "1", "--batch-sizes", "2,8", "--json")
    result = bsexp("measure", "--checkpoint", str(path), *sizes)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["gradient"][0]["samples"] == int(path.stem.partition("-")[2])
    path.write_bytes(path.read_bytes()[:-20])
    damaged = bsexp("measure", "--checkpoint", str(path), *sizes)
    assert (damaged.returncode, "its SHA-256 is not that of its content" in damaged.stderr) == (5, True)
    (tmp_path / "other.pt").write_bytes(b"nothing")
    assert (
        "no config.json and summary.json of its run beside it"
        in bsexp("measure", "--checkpoint", "other.pt", *sizes).stderr
    )


def test_a_network_with_batch_statistics_is_timed_and_its_gradients_are_left_out(bsexp: Bsexp, tmp_path: Path) -> None:
    options = ("measure", "--model", "cnn-small", "--norm", "batch", "--batch-sizes", "4", "--repeats", "3")
    result = bsexp(*options, "--threads", "1")
    assert result.returncode == 0, result.stderr
    assert "warning: gradients are left out: gradient: norm batch" in result.stderr
    assert not (tmp_path / "results/hardware/gradient.csv").exists()
    asked = bsexp(*options, "--at", "1")
    assert (asked.returncode, "norm batch: a sample has no gradient of its own" in asked.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", "1", "--only", "hardware"], "--at: 1 with --only hardware; it has no effect there"),
        (["--repeats", "4", "--only", "gradient"], "--repeats: 4 with --only gradient"),
        (["--seeds", "0-3"], "--seeds: 0-3 without --critical"),
        (["--critical", "--at", "1"], "--at: 1 with --critical"),
        (["--critical", "--batch-sizes", "1,2"], "--batch-sizes: 1,2 with --critical"),
        (["--critical", "--seed", "1"], "--seed: 1 with --critical"),
        (["--at", "1,x"], "--at: '1,x'; give numbers from 0, separated by commas"),
        (["--at", "1", "--checkpoint", "a.pt"], "--at: beside --checkpoint"),
        (["--precision", "bf16", "--only", "gradient"], "precision bf16: too coarse"),
        (["--train-size", "100", "--batch-sizes", "64"], "at most num_train // 2 = 50"),
        (["--only", "memory"], "'memory'; known: gradient, hardware"),
    ],
)
def test_wrong_usage_is_one_line_with_code_2(bsexp: Bsexp, arguments: list[str], said: str) -> None:
    result = bsexp("measure", *arguments)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_missing_checkpoint_is_told(bsexp: Bsexp) -> None:
    result = bsexp("measure", "--checkpoint", "nothing.pt")
    assert (result.returncode, "--checkpoint: nothing.pt: No such file" in result.stderr) == (5, True)


def test_the_sentence_of_the_sixth_claim() -> None:
    # 1, 8, 64, 512 samples in .021, .028, .084, .532 seconds.
    told = faster(affine(per_update=0.02, per_sample=0.001))
    assert told == "Larger batches are faster here: 20.2-fold from batch 1 to 512; memory was not measured."
    assert faster(TABLE).startswith("Larger batches are faster here: 1.6-fold from batch 1 to 4; memory was not")
    flat = affine(per_update=0.0, per_sample=2.0**-10)
    assert "not faster here" in faster(flat)


def test_what_was_measured_earlier_is_told_as_well(tmp_path: Path) -> None:
    from bsexp.store.hardware import write_hardware

    place = Experiment(tmp_path / "mine")
    write_hardware(place.hardware, ROWS, {"model": "mlp"})
    (part,) = write_measured(place)
    assert part.sentences[0] == "Larger batches are faster here: 4-fold from batch 1 to 16; memory was not measured."
    assert {path.name for path in place.report.iterdir()} == {
        *("measured.md", "throughput.png", "throughput.svg", "memory.png", "memory.svg")
    }
    before = {path.name: path.read_bytes() for path in place.report.iterdir()}
    write_measured(place)
    assert {path.name: path.read_bytes() for path in place.report.iterdir()} == before
