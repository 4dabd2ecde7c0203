"""The machine that `report` and `plan` tell times on: --hardware and --workers as checked values.

The one rule: times are told for a table that was measured, named or found beside the results; never for a guess.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.commands.given import absent, numbers_of
from bsexp.console import Talk, duration
from bsexp.errors import UsageError
from bsexp.store.hardware import read_about, read_hardware
from bsexp.store.paths import Experiment
from bsexp.sweep.grid import PlannedRun

if TYPE_CHECKING:
    from bsexp.report.timing import Hardware


def machine_of(values: dict[str, Any], place: Experiment | None = None) -> "Hardware | None":
    """The machine named by --hardware, or the one beside the results in `place`; None where there is neither.

    One worker is always told, and first. Raises UsageError for a file that isn't there, or --workers without a table;
    StoreError for a damaged one.
    """
    file = values.get("hardware")
    path = Path(file) if file is not None else place.hardware if place else None
    if file is not None and not Path(file).is_file():
        raise UsageError("--hardware", f"{file}: {_missing(Path(file))}", "bsexp measure makes a hardware.csv")
    if path is None or not path.exists():
        if "workers" in values:
            cure = "add --hardware FILE (bsexp measure makes one)"
            raise UsageError("--workers", f"{values['workers']} without a table of seconds per update", cure)
        return None
    from bsexp.analysis.hardware import HardwareTable
    from bsexp.report.timing import Hardware

    workers = tuple(sorted({1, *numbers_of(values.get("workers", "1"))}))
    return Hardware(HardwareTable.of(read_hardware(path)), read_about(path), workers, asked=file is not None)


def _missing(path: Path) -> str:
    return "a folder" if path.is_dir() else absent(path).replace("folder", "file")


def planned_times(run: PlannedRun, hardware: "Hardware") -> list[dict[str, Any]]:
    """Seconds of a planned run, within their interval, for each number of workers.

    UsageError for a batch size that was not measured.
    """
    from bsexp.analysis.hardware import count_sizes, modelled_seconds
    from bsexp.schedules import simulate

    plan = run.plan
    schedule = run.config.build_schedule()
    simulated = simulate(schedule, total_samples=plan.total_samples, num_train=plan.num_train)
    updates = count_sizes(update.batch_size for update in simulated)
    times = []
    for workers in hardware.workers:
        found = modelled_seconds(hardware.table, updates, workers)
        times.append({"workers": workers, "seconds": found.value, "low": found.low, "high": found.high})
    return times


def tell_times(times: Sequence[dict[str, Any]], hardware: "Hardware", talk: Talk) -> None:
    """What a planned run's updates take, in one line."""
    from bsexp.report.timing import machine

    parts = [
        f"{duration(time['seconds'])}"
        + (f" with {time['workers']:,} ideal workers" if time["workers"] > 1 else f" on {machine(hardware)}")
        for time in times
    ]
    talk.result(f"its updates take {', '.join(parts)}; evaluation and set-up not counted")
