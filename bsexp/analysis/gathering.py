"""From runs to the per-seed numbers that a claim is tested on: differences, margins, control effect, failures.

The one rule: a pair counts where both arms trained; a failure is counted, a run that isn't there makes the claim
unfinished, and neither is averaged, filled in or forgotten.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bsexp.analysis.claims import FAILURES, TRAINED, Claim, Failures, Outcomes, Record
from bsexp.analysis.exact import ROUNDING, Sides, clopper_pearson, mcnemar
from bsexp.analysis.targets import log2_ratio
from bsexp.errors import UsageError
from bsexp.store.products import Products, Row

NOTHING = np.empty(0)


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Per-seed values, shape (pairs,) each, of a difference and of the same held against a margin (words.Evidence).

    `tables`: the same four over pairs x test examples, by name; empty where predictions are not there.
    `scale`: size of the numbers subtracted, below 1e-12 of which all is rounding.
    """

    difference: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    control: np.ndarray | None = None
    relative: bool = False
    scale: float = 1.0
    tables: dict[str, Products] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Gathered:
    """What the runs say about a claim. `missing`: (arm, seed) not there. `uneven`: McNemar; None without failures.

    `unmeasured`: those of `missing` whose run has trained, and has no such outcome.
    """

    arms: tuple[str, ...]
    contrasts: Contrasts
    failures: dict[str, Failures]
    missing: tuple[tuple[str, int], ...] = ()
    uneven: Sides | None = None
    notes: tuple[str, ...] = ()
    num_missed: int = 0
    unmeasured: tuple[tuple[str, int], ...] = ()

    @property
    def failed(self) -> tuple[int, int]:
        """Failures of the first and the second arm; for a slope, of all arms, twice."""
        counts = [self.failures[arm].count for arm in self.arms]
        return (counts[0], counts[1]) if len(counts) == 2 else (sum(counts), sum(counts))


def gather(claim: Claim, outcomes: Outcomes, seeds: Sequence[int] | None = None) -> Gathered | None:
    """The numbers for a claim over `seeds` (default: all the claim's); None where no arm of a set could be picked."""
    seeds = claim.seeds if seeds is None else tuple(seeds)
    arms, notes = _arms(claim, outcomes)
    if arms is None:
        return None
    needed = (*arms, claim.control) if claim.control is not None else arms
    missing = tuple((arm, seed) for arm in needed for seed in seeds if not _there(outcomes.get((arm, seed)), claim))
    unmeasured = tuple(run for run in missing if (record := outcomes.get(run)) and record.status == TRAINED)
    failures = {arm: _failures(arm, seeds, outcomes, claim) for arm in needed}
    uneven = None
    if claim.kind == "ratio":
        contrasts, missed = _ratios(claim, arms, seeds, outcomes)
    elif claim.kind == "slope":
        contrasts, missed = _slopes(claim, arms, seeds, outcomes), 0
    else:
        contrasts, missed = _differences(claim, (arms[0], arms[1]), seeds, outcomes), 0
    if len(arms) == 2:
        states = [[_failed(outcomes.get((arm, seed)), claim) for seed in seeds] for arm in arms]
        alone = [(one, other) for one, other in zip(*states, strict=True) if one != other]
        first = sum(one for one, _ in alone)
        uneven = mcnemar(first, len(alone) - first) if any(map(any, states)) else None
    return Gathered(arms, contrasts, failures, missing, uneven, tuple(notes), missed, unmeasured)


def _value(record: Record | None, claim: Claim) -> float | None:
    value = record.values.get(claim.outcome) if record is not None and record.status == TRAINED else None
    return None if value is None or math.isnan(value) else float(value)


def _failed(record: Record | None, claim: Claim) -> bool:
    if record is None:
        return False
    if record.status in FAILURES:
        return True
    value = _value(record, claim)
    return claim.kind != "ratio" and value is not None and math.isinf(value)


def _there(record: Record | None, claim: Claim) -> bool:
    return _failed(record, claim) or _value(record, claim) is not None


def _failures(arm: str, seeds: Sequence[int], outcomes: Outcomes, claim: Claim) -> Failures:
    records = [outcomes.get((arm, seed)) for seed in seeds]
    num = sum(_there(record, claim) for record in records)
    count = sum(_failed(record, claim) for record in records)
    return Failures(count, num, *clopper_pearson(count, num))


def _arms(claim: Claim, outcomes: Outcomes) -> tuple[tuple[str, ...] | None, list[str]]:
    if claim.kind != "best-of-a-set":
        return tuple(str(arm) for arm in claim.arms), []
    picked, notes = [], []
    for several in claim.arms:
        if len(several) == 1:  # Nothing to pick, also where the arm has another's rate and no tuning of its own.
            picked.append(str(several[0]))
            continue
        best = pick([str(arm) for arm in several], outcomes, claim.tuning_seeds)
        if best is None:
            return None, []
        picked.append(best)
        notes.append(
            f"{best} was picked of {', '.join(several)} by validation loss on {len(claim.tuning_seeds)} seeds."
        )
    return tuple(picked), notes


def pick(arms: Sequence[str], outcomes: Outcomes, tuning_seeds: Sequence[int]) -> str | None:
    """The arm with the lowest mean val_loss over the tuning seeds; an arm that lacks or failed one is out; None: all.

    Ties go to the arm named first. The reported seeds are not looked at.
    """
    means: dict[str, float] = {}
    for arm in arms:
        records = [outcomes.get((arm, seed)) for seed in tuning_seeds]
        losses = [
            math.inf if record is None or record.status != TRAINED else record.values.get("val_loss", math.inf)
            for record in records
        ]
        means[arm] = math.fsum(math.inf if loss is None or math.isnan(loss) else loss for loss in losses)
    best = min(arms, key=lambda arm: means[arm])
    return best if math.isfinite(means[best]) else None


def _column(arm: str, seeds: Sequence[int], outcomes: Outcomes, claim: Claim) -> np.ndarray:
    """Outcomes of an arm, shape (seeds,), costs negated; nan where it failed or isn't there."""
    values = [_value(outcomes.get((arm, seed)), claim) for seed in seeds]
    finite = [math.nan if value is None or math.isinf(value) else value for value in values]
    return claim.sign * np.array(finite, dtype=float)


def _differences(claim: Claim, arms: tuple[str, str], seeds: Sequence[int], outcomes: Outcomes) -> Contrasts:
    first, second = (_column(arm, seeds, outcomes, claim) for arm in arms)
    third = None if claim.control is None else _column(claim.control, seeds, outcomes, claim)
    sizes = np.abs(np.concatenate([first, second]))
    scale = float(np.nanmax(sizes)) if not np.isnan(sizes).all() else 1.0
    share, points = claim.margin or 0.0, (claim.margin_points or 0.0) / 100
    found = _against(first, second, third, share, points)
    tables = _tables(claim, arms, seeds, outcomes, share, points)
    settled = {
        name: np.where(np.abs(kept := values[~np.isnan(values)]) <= ROUNDING * scale, 0.0, kept)
        for name, values in found.items()
    }
    return Contrasts(
        settled["difference"],
        settled["lower"],
        settled["upper"],
        settled.get("control"),
        claim.margin is not None,
        scale,
        tables,
    )


def _against(
    first: np.ndarray, second: np.ndarray, third: np.ndarray | None, share: float, points: float
) -> dict[str, np.ndarray]:
    """g - d, and the same with the margin added and taken off: a share of d - c, or points."""
    difference = first - second
    if third is None:
        return {"difference": difference, "lower": difference + points, "upper": difference - points}
    effect = second - third
    margin = share * effect + points if share else np.full_like(difference, points)
    return {
        "difference": difference,
        "lower": difference + margin,
        "upper": difference - margin,
        "control": effect,
    }


def _tables(
    claim: Claim, arms: tuple[str, str], seeds: Sequence[int], outcomes: Outcomes, share: float, points: float
) -> dict[str, Products]:
    """The contrasts over pairs x test examples, of the seeds on which all arms trained; none without predictions."""
    names = (*arms, claim.control) if claim.control is not None else arms
    rows: list[list[Row]] = []
    for seed in seeds:
        records = [outcomes.get((arm, seed)) for arm in names]
        if any(_failed(record, claim) or not _there(record, claim) for record in records):
            continue
        found = [record.examples.get(claim.outcome) if record else None for record in records]
        if any(each is None for each in found):
            return {}
        rows.append([each for each in found if each is not None])
    # Runs on other test sets have tables of their own.
    tables = {id(row.table): row.table for each in rows for row in each}
    if len(rows) < 2 or len(tables) != 1 or (table := next(iter(tables.values()))).num < 2:
        return {}
    # Each run as the weights that pick its row; contrasts of these are the weights of contrasts.
    picked = [claim.sign * np.eye(len(table.sums))[[row.place for row in column]] for column in zip(*rows, strict=True)]
    weights = _against(picked[0], picked[1], picked[2] if len(picked) > 2 else None, share, 0.0)
    plus = {"lower": points, "upper": -points}
    return {name: table.contrast(each, plus.get(name, 0.0)) for name, each in weights.items()}


def _ratios(claim: Claim, arms: tuple[str, ...], seeds: Sequence[int], outcomes: Outcomes) -> tuple[Contrasts, int]:
    """-log2(first / second) per seed: above 0 the first arm needs less. Pairs in which both missed are 0 throughout."""
    margin, ratios, missed = claim.margin or 0.0, [], []
    for seed in seeds:
        records = [outcomes.get((arm, seed)) for arm in arms]
        if not all(_there(record, claim) for record in records):
            continue
        costs = [math.inf if _failed(record, claim) else _value(record, claim) for record in records]
        for cost in costs:
            if cost is None or cost <= 0:
                raise UsageError(f"claim {claim.name}: {claim.outcome}", str(cost), "a ratio needs costs above 0")
        ratios.append(-log2_ratio(costs[0], costs[1]))  # type: ignore[arg-type]
        missed.append(all(math.isinf(cost) for cost in costs if cost is not None))
    values, both = np.array(ratios, dtype=float) + 0.0, np.array(missed, dtype=bool)
    lower, upper = np.where(both, 0.0, values + margin), np.where(both, 0.0, values - margin)
    return Contrasts(values, lower, upper), int(both.sum())


def _slopes(claim: Claim, arms: tuple[str, ...], seeds: Sequence[int], outcomes: Outcomes) -> Contrasts:
    """Per seed, the least-squares slope of log2(outcome) on log2(position), less what was expected."""
    table = np.stack([_plain(arm, seeds, outcomes, claim) for arm in arms], axis=1)
    table = table[~np.isnan(table).any(axis=1)]
    if (table <= 0).any():
        raise UsageError(f"claim {claim.name}: {claim.outcome}", str(table.min()), "a slope needs outcomes above 0")
    places = np.log2(np.array(claim.positions))
    places = places - places.mean()
    slopes = (np.log2(table) @ places) / float(places @ places) - claim.expected if len(table) else NOTHING
    margin = claim.margin or 0.0
    return Contrasts(slopes, slopes + margin, slopes - margin)


def _plain(arm: str, seeds: Sequence[int], outcomes: Outcomes, claim: Claim) -> np.ndarray:
    return claim.sign * _column(arm, seeds, outcomes, claim)
