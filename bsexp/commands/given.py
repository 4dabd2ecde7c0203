"""What a user gave on the command line or in the environment, as checked values.

The one rule: texts become values here, with the option's flag in every error; commands see values only.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bsexp.catalog import told_name
from bsexp.config import RunConfig, parse_value, parse_values
from bsexp.console import Talk
from bsexp.errors import UsageError
from bsexp.options import OPTIONS, RUN_FIELDS, SETTINGS
from bsexp.schedules import find_strategy
from bsexp.sweep.axes import note_doubles


def absent(folder: Path) -> str:
    """What is wrong with a path that should be a folder and isn't one."""
    return "not a folder" if folder.exists() else "no such folder"


def talk_of(given: dict[str, Any]) -> Talk:
    """How much to talk; takes quiet, verbose and debug out of `given`."""
    quiet, verbose = given.pop("quiet", False), given.pop("verbose", False)
    given.pop("debug", None)
    talk = Talk(0 if quiet else 2 if verbose else 1)
    talk.hear_logs()
    return talk


def values_of(given: dict[str, Any]) -> dict[str, Any]:
    """Each option's text as its value; --set is left out (see `parameters_of`)."""
    values = {}
    for name, text in given.items():
        if name == "set":
            continue
        option = OPTIONS[name]
        values[name] = parse_value(option, text, option.flag) if isinstance(text, str) else text
    return values


def numbers_of(text: str) -> list[int]:
    """The whole numbers of a list that the option's pattern has checked: `1,2,4`."""
    return [int(number) for number in text.split(",")]


def bytes_of(text: str) -> int:
    """The bytes of a text that the option's pattern has checked.

    >>> bytes_of("8G"), bytes_of("1.5M"), bytes_of("300")
    (8000000000, 1500000, 300)
    """
    power = " KMGT".find(text[-1])
    return round(float(text[:-1]) * 1000**power) if power > 0 else int(float(text))


def settings_of(config: RunConfig, command: str) -> dict[str, Any]:
    """The values of the options of `command` that a run has, for whoever reads its files; of a path its last part."""
    settings = {name: getattr(config, name) for name in RUN_FIELDS if command in OPTIONS[name].commands}
    return {**settings, "dataset": told_name(config.dataset)}


def axes_of(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]], list[str]]:
    """For sweep: options with one value, those with several (comma lists and ranges), which become axes, and notes."""
    single: dict[str, Any] = {}
    axes: dict[str, list[Any]] = {}
    notes: list[str] = []
    for name, text in given.items():
        if name in ("set", "schedule", "seeds"):
            continue
        option = OPTIONS[name]
        if not isinstance(text, str):
            single[name] = text
        elif name in SETTINGS and option.kind != "text":
            every = parse_values(option, text, option.flag)
            values = list(dict.fromkeys(every))
            note_doubles(option.flag, len(every) - len(values), notes)
            if len(values) == 1:
                single[name] = values[0]
            else:
                axes[name] = values
        else:
            single[name] = parse_value(option, text, option.flag)
    return single, axes, notes


def parameters_of(schedule: str, settings: Iterable[str]) -> dict[str, Any]:
    """The schedule's parameters from `--set KEY=VALUE`, checked."""
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError("--set", repr(setting), "write KEY=VALUE")
        if key in texts:
            raise UsageError("--set", f"{key} twice", "give it once")
        texts[key] = text
    if ":" in schedule:
        return {key: _literal(text) for key, text in texts.items()}
    known = {parameter.name: parameter for parameter in find_strategy(schedule).parameters(texts)}
    # Unknown keys are left as texts: the configuration refuses them with the nearest names.
    return {key: known[key].parse(text) if key in known else text for key, text in texts.items()}


def _literal(text: str) -> Any:
    """A value for the user's own factory: JSON where it is JSON, a text otherwise."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
