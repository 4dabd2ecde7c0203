"""gradient.csv, critical.csv and trials.csv: what was measured of gradients and branches, and with what beside each.

The one rule: branches that were made are kept one by one, and go on only with those of the same settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from bsexp.errors import StoreError
from bsexp.records import CriticalRow, GradientRow, TrialRow, columns
from bsexp.store.files import csv_text, ensure_folder, plain, read_json, write_json, write_text
from bsexp.store.paths import about_table
from bsexp.store.reading import Column, columns_of, read_cells, read_values

Row = TypeVar("Row", CriticalRow, TrialRow)
CURE = "restore the file, or choose another --name"
POSITIVE = Column("number", low=0.0, open_low=True)
GRADIENTS = columns_of(GradientRow) | {
    **dict.fromkeys(("gradient_error", "grad_sq_norm"), POSITIVE),
    **dict.fromkeys(("error_spread", "cosine_spread"), Column("number", low=0.0)),
    "draws": Column("whole", low=2),
    "replacement": Column("flag"),
}
CRITICAL = columns_of(CriticalRow) | {"lr_rule": Column("text"), "share": POSITIVE, "lr": POSITIVE}
TRIALS = columns_of(TrialRow) | {
    **{name: Column("text") for name in ("stage", "arm", "lr_rule")},
    "share": Column("number", low=0.0),
    "lr": POSITIVE,
}


def write_gradients(path: Path, rows: Sequence[GradientRow], about: Mapping[str, Any]) -> None:
    """Write gradient.csv and, before it, what it was measured with; each in one go."""
    ensure_folder(path.parent)
    write_json(about_table(path), about)
    write_text(path, csv_text(columns(GradientRow), map(asdict, rows)))


def read_gradients(path: Path) -> list[GradientRow]:
    """The rows of gradient.csv. StoreError with file and line."""
    return [GradientRow(**row) for row in _rows(path, GRADIENTS)]


class Branches(Generic[Row]):
    """A table of branches made so far, one row each. `settings` are what they were made with, all alike.

    Raises StoreError where others lie there already.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        kind: type[Row],
        read: Callable[[Path], list[Row]],
        place: Callable[[Row], Any],
    ) -> None:
        self.path, self.settings = path, {name: plain(value) for name, value in settings.items()}
        self.rows: list[Row] = []
        self._kind: type[Row] = kind
        self._place: Callable[[Row], Any] = place
        about = about_table(path)
        if not about.exists():
            if path.exists():
                cure = f"restore {about.name}, or choose another --name"
                raise StoreError(path.stem, f"{path} lies there without {about.name}", cure)
            return
        before = read_json(about, "restore it, or choose another --name").get("settings", {})
        for name in {**before, **self.settings}:
            if before.get(name) != self.settings.get(name):
                which = f"{path} has {name} = {before.get(name)} there, {self.settings.get(name)} now"
                raise StoreError(path.stem, which, "choose another --name")
        if path.exists():
            self.rows = read(path)

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write down what the branches are made with."""
        ensure_folder(self.path.parent)
        write_json(about_table(self.path), {**about, "settings": self.settings})

    def keep(self, row: Row) -> None:
        """Add a branch, at once."""
        self.rows.append(row)
        self.rows.sort(key=self._place)
        write_text(self.path, csv_text(columns(self._kind), map(asdict, self.rows)))


def critical_branches(path: Path, settings: Mapping[str, Any]) -> Branches[CriticalRow]:
    """critical.csv as it is so far."""
    return Branches(
        path,
        settings,
        CriticalRow,
        read_critical,
        lambda one: (one.seed, one.share, one.batch_size, one.order, one.lr_rule),
    )


def trial_branches(path: Path, settings: Mapping[str, Any]) -> Branches[TrialRow]:
    """trials.csv as it is so far."""
    return Branches(
        path,
        settings,
        TrialRow,
        read_trials,
        lambda one: (
            one.stage != "rate",
            one.stage != "whole",
            one.stage,
            one.arm,
            one.share,
            one.batch_size,
            one.lr,
            one.seed,
            one.order,
        ),
    )


def read_critical(path: Path) -> list[CriticalRow]:
    """The branches in critical.csv. StoreError with file and line."""
    return [CriticalRow(**row) for row in _rows(path, CRITICAL)]


def read_trials(path: Path) -> list[TrialRow]:
    """The trainings in trials.csv. StoreError with file and line."""
    return [TrialRow(**row) for row in _rows(path, TRIALS)]


def _rows(path: Path, wanted: Mapping[str, Column]) -> list[dict[str, Any]]:
    table = read_cells(path, wanted, CURE)
    values = {name: read_values(table, name, column) for name, column in wanted.items()}
    found = []
    for cells in zip(*values.values(), strict=True):
        row: dict[str, Any] = dict(zip(values, cells, strict=True))
        # Empty cells are nan here, and whole numbers floats.
        row = {name: None if value != value else value for name, value in row.items()}
        found.append({name: int(v) if wanted[name].kind == "whole" else v for name, v in row.items()})
    return found
