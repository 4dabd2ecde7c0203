"""Claims as an experiment file writes them: from [[claims]] to `Claim`s about the arms that the experiment has.

The one rule: a claim is complete before the data: which arms it compares, in what, by which margin and on which seeds
is settled here, and nothing of it is guessed from results.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bsexp.errors import UsageError, nearest, shown

if TYPE_CHECKING:
    from bsexp.analysis.claims import Claim

KEYS = (
    *("text", "source", "compare", "metric", "expect", "control", "margin", "margin_points"),
    *("kind", "along", "positions", "expected", "sd", "effect", "pool"),
)
TEXTS = ("text", "source", "metric", "expect", "control", "kind", "along", "pool")
NUMBERS = ("margin", "margin_points", "expected", "sd", "effect")
# What is expected rather than claimed: no word depends on it.
EXPECTED = ("sd", "effect")
OUTCOMES = (
    *("test_loss", "test_accuracy", "test_loss_ema", "test_accuracy_ema", "train_loss", "train_accuracy"),
    *("val_loss", "val_accuracy", "val_loss_ema", "val_accuracy_ema", "memorised", "generalization_gap"),
    *("updates", "samples", "train_seconds"),
)
TO_TARGET = ("samples_to_target", "updates_to_target", "seconds_to_target", "budget_to_target")
# Of a run where it reached the target: equal training loss, where that is the target.
AT_TARGET = ("val_loss_at_target", "val_accuracy_at_target")
# Of a run and the one of its twin (analysis.twins).
OF_TWINS = ("disagreement", "barrier")
# Of kept weights (`save_model`), and of the predictions' confidences: measured after the run (sweep.inspecting).
OF_WEIGHTS = ("sharpness", "lr_sharpness", "barrier")
INSPECTED = (*OF_WEIGHTS, "calibration_error")
LADDER = "budget="


@dataclass(frozen=True)
class Design:
    """What claims are about: the experiment's arms with their settings, its seeds and whether it names a target.

    `rates`: by arm, the arm whose tuned rate it takes and what that is multiplied by.
    """

    arms: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = ()
    looks: tuple[int, ...] = ()
    target: bool = False
    rates: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    def twin_of(self, arm: str) -> str:
        """The one twin of `arm`; UsageError otherwise."""
        from bsexp.analysis.twins import twin_of

        return twin_of(arm, self.arms, self.rates, bool(self.tuning_seeds))


@dataclass(frozen=True)
class Declared:
    """A claim, what it says in words, and where that was said (empty: nowhere).

    `sd`: expected standard deviation over seeds of the paired difference; `effect`: expected size of the effect (where
    the margin is a share of it, the control's); both above 0, in the outcome's unit, for planning only. `pool`:
    what the effect is called that several claims measure on several tasks; empty: it stands alone.
    """

    claim: "Claim"
    text: str
    source: str = ""
    sd: float | None = None
    effect: float | None = None
    pool: str = ""


def read_claims(tables: Sequence[Mapping[str, Any]], design: Design) -> list[Declared]:
    """The claims of [[claims]], in order. UsageError with the dotted key for what can't be a claim of this design.

    `compare`: two arms; two lists of arms, of which the best of each is compared; with kind "slope" three or more. An
    arm with a grid is named by its cell, `decay[dropout=0.25]`; in a list its name alone stands for all its cells.
    """
    found = []
    for number, table in enumerate(tables):
        place = f"claims[{number}]"
        try:
            found.append(_read(table, place, design))
        except UsageError as error:
            raise error if error.what.startswith(place) else error.within(place) from None
    texts = [each.text for each in found]
    for number, text in enumerate(texts):
        if text in texts[:number]:
            raise UsageError(f"claims[{number}].text", shown(text), "two claims can't say the same")
    return found


def _read(table: Mapping[str, Any], place: str, design: Design) -> Declared:
    # Statistics are imported where there is something to judge: planning without claims starts faster.
    from bsexp.analysis.claims import Claim

    _check(table, place, design)
    kind = _kind(table, place)
    arms, positions = _arms(table, kind, place, design)
    control = table.get("control")
    control = None if control is None else _cell(control, f"{place}.control", design)
    claim = Claim(
        name=table["text"],
        arms=arms,
        outcome=table["metric"],
        word=table["expect"],
        seeds=design.seeds,
        kind=kind,
        margin=table.get("margin"),
        margin_points=table.get("margin_points"),
        control=control,
        tuning_seeds=design.tuning_seeds,
        positions=positions,
        expected=table.get("expected", 0.0),
        looks=design.looks,
    )
    if claim.outcome in OF_TWINS:
        for arm in (*arms_of(claim), *([control] if control else [])):
            try:
                design.twin_of(arm)
            except UsageError as error:
                raise error.within(f"{place}.metric: {claim.outcome}") from None
    told = {key: table[key] for key in ("source", "sd", "effect", "pool") if key in table}
    return Declared(claim, table["text"], **told)


def arms_of(claim: "Claim") -> list[str]:
    """The arms that a claim compares, those of both sets where it compares sets."""
    return list(dict.fromkeys(arm for each in claim.arms for arm in (each if isinstance(each, tuple) else (each,))))


def _check(table: Mapping[str, Any], place: str, design: Design) -> None:
    from bsexp.analysis.words import WORDS

    for key, value in table.items():
        if key not in KEYS:
            raise UsageError(f"{place}.{key}", "unknown key", nearest(key, KEYS))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (key in TEXTS and not (isinstance(value, str) and value.strip())) or (key in NUMBERS and not number):
            raise UsageError(f"{place}.{key}", shown(value), f"give a {'number' if key in NUMBERS else 'text'}")
        if key in EXPECTED and not 0 < value < math.inf:
            raise UsageError(f"{place}.{key}", shown(value), "give a number above 0")
    for key in ("text", "compare", "metric", "expect"):
        if key not in table:
            raise UsageError(f"{place}.{key}", "missing", "a claim has text, compare, metric and expect")
    if table["expect"] not in WORDS:
        raise UsageError(f"{place}.expect", shown(table["expect"]), nearest(table["expect"], WORDS))
    known = tuple(dict.fromkeys((*OUTCOMES, *OF_TWINS, *INSPECTED, *TO_TARGET, *AT_TARGET)))
    if table["metric"] not in known:
        raise UsageError(f"{place}.metric", shown(table["metric"]), nearest(table["metric"], known))
    if table["metric"] in (*TO_TARGET, *AT_TARGET) and not design.target:
        raise UsageError(f"{place}.metric", shown(table["metric"]), "name the target: [target] val_accuracy = 0.8")


def _kind(table: Mapping[str, Any], place: str) -> str:
    compare = table["compare"]
    lists = isinstance(compare, list) and any(isinstance(each, list) for each in compare)
    kind = str(table.get("kind", "best-of-a-set" if lists else "two-arms"))
    if table["metric"] in TO_TARGET and kind != "ratio":
        raise UsageError(f"{place}.kind", shown(kind), f'{table["metric"]} may be infinite: kind = "ratio"')
    return kind


def _arms(table: Mapping[str, Any], kind: str, place: str, design: Design) -> tuple[Any, tuple[float, ...]]:
    compare, where = table["compare"], f"{place}.compare"
    if not isinstance(compare, list) or not compare:
        raise UsageError(where, shown(compare), "give a list of arms")
    if kind == "best-of-a-set":
        if len(compare) != 2 or not all(isinstance(each, list) and each for each in compare):
            raise UsageError(where, shown(compare), "give two lists of arms: the best of each is compared")
        return tuple(tuple(_cells(each, where, design)) for each in compare), ()
    if kind != "slope":
        return tuple(_cell(name, where, design) for name in compare), ()
    cells = _cells(compare, where, design)
    return tuple(cells), _positions(table, cells, place, design)


def _positions(table: Mapping[str, Any], cells: list[str], place: str, design: Design) -> tuple[float, ...]:
    if ("along" in table) == ("positions" in table):
        raise UsageError(place, "a slope", "give either along (an option of the arms) or positions (a number for each)")
    given = table.get("positions")
    if given is None:
        key = table["along"]
        given = [{**design.arms[cell], **design.arms[cell].get("parameters", {})}.get(key) for cell in cells]
    where = f"{place}.{'along' if 'along' in table else 'positions'}"
    if not isinstance(given, list) or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in given):
        raise UsageError(where, shown(table.get("along", given)), "each of the arms needs a number there")
    return tuple(float(each) for each in given)


def _cells(names: Sequence[Any], where: str, design: Design) -> list[str]:
    """The cells that names stand for: a cell's own, or an arm's for all of its cells at the whole budget."""
    found: list[str] = []
    for name in names:
        cells = [name] if name in design.arms else [cell for cell in cells_of(name, design.arms) if LADDER not in cell]
        if not cells:
            raise _unknown(name, where, design)
        found += cells
    return list(dict.fromkeys(found))


def _cell(name: Any, where: str, design: Design) -> str:
    """The one cell that `name` stands for."""
    if isinstance(name, str) and name in design.arms:
        return name
    cells = [cell for cell in cells_of(name, design.arms) if LADDER not in cell]
    if cells:
        raise UsageError(where, f"{name} stands for {len(cells)} cells", f"name one, such as {cells[0]}")
    raise _unknown(name, where, design)


def cells_of(name: Any, arms: Mapping[str, Any]) -> list[str]:
    """The cells of the arm `name` in a grid."""
    return [arm for arm in arms if isinstance(name, str) and arm.startswith(f"{name}[")]


def _unknown(name: Any, where: str, design: Design) -> UsageError:
    return UsageError(where, f"no arm {shown(name)}", nearest(str(name), design.arms))
