"""`bsexp measure`: what an update costs on this machine, by batch size.

The one rule: everything is refused before the first process is started, and the file is written at the end, in one go.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.commands.given import numbers_of, talk_of, values_of
from bsexp.config import RunConfig
from bsexp.console import Talk
from bsexp.options import OPTIONS, RUN_FIELDS
from bsexp.records import QUIET_LOAD, SCHEMA_VERSION, HardwareRow
from bsexp.store.files import check_results
from bsexp.store.hardware import write_hardware
from bsexp.store.paths import Experiment
from bsexp.sweep.devices import check_device, default_model
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.measuring import Surroundings, measure_sizes, sizes_to_measure
from bsexp.sweep.signals import StopSignals

if TYPE_CHECKING:
    from bsexp.analysis.hardware import HardwareTable

COLUMNS = ("batch size", "micro-batch", "ms per update", "± ms", "samples/s", "peak memory, MB")


def main(given: dict[str, Any]) -> int:
    """Measure, write hardware.csv, print the table, its knee, and what it says of larger batches."""
    talk = talk_of(given)
    values = values_of(given)
    repeats = values.get("repeats", OPTIONS["repeats"].default)
    surroundings = Surroundings(
        values.get("device", OPTIONS["device"].default),
        values.get("threads"),
        values.get("deterministic", False),
        values.get("tune_allocator", True),
    )
    options = {name: value for name, value in values.items() if name in RUN_FIELDS}
    options.setdefault("dataset", OPTIONS["dataset"].default)
    options.setdefault("model", default_model(options["dataset"], surroundings.device))
    sizes = sorted(set(numbers_of(values["batch_sizes"]))) if "batch_sizes" in values else None
    configs = sizes_to_measure(options, sizes)
    check_device(surroundings.device)
    out = Path(values.get("out", OPTIONS["out"].default))
    check_results(out)
    place = Experiment(out / values.get("name", "hardware"))
    load = _load(talk)
    talk.note(
        f"{options['model']} on {options['dataset']}, batch {configs[0].batch_size:,} to {configs[-1].batch_size:,}"
    )
    with StopSignals():
        rows, settled = measure_sizes(configs, surroundings, repeats, talk.note)
    write_hardware(place.hardware, rows, _about(configs[0], settled, repeats, load))
    _show(rows, place.hardware, values, talk)
    return 0


def _about(config: RunConfig, settled: dict[str, Any], repeats: int, load: float | None) -> dict[str, Any]:
    """What is kept beside the table: the settings that an update's cost depends on, the machine, its load before."""
    settings = {name: getattr(config, name) for name in RUN_FIELDS if "measure" in OPTIONS[name].commands}
    kind, colon, path = config.dataset.partition(":")
    if kind == "folder" and colon:
        settings["dataset"] = f"folder:{Path(path).name}"
    when = {"date": datetime.now(UTC).date().isoformat(), "load": load}
    return {"schema_version": SCHEMA_VERSION, **settings, **settled, "repeats": repeats, **when, **describe_machine()}


def _load(talk: Talk) -> float | None:
    """How busy the machine is with other work, as its load over the last minute; None where nobody says."""
    if not hasattr(os, "getloadavg"):
        return None
    load = round(os.getloadavg()[0], 2)
    if load > QUIET_LOAD:
        talk.warn(
            f"this machine has other work to do (load {load:.1f}): times may be too long; measure when it is quiet"
        )
    return load


def _show(rows: Sequence[HardwareRow], path: Path, values: dict[str, Any], talk: Talk) -> None:
    from bsexp.analysis.hardware import HardwareTable, knee

    table = HardwareTable.of(rows)
    best = knee(table)
    if values.get("json"):
        talk.document({"file": str(path), "device": table.device, "knee": best, "rows": [asdict(row) for row in rows]})
        return
    talk.table(COLUMNS, [_cells(row) for row in rows], title=table.device)
    talk.result(f"knee: batch {best:,}, the smallest within 10 % of the most samples per second")
    talk.result(faster(table))
    talk.result(f"file: {path}")


def _cells(row: HardwareRow) -> list[str]:
    memory = "-" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:,.0f}"
    times = [f"{1000 * row.seconds_per_update:.4g}", f"{1000 * row.spread:.2g}"]
    return [f"{row.batch_size:,}", f"{row.micro_batch_size:,}", *times, f"{row.samples_per_second:,.0f}", memory]


def faster(table: "HardwareTable") -> str:
    """Whether larger batches are faster on this table, by how much, and what memory they take: one sentence."""
    rates = table.samples_per_second
    if len(rates) < 2:
        return "one batch size measured: nothing to compare it with"
    best = max(range(len(rates)), key=rates.__getitem__)
    low, high = table.sizes[0], table.sizes[best]
    if not best:
        return f"larger batches are not faster here: batch {low:,} has the most samples per second"
    text = f"larger batches are faster here: {rates[best] / rates[0]:.3g}-fold from batch {low:,} to {high:,}"
    before, after = table.peak_memory_bytes[0], table.peak_memory_bytes[best]
    if before is None or after is None:
        return f"{text}; memory was not measured"
    return (
        f"{text}; memory grows by {(after - before) / 1e6:,.0f} MB, from {before / 1e6:,.0f} to {after / 1e6:,.0f} MB"
    )
