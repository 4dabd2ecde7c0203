"""Budgets in updates, samples and seconds: solved into epochs, exactly, before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from bsexp.errors import UsageError
from bsexp.planning import plan_run
from bsexp.sweep.budgets import settle
from bsexp.sweep.configs import build_config, num_trained
from bsexp.sweep.experiment import read_experiment
from tests.conftest import Bsexp

GROW = {"schedule": "growing-batch", "batch_size": 16, "parameters": {"milestones": [0.5], "factor": 4}}
TABLE = "device,batch_size,micro_batch_size,seconds_per_update,spread,samples_per_second,peak_memory_bytes\n"


def plan(settings: dict[str, Any]) -> tuple[int, int]:
    """Updates and samples of settings whose budget was solved."""
    config = build_config(settings, 0)
    found = plan_run(config, num_trained(config))
    return found.updates, found.total_samples


def test_a_fixed_batch_makes_the_updates_asked_for_whole() -> None:
    assert plan(settle({"schedule": "fixed-small", "batch_size": 16, "updates": 100}, "")) == (100, 1600)


@pytest.mark.parametrize("updates", [3, 50, 777])
@pytest.mark.parametrize("settings", [GROW, {**GROW, "schedule": "hybrid"}, {"schedule": "batch-warmup"}])
def test_schedules_of_many_sizes_make_exactly_the_updates_asked_for(settings: dict[str, Any], updates: int) -> None:
    made, samples = plan(settle({**settings, "updates": updates}, ""))
    assert made == updates
    # And one sample more would be one update more.
    more = plan(settle({**settings, "budget": f"samples:{samples + 1}"}, ""))
    assert more == (updates + 1, samples + 1)


def test_samples_are_met_exactly() -> None:
    assert plan(settle({**GROW, "budget": "samples:12345"}, ""))[1] == 12345


def test_seconds_are_those_of_the_table(tmp_path: Path) -> None:
    # An update of 8 takes .008 s, one of 64 .064: 1 ms a sample, whatever the batch.
    (tmp_path / "hardware.csv").write_text(TABLE + "cpu,8,8,0.008,0,1000,\ncpu,64,64,0.064,0,1000,\n")
    settings = settle({**GROW, "max_batch": 64, "budget": "seconds:2.5"}, "", str(tmp_path / "hardware.csv"))
    assert plan(settings)[1] == 2500
    with pytest.raises(UsageError, match="add --hardware"):
        settle({**GROW, "budget": "seconds:2.5"}, "")


def test_equal_updates_are_other_samples_for_each_arm() -> None:
    grow = {**GROW, "milestones": [0.5], "factor": 4}
    grow.pop("parameters")
    document = {"run": {"updates": 120}, "arms": {"small": {"schedule": "fixed-small"}, "grow": grow}}
    arms = read_experiment(document, {}, "", "x").arms
    assert plan(arms["small"])[0] == plan(arms["grow"])[0] == 120
    assert plan(arms["small"])[1] < plan(arms["grow"])[1]


def test_what_is_said_nearer_to_the_run_holds() -> None:
    document = {"run": {"epochs": 3.0}, "arms": {"a": {"schedule": "fixed-small", "updates": 10}}}
    assert plan(read_experiment(document, {}, "", "x").arms["a"])[0] == 10
    document = {"run": {"updates": 7}, "arms": {"a": {"schedule": "fixed-small"}}}
    assert read_experiment(document, {"epochs": 2.0}, "", "x").arms["a"]["epochs"] == 2.0


@pytest.mark.parametrize(
    ("settings", "where", "what"),
    [
        ({"updates": 5, "warmup_epochs": 1.0}, "arms.a.updates", "its warm-up alone takes"),
        ({"budget": "updates:1.5"}, "arms.a.budget", "samples:N"),
        ({"budget": "samples:1e99"}, "arms.a.budget", "samples:N"),
        ({"budget": "epochs:3"}, "arms.a.budget", "samples:N"),
        ({"budget": "samples:5", "epochs": 1.0}, "arms.a.budget", "say once"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_with_its_key(settings: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_experiment({"arms": {"a": {"schedule": "fixed-small", **settings}}}, {}, "", "x")
    assert refused.value.what == where
    assert what in str(refused.value)


def test_a_run_has_as_many_updates_as_asked_for(bsexp: Bsexp) -> None:
    done = bsexp("run", "growing-batch", "--updates", "60", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["updates"] == 60
    refused = bsexp("run", "fixed-small", "--updates", "60", "--epochs", "1")
    assert refused.returncode == 2
    assert "beside --epochs" in refused.stderr
