"""What all benchmarks share: alternating repeats, medians with their spread, the table, the JSON, the environment.

The one rule: a ratio is taken between neighbouring repeats, so that what slows the machine for a while slows both
sides; what is told is the median of these ratios with its quartiles.
"""

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bsexp.sweep.environment import describe_machine

PEERS = ("lightning", "ray", "typer")


@dataclass(frozen=True)
class Repeats:
    """The values of one measurement, in the order in which they were taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile; the values themselves where there are fewer than two."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def over(self, other: "Repeats") -> "Repeats":
        """The ratios to the repeats of `other` that were taken beside these."""
        return Repeats(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def as_json(self) -> dict[str, Any]:
        median, low, high, *values = (float(f"{each:.6g}") for each in (self.median, *self.quartiles, *self.values))
        return {"median": median, "quartiles": [low, high], "repeats": values}


def alternate(measures: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Repeats]:
    """Call each of `measures` in turn, `repeats` times over, every other time backwards: none is always the first."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for k in range(repeats):
        for name in list(measures) if k % 2 == 0 else reversed(list(measures)):
            found[name].append(measures[name]())
    return {name: Repeats(tuple(values)) for name, values in found.items()}


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


class Column(NamedTuple):
    """A column of the table: its heading and the text of a row's cell."""

    title: str
    text: Callable[[Mapping[str, Any]], str]


def number(name: str, form: str = ".2f") -> Callable[[Mapping[str, Any]], str]:
    """The text of row[name]: a number, the median and quartiles of Repeats, a dash where there is none."""

    def text(row: Mapping[str, Any]) -> str:
        value = row.get(name)
        if isinstance(value, Repeats):
            low, high = value.quartiles
            spread = f" ({low:{form}} to {high:{form}})" if len(value.values) > 1 else ""
            return f"{value.median:{form}}{spread}"
        return "-" if value is None else value if isinstance(value, str) else f"{value:{form}}"

    return text


def target(row: dict[str, Any], limit: float, at_least: bool) -> dict[str, Any]:
    """`row` with its target and whether its `ratio` meets it."""
    value = row["ratio"].median if isinstance(row["ratio"], Repeats) else row["ratio"]
    met = value >= limit if at_least else value <= limit
    return {**row, "target": f"{'>=' if at_least else '<='} {limit:g}", "met": met}


TARGET = Column("target", lambda row: row.get("target", ""))
MET = Column("", lambda row: {True: "met", False: "NOT MET", None: ""}[row.get("met")])


def parser(about: str, repeats: int) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=about.partition("\n")[0])
    made.add_argument("--repeats", type=int, default=repeats, help=f"alternating repeats [{repeats}]")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every repeat, with the environment, to FILE")
    return made


def installed(package: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(package) is not None


def environment(**more: Any) -> dict[str, Any]:
    """Versions, processor, cores, date and the load of the last minute: above 0 it wasn't a quiet machine."""
    found = {name: metadata.version(name) for name in PEERS if installed(name)}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    date = datetime.now(UTC).date().isoformat()
    return {**describe_machine(), **found, "date": date, "load_at_start": load, **more}


class Report:
    """Collects the rows of one benchmark; shows and writes each table as it comes, for one may be stopped."""

    def __init__(self, name: str, file: Path | None, repeats: int, **more: Any) -> None:
        self.name, self.file, self.repeats = name, file, repeats
        self.environment = environment(**more)
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self._console = Console(width=140, highlight=False)

    def note(self, text: str) -> None:
        """A line beside the tables."""
        self._console.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[Column], rows: Iterable[dict[str, Any]], note: str = "") -> None:
        """Show a table and keep its rows."""
        kept = self.tables[title] = list(rows)
        shown = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
        for k, column in enumerate(columns):
            shown.add_column(column.title, justify="left" if k == 0 else "right")
        for row in kept:
            shown.add_row(*(column.text(row) for column in columns))
        self._console.print(shown)
        self._write()

    def close(self) -> None:
        """Show the environment."""
        brief = ("date", "cpu", "cores", "threads", "cpu_time", "python", "torch", *PEERS, "load_at_start")
        known = {name: self.environment[name] for name in brief if self.environment.get(name) is not None}
        self.note(", ".join(f"{name} {value}" for name, value in known.items()))

    def _write(self) -> None:
        if self.file is None:
            return
        document = {
            "benchmark": self.name,
            "environment": self.environment,
            "repeats": self.repeats,
            "tables": self.tables,
        }
        text = json.dumps(document, default=Repeats.as_json)
        self.file.write_text(text + "\n", encoding="utf-8")
