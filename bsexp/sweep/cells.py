"""The arms of an experiment: from [arms.NAME] and the axes of a grid to cells, each with all of its settings.

The one rule: a cell is an arm like any other, named after what sets it apart; every key is known and every value is
checked where it is put.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from bsexp.config import check_value
from bsexp.errors import UsageError, nearest, shown
from bsexp.options import LENGTHS, OPTIONS, SETTINGS
from bsexp.schedules import find_strategy
from bsexp.schedules.parameters import Parameter
from bsexp.sweep.axes import check_known, exclusions, grid_axes, is_setting, note_doubles, refuse_twice, takes


def read_arm(table: dict[str, Any], place: str, base: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """One arm's settings: [run], then its own; options and schedule parameters told apart."""
    schedule = table.get("schedule")
    if not isinstance(schedule, str):
        raise UsageError(f"{place}.schedule", shown(schedule), "name one (bsexp list schedules)")
    large = ":" not in schedule and _strategy(schedule, place).large
    settings: dict[str, Any] = {**base, "schedule": schedule, "parameters": {}}
    if large:
        # A batch size set for all arms doesn't touch fixed-large: that arm has its own.
        settings.pop("batch_size", None)
    refuse_lengths(table, f"{place}.")
    # The shape decides which parameters there are, wherever it stands.
    for key, value in sorted(table.items(), key=lambda item: item[0] not in ("shape", "match")):
        if key == "schedule":
            continue
        refuse_twice(key, f"{place}.{key}", overrides)
        put(settings, key, value, f"{place}.{key}")
    return settings


def refuse_lengths(given: Mapping[str, Any], place: str) -> None:
    """UsageError where one place says twice how long a run is."""
    said = [key for key in LENGTHS if key in given]
    if len(said) > 1:
        names = [f"--{key}" if place == "--" else f"{place}{key}" for key in said]
        raise UsageError(names[1], f"beside {names[0]}", "say once how long a run is")


def _strategy(schedule: str, place: str) -> Any:
    try:
        return find_strategy(schedule)
    except UsageError as error:
        raise error.within(place) from None


def put(settings: dict[str, Any], key: str, value: Any, place: str) -> None:
    """Set an option or a parameter of the arm's schedule; UsageError with the nearest names for an unknown key."""
    option = OPTIONS.get(key)
    if option is not None and is_setting(key) and not isinstance(value, dict):
        if key == "seed":
            raise UsageError(place, shown(value), "seeds are set for all arms: seeds in [run]")
        settings[key] = check_value(option, value, place)
        for other in LENGTHS if key in LENGTHS else ():
            if other != key:
                # What is said nearer to the run holds; two at one place were refused.
                settings.pop(other, None)
        return
    schedule = settings["schedule"]
    if ":" not in schedule:
        known = _parameters(settings, key, value, place)
        if key not in known:
            if option is not None and is_setting(key):
                check_value(option, value, place)
            names = [*known, *(name for name in SETTINGS if name != "seed")]
            raise UsageError(place, "unknown key", nearest(key, names))
        try:
            known[key].check(value)
        except UsageError as error:
            raise UsageError(place, error.which, error.cure) from None
    settings["parameters"] = {**settings["parameters"], key: value}


def _parameters(settings: dict[str, Any], key: str, value: Any, place: str) -> dict[str, Parameter]:
    """The parameters that the arm's schedule has once `key` is `value`, which may choose its shape."""
    given = {**settings["parameters"], key: value}
    try:
        return {parameter.name: parameter for parameter in find_strategy(settings["schedule"]).parameters(given)}
    except UsageError as error:
        raise UsageError(place, error.which, error.cure) from None


def cross(
    arms: dict[str, dict[str, Any]], document: Mapping[str, Any], overrides: Mapping[str, Any], notes: list[str]
) -> dict[str, dict[str, Any]]:
    """Arms times the axes of [grid] and [[zip]], less [[exclude]]; notes what has no effect."""
    axes = grid_axes(document, overrides)
    for axis in axes:
        note_doubles(axis.place, axis.doubled, notes)
        for key in axis.keys:
            check_known(key, axis.place, arms.values())
    excluded = exclusions(document, arms)
    used: set[int] = set()
    cells: dict[str, dict[str, Any]] = {}
    for arm, settings in arms.items():
        mine = [axis for axis in axes if all(takes(settings, key) for key in axis.keys)]
        for axis in axes:
            if axis not in mine:
                notes.append(f"{arm} has no {', '.join(axis.keys)}: it stays as it is along that axis")
        for values in itertools.product(*(axis.rows for axis in mine)):
            cell = dict(settings)
            chosen = {
                key: value
                for axis, row in zip(mine, values, strict=True)
                for key, value in zip(axis.keys, row, strict=True)
            }
            for key, value in chosen.items():
                put(cell, key, value, f"grid.{key}")
            if matching := {k for k, table in enumerate(excluded) if _matches(arm, cell, table)}:
                used |= matching
                continue
            label = ",".join(f"{key}={label_of(value)}" for key, value in chosen.items())
            cells[f"{arm}[{label}]" if label else arm] = cell
    if not cells:
        raise UsageError("exclude", "leaves no arm", "remove one of the [[exclude]] tables")
    notes += [f"exclude[{k}] leaves nothing out" for k in range(len(excluded)) if k not in used]
    return cells


def _matches(arm: str, cell: dict[str, Any], table: dict[str, Any]) -> bool:
    values = {**cell["parameters"], **cell, "arm": arm}
    return all(values.get(key) == value for key, value in table.items())


def label_of(value: Any) -> str:
    """A value as it stands in the name of a cell."""
    if isinstance(value, list):
        return "/".join(label_of(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
