"""Case 41: rows for TensorBoard, and that it may fail."""

import csv
import logging
import signal
import sys
import warnings
from pathlib import Path

import pytest

from bsexp.records import EvalRow
from bsexp.sweep.loggers import Guarded, TensorBoard
from tests.faults.inside import said
from tests.faults.programs import Program, contents, finish, wait_until

RUN = ("run", "growing-batch", "--epochs", "4", "--evals", "9", "--threads", "1", "--dropout", "0.2")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard itself would draw."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(folder))
        accumulator.Reload()
        return [(event.step, event.value) for event in accumulator.Scalars(name)]


def column(path: Path, name: str) -> list[tuple[int, float]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [(int(row["samples"]), pytest.approx(float(row[name]), rel=1e-6)) for row in csv.DictReader(file)]


def test_tensorboard_shows_the_rows_of_all_attempts_and_changes_none(tmp_path: Path) -> None:
    stopped = Program(tmp_path, *RUN, "--tensorboard", "--checkpoint-seconds", "0.05", "--out", "drawn")
    wait_until(lambda: list(tmp_path.rglob("checkpoint-*.pt")), "a checkpoint")
    stopped.signal(signal.SIGTERM)
    assert stopped.wait() == 143
    finish(tmp_path, *RUN, "--tensorboard", "--out", "drawn")
    finish(tmp_path, *RUN, "--out", "plain")
    (run,) = tmp_path.glob("drawn/runs/runs/*")
    for name, file in (("val_loss", "evaluations"), ("batch_size", "updates")):
        table = run / ("evals.csv" if file == "evaluations" else "steps.csv")
        assert dict(scalars(run / "tensorboard", f"{file}/{name}")) == dict(column(table, name))
    drawn = contents(tmp_path / "drawn")
    assert {path: content for path, content in drawn.items() if "tensorboard" not in str(path)} == contents(
        tmp_path / "plain"
    )


def test_a_tensorboard_that_fails_is_one_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    finish(tmp_path, *RUN, "--out", "plain")
    (run,) = (path.name for path in tmp_path.glob("plain/runs/runs/*"))
    for number in range(2):
        place = tmp_path / f"out{number}" / "runs" / "runs" / run
        place.mkdir(parents=True)
        (place / "tensorboard").write_text("in the way")
        out = finish(tmp_path, *RUN, "--tensorboard", "--out", f"out{number}")
        lines = [line for line in out.said().splitlines() if "warning" in line]
        assert len(lines) == 1
        assert "TensorBoard failed, the run goes on without it: " in lines[0]
        (place / "tensorboard").unlink()
        assert contents(tmp_path / f"out{number}") == contents(tmp_path / "plain")


def test_a_logger_that_failed_is_not_called_again(caplog: pytest.LogCaptureFixture) -> None:
    """One that fails in the middle of a run can't be had at will; this one stands in for it."""
    calls = []

    class Fails(TensorBoard):
        def __init__(self) -> None: ...

        def row(self, record: object) -> None:
            calls.append(record)
            if len(calls) == 2:
                raise OSError("no room\nat all")

        def close(self) -> None:
            calls.append("closed")

    logger = Guarded(Fails)
    row = EvalRow(1, 16, 0.1, 0.0, 1.0, 0.5, 1.0, 0.5, None, None)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            logger.row(row)
        logger.close()
    assert calls == [row, row]
    assert [record.getMessage() for record in caplog.records] == [
        "TensorBoard failed, the run goes on without it: OSError: no room"
    ]


def test_without_the_package_it_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    refused = said(*RUN, "--tensorboard")
    assert refused.code == 6
    assert "pip install 'bsexp[tensorboard]'" in refused.line
    assert not list(tmp_path.iterdir())
