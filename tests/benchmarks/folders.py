"""Folders of results as a sweep leaves them, without the training: many runs in the real format within seconds.

The one rule: texts come from the store's own functions; only the numbers are made up, and `test_predictions.npz` is
left out, which neither status nor report reads. Torch isn't imported: a child's peak memory counts from its parent's.
"""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bsexp import RunConfig
from bsexp.records import EvalRow, Outcome, StepRow, columns, eval_columns
from bsexp.store.definition import merge_definition
from bsexp.store.files import csv_text
from bsexp.store.paths import Experiment, RunFolder
from bsexp.store.runs import config_document, summarise
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.grid import arm_definition

NUM_TRAIN, EPOCHS, LOG_ROWS, EVALUATIONS = 1293, 20.0, 200, 40
TOTAL = round(NUM_TRAIN * EPOCHS)
SCHEDULES = ("fixed-small", "fixed-large", "growing-batch", "lr-decay", "one-cycle")
RATES = (0.0125, 0.05, 0.1, 0.2)


def make_runs(place: Experiment, number: int, unfinished: float = 0.0) -> dict[str, int]:
    """`number` runs of twenty arms on `digits`, in `place`; how many are in which state.

    A share `unfinished` of them waits, as many have failed, as many have diverged.
    """
    arms = {f"{schedule}-{rate:g}": (schedule, rate) for schedule in SCHEDULES for rate in RATES}
    settings = {arm: {"schedule": schedule, "lr": rate, "parameters": {}} for arm, (schedule, rate) in arms.items()}
    seeds = -(-number // len(arms))
    place.path.mkdir(parents=True)
    definitions = {arm: arm_definition(chosen, tuned=False) for arm, chosen in settings.items()}
    question = {"question": "Made up", "demonstration": True, "seeds": list(range(seeds)), "arms": definitions}
    merge_definition(place, question)
    draw = random.Random(0)
    environment = {**describe_machine(), "device": "cpu", "threads": 1, "allocator": "kept", "deterministic": False}
    states: dict[str, int] = {}
    for k in range(number):
        seed, position = divmod(k, len(arms))
        arm = list(arms)[position]
        state = _state(draw.random(), unfinished)
        states[state] = states.get(state, 0) + 1
        config = RunConfig(**settings[arm], seed=seed)
        folder = place.run(arm, config.lr, seed, config.hash)
        _write(folder, place.name, arm, config, state, environment, draw)
    return states


def _state(chance: float, share: float) -> str:
    for k, state in enumerate(("waiting", "failed", "diverged"), start=1):
        if chance < k * share:
            return state
    return "finished"


def _write(
    folder: RunFolder,
    name: str,
    arm: str,
    config: RunConfig,
    state: str,
    environment: dict[str, Any],
    draw: random.Random,
) -> None:
    """One run's files. Plainly: what a crash would leave is of no interest, and syncing takes minutes."""
    folder.path.mkdir(parents=True)
    _put(folder.config, config_document(config, arm))
    if state == "failed":
        _put(folder.failure, {"schema_version": 1, "reason": "made up", "trace": ""})
    if state not in ("finished", "diverged"):
        return
    end = 0.9 + 0.05 * draw.random()
    rows = list(_evals(end))
    _put(folder.environment, environment)
    folder.steps.write_text(csv_text(columns(StepRow), map(asdict, _steps(config, end))), encoding="utf-8")
    folder.evals.write_text(csv_text(eval_columns(config.val_fraction), map(asdict, rows)), encoding="utf-8")
    outcome = _outcome(state, rows[-1])
    _put(folder.summary, summarise(name, arm, config, config.batch_size, 2.0, outcome))


def _put(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _steps(config: RunConfig, end: float) -> Iterator[StepRow]:
    size = config.batch_size
    updates = TOTAL // size
    for k in range(1, LOG_ROWS + 1):
        step = max(k, k * updates // LOG_ROWS)
        loss = 2.3 * math.exp(-4 * k / LOG_ROWS) + (1 - end) * math.pi
        # The last update takes what remains: a run's rows end where the run ended.
        samples = TOTAL if k == LOG_ROWS else step * size
        row = (
            step - 1,
            samples,
            samples / NUM_TRAIN,
            size,
            size,
            config.lr,
            0.9,
            39.9,
            loss,
            None,
            None,
            None,
            k / 100,
        )
        yield StepRow(*row)


def _evals(end: float) -> Iterator[EvalRow]:
    for k in range(EVALUATIONS + 1):
        share = k / EVALUATIONS
        accuracy = 0.1 + (end - 0.1) * (1 - math.exp(-5 * share))
        loss = 2.3 * (1 - accuracy) + math.pi / 1000
        position = (40 * k, round(TOTAL * share), EPOCHS * share, share * 2)
        yield EvalRow(*position, loss, accuracy, loss * 1.1, accuracy - 0.01, loss * 1.05, accuracy)


def _outcome(state: str, last: EvalRow) -> Outcome:
    if state == "diverged":
        return Outcome("diverged", last.step, last.samples, 2.0, 0.2, reason="loss became nan at step 12")
    tested = {f"test_{what}{which}": 0.9 for what in ("accuracy", "loss") for which in ("", "_ema")}
    validated = {f"val_{what}{which}": 0.9 for what in ("accuracy", "loss") for which in ("", "_ema")}
    return Outcome(
        "finished",
        last.step,
        last.samples,
        2.0,
        0.2,
        train_accuracy=last.train_accuracy,
        train_loss=last.train_loss,
        generalization_gap=last.train_accuracy - 0.9,
        best_val_accuracy=last.val_accuracy,
        total_shrink=0.04,
        num_parameters=26122,
        device="cpu",
        **tested,
        **validated,
    )
