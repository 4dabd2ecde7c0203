"""`bsexp export`: a schedule as a function that needs nothing."""

from typing import Any

from bsexp.commands.given import talk_of, values_of
from bsexp.commands.run import planned_run
from bsexp.export import export_schedule
from bsexp.sweep.grid import PlannedRun


def main(schedule: str, given: dict[str, Any]) -> int:
    """Print the source of `schedule` with the options given, on stdout."""
    talk = talk_of(given)
    values = values_of(given)
    run = planned_run(schedule, values, given.get("set", []), values.get("num_train"))
    total, num_train = run.plan.total_samples, run.plan.num_train
    talk.content(
        export_schedule(run.config.build_schedule(), total_samples=total, num_train=num_train, title=_title(run))
    )
    return 0


def _title(run: PlannedRun) -> str:
    """The schedule with what was chosen, in one line."""
    config = run.config
    values = {"batch_size": config.batch_size, "max_batch": run.plan.max_batch, "lr": config.lr, **config.parameters}
    return f"{config.schedule}: " + ", ".join(f"{name} = {value}" for name, value in values.items())
