"""Experiment files: from TOML to arms, seeds and a tuning rule.

The one rule: every key is known and every value checked before anything is done; errors name the file and the dotted
key. What the command line or the environment sets stands above the file, but never above what an arm sets.
"""

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bsexp.config import check_value, parse_values
from bsexp.errors import BsexpError, UsageError, nearest
from bsexp.options import OPTIONS, RUN_FIELDS, options_of
from bsexp.schedules import find_strategy
from bsexp.store.paths import Experiment as Place
from bsexp.store.tables import read_definition

MAX_BYTES = 1_000_000
TOP = ("name", "question", "demonstration", "run", "tune", "arms", "grid", "zip", "exclude")
LATER = ("target", "budgets", "sensitivity", "claims")


@dataclass(frozen=True)
class Tune:
    """What is chosen for each arm, on validation: the learning rate that minimises the mean loss over `seeds`."""

    lr: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Experiment:
    """An experiment as asked for. `arms`: name -> schedule, parameters and options, grid included, seed apart.

    `execution` are options outside the run id that the file's [run] sets. `notes` are worth telling.
    """

    name: str
    question: str
    demonstration: bool
    arms: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    tune: Tune | None
    execution: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML document at `path`; UsageError with file and line for what isn't one."""
    what = str(path)
    try:
        if path.is_dir():
            raise UsageError(what, "a folder", "name a TOML file")
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(what, f"{path.stat().st_size / 1e6:.0f} MB", "an experiment file is a few kB")
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise UsageError(what, "no such file", "bsexp init prints one to start from") from None
    except OSError as error:
        raise UsageError(what, str(error.strerror), "check the path") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}", "not UTF-8", "save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_with_line(path, str(error)), _without_line(str(error)), "correct the syntax") from None


def _with_line(path: Path, message: str) -> str:
    import re

    found = re.search(r"at line (\d+)", message)
    lines = path.read_text(encoding="utf-8").count("\n") + 1
    return f"{path}:{found.group(1) if found else lines}"


def _without_line(message: str) -> str:
    return message.partition(" (at ")[0]


def read_experiment(document: Mapping[str, Any], overrides: Mapping[str, Any], what: str, name: str) -> Experiment:
    """The experiment that `document` asks for. `overrides`: options from the command line and the environment.

    `what` names the file in errors, `name` is used where the document has none. Raises UsageError.
    """
    try:
        return _read(document, overrides, name)
    except BsexpError as error:
        raise error.within(what) if what else error from None


def _read(document: Mapping[str, Any], overrides: Mapping[str, Any], name: str) -> Experiment:
    for key in document:
        if key in LATER:
            raise UsageError(key, "not in this version", "remove the table")
        if key not in TOP:
            raise UsageError(key, "unknown key", nearest(key, TOP))
    run = _options(document.get("run", {}), "run")
    run |= {key: value for key, value in overrides.items() if key != "name"}
    seeds = _seeds(run.pop("seeds", OPTIONS["seeds"].default), "run.seeds")
    if "seed" in run:
        raise UsageError("run.seed", str(run["seed"]), 'a sweep has seeds: seeds = "0-5"')
    base = {key: value for key, value in run.items() if key in RUN_FIELDS}
    execution = {key: value for key, value in run.items() if key not in RUN_FIELDS}
    tables = _table(document.get("arms", {}), "arms")
    if not tables:
        raise UsageError("arms", "none", "add at least one [arms.NAME] with a schedule")
    arms = {arm: _arm(_table(table, f"arms.{arm}"), f"arms.{arm}", base, overrides) for arm, table in tables.items()}
    arms, notes = _cells(arms, document, overrides)
    tune = _tune(document["tune"], base) if "tune" in document else None
    if tune and set(tune.seeds) & set(seeds):
        raise UsageError("tune.seeds", _shown(tune.seeds), "they must differ from the reported seeds")
    return Experiment(
        name=str(overrides.get("name") or document.get("name") or name),
        question=str(document.get("question", "")),
        demonstration=bool(document.get("demonstration", False)),
        arms=arms,
        seeds=seeds,
        tune=tune,
        execution=execution,
        notes=tuple(notes),
    )


def stored_experiment(place: Place) -> Experiment | None:
    """The experiment kept beside results, as `worker` makes it; None where there is none."""
    stored = read_definition(place)
    if not stored:
        return None
    tune = stored.get("tune")
    return Experiment(
        name=place.name,
        question=stored.get("question", ""),
        demonstration=stored.get("demonstration", False),
        arms=stored["arms"],
        seeds=tuple(stored["seeds"]),
        tune=Tune(tuple(tune["lr"]), tuple(tune["seeds"])) if tune else None,
    )


def _table(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(place, repr(value), f"write it as a table: [{place}]")
    return value


def _options(table: Any, place: str) -> dict[str, Any]:
    """The options of [run], checked; keys as in the table of options."""
    known = {option.name: option for option in (*options_of("run"), *options_of("sweep"))}
    checked = {}
    for key, value in _table(table, place).items():
        if key not in known or key in ("set", "schedule", "json", "dry_run", "resume"):
            raise UsageError(f"{place}.{key}", "unknown key", nearest(key, [*known]))
        if isinstance(value, list) and key != "seeds":
            raise UsageError(f"{place}.{key}", "a list", "several values belong into [grid]")
        checked[key] = value if key == "seeds" else check_value(known[key], value, f"{place}.{key}")
    return checked


def _seeds(value: Any, place: str) -> tuple[int, ...]:
    if isinstance(value, str):
        seeds = parse_values(OPTIONS["seed"], value, place)
    elif isinstance(value, list):
        seeds = [check_value(OPTIONS["seed"], item, place) for item in value]
    else:
        seeds = [check_value(OPTIONS["seed"], value, place)]
    if not seeds:
        raise UsageError(place, repr(value), 'give seeds such as "0-5"')
    return tuple(dict.fromkeys(seeds))


def _shown(seeds: tuple[int, ...]) -> str:
    return ",".join(str(seed) for seed in seeds)


def _arm(table: dict[str, Any], place: str, base: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """One arm's settings: [run], then its own; options and schedule parameters told apart."""
    schedule = table.get("schedule")
    if not isinstance(schedule, str):
        raise UsageError(f"{place}.schedule", repr(schedule), "name one (bsexp list schedules)")
    large = ":" not in schedule and _strategy(schedule, place).large
    settings: dict[str, Any] = {**base, "schedule": schedule, "parameters": {}}
    if large:
        # A batch size set for all arms doesn't touch fixed-large: that arm has its own.
        settings.pop("batch_size", None)
    for key, value in table.items():
        if key == "schedule":
            continue
        _refuse_twice(key, f"{place}.{key}", overrides)
        put(settings, key, value, f"{place}.{key}")
    return settings


def _strategy(schedule: str, place: str) -> Any:
    try:
        return find_strategy(schedule)
    except UsageError as error:
        raise error.within(place) from None


def _refuse_twice(key: str, place: str, overrides: Mapping[str, Any]) -> None:
    if key in overrides:
        option = OPTIONS[key]
        raise UsageError(
            place, f"also set by {option.flag} or {option.environment}", "drop one of them: an arm's own value stands"
        )


def put(settings: dict[str, Any], key: str, value: Any, place: str) -> None:
    """Set an option or a parameter of the arm's schedule; UsageError with the nearest names for an unknown key."""
    option = OPTIONS.get(key)
    if option is not None and option.in_id and not isinstance(value, dict):
        if key == "seed":
            raise UsageError(place, repr(value), "seeds are set for all arms: seeds in [run]")
        settings[key] = check_value(option, value, place)
        return
    schedule = settings["schedule"]
    if ":" not in schedule:
        known = {
            parameter.name: parameter
            for parameter in find_strategy(schedule).parameters(_selectors(settings, key, value))
        }
        if key not in known:
            raise UsageError(
                place, "unknown key", nearest(key, [*known, *(name for name in RUN_FIELDS if name != "seed")])
            )
        try:
            known[key].check(value)
        except UsageError as error:
            raise UsageError(place, error.which, error.cure) from None
    settings["parameters"] = {**settings["parameters"], key: value}


def _selectors(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {**settings["parameters"], key: value}


def _cells(
    arms: dict[str, dict[str, Any]], document: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Arms times the axes of [grid] and [[zip]], less [[exclude]]; notes about arms that an axis passes by."""
    axes = grid_axes(document, overrides)
    excluded = _list_of_tables(document.get("exclude", []), "exclude")
    cells: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for arm, settings in arms.items():
        mine = [axis for axis in axes if all(_takes(settings, key) for key in axis[0])]
        for axis in axes:
            if axis not in mine:
                notes.append(f"{arm} has no {', '.join(axis[0])}: it stays as it is along that axis")
        for values in itertools.product(*(axis[1] for axis in mine)):
            cell = dict(settings)
            chosen = {
                key: value
                for axis, row in zip(mine, values, strict=True)
                for key, value in zip(axis[0], row, strict=True)
            }
            for key, value in chosen.items():
                put(cell, key, value, f"grid.{key}")
            if any(_matches(arm, cell, table) for table in excluded):
                continue
            label = ",".join(f"{key}={_label(value)}" for key, value in chosen.items())
            cells[f"{arm}[{label}]" if label else arm] = cell
    if not cells:
        raise UsageError("exclude", "leaves no arm", "remove one of the [[exclude]] tables")
    return cells, notes


Axis = tuple[tuple[str, ...], list[tuple[Any, ...]]]


def grid_axes(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[Axis]:
    """The axes of [grid] (one key each) and [[zip]] (several keys in step), doubled values merged."""
    axes: list[Axis] = []
    grid = _table(document.get("grid", {}), "grid")
    tables = [({key: values}, f"grid.{key}") for key, values in grid.items()]
    tables += [(table, f"zip[{k}]") for k, table in enumerate(_list_of_tables(document.get("zip", []), "zip"))]
    for table, place in tables:
        for key, values in table.items():
            _refuse_twice(key, place, overrides)
            if not isinstance(values, list) or not values:
                raise UsageError(place, repr(values), "give a list of values")
        if len({len(values) for values in table.values()}) != 1:
            raise UsageError(place, "lists of different lengths", "zipped lists go in step: one value each")
        rows: list[tuple[Any, ...]] = []
        for row in zip(*table.values(), strict=True):
            if row not in rows:
                rows.append(row)
        axes.append((tuple(table), rows))
    return axes


def num_cells(document: Mapping[str, Any], num_seeds: int) -> int:
    """How many runs the grid asks for at most, counted without building it."""
    cells = num_seeds * max(1, len(document.get("arms", {})))
    for _, rows in grid_axes(document, {}):
        cells *= len(rows)
    return cells


def _list_of_tables(value: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UsageError(place, repr(value), f"write it as [[{place}]]")
    return value


def _takes(settings: dict[str, Any], key: str) -> bool:
    option = OPTIONS.get(key)
    if option is not None and option.in_id:
        return True
    schedule = settings["schedule"]
    if ":" in schedule:
        return True
    return any(parameter.name == key for parameter in find_strategy(schedule).parameters(settings["parameters"]))


def _matches(arm: str, cell: dict[str, Any], table: dict[str, Any]) -> bool:
    values = {**cell["parameters"], **cell, "arm": arm}
    return all(values.get(key) == value for key, value in table.items())


def _label(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(_label(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tune(table: Any, base: dict[str, Any]) -> Tune:
    table = _table(table, "tune")
    for key in table:
        if key not in ("lr", "seeds"):
            raise UsageError(f"tune.{key}", "unknown key", nearest(key, ("lr", "seeds")))
    rates = table.get("lr")
    if not isinstance(rates, list) or not rates:
        raise UsageError("tune.lr", repr(rates), "give a list of learning rates")
    if base.get("val_fraction") == 0:
        raise UsageError("tune", "without a validation split", "set val_fraction above 0 or remove [tune]")
    checked = [check_value(OPTIONS["lr"], rate, "tune.lr") for rate in rates]
    return Tune(tuple(sorted(set(checked))), _seeds(table.get("seeds", [100]), "tune.seeds"))
