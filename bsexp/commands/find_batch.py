"""`bsexp find-batch`: the batch size where throughput levels off, and the largest that memory holds at once.

The one rule: everything is refused before the first process is started, and files are written at the end, each in one
go.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bsexp.commands.given import bytes_of, numbers_of, settings_of, talk_of, values_of
from bsexp.console import Talk
from bsexp.options import OPTIONS, RUN_FIELDS
from bsexp.records import SCHEMA_VERSION, FitRow
from bsexp.store.files import check_results
from bsexp.store.finders import write_fits
from bsexp.store.paths import Experiment
from bsexp.sweep.configs import num_trained
from bsexp.sweep.devices import check_device, default_model, on_gpu
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.fitting import Fit, joined, largest_that_fits
from bsexp.sweep.measuring import Surroundings, measure_sizes, sizes_to_measure
from bsexp.sweep.memory import free_memory
from bsexp.sweep.signals import StopSignals

REPEATS = 3
# Of what is free: something else may need the rest.
SHARE_OF_FREE = 0.9
COLUMNS = ("batch size", "at once", "samples/s", "peak memory, MB", "fits")


def main(given: dict[str, Any]) -> int:
    """Time batch sizes, search for the largest that fits, write find_batch.csv, print both findings."""
    talk = talk_of(given)
    values = values_of(given)
    surroundings = _surroundings(values)
    options = {name: value for name, value in values.items() if name in RUN_FIELDS}
    options.setdefault("dataset", OPTIONS["dataset"].default)
    options.setdefault("model", default_model(options["dataset"], surroundings.device))
    sizes = sorted(set(numbers_of(values["batch_sizes"]))) if "batch_sizes" in values else None
    configs = sizes_to_measure(options, sizes)
    check_device(surroundings.device)
    out = Path(values.get("out", OPTIONS["out"].default))
    check_results(out)
    place = Experiment(out / values.get("name", "find-batch"))
    talk.note(f"{options['model']} on {options['dataset']}{_within(surroundings.memory)}")
    with StopSignals():
        timed, settled = measure_sizes(configs, surroundings, values.get("repeats", REPEATS), talk.note)
        # A schedule's batch is at most half of what is trained on.
        bound = num_trained(configs[0]) // 2
        fit = largest_that_fits(options, timed, bound, surroundings, talk.note)

    from bsexp.analysis.hardware import HardwareTable, knee

    best = knee(HardwareTable.of(timed))
    found = {name: getattr(fit, name) for name in ("largest", "smallest_refused", "bound")}
    finding = {"knee": best, **found, "memory_bytes": surroundings.memory}
    about = {"schema_version": SCHEMA_VERSION, **settings_of(configs[0], "find-batch"), **settled, **finding}
    rows = joined(timed, fit.rows)
    write_fits(place, rows, {**about, **describe_machine()})
    file = place.find_batch("csv")
    if values.get("json"):
        talk.document({"file": str(file), "device": timed[0].device, **finding, "rows": [asdict(row) for row in rows]})
        return 0
    _show(rows, best, fit, surroundings.memory, talk)
    talk.result(f"file: {file}")
    return 0


def _surroundings(values: dict[str, Any]) -> Surroundings:
    """Where and with what is measured. A CPU without --memory gives a share of what is free; None: all of a GPU's."""
    device = values.get("device", OPTIONS["device"].default)
    memory = bytes_of(values["memory"]) if "memory" in values else None
    if memory is None and not on_gpu(device) and (free := free_memory()) is not None:
        memory = int(SHARE_OF_FREE * free)
    return Surroundings(
        device,
        values.get("threads"),
        values.get("deterministic", False),
        values.get("tune_allocator", True),
        memory,
    )


def _within(memory: int | None) -> str:
    return "" if memory is None else f", within {megabytes(memory)}"


def megabytes(memory: int) -> str:
    """Bytes in MB or, from 10,000 MB, in GB.

    >>> megabytes(512_300_000), megabytes(18_000_000_000)
    ('512 MB', '18.0 GB')
    """
    return f"{memory / 1e6:,.0f} MB" if memory < 1e10 else f"{memory / 1e9:,.1f} GB"


def _show(rows: Sequence[FitRow], best: int, fit: Fit, memory: int | None, talk: Talk) -> None:
    talk.table(COLUMNS, [_cells(row) for row in rows], title=rows[0].device)
    talk.result(f"knee: batch {best:,}, the smallest within 10 % of the most samples per second")
    talk.result(largest(fit, memory))


def _cells(row: FitRow) -> list[str]:
    rate = "-" if row.samples_per_second is None else f"{row.samples_per_second:,.0f}"
    peak = "-" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:,.0f}"
    return [f"{row.batch_size:,}", f"{row.micro_batch_size:,}", rate, peak, "yes" if row.fits else "no"]


def largest(fit: Fit, memory: int | None) -> str:
    """Which batch fits, next to one that doesn't, and what to pass for larger ones: one sentence."""
    where = "its memory" if memory is None else megabytes(memory)
    if fit.smallest_refused is None:
        return f"every batch that the data allow fits into {where} at once, up to {fit.largest:,}"
    return (
        f"batch {fit.largest:,} fits into {where} at once, {fit.smallest_refused:,} does not: "
        f"--micro-batch {fit.largest} runs larger ones in parts"
    )
