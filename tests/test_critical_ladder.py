"""The critical batch from updates to a target: planted ladders whose answer is known, and what a report says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bsexp.analysis.critical_ladder import critical_ladders
from bsexp.report import write_report
from bsexp.report.critical_ladders import critical_parts, sentence
from bsexp.store.tables import Results
from tests.made_results import results

SIZES = (4, 8, 16, 32, 64, 128, 256)
TARGET = 0.5
SEEDS = 12


def planted(critical: float, fewest: float = 200.0, **changes: Any) -> Results:
    """Runs at a constant rate whose averaged loss falls in a line from 1 and passes .5 after fewest (1 + critical / B)
    updates, 5 % more or less from seed to seed; last weights pass it far earlier.
    """
    luck = np.exp(np.random.default_rng(4).normal(0, 0.05, (len(SIZES), SEEDS)))
    arms = {f"b{size}": {"schedule": "fixed-small", "dataset": "digits", "batch_size": size} for size in SIZES}
    made = results(accuracies=dict.fromkeys(arms, (0.8,) * SEEDS), arms=arms)
    evals = []
    for place, size in enumerate(SIZES):
        for seed in range(SEEDS):
            cost = fewest * (1 + critical / size) * luck[place, seed]
            steps = np.round(np.linspace(0, 2 * cost, 9)).astype(int)
            losses = 1 - 0.5 * steps / cost
            rows = made.evals[made.evals["config_hash"] == f"b{size}-{seed}"].iloc[[0] * 9].reset_index(drop=True)
            evals.append(rows.assign(step=steps, samples=steps * size, val_loss=losses / 3, val_loss_ema=losses))
    tuning = pd.DataFrame(
        {
            "arm": arm,
            "lr": lr,
            "seeds": "100",
            "val_loss": 0.5 + abs(lr - 0.1),
            "chosen": lr == 0.1,
            "status": "finished",
        }
        for arm in arms
        for lr in (0.05, 0.1, 0.2)
    ).assign(place="2 of 3")
    definition = {"target": {"val_loss_ema": TARGET}}
    runs = made.runs.assign(lr=0.1)
    given = {"evals": pd.concat(evals, ignore_index=True), "runs": runs, "tuning": tuning, "definition": definition}
    return results(accuracies=dict.fromkeys(arms, (0.8,) * SEEDS), arms=arms, **{**given, **changes})


@pytest.mark.parametrize("critical", [24.0, 60.0])
def test_a_planted_critical_batch_is_found_with_its_asymptotes(critical: float) -> None:
    (found,) = critical_ladders(planted(critical))
    assert [size.batch_size for size in found.sizes] == list(SIZES)
    assert found.sizes[0].updates.shape == (SEEDS,)
    assert found.sizes[0].updates.mean() == pytest.approx(200 * (1 + critical / 4), rel=0.05)
    estimate = found.fit.estimate
    assert found.fit.says == "estimate"
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= critical <= estimate.high
    assert estimate.high / estimate.low < 1.5
    assert found.fewest_updates == pytest.approx(200, rel=0.1)
    assert found.fewest_samples == pytest.approx(200 * critical, rel=0.15)
    said = sentence(found)
    assert said.startswith(
        f"Over 7 batch sizes from 4 to 256 the critical batch is {estimate.mean:.3g} samples, between "
    )


def test_beyond_the_sizes_tried_there_is_only_a_bound() -> None:
    (far,) = critical_ladders(planted(4000))
    assert far.fit.says == "at least"
    assert sentence(far).startswith("Only a bound of the critical batch can be told")
    # No line is drawn then, and none is explained.
    captions = [critical_parts(planted(critical))[0][0].figure.caption for critical in (24, 4000)]
    assert ["Line: the fit" in caption for caption in captions] == [True, False]
    (near,) = critical_ladders(planted(1))
    assert near.fit.says == "at most"


def test_a_size_that_missed_the_target_is_shown_and_left_out_of_the_fit() -> None:
    made = planted(24)
    lost = made.evals["config_hash"] == "b256-3"
    evals = made.evals.assign(val_loss_ema=made.evals["val_loss_ema"].where(~lost, 0.9))
    (found,) = critical_ladders(planted(24, evals=evals))
    assert math.isinf(found.sizes[-1].updates[3])
    assert any("256 missed the target" in note for note in found.fit.notes)
    assert found.fit.says == "estimate"
    parts, _ = critical_parts(planted(24, evals=evals))
    assert [[cell.text for cell in row][-1] for row in parts[0].table.rows] == ["12 of 12"] * 6 + ["11 of 12"]
    # A run that diverged has missed it too; one that its machine lost takes its seed out of all sizes.
    runs = made.runs.assign(status=made.runs["status"].where(made.runs["config_hash"] != "b256-3", "diverged"))
    (found,) = critical_ladders(planted(24, runs=runs))
    assert math.isinf(found.sizes[-1].updates[3])
    (found,) = critical_ladders(planted(24, runs=made.runs[made.runs["config_hash"] != "b256-3"]))
    assert found.sizes[0].updates.shape == (SEEDS - 1,)


def test_only_constant_rates_tuned_and_read_on_averaged_weights_speak() -> None:
    made = planted(24)
    assert critical_ladders(planted(24, definition={"target": {"val_loss": TARGET}})) == []
    assert critical_ladders(planted(24, definition={})) == []
    assert critical_ladders(planted(24, tuning=None)) == []
    arms = {arm: {**settings, "schedule": "lr-decay"} for arm, settings in made.arms.items()}
    assert critical_ladders(results(arms=arms, runs=made.runs, evals=made.evals, tuning=made.tuning)) == []


def test_the_report_tells_and_draws_it(tmp_path: Path) -> None:
    written = write_report(planted(24), tmp_path / "report")
    assert {"critical-batch.png", "critical-batch.svg"} <= set(written.figures)
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "## Critical batch" in text
    assert "the critical batch is" in text
    write_report(results(), tmp_path / "report")
    assert not (tmp_path / "report" / "critical-batch.png").exists()
