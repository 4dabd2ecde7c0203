"""Exported schedules, in a process of their own that can't import bsexp, beside what bsexp plans: to the last bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bsexp.errors import UsageError
from bsexp.export import RULES, export_schedule
from bsexp.schedules import SCHEDULES, Progress, Schedule, Setting, make_schedule, simulate
from bsexp.schedules.shapes import BATCH_SHAPES, LR_SHAPES
from tests.conftest import Bsexp

NUM_TRAIN, TOTAL = 1_000, 12_345

# Walks the budget by the exported function alone. What it imports is all that there is to import.
WALK = """
import json, sys
try:
    import bsexp
except ImportError:
    pass
else:
    sys.exit("bsexp can be imported: this test shows nothing")
space = {}
exec(compile(open(sys.argv[1], encoding="utf-8").read(), "exported", "exec"), space)
rows, samples = [], 0
while samples < int(sys.argv[2]):
    batch_size, lr, momentum = space["schedule"](samples)
    rows.append((samples, batch_size, lr.hex(), momentum.hex()))
    samples += batch_size
others = sorted(name for name, value in space.items() if type(value) is type(sys))
json.dump({"rows": rows, "imports": others}, sys.stdout)
"""


def walked(source: str, total: int, folder: Path) -> dict[str, Any]:
    file = folder / "exported.py"
    file.write_text(source, encoding="utf-8")
    # Isolated, without site-packages: the standard library is all there is.
    command = [sys.executable, "-I", "-S", "-c", WALK, str(file), str(total)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def same_as_planned(schedule: Schedule, folder: Path, total: int = TOTAL, num_train: int = NUM_TRAIN) -> str:
    source = export_schedule(schedule, total_samples=total, num_train=num_train)
    found = walked(source, total, folder)
    assert found["imports"] == ["math"]
    planned = simulate(schedule, total_samples=total, num_train=num_train)
    assert found["rows"] == [[u.samples, u.batch_size, u.lr.hex(), u.momentum.hex()] for u in planned]
    return source


def made(name: str, parameters: dict[str, Any] | None = None, **setting: Any) -> Schedule:
    return make_schedule(name, Setting(**{"batch_size": 8, "lr": 0.1, "max_batch": 100, **setting}), parameters or {})


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {}, {}) for name, strategy in SCHEDULES.items() if not strategy.closed),
    *(("lr-decay", {"shape": shape}, {"warmup_epochs": 0.7}) for shape in LR_SHAPES),
    *(("growing-batch", {"shape": shape}, {}) for shape in BATCH_SHAPES),
    *(("growing-batch", {"match": shape}, {}) for shape in LR_SHAPES),
    ("lr-decay", {"shape": "wsd", "cooldown": "sqrt", "final_lr_fraction": 0.03}, {"warmup_epochs": 2.0}),
    ("lr-decay", {"shape": "cosine-restarts", "cycles": 3, "cycle_mult": 1.7}, {}),
    ("growing-batch", {"at_cap": "hold", "milestones": [0.2, 0.5], "factor": 7.5}, {"lr_scaling": "linear"}),
    ("growing-batch", {"factor": 3}, {"optimizer": "adamw", "lr_scaling": "auto"}),
    ("growing-batch", {"match": "cosine"}, {"optimizer": "adamw", "allow_unstable": True}),
    ("growing-batch", {"match": "linear", "at_cap": "hold"}, {"optimizer": "adamw", "allow_unstable": True}),
    ("growing-batch", {"match": "linear", "at_cap": "hold"}, {"warmup_epochs": 1.0}),
    ("late-switch", {"switch": 0.61, "factor": 5, "at_cap": "hold"}, {"lr_scaling": "0.75"}),
    ("late-switch", {"factor": 40}, {"momentum": 0.5}),
    ("batch-warmup", {"ramp": 0.37, "shape": "inverse-sqrt"}, {"batch_size": 50, "warmup_epochs": 0.3}),
    ("fixed-large", {}, {"batch_size": 96, "reference_batch": 8}),
    ("fixed-large", {"warmup_start": 0.3}, {"batch_size": 96, "reference_batch": 8, "lr_scaling": "sqrt"}),
    ("hybrid", {"share": 0.3, "shape": "cosine"}, {}),
    ("hybrid", {"shape": "exponential"}, {"optimizer": "adamw"}),
    ("hybrid", {"grow_stages": 2, "factor": 4}, {}),
    ("hybrid", {"grow_stages": 0}, {}),
    ("one-cycle", {"anneal": "linear", "three_phase": True}, {}),
    ("one-cycle", {"cycle_momentum": False}, {"momentum": 0.7}),
    *(("cyclic", {"shape": shape, "cycle_momentum": True}, {}) for shape in ("triangular", "triangular2", "exp-range")),
    (
        "custom",
        {
            "batch": {"curve": "power-rise", "start": 1, "end": 6},
            "lr": {
                "sequence": [
                    {"curve": "linear", "start": 0.1, "end": 1},
                    {"product": [{"curve": "cosine", "end": 0.1}, {"curve": "piecewise"}, {"curve": "wsd"}]},
                ],
                "boundaries": [0.15],
            },
            "momentum": {"curve": "triangular", "cycles": 2, "ratio": 1.2, "peak": 0.3, "halving": True},
        },
        {},
    ),
    # It wants less at the end than what is left there: the closing update is told by its position.
    ("custom", {"batch": {"curve": "step", "milestones": [0.99], "factor": 0.02}}, {"batch_size": 100}),
]


@pytest.mark.parametrize(("name", "parameters", "setting"), CASES, ids=str)
def test_an_exported_schedule_is_the_planned_one_at_every_update(
    name: str, parameters: dict[str, Any], setting: dict[str, Any], tmp_path: Path
) -> None:
    same_as_planned(made(name, parameters, **setting), tmp_path)


def test_every_strategy_can_be_exported() -> None:
    assert set(RULES) == {name for name, strategy in SCHEDULES.items() if not strategy.closed}


def test_a_closed_loop_is_no_function_of_samples_but_one_that_is_only_asked_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="decided along a run is no function of samples"):
        export_schedule(made("adaptive-batch"), total_samples=TOTAL, num_train=NUM_TRAIN)
    asked = made("adaptive-batch", {"policy": "shadow", "follow": "growing-batch"})
    followed = made("growing-batch")
    source = same_as_planned(asked, tmp_path)
    assert source == export_schedule(followed, total_samples=TOTAL, num_train=NUM_TRAIN)


@pytest.mark.parametrize("total", [5, 8, 12, 15, 16, 17, 23, 24, 25])
def test_the_last_two_updates_share_what_remains_in_short_budgets_too(total: int, tmp_path: Path) -> None:
    same_as_planned(made("fixed-small"), tmp_path, total)


def test_positions_outside_the_budget_are_refused_and_others_give_whole_batches() -> None:
    space: dict[str, Any] = {}
    exec(export_schedule(made("fixed-small"), total_samples=100, num_train=500, title='a "title" """ \\'), space)
    assert space["schedule"](3) == (8, 0.1, 0.9)
    # 95 is no update's start, 92 is that of the last one: what is left is taken either way.
    assert [space["schedule"](samples)[0] for samples in (84, 92, 95)] == [8, 8, 5]
    assert 'a "title"' in space["schedule"].__doc__
    for samples in (-1, 100):
        with pytest.raises(ValueError, match="from 0 to 100"):
            space["schedule"](samples)


def test_a_function_of_the_users_own_is_not_exported() -> None:
    def schedule(progress: Progress) -> Any:
        raise AssertionError

    with pytest.raises(UsageError, match="take that one"):
        export_schedule(schedule, total_samples=10, num_train=10)


def test_the_command_prints_what_plan_shows(bsexp: Bsexp, tmp_path: Path) -> None:
    options = ["--num-train", "5000", "--epochs", "3.3", "--batch-size", "16", "--lr", "0.05", "--max-batch", "300"]
    options += ["--set", "match=cosine", "--warmup-epochs", "0.2"]
    result = bsexp("export", "growing-batch", *options)
    assert (result.returncode, result.stderr) == (0, "")
    rows = json.loads(bsexp("plan", "growing-batch", *options, "--json").stdout)["rows"]
    found = walked(result.stdout, 16_500, tmp_path)["rows"]
    assert found == [[r["samples"], r["batch_size"], r["lr"].hex(), r["momentum"].hex()] for r in rows]
    assert "growing-batch: batch_size = 16, max_batch = 300, lr = 0.05, match = cosine" in result.stdout


def test_the_command_refuses_what_plan_refuses(bsexp: Bsexp) -> None:
    result = bsexp("export", "growing-bach")
    assert result.returncode == 2
    assert result.stderr.startswith("bsexp: schedule: unknown name 'growing-bach'; did you mean 'growing-batch'?")
    assert result.stdout == ""
