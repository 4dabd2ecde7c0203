"""What is known of each arm besides its outcome, from its settings, its plan, its runs and its tuning.

The one rule: what follows from the settings is worked out as a run works it out; what doesn't is read from results or
is told as not known.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bsexp.analysis.confounds import Facts
from bsexp.analysis.outcomes import arm_of
from bsexp.config import RunConfig
from bsexp.errors import BsexpError
from bsexp.planning import micro_batch_sizes
from bsexp.schedules import simulate
from bsexp.schedules.closed import ClosedLoop
from bsexp.schedules.planned import Planned

if TYPE_CHECKING:
    import pandas

    from bsexp.store.tables import Results

# A schedule with more different settings than this changes all the time: it has no phases.
MOST_PHASES = 12


def facts_of(results: "Results", arms: Iterable[str], chosen: Mapping[str, float]) -> dict[str, Facts]:
    """The facts of each of `arms`. `chosen`: the learning rate of each arm that was tuned or takes a tuned one's."""
    return {arm: _facts(results, arm, chosen.get(arm)) for arm in arms}


def scope_of(results: "Results", arm: str) -> str:
    """What a verdict on this arm speaks of: model, data, budget and optimizer, as one phrase; empty if not known."""
    config = config_of(results, arm)
    if config is None:
        return ""
    rows = runs_of(results, arm, None)
    trained = _num_train(results, rows)
    shrunk = f" {trained:,} samples of" if config.train_size and trained else ""
    noise = f", {100 * config.label_noise:g} % of the training labels re-drawn" if config.label_noise else ""
    name = "SGD" if config.optimizer == "sgd" else "AdamW"
    whole = f"{config.epochs:g} epochs{noise}, {name}"
    return f"{config.model} on{shrunk} {config.dataset}, {whole}"


def runs_of(results: "Results", arm: str, lr: float | None) -> "pandas.DataFrame":
    """The finished runs of an arm, at `lr` where it is given."""
    runs = results.runs
    named = runs["arm"].map(lambda name: arm_of(results, str(name)))
    mine = runs[(named == arm) & (runs["status"] == "finished")]
    return mine if lr is None else mine[(mine["lr"] / lr - 1).abs() < 1e-9]


def config_of(results: "Results", arm: str, lr: float | None = None) -> RunConfig | None:
    """An arm's settings as a run's, at `lr` where it is given; None where they aren't kept or can't be made here."""
    settings: dict[str, Any] = dict(results.arms.get(arm, {}))
    if not settings.get("schedule"):
        return None
    if lr is not None:
        settings["lr"] = lr
    try:
        return RunConfig(**settings)
    except BsexpError:
        return None


def _num_train(results: "Results", rows: "pandas.DataFrame") -> int | None:
    evals = results.evals
    mine = evals[evals["config_hash"].isin(rows["config_hash"]) & (evals["epoch"] > 0)]
    return round(float((mine["samples"] / mine["epoch"]).iloc[-1])) if len(mine) else None


def _facts(results: "Results", arm: str, lr: float | None) -> Facts:
    rows = runs_of(results, arm, lr)
    config, num_train = config_of(results, arm, lr), _num_train(results, rows)
    known: dict[str, Any] = {
        "total_shrink": _mean(rows, "total_shrink"),
        "last": _mean(rows, "val_accuracy"),
        "best": _mean(rows, "best_val_accuracy"),
        "lr_place": _place(results, arm),
    }
    if config is None or num_train is None:
        return Facts(**known)
    known["norm"] = config.norm
    # Where the schedule moves the momentum, its default is as good a word as any for how long it takes to settle.
    known["momentum"] = config.momentum if config.momentum is not None else 0.9
    try:
        return Facts(**known, **_planned(config, num_train))
    except BsexpError:
        return Facts(**known)


def _mean(rows: "pandas.DataFrame", column: str) -> float | None:
    values = rows[column].dropna()
    return float(values.mean()) if len(values) else None


def _planned(config: RunConfig, num_train: int) -> dict[str, Any]:
    schedule, total = config.build_schedule(), config.total_samples(num_train)
    ground = schedule.ground if isinstance(schedule, ClosedLoop) else schedule
    share = ground.warmup_share(total, num_train) if isinstance(ground, Planned) else 0.0
    warm = round(share * total)
    if isinstance(schedule, ClosedLoop) and not schedule.others:
        # What was decided differs from seed to seed.
        return {"warmup_samples": warm}
    updates = list(simulate(schedule, total_samples=total, num_train=num_train))
    sizes = [update.batch_size for update in updates]
    after = [(update.batch_size, update.lr, update.momentum) for update in updates if update.samples >= warm]
    # The last two updates share what remains; their own size is no phase.
    phases = [len(list(same)) for _, same in groupby(after[:-2])]
    found: dict[str, Any] = {
        "warmup_samples": warm,
        "phase_updates": tuple(phases) if len(phases) <= MOST_PHASES else (),
    }
    if len(sizes) > 2:
        found |= {"last_updates": (sizes[-2], sizes[-1]), "batch_size": sizes[-3]}
    if config.norm == "batch":
        parts = {part for size in set(sizes) for part in micro_batch_sizes(size, config)}
        ghost = config.ghost_batch
        parts = {min(ghost, part) if ghost else part for part in parts}
        found["norm_batch"] = (min(parts), max(parts))
    return found


def _place(results: "Results", arm: str) -> tuple[int, int] | None:
    """The place of an arm's learning rate in its grid; for one that takes another's, in that of the other."""
    if results.tuning is None:
        return None
    rates = results.definition.get("rates", {})
    of = rates[arm]["of"] if arm in rates else arm
    mine = results.tuning[(results.tuning["arm"] == of) & results.tuning["chosen"].astype(bool)]
    if not len(mine):
        return None
    place, _, size = str(mine["place"].iloc[0]).partition(" of ")
    return (int(place), int(size)) if place.isdigit() and size.isdigit() else None
