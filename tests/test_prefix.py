"""Beginnings that several runs have in common: where they part, and that sharing them changes no byte."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsexp.planning import plan_run
from bsexp.schedules import simulate
from bsexp.store.paths import Experiment as Place
from bsexp.sweep.conduct import _with_heirs
from bsexp.sweep.configs import build_config
from bsexp.sweep.grid import PlannedRun, plan_runs, task_of
from bsexp.sweep.prefix import find_forks
from tests.faults.programs import Program as Begun
from tests.faults.programs import contents, finish, wait_until

STEP = {"shape": "step", "milestones": [0.5, 0.75], "factor": 4}


def planned(**arms: dict[str, Any]) -> list[PlannedRun]:
    return plan_runs(arms, [0])


def trained(runs: list[PlannedRun]) -> int:
    return sum(run.plan.total_samples for run in runs) - sum(fork.samples for fork in find_forks(runs).values())


def arm(schedule: str, parameters: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    return {"schedule": schedule, "parameters": parameters or {}, "epochs": 8, **rest}


def test_runs_part_at_the_first_update_that_differs() -> None:
    runs = planned(fixed=arm("fixed-small"), decay=arm("lr-decay", STEP), grow=arm("growing-batch", STEP))
    # 8 epochs of 1,293 samples are 10,344; half of them end in update 324 of 16 samples, which is made whole: 5,184.
    assert {number: (fork.parent, fork.samples) for number, fork in find_forks(runs).items()} == {
        1: (0, 5184),
        2: (0, 5184),
    }
    assert trained(runs) <= 0.70 * 3 * 10_344


def test_a_grid_of_milestones_and_factors_is_a_tree() -> None:
    grid = [(first, factor) for first in (0.4, 0.5, 0.6, 0.7) for factor in (2, 3, 4)]
    runs = planned(
        **{
            f"{first}-{factor}": arm("growing-batch", {**STEP, "milestones": [first, 0.8], "factor": factor})
            for first, factor in grid
        }
    )
    # By hand: one run whole, two that part from it with it at .7, three each at .6, .5 and .4.
    whole = 1 + 2 * 0.3 + 3 * (0.4 + 0.5 + 0.6)
    assert trained(runs) == pytest.approx(whole * 10_344, rel=0.005)
    assert trained(runs) <= 0.60 * 12 * 10_344


def test_a_ladder_of_budgets_has_one_trunk_whatever_the_budgets() -> None:
    rungs = planned(
        **{str(n): arm("lr-decay", {"shape": "wsd"}, warmup_epochs=0.3) | {"epochs": n} for n in (11, 7, 5, 3)}
    )
    assert {fork.parent for fork in find_forks(rungs).values()} == {0}
    assert trained(rungs) <= 1.35 * rungs[0].plan.total_samples


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"dropout": 0.1},
        {"label_noise": 0.1},
        {"weight_decay": 1e-3},
        {"averaging": "none"},
        {"evals": 7},
        {"nesterov": True},
        {"optimizer": "adamw"},
        {"micro_batch": 8},
        {"lr": 0.02},
        {"momentum": 0.8},
        {"batch_size": 17},
    ],
    ids=str,
)
def test_what_makes_other_numbers_is_not_shared(other: dict[str, Any]) -> None:
    mine = arm("lr-decay", STEP, lr=0.0125)
    runs = planned(one=mine, two=mine | {key: value for key, value in other.items() if key != "seed"})
    if "seed" in other:
        runs[1] = plan_runs({"two": mine}, [1])[0]
    assert find_forks(runs) == {}


def test_the_reference_batch_matters_where_the_decay_is_counted_in_samples() -> None:
    for clock, number in (("update", 1), ("samples", 0)):
        runs = planned(
            one=arm("fixed-small", weight_decay_clock=clock),
            two=arm("lr-decay", STEP, weight_decay_clock=clock, reference_batch=32),
        )
        assert len(find_forks(runs)) == number


@pytest.mark.parametrize(
    ("one", "two", "epochs"),
    [
        ((0, 0), (1, 3), 3),
        ((1, 2), (1, 5), 2),
        ((1, 5), (2, 2), 2),
        ((2, 4), (1, 4), 4),
        ((1, 0), (1, 1), 0),
        ((0, 0), (1, 0), 0),
    ],
    ids=str,
)
def test_runs_in_other_orders_part_where_the_first_of_them_begins(
    one: tuple[int, int], two: tuple[int, int], epochs: int
) -> None:
    runs = planned(**{str(k): arm("fixed-small", order=n, order_from=first) for k, (n, first) in enumerate((one, two))})
    # Updates of 16 samples that lie wholly in the epochs before: 1,293 samples are 80.8 of them.
    wanted = epochs * 1293 // 16 * 16
    assert [fork.samples for fork in find_forks(runs).values()] == ([wanted] if epochs else [])


def test_runs_in_one_order_share_beyond_the_place_where_it_begins() -> None:
    runs = planned(one=arm("fixed-small", order=1, order_from=1), two=arm("lr-decay", STEP, order=1, order_from=1))
    assert [fork.samples for fork in find_forks(runs).values()] == [5184]
    # And with another schedule the earlier of both places counts.
    runs = planned(one=arm("fixed-small"), two=arm("lr-decay", STEP, order=1, order_from=6))
    assert [fork.samples for fork in find_forks(runs).values()] == [5184]


SHAPES = st.sampled_from(
    [
        ("fixed-small", {}),
        ("lr-decay", STEP),
        ("lr-decay", {"shape": "linear"}),
        ("growing-batch", STEP),
        ("late-switch", {}),
        ("lr-decay", {"shape": "wsd"}),
        ("one-cycle", {}),
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SHAPES, st.sampled_from([1, 2, 3.5]), st.sampled_from([16, 24])), min_size=2, max_size=5))
def test_forks_are_those_of_a_plain_comparison(drawn: list[Any]) -> None:
    arms = [arm(name, dict(values), batch_size=size) | {"epochs": n} for (name, values), n, size in drawn]
    runs = [
        PlannedRun("", config, plan_run(config, 1293)) for config in (build_config(settings, 0) for settings in arms)
    ]
    courses = []
    for run in runs:
        updates = simulate(run.config.build_schedule(), total_samples=run.plan.total_samples, num_train=1293)
        courses.append([(update.batch_size, update.lr, update.momentum) for update in updates])
    forks = find_forks(runs)
    for number in range(len(runs)):
        best = 0
        for other in range(number):
            same = 0
            for mine, theirs in zip(courses[number], courses[other], strict=False):
                if mine != theirs:
                    break
                same += mine[0]
            best = max(best, same)
        found = forks[number].samples if number in forks else 0
        # Less only by the two updates that share the rest of a budget, and by what isn't worth it.
        rest = sum(size for size, _, _ in courses[number][-2:])
        assert best - rest <= found <= best or (found == 0 and best < 0.02 * runs[number].plan.total_samples + rest)


def test_a_run_made_anew_neither_gives_nor_takes(tmp_path: Path) -> None:
    runs = planned(a=arm("fixed-small"), b=arm("lr-decay", STEP), c=arm("growing-batch", STEP))
    tasks = [task_of(run, Place(tmp_path), "e") for run in runs]
    costs = {task.folder.path: 1.0 for task in tasks}
    tasks[0] = replace(tasks[0], anew=True)
    found = _with_heirs(tasks, runs, costs)
    assert [[heir.arm for _, heir in task.heirs] for task in found] == [[], ["c"], []]
    assert list(costs.values()) == [1.0, 1.0, pytest.approx(1 - 5184 / 10_344)]


FILE = """
[run]
label_noise = 0.2
dropout = 0.1
seeds = "0-1"
log_samples = 100
[arms.fixed]
schedule = "fixed-small"
epochs = 4
[arms.decay]
schedule = "lr-decay"
epochs = 4
milestones = [0.5, 0.75]
factor = 4
[arms.grow]
schedule = "growing-batch"
epochs = 4
milestones = [0.5, 0.8]
factor = 3
[arms.again]
schedule = "fixed-small"
epochs = 4
order = 1
order_from = 2
[arms.short]
schedule = "lr-decay"
shape = "wsd"
epochs = 3
[arms.wild]
schedule = "fixed-small"
epochs = 4
lr = 1e6
[arms.wild-too]
schedule = "lr-decay"
epochs = 4
lr = 1e6
"""
SWEEP = ("sweep", "e.toml", "--jobs", "2", "--no-report", "--json")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("alone")
    (place / "e.toml").write_text(FILE)
    program = finish(place, *SWEEP, "--no-share-prefix")
    assert program.document()["samples_trained"] == program.document()["samples_total"] - 4 * 4 * 1293 + trained_wild(
        place
    )
    return contents(place / "results")


def trained_wild(place: Path) -> int:
    """The samples after which the four diverged runs ended."""

    wild = [json.loads(path.read_text()) for path in place.glob("results/e/runs/wild*/summary.json")]
    assert [summary["status"] for summary in wild] == ["diverged"] * 4
    return sum(summary["samples"] for summary in wild)


def test_shared_beginnings_change_no_byte(alone: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(FILE)
    found = finish(tmp_path, *SWEEP).document()
    # Two seeds: one whole run, what three have left from the half on, the last fifth of a shorter one.
    assert found["samples_trained"] - trained_wild(tmp_path) == pytest.approx(2 * 1293 * (4 + 3 * 2 + 0.6), rel=0.02)
    assert contents(tmp_path / "results") == alone


def test_shared_beginnings_survive_kills(alone: dict[str, Any], tmp_path: Path) -> None:
    """Killed at once after the first beginning was handed on, then ended by a signal, then let be."""
    (tmp_path / "e.toml").write_text(FILE)
    often = ("--checkpoint-seconds", "0.05")
    first = Begun(tmp_path, *SWEEP, *often)
    wait_until(lambda: list(tmp_path.glob("results/e/runs/grow-*/attempt-1/checkpoint-*.pt")), "a beginning")
    first.kill()
    done = len(list(tmp_path.glob("results/e/runs/*/summary.json")))
    second = Begun(tmp_path, *SWEEP, *often)
    wait_until(lambda: len(list(tmp_path.glob("results/e/runs/*/summary.json"))) > done, "a finished run")
    second.signal(signal.SIGTERM)
    assert second.wait() in (143, 0)
    finish(tmp_path, *SWEEP)
    assert contents(tmp_path / "results") == alone


def test_a_beginning_is_not_handed_to_a_run_that_somebody_else_makes(alone: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(FILE)
    finish(tmp_path, *SWEEP, "--jobs", "0")
    workers = [
        Begun(tmp_path, "worker", "results/e", "--json", name=f"worker{k}", BSEXP_SHARE_PREFIX=str(k % 2).lower())
        for k in range(2)
    ]
    for worker in workers:
        assert worker.wait() == 0, worker.said()
    assert contents(tmp_path / "results") == alone
