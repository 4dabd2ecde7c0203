"""experiment.toml beside the results: the union of what was asked for under one name.

The one rule: a name collects arms and seeds; an arm keeps its meaning for as long as its results are kept.
"""

from typing import Any

from bsexp.errors import StoreError
from bsexp.records import SCHEMA_VERSION
from bsexp.store.files import check_schema, write_text
from bsexp.store.lease import locked
from bsexp.store.paths import Experiment as Place
from bsexp.store.tables import read_definition


def merge_definition(place: Place, asked: dict[str, Any]) -> None:
    """Add the arms and seeds of `asked` to what is stored; StoreError where an arm would change its meaning.

    `asked` has question, demonstration, seeds, arms and, where something is tuned, tune.
    """
    # Several sweeps may add to one name at once: what one has read, no other may change before it has written.
    with locked(place.path):
        _merge(place, asked)


def _merge(place: Place, asked: dict[str, Any]) -> None:
    import tomli_w

    stored = read_definition(place)
    check_schema(place.definition, stored.get("schema_version", SCHEMA_VERSION))
    arms = dict(stored.get("arms", {}))
    for arm, settings in asked["arms"].items():
        if arm in arms:
            _refuse_difference(place, arm, arms[arm], settings)
        arms[arm] = settings
    document = {"schema_version": SCHEMA_VERSION, "name": place.title, **stored, **asked, "arms": arms}
    document["seeds"] = sorted({*stored.get("seeds", []), *asked["seeds"]})
    document["question"] = asked["question"] or stored.get("question", "")
    arms_last = {**{key: value for key, value in document.items() if key != "arms"}, "arms": arms}
    text = tomli_w.dumps(arms_last)
    if not place.definition.exists() or place.definition.read_text(encoding="utf-8") != text:
        write_text(place.definition, text)


def _refuse_difference(place: Place, arm: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise StoreError(
                "results",
                f"{place.name}: arm {arm!r} has {key} = {_shown(old.get(key))} there, {_shown(new.get(key))} now",
                "rename the arm, or use another --name",
            )


def _shown(value: Any) -> str:
    return "its default" if value is None else repr(value)
