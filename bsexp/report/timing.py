"""What each arm's updates would cost on a measured machine: the section "Time" of a report.

The one rule: a time is made of the batch sizes that a run's updates had, known one by one, and of seconds that were
measured; where either is not known there is no time and the reason is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from bsexp.analysis.hardware import (
    AllReduce,
    HardwareTable,
    Modelled,
    Updates,
    modelled_seconds,
    num_samples,
    num_updates,
    time_ratio,
)
from bsexp.errors import BsexpError, UsageError
from bsexp.records import QUIET_LOAD
from bsexp.report import numbers
from bsexp.report.groups import Group
from bsexp.report.tables import Cell, Table
from bsexp.report.updates import arm_updates

if TYPE_CHECKING:
    from bsexp.store.tables import Results

TIME_COLUMNS = (
    *("dataset", "model", "arm", "reference", "device", "workers", "updates", "samples"),
    *("seconds", "seconds_low", "seconds_high", "ratio", "ratio_low", "ratio_high"),
)


BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Network:
    """What workers talk over: seconds for each message, bytes per second of a link."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Hardware:
    """A machine to tell times on. `about` is what its table was measured with, as far as that is known.

    `workers`: the numbers of workers to tell times for, rising; ideal ones, whose talking costs nothing, without a
    `network`. `asked`: the user named the table, so that what it does not cover is refused; otherwise it is told.
    """

    table: HardwareTable
    about: Mapping[str, Any] = field(default_factory=dict)
    workers: tuple[int, ...] = (1,)
    asked: bool = True
    network: Network | None = None

    def all_reduce(self, num_parameters: int | None) -> AllReduce | None:
        """What adding up gradients of so many parameters costs, in fp32; None where it costs nothing."""
        if self.network is None or num_parameters is None:
            return None
        return AllReduce(self.network.latency, self.network.bandwidth, BYTES_PER_PARAMETER * num_parameters)


@dataclass(frozen=True)
class ArmTime:
    """An arm's updates, averaged over its finished runs, and by number of workers its seconds and their ratio."""

    label: str
    updates: Updates
    seconds: dict[int, Modelled]
    ratios: dict[int, Modelled]


@dataclass(frozen=True)
class GroupTime:
    """The times of a group's arms. `arms` lacks those whose updates or seconds are not known: `notes` says why.

    The first of `arms` is the one that ratios speak of.
    """

    group: Group
    hardware: Hardware
    arms: list[ArmTime]
    notes: list[str]

    @property
    def reference(self) -> ArmTime:
        """The arm that the others are told relative to."""
        return self.arms[0]


def group_time(results: "Results", group: Group, hardware: Hardware) -> GroupTime:
    """Times of all arms of a group whose updates are known.

    Raises UsageError, with the arm, where a table that was asked for lacks a batch size.
    """
    notes = [*other_network(hardware, group.model, group.dataset), *_busy(hardware)]
    known: dict[str, Updates] = {}
    for label in group.labels:
        if not (group.finished["label"] == label).any():
            continue
        try:
            known[label] = arm_updates(results, group, label)
        except BsexpError as error:
            notes.append(f"{label}: no time: {error}.")
    arms: list[ArmTime] = []
    for label, updates in known.items():
        reference = arms[0].updates if arms else updates
        try:
            arms.append(_arm_time(label, updates, reference, hardware, all_reduce_of(group, hardware)))
        except UsageError as error:
            if hardware.asked:
                raise error.within(f"{results.name}, arm {label}") from None
            notes.append(f"{label}: no time: {error}.")
    return GroupTime(group, hardware, arms, notes)


def all_reduce_of(group: Group, hardware: Hardware) -> AllReduce | None:
    """What workers' talking costs for the group's network."""
    return hardware.all_reduce(int(group.finished["num_parameters"].max()) if hardware.network else None)


def _arm_time(
    label: str, updates: Updates, reference: Updates, hardware: Hardware, all_reduce: AllReduce | None
) -> ArmTime:
    table = hardware.table
    seconds, ratios = {}, {}
    for workers in hardware.workers:
        seconds[workers] = modelled_seconds(table, updates, workers, all_reduce=all_reduce)
        ratios[workers] = time_ratio(table, updates, reference, workers, all_reduce=all_reduce)
    return ArmTime(label, updates, seconds, ratios)


def other_network(hardware: Hardware, model: str, dataset: str) -> list[str]:
    """A note where the table was measured with another network than `model` or other images than `dataset`."""
    measured = [hardware.about.get(name) for name in ("model", "dataset")]
    if None in measured or measured == [model, dataset]:
        return []
    return [f"Times rest on a table measured with {measured[0]} on {measured[1]}, not {model} on {dataset}."]


def _busy(hardware: Hardware) -> list[str]:
    """A note where the machine had other work to do when the table was measured."""
    load = hardware.about.get("load")
    if not isinstance(load, int | float) or load <= QUIET_LOAD:
        return []
    return [
        f"Times rest on a table measured while the machine had other work to do (load {load:.1f}): "
        "its seconds may be too long, more so at some batch sizes than at others."
    ]


# -- table and rows


def time_table(time: GroupTime) -> Table:
    """Updates, seconds and ratios of each arm, for each number of workers."""
    first = time.reference
    many = time.hardware.workers
    headings = ["Arm", "Updates", "Samples", "Samples/s", f"Updates relative to {first.label}"]
    for workers in many:
        apart = f", {called(workers, time.hardware)}" if len(many) > 1 or workers > 1 else ""
        headings += [f"Time (s){apart}", f"Time relative to {first.label}{apart}"]
    rows = []
    for arm in time.arms:
        ups, samples = num_updates(arm.updates), num_samples(arm.updates)
        one = modelled_seconds(time.hardware.table, arm.updates, many[0]).value
        row = [Cell(arm.label), Cell(numbers.count(ups), ups), Cell(numbers.count(samples), samples)]
        row.append(Cell(numbers.count(samples / one), samples / one))
        share = ups / num_updates(first.updates)
        row.append(Cell(f"{share:.3f}", share))
        for workers in many:
            row += [_cell(arm.seconds[workers], numbers.seconds), _cell(arm.ratios[workers], "{:.3f}".format)]
        rows.append(row)
    return Table(f"Time, modelled on {machine(time.hardware)}", headings, rows, _note(time.hardware))


def _cell(found: Modelled, write: Any) -> Cell:
    if found.low == found.high:
        return Cell(write(found.value), found.value)
    return Cell(f"{write(found.value)} [{write(found.low)}, {write(found.high)}]", found.value)


def called(workers: int, hardware: Hardware) -> str:
    """`8 ideal workers`, or `8 workers` where their talking has a cost."""
    ideal = "" if hardware.network else "ideal "
    return f"{workers:,} {ideal}workers" if workers > 1 else "1 worker"


def machine(hardware: Hardware) -> str:
    """The machine in words: device, processor and threads as far as they are known."""
    about, name = hardware.about, hardware.table.device
    if name == "cpu" and about.get("cpu"):
        name = str(about["cpu"])
    threads = about.get("threads")
    return name + (f", {threads} thread{'s'[: threads != 1]}" if threads and hardware.table.device == "cpu" else "")


def _note(hardware: Hardware) -> str:
    table, about = hardware.table, hardware.about
    where = f"batch {table.sizes[0]:,} to {table.sizes[-1]:,}"
    if about.get("model") and about.get("dataset"):
        where = f"{about['model']} on {about['dataset']}, {where}"
    text = (
        f"Not timed but added up: each arm's updates by batch size, times the seconds that such an update was measured "
        f"to take ({where}), linear between measured sizes. Evaluation and set-up are not in it. In brackets the 95 % "
        "interval of the table's own spread; it says nothing of new seeds, or of a machine that has other work to do."
    )
    if max(hardware.workers) > 1:
        text += f" P workers share each update, the busiest with B / P samples, rounded up; {talking(hardware)}."
    return text


def talking(hardware: Hardware) -> str:
    """What is assumed of workers that talk, as a clause."""
    if (network := hardware.network) is None:
        return "ideal ones: talking to each other costs them nothing, so real ones are slower"
    return (
        f"adding up their gradients in a ring costs 2 (P - 1) messages, each {network.latency:g} s and its bytes at "
        f"{network.bandwidth:g} bytes/s, none of it hidden behind computing"
    )


def time_frame(times: list[GroupTime]) -> pd.DataFrame:
    """One row per arm and number of workers with TIME_COLUMNS."""
    rows = []
    for time in times:
        for arm in time.arms:
            for workers in time.hardware.workers:
                seconds, ratio = arm.seconds[workers], arm.ratios[workers]
                rows.append(
                    [
                        *(time.group.dataset, time.group.model, arm.label, time.reference.label),
                        *(time.hardware.table.device, workers, num_updates(arm.updates), num_samples(arm.updates)),
                        *(seconds.value, seconds.low, seconds.high, ratio.value, ratio.low, ratio.high),
                    ]
                )
    return pd.DataFrame(rows, columns=list(TIME_COLUMNS))


def terminal_rows(times: pd.DataFrame) -> tuple[tuple[str, ...], list[list[str]]]:
    """Column names and rows of `time_frame` for a terminal."""
    names = ("arm", "workers", "updates", "seconds", "relative time")
    rows = []
    for row in times.to_dict("records"):
        counts = [f"{row['workers']:,}", f"{row['updates']:,.0f}", numbers.seconds(row["seconds"])]
        ratio = Modelled(row["ratio"], row["ratio_low"], row["ratio_high"])
        rows.append([str(row["arm"]), *counts, _cell(ratio, "{:.3f}".format).text])
    return names, rows
