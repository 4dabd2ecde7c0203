"""claims.lock: what was claimed before the first reported run had ended.

The one rule: once a reported run is there the file is never written again; what is claimed later is held against it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bsexp.errors import StoreError
from bsexp.records import SCHEMA_VERSION
from bsexp.store.files import check_schema, read_json, write_json
from bsexp.store.lease import locked
from bsexp.store.paths import Experiment as Place
from bsexp.store.runs import finished

KEYS = ("claims", "seeds", "looks", "tune", "target")


def declaration(definition: Mapping[str, Any]) -> dict[str, Any]:
    """What of an experiment's definition belongs to its claims: the claims, seeds, looks, tuning rule and target."""
    return {key: definition.get(key) or ([] if key in ("claims", "seeds", "looks") else {}) for key in KEYS}


def claims_hash(declared: Mapping[str, Any]) -> str:
    """32 hexadecimal digits of SHA-256 over the canonical JSON of a declaration."""
    text = json.dumps({key: declared[key] for key in KEYS}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def declare(place: Place, declared: Mapping[str, Any]) -> list[str]:
    """Write claims.lock, unless reported runs were there when it was written; what now differs from it, in words.

    `declared`: see `declaration`. A first lock beside finished runs counts them in `runs_before`.
    """
    # Several sweeps may begin at once: only the first of them declares.
    with locked(place.path):
        return _declare(place, declared)


def _declare(place: Place, declared: Mapping[str, Any]) -> list[str]:
    kept = read_lock(place)
    before = sum(finished(folder) is not None for folder in place.run_folders())
    if kept is None or not (before or kept["runs_before"]):
        document = {"schema_version": SCHEMA_VERSION, "hash": claims_hash(declared), "runs_before": before}
        text = {**document, **{key: declared[key] for key in KEYS}}
        if text != kept:
            write_json(place.claims_lock, text)
        return []
    return changes(kept, declared)


def read_lock(place: Place) -> dict[str, Any] | None:
    """The document of claims.lock, None where there is none. StoreError where it was edited."""
    if not place.claims_lock.exists():
        return None
    document = read_json(place.claims_lock)
    check_schema(place.claims_lock, document.get("schema_version", SCHEMA_VERSION))
    whole = all(key in document for key in (*KEYS, "runs_before", "hash"))
    if not whole or claims_hash(document) != document["hash"]:
        cure = "restore it: claims that were changed after the data are no claims"
        raise StoreError("results", f"{place.claims_lock}: not what was written", cure)
    return document


def changes(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two declarations, each difference as a text; empty where nothing does."""
    found = _claim_changes(kept["claims"], now["claims"])
    added = [seed for seed in now["seeds"] if seed not in kept["seeds"]]
    removed = [seed for seed in kept["seeds"] if seed not in now["seeds"]]
    found += [f"seeds added: {_listed(added)}"] if added else []
    found += [f"seeds removed: {_listed(removed)}"] if removed else []
    for key in ("looks", "tune", "target"):
        if kept[key] != now[key]:
            found.append(f"{key}: {_shown(kept[key])} became {_shown(now[key])}")
    return found


def _claim_changes(kept: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    before, after = ({claim["text"]: claim for claim in claims} for claims in (kept, now))
    found = [f"claim added: {text}" for text in after if text not in before]
    found += [f"claim removed: {text}" for text in before if text not in after]
    for text in before:
        for key in sorted({*before[text], *after.get(text, before[text])} - {"source"}):
            old, new = before[text].get(key), after.get(text, before[text]).get(key)
            if old != new:
                found.append(f"claim {text!r}: {key} {_shown(old)} became {_shown(new)}")
    return found


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def _shown(value: Any) -> str:
    return "nothing" if value in (None, {}, []) else json.dumps(value)
