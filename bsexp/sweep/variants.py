"""What an experiment makes of its arms besides the arms: rungs of a ladder of budgets, and variants for sensitivity;
and which arms take the tuned learning rate of another one.

The one rule: a rung is an arm of its own, tuned like one; a variant differs from its arm in one thing, and so has the
arm's learning rate.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bsexp import catalog
from bsexp.analysis.declared import LADDER, cells_of
from bsexp.config import check_value, complete
from bsexp.errors import UsageError, nearest, shown
from bsexp.options import OPTIONS
from bsexp.sweep.axes import check_known, table_at, takes
from bsexp.sweep.cells import label_of, put

LR_FACTOR = "lr_factor"


class Rate(NamedTuple):
    """A learning rate that is `times` the one chosen for the arm `of`."""

    of: str
    times: float


Cells = dict[str, dict[str, Any]]


def split_inherited(tables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tables of [arms] without `lr_from`, and that by arm: the name of the arm whose rate it takes."""
    kept: dict[str, Any] = {}
    inherited: dict[str, str] = {}
    for arm, table in tables.items():
        kept[arm] = table
        if not isinstance(table, dict) or "lr_from" not in table:
            continue
        place, source = f"arms.{arm}.lr_from", table["lr_from"]
        if source not in tables or source == arm:
            others = [other for other in tables if other != arm]
            raise UsageError(place, shown(source), nearest(str(source), others))
        if "lr" in table:
            raise UsageError(place, "with lr", "drop one of them")
        if isinstance(tables[source], dict) and "lr_from" in tables[source]:
            raise UsageError(place, f"{source} takes its rate from another arm itself", "name that one")
        kept[arm] = {key: value for key, value in table.items() if key != "lr_from"}
        inherited[arm] = source
    return kept, inherited


def inherited_rates(cells: Cells, inherited: Mapping[str, str], tuned: bool) -> dict[str, Rate]:
    """The rates of cells whose arm has `lr_from`: that of the same cell of the other arm, else of that arm's only one.

    Where the other cell has a rate of its own, or nothing is tuned, it is put into the settings.
    """
    rates: dict[str, Rate] = {}
    for cell in cells:
        arm, _, label = cell.partition("[")
        if arm not in inherited:
            continue
        source = inherited[arm] + (f"[{label}" if label else "")
        if source not in cells:
            source = inherited[arm]
        if source not in cells:
            several = ", ".join(cells_of(source, cells)[:3])
            raise UsageError(f"arms.{arm}.lr_from", f"{source} has other cells: {several}", "give both the same axes")
        _take(cells, cell, Rate(source, 1.0), rates, tuned)
    return rates


def _take(cells: Cells, cell: str, rate: Rate, rates: dict[str, Rate], tuned: bool) -> None:
    own = cells[rate.of].get("lr")
    if rate.of in rates:
        rates[cell] = Rate(rates[rate.of].of, rates[rate.of].times * rate.times)
    elif tuned and own is None:
        rates[cell] = rate
    else:
        cells[cell]["lr"] = (own if own is not None else default_rate(cells[rate.of])) * rate.times


def default_rate(settings: Mapping[str, Any]) -> float:
    """The learning rate of an arm that is given none: its data set's, with AdamW .001."""
    return float(complete({**settings})["lr"])


def add_rungs(cells: Cells, document: Mapping[str, Any]) -> Cells:
    """The cells and, for [budgets] samples = [0.25, 1.0], those with such shares of their budget; 1.0 is the cell."""
    if "budgets" not in document:
        return cells
    table = table_at(document["budgets"], "budgets")
    for key in table:
        if key != "samples":
            raise UsageError(f"budgets.{key}", "unknown key", nearest(key, ("samples",)))
    shares: Any = table.get("samples")
    right = isinstance(shares, list) and all(
        isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1 for share in shares
    )
    if not right or 1.0 not in shares:
        raise UsageError("budgets.samples", shown(shares), "give shares of the budget above 0, up to 1.0 itself")
    made: Cells = {}
    for cell, settings in cells.items():
        for share in sorted({float(share) for share in shares}):
            name = cell if share == 1 else variant(cell, f"{LADDER}{share:g}")
            made[name] = settings if share == 1 else {**settings, "epochs": share * _epochs(settings)}
    return made


def _epochs(settings: Mapping[str, Any]) -> float:
    given = settings.get("epochs")
    return float(given if given is not None else catalog.find_dataset(settings.get("dataset") or "digits").epochs)


def variant(cell: str, text: str) -> str:
    """The name of a cell that differs by `text`: `decay[dropout=0.25,budget=0.5]`."""
    return f"{cell[:-1]},{text}]" if cell.endswith("]") else f"{cell}[{text}]"


def add_sensitivity(
    cells: Cells, document: Mapping[str, Any], wanted: list[str], rates: dict[str, Rate], tuned: bool
) -> dict[str, tuple[str, str]]:
    """Add the variants of [sensitivity] for the `wanted` cells; (cell, what differs) of each variant.

    Each key is an option or a parameter with a list of values, or lr_factor: times the cell's own rate.
    """
    made: dict[str, tuple[str, str]] = {}
    for key, values in table_at(document.get("sensitivity", {}), "sensitivity").items():
        place = f"sensitivity.{key}"
        if not isinstance(values, list) or not values:
            raise UsageError(place, shown(values), "give a list of values")
        if key == "lr":
            raise UsageError(place, "a rate that no arm chose", "write lr_factor = [0.5, 2.0]")
        if key != LR_FACTOR:
            check_known(key, place, cells.values())
        for value in values:
            for cell in wanted:
                if key != LR_FACTOR and not takes(cells[cell], key):
                    continue
                what = f"{key}={label_of(value)}"
                name = variant(cell, what)
                cells[name] = dict(cells[cell])
                times = 1.0
                if key == LR_FACTOR:
                    times = check_value(OPTIONS["lr"], value, place)
                else:
                    put(cells[name], key, value, place)
                _take(cells, name, Rate(cell, times), rates, tuned)
                made[name] = (cell, what)
    return made
