"""`bsexp measure --critical`: the critical batch along training, by branches.

The one rule: a branch that has ended is in critical.csv; run again, the command makes the others.
"""

from dataclasses import asdict, replace
from typing import Any

from bsexp.commands.measure import about, options_of, place_of, surroundings_of, tell_parts
from bsexp.config import parse_values
from bsexp.console import Talk
from bsexp.options import OPTIONS
from bsexp.store.measured import critical_branches
from bsexp.sweep.branching import devices_for
from bsexp.sweep.configs import kept_settings
from bsexp.sweep.critical import branches, make_branches, trunks
from bsexp.sweep.devices import default_model, on_gpu
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.signals import StopSignals

# As many as an interval over seeds takes.
SEEDS = "0-11"
# What differs between trunks, or is no setting of theirs.
APART = ("seed", "parameters", "schedule")


def measure_critical(values: dict[str, Any], talk: Talk) -> int:
    """Make the branches that are missing, write the report, print what it says."""
    seeds = list(dict.fromkeys(parse_values(OPTIONS["seed"], values.get("seeds", SEEDS), "--seeds")))
    options = {name: value for name, value in options_of(values).items() if name != "seed"}
    surroundings = surroundings_of(values)
    options.setdefault("model", default_model(options["dataset"], surroundings.device))
    configs = trunks(options, seeds)
    devices = devices_for(surroundings.device, values.get("jobs"))
    jobs = len(devices)
    if surroundings.threads is None and not on_gpu(surroundings.device):
        surroundings = replace(surroundings, threads=1)
    place = place_of(values, "critical")
    settings = kept_settings(configs[0], APART)
    kept = critical_branches(place.critical, settings)
    number = len(seeds) * len(branches())
    made = sum(row.seed in seeds for row in kept.rows)
    talk.note(f"{number - made:,} of {number:,} branches to make, {jobs} seed{'s'[: jobs != 1]} at a time")
    if made < number:
        every = sorted({*seeds, *(row.seed for row in kept.rows)})
        kept.begin({"seeds": every, **describe_machine()})
        with StopSignals():
            settled = make_branches(configs, kept.rows, surroundings, devices, kept.keep, talk.note)
        kept.begin(about({"dataset": settings["dataset"]}, settled, seeds=every, jobs=jobs))
    from bsexp.analysis.critical_batch import critical_batches
    from bsexp.report.measured import write_measured

    parts = [part for part in write_measured(place) if "critical" in part.figures or not part.figures]
    if values.get("json"):
        points = critical_batches(kept.rows)
        talk.document({"file": str(place.critical), "points": [_plain(asdict(point)) for point in points]})
        return 0
    tell_parts(parts, talk)
    talk.result(f"files: {place.critical}, {place.report / 'measured.md'}")
    return 0


def _plain(value: Any) -> Any:
    """Infinities and not-a-number, which JSON can't say, as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
