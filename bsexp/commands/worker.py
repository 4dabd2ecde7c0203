"""`bsexp worker`: takes runs of a planned sweep until none is left."""

import time
from pathlib import Path
from typing import Any

from bsexp.commands.given import absent, talk_of, values_of
from bsexp.commands.making import tell_end, watched
from bsexp.errors import StoreError
from bsexp.store.paths import Experiment as Place
from bsexp.sweep.conduct import conduct, conduct_waiting
from bsexp.sweep.experiment import stored_experiment


def main(folder: str, given: dict[str, Any]) -> int:
    """Make what is missing in `folder`, beside any other workers and sweeps; 0, or 3 where runs failed."""
    began = time.monotonic()
    talk = talk_of(given)
    options = {"jobs": 1, **values_of(given)}
    place = Place(Path(folder))
    if not place.path.is_dir():
        raise StoreError("results", f"{folder}: {absent(place.path)}", "plan a sweep with: bsexp sweep FILE --jobs 0")
    asked = stored_experiment(place)
    if asked is None and not place.has_runs:
        raise StoreError("results", f"{folder}: nothing is planned in it", "plan with: bsexp sweep FILE --jobs 0")
    if asked is None:
        tally = watched(talk, options, lambda means, watch: conduct_waiting(place, means, watch))
    else:
        tally = watched(talk, options, lambda means, watch: conduct(asked, place, means, watch))
    return tell_end(tally, place.path, options, talk, time.monotonic() - began)
