"""The machine that `report` and `plan` tell times on: --hardware and --workers as checked values.

The one rule: times are told for a table that was measured, named or found beside the results; never for a guess.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.commands.given import absent, numbers_of
from bsexp.console import Talk, duration
from bsexp.errors import UsageError
from bsexp.options import OPTIONS
from bsexp.store.hardware import read_about, read_hardware
from bsexp.store.paths import Experiment
from bsexp.sweep.grid import PlannedRun

if TYPE_CHECKING:
    from bsexp.analysis.hardware import Elastic, Updates
    from bsexp.report.timing import Hardware, Network


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
        for name in ("workers", "all_reduce"):
            if name in values:
                cure = "add --hardware FILE (bsexp measure makes one)"
                raise UsageError(OPTIONS[name].flag, f"{values[name]} without a table of seconds per update", cure)
        return None
    from bsexp.analysis.hardware import HardwareTable
    from bsexp.report.timing import Hardware

    workers = tuple(sorted({1, *numbers_of(values.get("workers", "1"))}))
    network = _network(values, workers)
    table = HardwareTable.of(read_hardware(path))
    return Hardware(table, read_about(path), workers, asked=file is not None, network=network)


def _network(values: dict[str, Any], workers: Sequence[int]) -> "Network | None":
    from bsexp.report.timing import Network

    text = values.get("all_reduce")
    if text is None:
        return None
    if max(workers) == 1:
        raise UsageError("--all-reduce", f"{text} without workers who talk", "add --workers")
    latency, bandwidth = map(float, text.split(","))
    if not bandwidth:
        raise UsageError("--all-reduce", f"{text}: 0 bytes per second", "give SECONDS,BYTES_PER_SECOND, as 5e-5,1.25e9")
    return Network(latency, bandwidth)


def _missing(path: Path) -> str:
    return "a folder" if path.is_dir() else absent(path).replace("folder", "file")


def planned_updates(run: PlannedRun) -> "Updates":
    """The updates of a planned run by batch size."""
    from bsexp.analysis.hardware import count_sizes
    from bsexp.schedules import simulate

    plan = run.plan
    schedule = run.config.build_schedule()
    simulated = simulate(schedule, total_samples=plan.total_samples, num_train=plan.num_train)
    return count_sizes(update.batch_size for update in simulated)


def planned_times(run: PlannedRun, hardware: "Hardware") -> list[dict[str, Any]]:
    """Seconds of a planned run, within their interval, for each number of workers.

    UsageError for a batch size that was not measured.
    """
    from bsexp.analysis.hardware import modelled_seconds

    updates, all_reduce = planned_updates(run), hardware.all_reduce(num_parameters(run, hardware))
    times = []
    for workers in hardware.workers:
        found = modelled_seconds(hardware.table, updates, workers, all_reduce=all_reduce)
        times.append({"workers": workers, "seconds": found.value, "low": found.low, "high": found.high})
    return times


def planned_elastic(run: PlannedRun, hardware: "Hardware") -> "Elastic":
    """The planned run with as many of the workers, at each update, as are useful there."""
    from bsexp.analysis.hardware import elastic

    all_reduce = hardware.all_reduce(num_parameters(run, hardware))
    return elastic(hardware.table, planned_updates(run), hardware.workers, all_reduce)


def num_parameters(run: PlannedRun, hardware: "Hardware") -> int | None:
    """How many numbers workers would have to add up; None where talking costs nothing, for that needs torch."""
    if hardware.network is None:
        return None
    from bsexp.catalog import find_dataset
    from bsexp.data.sources import load_images
    from bsexp.models import build_model, count_parameters

    config = run.config
    entry = find_dataset(config.dataset)
    # Either is known beforehand or found by reading.
    shape, classes = entry.image_shape, entry.num_classes
    if shape is None or classes is None:
        images = load_images(config.dataset, config.image_size)
        shape, classes = images.image_shape, images.num_classes
    model = build_model(
        config.model,
        image_shape=shape,
        num_classes=classes,
        norm=config.norm,
        ghost_batch=config.ghost_batch,
        dropout=config.dropout,
    )
    return count_parameters(model)


def tell_times(times: Sequence[dict[str, Any]], hardware: "Hardware", talk: Talk) -> None:
    """What a planned run's updates take, in one line."""
    from bsexp.report.timing import called, machine

    parts = [
        f"{duration(time['seconds'])}"
        + (f" with {called(time['workers'], hardware)}" if time["workers"] > 1 else f" on {machine(hardware)}")
        for time in times
    ]
    talk.result(f"its updates take {', '.join(parts)}; evaluation and set-up not counted")
