"""Reading results that a person may have edited, or a program between here and there may have changed.

The one rule: what isn't as it was written is told with file and line (in JSON and TOML: the key) as a StoreError;
nothing is guessed, converted or left out.
"""

import csv
import gzip
import io
import math
import operator
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bsexp.errors import StoreError
from bsexp.records import STATUSES, SUMMARY_COLUMNS, EvalRow, Outcome, StepRow
from bsexp.store.files import check_schema

if TYPE_CHECKING:
    import numpy
    import pandas

CURE = "restore the file, delete the run's folder, or use --skip-bad"
WHOLE_CURE = "restore the file, or pack the results again"
RUN_CURE = "delete the run's folder and run the sweep again"

# What csv writes of a number; float() itself would also take 1_0, blanks and the digits of other scripts.
DIGITS = frozenset("0123456789+-.einfa")


@dataclass(frozen=True)
class Column:
    """What a cell may hold. `empty`: also nothing. `endless`: also nan and infinities, which a diverged loss is.

    Numbers lie in [low, high]; `open_low`: above `low`.
    """

    kind: Literal["text", "whole", "number", "flag"]
    empty: bool = False
    endless: bool = False
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False


def _column(name: str, kind: Any) -> Column:
    """The column of a record's field: its type says whether it may be empty, its name what it counts."""
    empty = kind not in (int, float, str)
    if kind is str:
        return Column("text", empty=True)
    if name == "epoch" or name in ("lr", "momentum"):
        return Column("number", empty, low=0.0)
    if kind in (int, int | None):
        return Column("whole", empty, low=1 if name in ("batch_size", "micro_batch_size", "max_batch") else 0)
    if "loss" in name:
        return Column("number", empty, endless=True)
    if "accuracy" in name or name == "memorised":
        return Column("number", empty, low=0.0, high=1.0)
    return Column("number", empty, low=0.0 if name.endswith("seconds") else -math.inf)


def columns_of(row: type) -> dict[str, Column]:
    """The columns of a record, from the types of its fields."""
    return {field.name: _column(field.name, field.type) for field in fields(row)}


TEXT = Column("text", empty=True)
NAME = Column("text")
KEY = {"arm": NAME, "seed": Column("whole", low=0), "lr": Column("number", low=0.0, open_low=True), "config_hash": NAME}
# A row of steps.csv comes after an update.
STEPS = columns_of(StepRow) | {"epoch": Column("number", low=0.0, open_low=True), "samples": Column("whole", low=1)}
EVALS = columns_of(EvalRow)
SUMMARY: dict[str, Column] = {
    **dict.fromkeys(("experiment", "schedule", "dataset", "model"), TEXT),
    **KEY,
    **dict.fromkeys(("batch_size", "max_batch"), Column("whole", low=1)),
    "epochs": KEY["lr"],
    "wall_seconds": Column("number", low=0.0),
    **columns_of(Outcome),
    "status": NAME,
}
TUNING = {
    "arm": NAME,
    "lr": KEY["lr"],
    "seeds": TEXT,
    "val_loss": Column("number", empty=True),
    "place": TEXT,
    "chosen": Column("flag"),
    "status": TEXT,
}
# Where arms with and without a validation split lie in one folder, each has cells that the other lacks.
HELD_OUT = {
    which: {name.replace("val_", which): Column("number", True, True) for name in EVALS if name.startswith("val_")}
    for which in ("val_", "test_")
}


class Cells(NamedTuple):
    """The cells of a CSV by column, and the line on which each row ends."""

    path: Path
    cells: dict[str, list[str]]
    lines: list[int]
    cure: str

    def refuse(self, row: int, why: str) -> StoreError:
        return StoreError("results", f"{self.path}:{self.lines[row]}: {why}", self.cure)


# -- CSV


def read_columns(path: Path, names: Sequence[str], end: int | None = None) -> "dict[str, numpy.ndarray]":
    """steps.csv or evals.csv of a run: the columns `names`, rows that go forward, the last one at `end` samples.

    Arrays, not a frame: making thousands of frames takes longer than reading them. Raises StoreError with file and
    line.
    """
    known = STEPS if "batch_size" in names else EVALS
    wanted = {name: known[name.replace("test_", "val_")] for name in names}
    table = read_cells(path, wanted, CURE)
    found = _arrays(table, wanted)
    _check_forward(table, found, ())
    samples = found["samples"]
    if end is not None and (not len(samples) or int(samples[-1]) != end):
        last = f"ends at {int(samples[-1])} samples" if len(samples) else "has no rows"
        line = table.lines[-1] if len(samples) else 1
        raise StoreError("results", f"{path}:{line}: {last}, the run ended at {end}", CURE)
    return found


def read_runs_table(path: Path) -> "pandas.DataFrame":
    """runs.csv of a packed folder. Raises StoreError with file and line."""
    wanted = {name: SUMMARY[name] for name in SUMMARY_COLUMNS}
    table = read_cells(path, wanted, WHOLE_CURE)
    _check_statuses(table)
    seen: dict[tuple[str, str], int] = {}
    for row, run in enumerate(zip(table.cells["arm"], table.cells["config_hash"], strict=True)):
        if run in seen:
            raise table.refuse(row, f"the same run as on line {table.lines[seen[run]]}")
        seen[run] = row
    return frame_of(table, wanted)


def read_packed_rows(
    path: Path, row: type, runs: "pandas.DataFrame", spared: Container[str] = ()
) -> "pandas.DataFrame":
    """steps.csv.gz or evals.csv.gz of a packed folder, whose rows must belong to `runs` and end where those ended.

    `spared`: arms that need no rows in steps.csv.gz. Raises StoreError with file and line.
    """
    known = KEY | EVALS if row is EvalRow else {name: KEY[name] for name in KEY if name != "lr"} | STEPS
    wanted = {name: column for name, column in known.items() if name not in HELD_OUT["val_"]}
    spare = HELD_OUT if row is EvalRow else {}
    table = read_cells(path, wanted, WHOLE_CURE, spare)
    frame = frame_of(table, {**wanted, **{name: column for part in spare.values() for name, column in part.items()}})
    _check_forward(table, frame, ("arm", "config_hash"))
    _check_ends(table, frame, runs, row is EvalRow, spared)
    return frame


def read_tuning(path: Path) -> "pandas.DataFrame":
    """tune.csv: a row per learning rate tried. Raises StoreError with file and line."""
    import pandas

    frame = frame_of(read_cells(path, TUNING, "restore the file, or remove it"), TUNING)
    # A single seed is a number, several are a text.
    if all(text.isdigit() for text in frame["seeds"]):
        frame["seeds"] = pandas.to_numeric(frame["seeds"])
    return frame


def packed_statuses(path: Path) -> list[str]:
    """The status of each run in runs.csv, found without pandas. Raises StoreError with file and line."""
    table = read_cells(path, {name: SUMMARY[name] for name in SUMMARY_COLUMNS}, WHOLE_CURE)
    _check_statuses(table)
    return table.cells["status"]


def _check_statuses(table: Cells) -> None:
    for row, status in enumerate(table.cells["status"]):
        if status not in STATUSES:
            raise table.refuse(row, f"status {status!r}, expected one of {', '.join(STATUSES)}")


def _text(path: Path, cure: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError("results", f"{path}: {error.strerror or error}", cure) from None
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError("results", f"{path}: can't be unpacked: {error}", cure) from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise StoreError("results", f"{path}:{line}: not UTF-8", cure) from None
    if text.startswith("\ufeff"):
        raise StoreError("results", f"{path}:1: begins with a byte order mark: saved by another program", cure)
    if text.partition("\n")[0].endswith("\r"):
        raise StoreError("results", f"{path}:1: lines end with CR LF: saved by another program", cure)
    return text


def _records(path: Path, text: str, cure: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line on which it ends."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise StoreError("results", f"{path}:{reader.line_num}: {error}", cure) from None


def read_cells(
    path: Path, wanted: Mapping[str, Column], cure: str, spare: Mapping[str, Mapping[str, Column]] | None = None
) -> Cells:
    """The cells of a CSV with the columns `wanted`, in that order, and with at least one of the sets of `spare`."""
    records = _records(path, _text(path, cure), cure)
    _, header = next(records, (1, []))
    sets = list(spare.values()) if spare else []
    present = [part for part in sets if not part.keys().isdisjoint(header)] or sets[:1]
    whole = [*wanted, *(name for part in present for name in part)]
    if header != whole and not (spare and sorted(header) == sorted(whole)):
        raise StoreError("results", f"{path}:1: {_wrong_header(header, whole)}", cure)
    rows: list[list[str]] = []
    lines: list[int] = []
    for line, record in records:
        if len(record) != len(header):
            raise StoreError("results", f"{path}:{line}: {len(record)} values for {len(header)} columns", cure)
        rows.append(record)
        lines.append(line)
    found = zip(*rows, strict=True) if rows else ((),) * len(header)
    return Cells(path, {name: list(cells) for name, cells in zip(header, found, strict=True)}, lines, cure)


def _wrong_header(header: list[str], wanted: list[str]) -> str:
    if not header:
        return "empty"
    if missing := [name for name in wanted if name not in header]:
        return f"column {missing[0]!r} is missing"
    if extra := [name for name in header if name not in wanted]:
        return f"unknown column {extra[0]!r}"
    twice = [name for name in header if header.count(name) > 1]
    return f"column {twice[0]!r} twice" if twice else f"columns in another order: {','.join(header)}"


def frame_of(table: Cells, wanted: Mapping[str, Column]) -> "pandas.DataFrame":
    """The table with its columns as numbers and texts; StoreError at the first cell that can't be one."""
    import pandas

    return pandas.DataFrame(_arrays(table, wanted))


def _arrays(table: Cells, wanted: Mapping[str, Column]) -> dict[str, Any]:
    """The columns of `table`: numbers as arrays, texts and flags as lists."""
    import numpy

    found: dict[str, Any] = {}
    for name, cells in table.cells.items():
        kind = wanted[name].kind
        found[name] = read_values(table, name, wanted[name])
        if kind in ("whole", "number"):
            found[name] = numpy.array(found[name], "int64" if kind == "whole" and "" not in cells else "float64")
    return found


def read_values(table: Cells, name: str, column: Column) -> list[Any]:
    """The values of one column; StoreError at the first cell that can't be one."""
    cells = table.cells[name]
    if not column.empty and "" in cells:
        raise table.refuse(cells.index(""), f"{name} is empty")
    if column.kind == "text":
        return cells
    if column.kind == "flag":
        return [_flag(table, row, name, cell) for row, cell in enumerate(cells)]
    strange = set("".join(cells)) - DIGITS
    if not strange and (sound := _sound(cells, column)) is not None:
        return sound
    numbers: list[float] = []
    for row, cell in enumerate(cells):
        try:
            if strange and not strange.isdisjoint(cell):
                raise ValueError
            numbers.append(float(cell) if cell else math.nan)
        except ValueError:
            raise table.refuse(row, f"{name} is {cell!r}, expected a number") from None
        if why := _out_of_range(numbers[-1], column) if cell else "":
            raise table.refuse(row, f"{name} is {cell}, expected {why}")
    return numbers


def _sound(cells: list[str], column: Column) -> list[float] | None:
    """The numbers in `cells`, nan where there is nothing; None where one is wrong, which is then to be looked for."""
    try:
        numbers = [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        return None
    finite = list(filter(math.isfinite, numbers))
    strays = len(finite) < len(numbers) - cells.count("") and not column.endless
    broken = column.kind == "whole" and not all(map(float.is_integer, finite))
    if strays or broken or any(_out_of_range(end(finite), column) for end in (min, max) if finite):
        return None
    return numbers


def _flag(table: Cells, row: int, name: str, cell: str) -> bool:
    if cell not in ("True", "False"):
        raise table.refuse(row, f"{name} is {cell!r}, expected True or False")
    return cell == "True"


def _out_of_range(value: float, column: Column) -> str:
    """What was expected instead of `value`; empty where it is right."""
    if not math.isfinite(value):
        return "" if column.endless else "a finite number"
    if column.kind == "whole" and not (value.is_integer() and abs(value) < 2**53):
        return "a whole number"
    if value < column.low or (column.open_low and value == column.low):
        return f"a number {'above' if column.open_low else 'from'} {column.low:g}"
    return f"a number up to {column.high:g}" if value > column.high else ""


def _check_forward(table: Cells, columns: "Mapping[str, Any] | pandas.DataFrame", key: tuple[str, ...]) -> None:
    """Within each run `step`, `samples` and `epoch` grow from row to row, and its rows stand together."""
    columns_ = [columns[name].tolist() for name in ("step", "samples", "epoch")]
    if not key and all(all(map(operator.lt, values, values[1:])) for values in columns_):
        return
    runs = list(zip(*(table.cells[name] for name in key), strict=True)) if key else [()] * len(columns_[0])
    begun = set()
    for row, run in enumerate(runs):
        if row and run == runs[row - 1]:
            for name, values in zip(("step", "samples", "epoch"), columns_, strict=True):
                if not values[row] > values[row - 1]:
                    cells = table.cells[name]
                    raise table.refuse(row, f"{name} {cells[row]} after {name} {cells[row - 1]}")
        elif run in begun:
            raise table.refuse(row, f"rows of {' '.join(run)} again")
        begun.add(run)


def _check_ends(
    table: Cells, frame: "pandas.DataFrame", runs: "pandas.DataFrame", every: bool, spared: Container[str]
) -> None:
    """Rows belong to a run of `runs` and end where it ended; `every` run not cut short has some, or each arm but those
    `spared`.
    """
    key = ["arm", "config_hash"]
    ends = {tuple(run[:2]): run[2:] for run in runs[[*key, "samples", "status"]].itertuples(index=False, name=None)}
    last: dict[tuple[Any, ...], tuple[int, int]] = {}
    for row, (arm, config_hash, samples) in enumerate(frame[[*key, "samples"]].itertuples(index=False, name=None)):
        if (arm, config_hash) not in ends:
            raise table.refuse(row, f"{arm} {config_hash} is not in runs.csv")
        last[arm, config_hash] = (row, samples)
    begun = {arm for arm, _ in last}
    for run, (samples, status) in ends.items():
        whole = status in ("finished", "collapsed") or not every
        if run in last and whole and last[run][1] != samples:
            row, found = last[run]
            raise table.refuse(row, f"{' '.join(run)} ends at {found} samples, the run ended at {samples}")
        missing = run not in last if every else not (run[0] in begun or run[0].partition(" (")[0] in spared)
        if whole and missing:
            raise StoreError("results", f"{table.path}: no rows of {' '.join(run)}", table.cure)


# -- JSON, TOML, arrays


def check_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """StoreError where a value of summary.json has not the type or range of its column."""
    for name in SUMMARY_COLUMNS:
        column, value = SUMMARY[name], summary[name]
        if value is None and column.empty and column.kind != "text":
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        right = isinstance(value, str) if column.kind == "text" else number and not _out_of_range(float(value), column)
        if not right:
            raise StoreError("results", f"{path}: {name} is {value!r}", RUN_CURE)
    if summary["status"] not in STATUSES:
        which = f"{path}: status {summary['status']!r}, expected one of {', '.join(STATUSES)}"
        raise StoreError("results", which, RUN_CURE)


def config_of(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in the document of a config.json. StoreError where it isn't one."""
    config = document.get("config")
    if not isinstance(config, dict):
        raise StoreError("results", f"{path}: no table 'config'", RUN_CURE)
    for name, kind in (("val_fraction", (int, float)), ("parameters", dict)):
        if not isinstance(config.get(name), kind):
            raise StoreError("results", f"{path}: config.{name} is {config.get(name)!r}", RUN_CURE)
    return config


def environments_of(path: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The machines in the document of environments.json, each with what is `common` to all. StoreError where they
    aren't there.
    """
    found, common = document.get("environments"), document.get("common", {})
    if not isinstance(found, list) or not all(isinstance(machine, dict) for machine in [*found, common]):
        raise StoreError("results", f"{path}: no list 'environments'", WHOLE_CURE)
    return [{**common, **machine} for machine in found]


def check_definition(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """experiment.toml as it is kept beside results. StoreError with the key that isn't what was written."""
    check_schema(path, document.get("schema_version", 1))
    kinds = {"name": str, "question": str, "demonstration": bool, "seeds": list, "arms": dict, "tune": dict}
    kinds |= {"rates": dict, "variants": dict, "looks": list, "target": dict, "claims": list}
    wrong = [key for key, kind in kinds.items() if key in document and not isinstance(document[key], kind)]
    arms = document.get("arms", {})
    wrong += [f"arms.{arm}" for arm in (arms if "arms" not in wrong else ()) if not isinstance(arms[arm], dict)]
    claims = document.get("claims", []) if "claims" not in wrong else []
    wrong += [f"claims[{k}]" for k, claim in enumerate(claims) if not isinstance(claim, dict)]
    for table, keys in (("rates", {"of", "times"}), ("variants", {"of", "what"})):
        inside = document.get(table, {}) if table not in wrong else {}
        wrong += [f"{table}.{arm}" for arm, each in inside.items() if not isinstance(each, dict) or set(each) != keys]
    if "tune" in document and "tune" not in wrong:
        grid = "lr_factor" if "lr_factor" in document["tune"] else "lr"
        wrong += [f"tune.{key}" for key in (grid, "seeds") if not isinstance(document["tune"].get(key), list)]
    if wrong:
        raise StoreError(
            "results", f"{path}: {wrong[0]} is not what was written", "restore it or choose another --name"
        )
    return dict(document)


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a test_predictions.npz. StoreError where it is damaged."""
    import zipfile

    import numpy

    try:
        # Given a name, numpy leaves the file open when it isn't an archive.
        with open(path, "rb") as file, numpy.load(file) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise StoreError("results", f"{path}: can't be read: {error}", RUN_CURE) from None
