"""From an experiment to runs: one RunConfig for each arm, learning rate and seed.

The one rule: planning trains nothing and imports no torch; an experiment that can't be run is refused here, whole.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import BsexpError
from bsexp.planning import Plan, plan_run
from bsexp.store.files import read_json
from bsexp.store.paths import Experiment as Place
from bsexp.sweep.configs import build_config, num_trained
from bsexp.sweep.experiment import Experiment
from bsexp.sweep.tasks import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """A run to be: its arm, its config and its outline."""

    arm: str
    config: RunConfig
    plan: Plan


def plan_runs(
    arms: dict[str, dict[str, Any]],
    seeds: Iterable[int],
    rate: Callable[[str], Iterable[float | None]] = lambda arm: [None],
) -> list[PlannedRun]:
    """Every run of `arms` x `seeds` x the learning rates that `rate` gives for an arm (None: the arm's own)."""
    planned = []
    for arm, settings in arms.items():
        try:
            for lr in rate(arm):
                changes = {} if lr is None else {"lr": lr}
                outline: Plan | None = None
                for seed in seeds:
                    config = build_config(settings, seed, **changes)
                    # The outline doesn't depend on the seed.
                    outline = outline or plan_run(config, num_trained(config))
                    planned.append(PlannedRun(arm, config, outline))
        except BsexpError as error:
            raise error.within(f"arms.{arm}") from None
    return planned


def planned_runs(place: Place) -> list[PlannedRun]:
    """Every run that has a folder in `place`, as its config.json says; a damaged one is told and left out."""
    planned = []
    for folder in place.run_folders():
        try:
            document = read_json(folder.config)
            config = RunConfig(**document["config"])
        except (BsexpError, KeyError, TypeError) as error:
            log.warning("left out: %s", error)
            continue
        planned.append(PlannedRun(document["arm"], config, plan_run(config, num_trained(config))))
    return planned


def task_of(run: PlannedRun, place: Place, name: str) -> Task:
    """What is to be made for `run` in the folder `place` of the experiment called `name`."""
    config = run.config
    folder = place.run(run.arm, config.lr, config.seed, config.hash)
    return Task(name, folder, run.arm, config.model_dump(), run.plan.max_batch)


def arm_definition(settings: dict[str, Any], tuned: bool) -> dict[str, Any]:
    """An arm as it is stored: everything that makes its runs, seed and tuned rate apart."""
    identity = build_config(settings, 0).identity()
    identity.pop("seed", None)
    if tuned:
        identity.pop("lr")
    return identity


def is_tuned(experiment: Experiment, arm: str) -> bool:
    """Whether [tune] chooses the arm's learning rate: it does unless the arm sets its own or takes another's."""
    return experiment.tune is not None and experiment.arms[arm].get("lr") is None and arm not in experiment.rates
