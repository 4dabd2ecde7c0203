"""Numbers as a reader meets them: percent, points, counts, intervals.

The one rule: a missing number is written as a dash, never as nan; and a
number has the digits that mean something.
"""

import math
from typing import Any

from bsexp.analysis.paired import Estimate

DASH = "–"


def missing(value: Any) -> bool:
    """Whether a value was not measured: None or nan."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Any) -> str:
    """At most four significant digits, without exponent where that is short; a dash for none.

    >>> number(0.05), number(1293), number(3e-05), number(-2.0), number(True)
    ('0.05', '1,293', '3e-05', '−2', 'yes')
    """
    if missing(value):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if abs(value) >= 1000 and math.isfinite(value):
        return _minus(f"{value:,.0f}")
    return _minus(f"{float(value):.4g}")


def count(value: Any) -> str:
    """A whole number with thousands separators."""
    return DASH if missing(value) else _minus(f"{value:,.0f}")


def seconds(value: Any) -> str:
    """A duration in seconds with three significant digits at most.

    >>> seconds(0.1234), seconds(12.34), seconds(4321.0)
    ('0.123', '12.3', '4,321')
    """
    if missing(value):
        return DASH
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(value: Any) -> str:
    """A share as percent with two decimals.

    >>> percent(0.87654)
    '87.65 %'
    """
    return DASH if missing(value) else _minus(f"{100 * value:.2f} %")


def points(value: Any) -> str:
    """A difference of shares in percentage points, signed.

    >>> points(-0.012)
    '−1.20'
    """
    return DASH if missing(value) else _signed(100 * value, "+.2f")


def loss(value: Any) -> str:
    """A cross-entropy in nats with four decimals."""
    return DASH if missing(value) else _minus(f"{value:.4f}")


def percent_interval(estimate: Estimate | None) -> str:
    """A share with its interval, in percent: `87.65 % [87.1, 88.2]` with two decimals throughout."""
    return _with_interval(estimate, 100.0, 2, " %")


def loss_interval(estimate: Estimate | None) -> str:
    """A loss in nats with its interval."""
    return _with_interval(estimate, 1.0, 4, "")


def points_interval(estimate: Estimate | None) -> str:
    """A difference of shares with its interval, in percentage points, signed."""
    return _with_interval(estimate, 100.0, 2, "", sign="+")


def loss_difference_interval(estimate: Estimate | None) -> str:
    """A difference of losses with its interval, in nats, signed."""
    return _with_interval(estimate, 1.0, 4, "", sign="+")


def _with_interval(estimate: Estimate | None, scale: float, digits: int, unit: str, sign: str = "") -> str:
    if estimate is None:
        return DASH
    form = f"{sign}.{digits}f"
    text = _signed(estimate.mean * scale, form) + unit
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{_signed(estimate.low * scale, form)}, {_signed(estimate.high * scale, form)}]"


def _signed(value: float, form: str) -> str:
    text = format(value, form)
    # A rounded zero has no sign.
    return _minus(text.lstrip("+-") if float(text) == 0 else text)


def plus_minus(estimate: Estimate, scale: float, digits: int) -> str:
    """`mean ± half-width`; the mean alone without an interval.

    >>> plus_minus(Estimate(0.5, 0.4, 0.6, 3), 100.0, 2)
    '50.00 ± 10.00'
    """
    text = _minus(f"{estimate.mean * scale:.{digits}f}")
    half = estimate.half_width
    return text if half is None else f"{text} ± {half * scale:.{digits}f}"


def span(values: list[Any], form: Any = count) -> str:
    """The one value of a list, or its smallest to its largest.

    >>> span([3, 3]), span([3, 1000]), span([])
    ('3', '3 to 1,000', '–')
    """
    kept = [value for value in values if not missing(value)]
    if not kept:
        return DASH
    low, high = form(min(kept)), form(max(kept))
    return low if low == high else f"{low} to {high}"


def _minus(text: str) -> str:
    return text.replace("-", "−") if text[:1] == "-" else text
