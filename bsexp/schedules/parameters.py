"""The parameters of shapes and strategies: their types, ranges, defaults, and how text becomes a value.

The one rule: a parameter out of range is refused with its name, the value received and the range; nothing is clamped.
"""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from bsexp.errors import UsageError, nearest, shown

Kind = Literal["number", "integer", "flag", "choice", "numbers", "curve", "table"]

MOST_CYCLES = 10_000


@dataclass(frozen=True)
class Parameter:
    """One parameter. The range is [low, high], without its ends where `open_low` / `open_high` say so.

    `default` None means "none unless given". `increasing` (kind numbers): strictly increasing.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    increasing: bool = False

    def check(self, value: Any) -> Any:
        """`value` as this parameter's type (an integer given for a number becomes a float), or UsageError."""
        match self.kind:
            case "number":
                return self._number(value)
            case "integer":
                if type(value) is not int or not self._inside(value):
                    raise self._refusal(value)
                return value
            case "flag":
                if not isinstance(value, bool):
                    raise self._refusal(value)
                return value
            case "choice":
                if value not in self.choices:
                    raise UsageError(self.name, shown(value), nearest(shown(value).strip("'"), self.choices))
                return value
            case "numbers":
                if not isinstance(value, list | tuple) or not value:
                    raise self._refusal(value)
                numbers = tuple(self._number(item) for item in value)
                if self.increasing and any(b <= a for a, b in pairwise(numbers)):
                    raise self._refusal(value)
                return numbers
            case "curve" | "table":
                if not isinstance(value, dict):
                    raise self._refusal(value)
                return value

    def parse(self, text: str) -> Any:
        """The value that `text` (from `--set NAME=TEXT`) stands for, checked."""
        try:
            match self.kind:
                case "number":
                    value: Any = float(text)
                case "integer":
                    value = int(text)
                case "flag":
                    value = {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
                case "numbers":
                    value = [float(item) for item in text.strip("[]").split(",")]
                case "curve" | "table":
                    value = _read_table(text)
                case _:
                    value = text
        except (ValueError, KeyError, RecursionError):
            raise self._refusal(text) from None
        return self.check(value)

    @property
    def accepts(self) -> str:
        """What may be given, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "flag":
            return "true or false"
        if self.kind == "curve":
            return 'a table such as {curve = "linear", start = 1, end = 0}'
        if self.kind == "table":
            return 'a table such as {shape = "exponential"}'
        noun = {"number": "a number", "integer": "a whole number"}.get(self.kind, "a list of numbers")
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        span = f" in {left}{self.low:g}, {self.high:g}{right}"
        if self.high == math.inf:
            span = f" above {self.low:g}" if self.open_low else f" from {self.low:g}"
        order = ", strictly increasing" if self.increasing else ""
        return noun + ("" if self.low == -math.inf else span) + order

    def _inside(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._refusal(value)
        try:
            number = float(value)
        except OverflowError:  # an integer beyond the floats: TOML and JSON can hold one
            raise self._refusal(value) from None
        if not math.isfinite(number) or not self._inside(number):
            raise self._refusal(value)
        return number

    def _refusal(self, value: Any) -> UsageError:
        return UsageError(self.name, shown(value), f"give {self.accepts}")


def _read_table(text: str) -> Any:
    """A table as an experiment file would have it (TOML), or as JSON; ValueError for neither."""
    import tomllib

    try:
        document = tomllib.loads("table = " + text)
    except tomllib.TOMLDecodeError:
        return json.loads(text)
    if len(document) > 1:
        raise ValueError("more than one table")
    return document["table"]


def settle(owner: str, parameters: tuple[Parameter, ...], given: dict[str, Any]) -> dict[str, Any]:
    """All of `parameters` with their values: the given ones checked, the others at their defaults.

    Raises UsageError for a name that `owner` doesn't have, or a value out of range.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            raise UsageError(f"{owner}: parameter", f"unknown name {name!r}", nearest(name, known))
    return {
        name: parameter.check(given[name]) if name in given else parameter.default for name, parameter in known.items()
    }


def fraction(name: str, default: float | None, help: str, open_low: bool = True, open_high: bool = True) -> Parameter:
    """A number in (0, 1), or with an end included where `open_low` or `open_high` is False."""
    return Parameter(name, "number", default, help, 0, 1, open_low=open_low, open_high=open_high)


def milestones(default: tuple[float, ...] = (0.3, 0.6, 0.8)) -> Parameter:
    """Fractions of the whole budget, increasing, inside (0, 1)."""
    return Parameter(
        "milestones",
        "numbers",
        default,
        "fractions of the budget",
        0,
        1,
        open_low=True,
        open_high=True,
        increasing=True,
    )


def above(name: str, default: float, low: float, help: str) -> Parameter:
    """A number above `low`."""
    return Parameter(name, "number", default, help, low, open_low=True)


def choice(name: str, default: str | None, choices: tuple[str, ...], help: str) -> Parameter:
    """One of a few words."""
    return Parameter(name, "choice", default, help, choices=choices)


def count(name: str, default: int | None, help: str, low: int = 1, high: float = math.inf) -> Parameter:
    """A whole number from `low` to `high`."""
    return Parameter(name, "integer", default, help, low, high)
