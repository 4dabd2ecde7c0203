"""Twins: two arms that are one and the same, but that one of them reads its samples in another order.

The one rule: what a twin is, is decided here and nowhere else: everything that makes numbers is equal, the learning
rate too, and of the two exactly one reads order 0. So an arm in another order has one twin at most; the one that it is
a twin of may have several.
"""

import json
from collections.abc import Mapping
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import BsexpError, UsageError

ORDERS = ("order", "order_from")
Arms = Mapping[str, Mapping[str, Any]]
# By arm: the arm whose tuned rate it takes, and times what.
Rates = Mapping[str, tuple[str, float]]


def find_twins(arms: Arms, rates: Rates, tuned: bool) -> dict[str, tuple[str, ...]]:
    """The twins of each arm that has some, in the order of `arms`.

    `arms`: settings by name, as an experiment file or a stored definition has them. `tuned`: an arm without a rate of
    its own gets a tuned one. UsageError for settings that are none.
    """
    return _alike({arm: _told(arm, settings, rates, tuned) for arm, settings in arms.items()})


def twin_of(arm: str, arms: Arms, rates: Rates, tuned: bool) -> str:
    """The one twin of `arm`. UsageError where there is none, or where there are several."""
    found = find_twins(arms, rates, tuned).get(arm, ())
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(arm, f"has several twins: {', '.join(found)}", "name one of these: they have one each")
    near = _alike({name: {**_told(name, each, {}, False), "lr": None} for name, each in arms.items()}).get(arm)
    if near:
        cure = f'give one of them lr_from = "{near[0] if arms[arm].get("order") else arm}", or both the same lr'
        raise UsageError(arm, f"has another learning rate than {near[0]}", cure)
    cure = f'add an arm that is the same, with order = 1 and lr_from = "{arm}"'
    raise UsageError(arm, "has no twin in another order", cure)


def _told(arm: str, settings: Mapping[str, Any], rates: Rates, tuned: bool) -> dict[str, Any]:
    """Everything that makes an arm's numbers, seed apart, in one way of saying it."""
    try:
        told = RunConfig(**{**settings, "seed": 0}).identity()
    except BsexpError as error:
        raise error.within(f"arms.{arm}") from None
    if tuned and settings.get("lr") is None:
        told["lr"] = list(rates.get(arm, (arm, 1.0)))
    return told


def _alike(told: Mapping[str, dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for arm, values in told.items():
        rest = {key: value for key, value in values.items() if key not in ORDERS}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(arm)
    found = {}
    for members in groups.values():
        for arm in members:
            other = bool(told[arm].get("order"))
            if twins := tuple(mate for mate in members if bool(told[mate].get("order")) != other):
                found[arm] = twins
    return found
