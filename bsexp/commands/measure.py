"""`bsexp measure`: how noisy gradients are, and what an update costs on this machine, by batch size.

The one rule: everything is refused before anything is measured, and each file is written when its part has been
measured, in one go.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.catalog import told_name
from bsexp.commands.given import numbers_of, talk_of, values_of
from bsexp.config import RunConfig
from bsexp.console import Talk
from bsexp.errors import UsageError
from bsexp.options import COST_FIELDS, OPTIONS, RUN_FIELDS
from bsexp.records import QUIET_LOAD, SCHEMA_VERSION, GradientRow, HardwareRow
from bsexp.store.files import check_results
from bsexp.store.hardware import write_hardware
from bsexp.store.measured import write_gradients
from bsexp.store.paths import Experiment
from bsexp.store.weights import Kept, read_kept
from bsexp.sweep.devices import check_device, default_model
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.measuring import Surroundings, measure_sizes, sizes_to_measure
from bsexp.sweep.signals import StopSignals

if TYPE_CHECKING:
    from bsexp.report.measured import Part

COLUMNS = ("batch size", "micro-batch", "ms per update", "± ms", "samples/s", "peak memory, MB")
# What serves one of the parts only.
TIMING, LOOKING, BRANCHING = ("repeats",), ("at", "checkpoint"), ("seeds", "jobs")


def main(given: dict[str, Any]) -> int:
    """Measure what was asked for, write the tables and the report, print what they say."""
    talk = talk_of(given)
    values = values_of(given)
    _refuse_useless(values)
    if values.get("critical"):
        from bsexp.commands.critical import measure_critical

        return measure_critical(values, talk)
    kept = read_kept(Path(values["checkpoint"])) if "checkpoint" in values else None
    options = options_of(values, kept)
    surroundings = surroundings_of(values)
    options.setdefault("model", default_model(options["dataset"], surroundings.device))
    sizes = sorted(set(numbers_of(values["batch_sizes"]))) if "batch_sizes" in values else None
    configs = sizes_to_measure(options, sizes)
    points = [float(text) for text in values.get("at", "0").split(",")]
    looking = _looked_at(options, points, values, talk)
    place = place_of(values, "hardware")
    rows: list[HardwareRow] = []
    gradients: list[GradientRow] = []
    num_train = None
    with StopSignals():
        if values.get("only") != "gradient":
            rows = _time(configs, surroundings, values, place, talk)
        if looking is not None:
            sizes = [config.batch_size for config in configs]
            gradients, num_train = _look(looking, sizes, points, kept, surroundings, place, talk)
    from bsexp.report.measured import write_measured

    parts = write_measured(place)
    if values.get("json"):
        talk.document({**_document(rows, gradients, place), "num_train": num_train})
    else:
        _show(rows, gradients, parts, place, talk)
    return 0


def _refuse_useless(values: dict[str, Any]) -> None:
    """UsageError for options that serve no part of what is measured."""
    only = values.get("only")
    if values.get("critical"):
        unused = (*TIMING, *LOOKING, "batch_sizes", "only", "seed")
        reasons = dict.fromkeys(unused, "with --critical")
    else:
        reasons = {**dict.fromkeys(BRANCHING, "without --critical"), "epochs": "without --critical"}
        reasons |= dict.fromkeys(TIMING, "with --only gradient") if only == "gradient" else {}
        reasons |= dict.fromkeys(LOOKING, "with --only hardware") if only == "hardware" else {}
    for name, why in reasons.items():
        if name in values:
            raise UsageError(OPTIONS[name].flag, f"{values[name]} {why}", "it has no effect there: leave it out")
    if "at" in values and "checkpoint" in values:
        raise UsageError("--at", "beside --checkpoint", "weights that were kept are one point: give one of the two")


def options_of(values: dict[str, Any], kept: Kept | None = None) -> dict[str, Any]:
    """The options that belong to a run; those of the run that `kept` is of."""
    options = {name: value for name, value in values.items() if name in RUN_FIELDS}
    if kept is not None:
        if options:
            name = next(iter(options))
            raise UsageError(OPTIONS[name].flag, "beside --checkpoint", "its run's own settings hold: leave it out")
        options = {name: kept.config[name] for name in RUN_FIELDS if kept.config.get(name) is not None}
        options = {name: value for name, value in options.items() if name not in ("epochs", "max_batch", "evals")}
    options.setdefault("dataset", OPTIONS["dataset"].default)
    return options


def surroundings_of(values: dict[str, Any]) -> Surroundings:
    """Where and with what is measured."""
    return Surroundings(
        values.get("device", OPTIONS["device"].default),
        values.get("threads"),
        values.get("deterministic", False),
        values.get("tune_allocator", True),
    )


def place_of(values: dict[str, Any], name: str) -> Experiment:
    """The folder to write into, called `name` unless told otherwise; the device is checked, too."""
    check_device(values.get("device", OPTIONS["device"].default))
    out = Path(values.get("out", OPTIONS["out"].default))
    check_results(out)
    return Experiment(out / values.get("name", name))


# -- the two parts


def _time(
    configs: Sequence[RunConfig], surroundings: Surroundings, values: dict[str, Any], place: Experiment, talk: Talk
) -> list[HardwareRow]:
    repeats = values.get("repeats", OPTIONS["repeats"].default)
    load = _load(talk)
    first, last = configs[0], configs[-1]
    talk.note(f"{first.model} on {first.dataset}, batch {first.batch_size:,} to {last.batch_size:,}")
    rows, settled = measure_sizes(configs, surroundings, repeats, talk.note)
    settings = {name: getattr(first, name) for name in COST_FIELDS}
    write_hardware(place.hardware, rows, about(settings, settled, repeats=repeats, load=load))
    return rows


def about(settings: dict[str, Any], settled: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What is kept beside a table: the settings that it depends on, and the machine."""
    settings = {**settings, "dataset": told_name(settings["dataset"])}
    when = {"date": datetime.now(UTC).date().isoformat()}
    return {"schema_version": SCHEMA_VERSION, **settings, **settled, **more, **when, **describe_machine()}


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


def _looked_at(options: dict[str, Any], points: list[float], values: dict[str, Any], talk: Talk) -> RunConfig | None:
    """The training whose gradients are measured; None where that isn't asked for, or can't be and wasn't asked for."""
    from bsexp.sweep.stochasticity import looked_at

    if values.get("only") == "hardware":
        return None
    try:
        return looked_at(options, points)
    except UsageError as error:
        if values.get("only") or "at" in values or "checkpoint" in values or error.what != "gradient":
            raise
        talk.warn(f"gradients are left out: {error}")
        return None


def _look(
    config: RunConfig,
    sizes: Sequence[int],
    points: Sequence[float],
    kept: Kept | None,
    surroundings: Surroundings,
    place: Experiment,
    talk: Talk,
) -> tuple[list[GradientRow], int]:
    from bsexp.engine.device import set_up
    from bsexp.sweep.stochasticity import measure_gradients

    device = surroundings.device
    settled = set_up(device, surroundings.threads, surroundings.deterministic, surroundings.keep_memory)
    rows, num_train = measure_gradients(config, sizes, points, kept, device, talk.note)
    settings = {name: value for name, value in config.model_dump().items() if name not in ("parameters", "schedule")}
    write_gradients(place.gradients, rows, about(settings, settled, num_train=num_train))
    return rows, num_train


# -- what is shown


def _show(
    rows: Sequence[HardwareRow],
    gradients: Sequence[GradientRow],
    parts: "Sequence[Part]",
    place: Experiment,
    talk: Talk,
) -> None:
    files = [path for path, found in ((place.gradients, gradients), (place.hardware, rows)) if found]
    if rows:
        talk.table(COLUMNS, [_cells(row) for row in rows], title=rows[0].device)
    tell_parts(parts, talk)
    talk.result(f"files: {', '.join(map(str, [*files, place.report / 'measured.md']))}")


def tell_parts(parts: "Sequence[Part]", talk: Talk) -> None:
    """The sentences of what was measured."""
    for part in parts:
        for sentence in part.sentences:
            talk.result(sentence)


def _document(rows: Sequence[HardwareRow], gradients: Sequence[GradientRow], place: Experiment) -> dict[str, Any]:
    from bsexp.analysis.hardware import HardwareTable, knee

    document: dict[str, Any] = {"file": str(place.hardware if rows else place.gradients)}
    if rows:
        document |= {"device": rows[0].device, "knee": knee(HardwareTable.of(rows))}
    first = [row for row in gradients if row.samples == gradients[0].samples and not row.replacement]
    by_size: dict[int, dict[str, Any]] = {row.batch_size: asdict(row) for row in rows}
    for row in first:
        told = {name: getattr(row, name) for name in ("gradient_error", "cosine", "b_simple")}
        by_size.setdefault(row.batch_size, {"batch_size": row.batch_size}).update(told)
    return {**document, "rows": list(by_size.values()), "gradient": [asdict(row) for row in gradients]}


def _cells(row: HardwareRow) -> list[str]:
    memory = "-" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:,.0f}"
    times = [f"{1000 * row.seconds_per_update:.4g}", f"{1000 * row.spread:.2g}"]
    return [f"{row.batch_size:,}", f"{row.micro_batch_size:,}", *times, f"{row.samples_per_second:,.0f}", memory]
