"""The axes of an experiment: [grid], [[zip]] and [[exclude]] of its file, and what the command line adds to them.

The one rule: an axis is checked and counted here, without building a single cell.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bsexp.config import check_value, parse_values
from bsexp.errors import UsageError, nearest, shown
from bsexp.options import OPTIONS, SETTINGS
from bsexp.schedules import find_strategy


class Axis(NamedTuple):
    """Keys that go in step, and their values row by row. `doubled`: rows that were given before and are left out."""

    place: str
    keys: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    doubled: int


def table_at(value: Any, place: str) -> dict[str, Any]:
    """`value`, which must be a table."""
    if not isinstance(value, dict):
        raise UsageError(place, shown(value), f"write it as a table: [{place}]")
    return value


def tables_at(value: Any, place: str) -> list[dict[str, Any]]:
    """`value`, which must be a list of tables."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UsageError(place, shown(value), f"write it as [[{place}]]")
    return value


def refuse_twice(key: str, place: str, overrides: Mapping[str, Any]) -> None:
    """UsageError for a key that the command line or the environment sets too."""
    if key in overrides:
        option = OPTIONS[key]
        raise UsageError(
            place, f"also set by {option.flag} or {option.environment}", "drop one of them: an arm's own value stands"
        )


def is_setting(key: str) -> bool:
    """Whether `key` is an option of a run; else it is a parameter of a schedule, or nothing."""
    return key in SETTINGS


def grid_axes(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[Axis]:
    """The axes of [grid] (one key each) and [[zip]] (several keys in step), doubled rows merged. Raises UsageError."""
    axes: list[Axis] = []
    grid = table_at(document.get("grid", {}), "grid")
    tables = [({key: values}, f"grid.{key}") for key, values in grid.items()]
    tables += [(table, f"zip[{k}]") for k, table in enumerate(tables_at(document.get("zip", []), "zip"))]
    seen: set[str] = set()
    for table, place in tables:
        for key, values in table.items():
            refuse_twice(key, place, overrides)
            if key in seen:
                raise UsageError(place, f"a second axis of {key}", "drop one of them")
            seen.add(key)
            if not isinstance(values, list) or not values:
                raise UsageError(place, shown(values), "give a list of values")
            for value in values:
                # A table is a curve, which only some schedules take: the arms are asked.
                if is_setting(key) and key != "seed" and not isinstance(value, dict):
                    check_value(OPTIONS[key], value, place)
        if len({len(values) for values in table.values()}) != 1:
            raise UsageError(place, "lists of different lengths", "zipped lists go in step: one value each")
        rows = list(zip(*table.values(), strict=True))
        distinct = list({_frozen(row): row for row in reversed(rows)}.values())[::-1]
        axes.append(Axis(place, tuple(table), distinct, len(rows) - len(distinct)))
    return axes


def _frozen(value: Any) -> Any:
    """What two values have in common exactly when they mean the same: 1 and 1.0 do, 1 and true don't."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in sorted(value.items()))
    return isinstance(value, bool), value


def num_cells(document: Mapping[str, Any]) -> int:
    """How many cells the grid, its rungs and its variants ask for, counted without building them.

    Cells that [[exclude]] leaves out are counted, of variants only those that there must be.
    """
    cells = max(1, len(document.get("arms", {})))
    for axis in grid_axes(document, {}):
        cells *= len(axis.rows)
    cells *= _length(table_at(document.get("budgets", {}), "budgets").get("samples", [1.0]))
    variants = table_at(document.get("sensitivity", {}), "sensitivity")
    # With claims only the arms that they name are varied: one of them at least.
    varied = 1 if document.get("claims") else cells
    return cells + varied * sum(_length(values) for values in variants.values())


def _length(values: Any) -> int:
    # What is no list is refused where it is read.
    return len(values) if isinstance(values, list) else 1


def exclusions(document: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tables of [[exclude]], whose keys and values some arm could have. Raises UsageError."""
    tables = tables_at(document.get("exclude", []), "exclude")
    for k, table in enumerate(tables):
        for key, value in table.items():
            place = f"exclude[{k}].{key}"
            if key == "arm" and not (isinstance(value, str) and value in arms):
                raise UsageError(place, shown(value), nearest(shown(value).strip("'"), arms))
            if is_setting(key) and not isinstance(value, dict):
                check_value(OPTIONS[key], value, place)
            if key not in ("arm", "schedule"):
                check_known(key, place, arms.values())
    return tables


def check_known(key: str, place: str, arms: Iterable[Mapping[str, Any]]) -> None:
    """UsageError with the nearest names for a key that no arm takes."""
    if key in ("seed", "seeds"):
        raise UsageError(place, "not for single arms", "seeds are set for all arms: seeds in [run]")
    known: set[str] = set()
    for settings in arms:
        if takes(settings, key):
            return
        known |= parameters_of_arm(settings)
    raise UsageError(place, "unknown key", nearest(key, known | set(SETTINGS) - {"seed"}))


def takes(settings: Mapping[str, Any], key: str) -> bool:
    """Whether an arm has the option or parameter `key`; a schedule of one's own may have any."""
    return is_setting(key) or ":" in settings["schedule"] or key in parameters_of_arm(settings)


def parameters_of_arm(settings: Mapping[str, Any]) -> set[str]:
    """The names of the parameters of an arm's schedule, with the shape that it has chosen."""
    if ":" in settings["schedule"]:
        return set()
    known = find_strategy(settings["schedule"]).parameters(settings["parameters"])
    return {parameter.name for parameter in known}


def note_doubles(place: str, doubled: int, notes: list[str]) -> None:
    """Note values that were given more than once."""
    if doubled:
        notes.append(f"{place}: {doubled} doubled value{'s'[: doubled > 1]} merged")


def read_seeds(value: Any, place: str, notes: list[str]) -> tuple[int, ...]:
    """Seeds as written: "0-5", a list or a number, each once; doubled ones are noted. Raises UsageError."""
    if isinstance(value, str):
        seeds = parse_values(OPTIONS["seed"], value, place)
    elif isinstance(value, list):
        seeds = [check_value(OPTIONS["seed"], item, place) for item in value]
    else:
        seeds = [check_value(OPTIONS["seed"], value, place)]
    if not seeds:
        raise UsageError(place, shown(value), 'give seeds such as "0-5"')
    distinct = tuple(dict.fromkeys(seeds))
    note_doubles(place, len(seeds) - len(distinct), notes)
    return distinct
