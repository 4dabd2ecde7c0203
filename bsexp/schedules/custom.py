"""Curves written down as tables: what `custom` is made of.

The one rule: a table names one curve with its parameters, or a sequence of tables with the boundaries between them, or
a product of tables; there is no other way to compose.
"""

from collections.abc import Callable
from typing import Any

from bsexp.errors import UsageError, nearest
from bsexp.schedules import curves
from bsexp.schedules.curves import Curve
from bsexp.schedules.parameters import MOST_CYCLES, Parameter, above, choice, count, fraction, settle
from bsexp.schedules.shapes import ONE_CYCLE_PARAMETERS


def _value(name: str, default: float) -> Parameter:
    return Parameter(name, "number", default, "value of the curve")


def _from_to(start: float, end: float) -> tuple[Parameter, Parameter]:
    return _value("start", start), _value("end", end)


_POSITIONS = Parameter("milestones", "numbers", (0.3, 0.6, 0.8), "positions", 0, 1, increasing=True)
_CYCLE = (count("cycles", 4, "cycles", high=MOST_CYCLES), above("ratio", 4, 1, "highest / lowest"))

CURVES: dict[str, tuple[tuple[Parameter, ...], Callable[..., Curve]]] = {
    "constant": ((_value("value", 1),), curves.constant),
    "linear": (_from_to(1, 0), curves.linear),
    "polynomial": ((*_from_to(1, 0), above("power", 2, 0, "exponent")), curves.polynomial),
    "power-rise": ((*_from_to(1, 2), above("power", 2, 0, "exponent")), curves.power_rise),
    "cosine": (_from_to(1, 0), curves.cosine),
    "exponential": ((above("start", 1, 0, "value at 0"), above("end", 0.01, 0, "value at 1")), curves.exponential),
    "step": ((_POSITIONS, above("factor", 0.2, 0, "each milestone multiplies by it"), _value("start", 1)), curves.step),
    "piecewise": (
        (
            Parameter("boundaries", "numbers", (0.5,), "positions", 0, 1, increasing=True),
            Parameter("values", "numbers", (1.0, 0.1), "one more than boundaries"),
        ),
        curves.piecewise,
    ),
    "inverse-sqrt": ((fraction("timescale", 0.05, "t"),), curves.inverse_sqrt),
    "wsd": (
        (
            fraction("cooldown_fraction", 0.2, "the last part", open_high=False),
            Parameter("end", "number", 0.0, "value at 1"),
            choice("cooldown", "linear", ("linear", "sqrt"), "how it falls"),
        ),
        curves.wsd,
    ),
    "triangular": (
        (
            *_CYCLE,
            Parameter("halving", "flag", False, "halve the amplitude each cycle"),
            above("gamma", 1, 0, "share of the amplitude left at 1"),
            fraction("peak", 0.5, "where in a cycle the top lies"),
        ),
        curves.triangular,
    ),
    "cosine-restarts": ((*_CYCLE, above("cycle_mult", 1, 0, "ratio of lengths")), curves.cosine_restarts),
    "one-cycle": (ONE_CYCLE_PARAMETERS, curves.one_cycle),
    "warm-up": ((fraction("share", 0.05, "its length"), _value("start", 0.1)), curves.warm_up),
}


def read_curve(place: str, table: dict[str, Any]) -> Curve:
    """The curve that `table` describes.

    `{curve = NAME, ...}`, `{sequence = [tables], boundaries = [positions]}` (each curve sees its own section as
    [0, 1]) or `{product = [tables]}`. `place` names the table in errors. Raises UsageError.

    >>> read_curve("lr", {"sequence": [{"curve": "linear", "start": 0.1, "end": 1}, {"curve": "constant"}],
    ...                   "boundaries": [0.2]})(0.1)
    0.55
    """
    table = dict(table)
    if "sequence" in table or "product" in table:
        key = "sequence" if "sequence" in table else "product"
        parts = table.pop(key)
        if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
            raise UsageError(f"{place}.{key}", repr(parts), "give a list of tables, each a curve")
        inner = [read_curve(f"{place}.{key}[{k}]", part) for k, part in enumerate(parts)]
        if key == "product":
            _settled(place, "product", (), table)
            return curves.product(*inner)
        boundaries = Parameter("boundaries", "numbers", (), "", 0, 1, open_low=True, open_high=True, increasing=True)
        marks = _settled(place, "sequence", (boundaries,), table)["boundaries"]
        if len(marks) != len(inner) - 1:
            raise UsageError(
                f"{place}.boundaries", f"{len(marks)} for {len(inner)} curves", "give one less than curves"
            )
        return curves.join(inner, marks)
    name = table.pop("curve", None)
    if name is None:
        raise UsageError(place, "a table without curve, sequence or product", "curve = one of " + ", ".join(CURVES))
    if not isinstance(name, str) or name not in CURVES:
        raise UsageError(f"{place}.curve", repr(name), nearest(str(name), CURVES))
    parameters, build = CURVES[name]
    values = _settled(place, name, parameters, table)
    if name == "piecewise" and len(values["values"]) != len(values["boundaries"]) + 1:
        raise UsageError(f"{place}.values", f"{len(values['values'])}", "give one more than boundaries")
    try:
        return build(**values)
    except ValueError as error:
        raise UsageError(place, name, str(error)) from None


def _settled(place: str, owner: str, parameters: tuple[Parameter, ...], table: dict[str, Any]) -> dict[str, Any]:
    try:
        return settle(owner, parameters, table)
    except UsageError as error:
        raise error.within(place) from None
