"""Small results with round numbers, for tests of the report. Nothing here was trained."""

from typing import Any

import pandas as pd

from bsexp.records import SUMMARY_COLUMNS, EvalRow, StepRow, columns
from bsexp.store.tables import Results

ACCURACIES = {"small": (0.80, 0.82, 0.84), "large": (0.79, 0.80, 0.84), "grow": (0.90, 0.92, 0.94)}
UPDATES = {"small": 40, "large": 10, "grow": 20}
BATCHES = {"small": (10, 10), "large": (40, 40), "grow": (10, 40)}


def results(
    accuracies: dict[str, tuple[float, ...]] | None = None,
    status: dict[tuple[str, int], str] | None = None,
    **changes: Any,
) -> Results:
    """Arms with one run per accuracy, seeds from 0; `status` of single runs; `changes` of the fields of Results.

    100 training samples, 4 epochs; test loss is 1 - accuracy, averaged weights one point above.
    """
    given = ACCURACIES if accuracies is None else accuracies
    runs, evals, steps = [], [], []
    for arm, values in given.items():
        for seed, accuracy in enumerate(values):
            state = (status or {}).get((arm, seed), "finished")
            key = {"arm": arm, "seed": seed, "config_hash": f"{arm}-{seed}"}
            runs.append(_run(arm, seed, accuracy, state))
            evals.append(_evals(arm, accuracy).assign(lr=0.1, **key))
            steps.append(_steps(arm).assign(**key))
    settings = {arm: {"schedule": arm, "label_noise": 0.2, "nesterov": False} for arm in given}
    fields: dict[str, Any] = {
        "name": "made",
        "question": "Does it?",
        "demonstration": False,
        "arms": settings,
        "runs": pd.DataFrame(runs, columns=list(SUMMARY_COLUMNS)),
        "evals": pd.concat(evals, ignore_index=True) if evals else pd.DataFrame(columns=[*columns(EvalRow)]),
        "steps": pd.concat(steps, ignore_index=True) if steps else pd.DataFrame(columns=[*columns(StepRow)]),
        "tuning": None,
        "planned": len(runs),
        "environments": [{"device": "cpu", "cpu": "a processor", "threads": 2, "python": "3.12", "torch": "2.11"}],
    }
    return Results(**{**fields, **changes})


def empty(planned: int = 6) -> Results:
    """An experiment of which no run has finished."""
    made = results()
    return results(
        planned=planned, runs=made.runs.iloc[:0], evals=made.evals.iloc[:0], steps=made.steps.iloc[:0], environments=[]
    )


def _run(arm: str, seed: int, accuracy: float, state: str) -> dict[str, Any]:
    run: dict[str, Any] = {
        "experiment": "made",
        "arm": arm,
        "schedule": arm,
        "dataset": "digits",
        "model": "mlp",
        "seed": seed,
        "lr": 0.1,
        "batch_size": BATCHES.get(arm, (10, 10))[0],
        "max_batch": 40,
        "epochs": 4.0,
        "status": state,
        "updates": UPDATES.get(arm, 40),
        "samples": 400,
        "train_seconds": 1.0 + seed,
        "eval_seconds": 0.5,
        "wall_seconds": 2.0,
        "device": "cpu",
        "config_hash": f"{arm}-{seed}",
        "reason": "",
    }
    if state == "finished":
        run |= {"val_accuracy": accuracy, "val_loss": 1 - accuracy, "test_accuracy": accuracy}
        run |= {"test_loss": 1 - accuracy, "test_accuracy_ema": accuracy + 0.01, "test_loss_ema": 0.99 - accuracy}
        run |= {"val_accuracy_ema": accuracy + 0.01, "val_loss_ema": 0.99 - accuracy}
        run |= {"train_accuracy": accuracy + 0.05, "generalization_gap": 0.05, "num_parameters": 1000}
    return run


def _evals(arm: str, accuracy: float) -> pd.DataFrame:
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    updates = UPDATES.get(arm, 40)
    rows = [
        (round(s * updates), round(400 * s), 4 * s, s, 2 - s, 0.1 + s / 2, 2 - s - accuracy, 0.1 + s * (accuracy - 0.1))
        for s in shares
    ]
    frame = pd.DataFrame(rows, columns=[*columns(EvalRow)[:8]])
    return frame.assign(val_loss_ema=frame["val_loss"] - 0.01, val_accuracy_ema=frame["val_accuracy"] + 0.01)


def _steps(arm: str) -> pd.DataFrame:
    first, last = BATCHES.get(arm, (10, 10))
    half = 200
    sizes = [first] * (half // first) + [last] * (half // last)
    frame = pd.DataFrame({"step": range(len(sizes)), "batch_size": sizes})
    frame["samples"] = frame["batch_size"].cumsum()
    frame["epoch"] = frame["samples"] / 100
    frame["noise_scale"] = 0.1 / 0.1 * (100 / frame["batch_size"] - 1)
    return frame.assign(micro_batch_size=frame["batch_size"], lr=0.1, momentum=0.9, train_loss=1.0).reindex(
        columns=list(columns(StepRow))
    )
