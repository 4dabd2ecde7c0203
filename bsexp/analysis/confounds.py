"""What else differs between the arms of a claim: facts in, sentences out.

The one rule: a sentence for everything that could explain a difference other than the schedule; silence means that it
was looked at and is the same. What is not known is said, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

SHRINK_APART = 0.10
FEWEST_UPDATES = 20
LATE = 0.005


@dataclass(frozen=True)
class Facts:
    """What is known of an arm; None: not known.

    `total_shrink`: sum of lr * weight decay over the updates. `warmup_samples`: samples seen during warm-up. `norm`:
    batch, group or none; `norm_batch`: samples that batch statistics are taken over (range), the micro or ghost batch.
    `last_updates`: samples of the last two updates; `batch_size`: what they would have been. `phase_updates`: updates
    in each phase of constant settings. `lr_place`: place of the chosen lr in its grid, from 1, and the grid's size;
    None: untuned. `word_flips`: whether the word changes at half or twice the chosen lr. `last`, `best`: validation
    accuracy at the end and at its best evaluation.
    """

    total_shrink: float | None = None
    warmup_samples: int | None = None
    norm: str | None = None
    norm_batch: tuple[int, int] | None = None
    last_updates: tuple[int, int] | None = None
    batch_size: int | None = None
    phase_updates: tuple[int, ...] = ()
    momentum: float = 0.9
    lr_place: tuple[int, int] | None = None
    word_flips: bool | None = None
    last: float | None = None
    best: float | None = None


def confounds(arms: Sequence[str], facts: Mapping[str, Facts]) -> list[str]:
    """The sentences for a claim about `arms`, in a fixed order; KeyError for an arm without facts.

    Flags: total shrink more than 10 % apart; other warm-up; batch statistics, or over other sizes; last updates below
    half the batch; phases under max(20, 5 / (1 - momentum)) updates; untuned, at the edge, or sensitive to lr; best
    evaluation more than half a point above the last.
    """
    given = {arm: facts[arm] for arm in arms}
    pairs = list(combinations(given, 2))
    found = [sentence for one, other in pairs for sentence in _between(one, given[one], other, given[other])]
    return found + [sentence for arm, each in given.items() for sentence in _alone(arm, each)]


def _between(one: str, first: Facts, other: str, second: Facts) -> list[str]:
    found = []
    shrink = apart(first.total_shrink, second.total_shrink)
    if shrink is None:
        found.append(f"Total shrink (sum of lr x weight decay) of {one} and {other} is not known.")
    elif shrink > SHRINK_APART:
        found.append(
            f"Total shrink (sum of lr x weight decay) differs by {100 * shrink:.0f} %: {one} {first.total_shrink:.3g}, "
            f"{other} {second.total_shrink:.3g}. Weight decay may explain a difference."
        )
    if first.warmup_samples != second.warmup_samples:
        told = [_count(facts.warmup_samples) for facts in (first, second)]
        found.append(f"Warm-up differs: {one} {told[0]} samples, {other} {told[1]}.")
    if first.norm != second.norm:
        found.append(f"Normalisation differs: {one} {first.norm or 'unknown'}, {other} {second.norm or 'unknown'}.")
    elif first.norm == "batch" and first.norm_batch != second.norm_batch:
        sizes = [_range(facts.norm_batch) for facts in (first, second)]
        found.append(
            f"Batch statistics are taken over {sizes[0]} samples in {one} and {sizes[1]} in {other}: "
            "their noise and the clock of their moving average differ with the schedule."
        )
    return found


def apart(first: float | None, second: float | None) -> float | None:
    """How far two amounts are apart, as a share of the larger one: 0 for equal ones, None if either is not known.

    >>> apart(9.0, 10.0)
    0.1
    """
    if first is None or second is None:
        return None
    largest = max(abs(first), abs(second))
    return abs(first - second) / largest if largest else 0.0


def _alone(arm: str, facts: Facts) -> list[str]:
    found = []
    if facts.last_updates and facts.batch_size and min(facts.last_updates) < facts.batch_size / 2:
        sizes = " and ".join(map(str, facts.last_updates))
        found.append(f"{arm}: its last two updates hold {sizes} samples, its batch is {facts.batch_size}.")
    fewest = max(FEWEST_UPDATES, math.ceil(round(5 / (1 - facts.momentum), 9)))
    short = [(place, num) for place, num in enumerate(facts.phase_updates, start=1) if num < fewest]
    if short:
        told = ", ".join(f"phase {place} has {num} updates" for place, num in short)
        found.append(f"{arm}: {told}; below {fewest} momentum never settles.")
    if facts.lr_place is None:
        found.append(f"{arm}: untuned; a difference may be one of learning rates.")
    elif facts.lr_place[1] == 1:
        found.append(f"{arm}: one learning rate was tried, so nothing was tuned.")
    elif facts.lr_place[0] in (1, facts.lr_place[1]):
        place, size = facts.lr_place
        found.append(f"{arm}: the chosen learning rate is number {place} of {size}, at the edge of its grid.")
    if facts.word_flips:
        found.append(f"{arm}: tuning-sensitive; at half or twice its learning rate the word is another one.")
    if facts.last is not None and facts.best is not None and facts.best - facts.last > LATE:
        gap = 100 * (facts.best - facts.last)
        found.append(f"{arm}: its best evaluation was {gap:.1f} points above the last; stopping early would change it.")
    return found


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _range(sizes: tuple[int, int] | None) -> str:
    if sizes is None:
        return "an unknown number of"
    return str(sizes[0]) if sizes[0] == sizes[1] else f"{sizes[0]} to {sizes[1]}"
