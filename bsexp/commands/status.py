"""`bsexp status`: how far a folder of results is."""

from pathlib import Path
from typing import Any

from bsexp.commands.given import absent, talk_of
from bsexp.errors import StoreError
from bsexp.store.paths import Experiment
from bsexp.store.reading import packed_statuses
from bsexp.store.tables import counts

STATES = ("finished", "running", "waiting", "failed", "diverged", "collapsed")


def main(folder: str | None, given: dict[str, Any]) -> int:
    """Count runs by state, for one experiment or for each one in a folder."""
    talk = talk_of(given)
    path = Path(folder or "results")
    if not path.is_dir():
        raise StoreError("results", f"{path}: {absent(path)}", "bsexp sweep makes one")
    places = (
        [Experiment(path)]
        if Experiment(path).has_runs or Experiment(path).packed
        else [Experiment(item) for item in sorted(path.iterdir()) if item.is_dir()]
    )
    documents = []
    for place in places:
        for part, found in ((place.name, place), (f"{place.name} (tuning)", place.tuning)):
            if found.has_runs:
                states = counts(found)
                documents.append(
                    {
                        "experiment": part,
                        "runs": sum(states.values()),
                        **{state: states.get(state, 0) for state in STATES},
                    }
                )
            elif found.runs_table.exists() and found.packed:
                documents.append({"experiment": part, **_packed(found)})
    if given.get("json"):
        talk.document({"counts": documents})
    elif documents:
        talk.table(
            ("experiment", "runs", *STATES), [[str(value) for value in document.values()] for document in documents]
        )
    else:
        talk.result(f"{path}: no results in it")
    return 0


def _packed(place: Experiment) -> dict[str, int]:
    states = packed_statuses(place.runs_table)
    return {"runs": len(states), **{state: states.count(state) for state in STATES}}
