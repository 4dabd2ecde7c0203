"""What declared claims can come to, before and after anything is trained: smallest p, smallest effect seen, power.

The one rule: a design is underpowered where no data whatever could support a claim's word, or where the spread and the
effect that it states give it less than POWER_WANTED; what nobody stated is told in units of the spread, not guessed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bsexp.analysis.claims import Claim, Verdict
from bsexp.analysis.declared import Declared
from bsexp.analysis.exact import EXACT_LIMIT, SAMPLED_FLIPS
from bsexp.analysis.judging import ALPHA
from bsexp.analysis.looks import look_levels
from bsexp.analysis.paired import t_quantile
from bsexp.analysis.power import power_better, power_equivalent, power_with_control
from bsexp.analysis.words import FEWEST_PAIRS, WITHOUT_DIFFERENCE

POWER_WANTED = 0.8
MOST_SPREADS = 64.0


@dataclass(frozen=True)
class Outlook:
    """What a claim can come to. `alpha`: the level of the first of the family under Holm (with looks: at the last one).

    `min_p`: the smallest p of the claimed word that its least sensitive test can reach. `power`: at the stated sd and
    effect; None where they aren't stated. `lacking`: why no word can be hoped for; empty where one can.
    """

    claim: str
    num_pairs: int
    alpha: float
    min_p: float
    power: float | None
    lacking: str


def outlooks(declared: Sequence[Declared], alpha: float = ALPHA) -> list[Outlook]:
    """The outlook of each claim, all of them one family; `alpha` in (0, 1) is the family's."""
    return [_outlook(each, alpha / len(declared)) for each in declared]


def _outlook(declared: Declared, share: float) -> Outlook:
    claim = declared.claim
    num = len(claim.seeds)
    level = look_levels(claim.looks, len(claim.looks) - 1, share).plain if claim.looks else share
    least = _smallest(num) * (1 if claim.word in WITHOUT_DIFFERENCE else 2)
    power = _power(claim, num, level)
    stated = None
    if power and declared.sd is not None:
        margin = _margin(claim, declared.sd)
        if margin is not None or declared.effect is not None:
            stated = power((declared.effect or 0.0) / declared.sd, margin)
    lacking = ""
    if num < FEWEST_PAIRS:
        lacking = f"fewer than {FEWEST_PAIRS} seeds give no word"
    elif least > level:
        lacking = f"{num} seeds reach p {least:.2g} at best, {level:.2g} is needed"
    elif stated is not None and stated < POWER_WANTED:
        lacking = f"power {stated:.2f} at the stated sd and effect, {POWER_WANTED} is wanted"
    return Outlook(claim.name, num, level, least, stated, lacking)


def effect_found(claim: Claim, outlook: Outlook) -> float | None:
    """The effect that is found with POWER_WANTED, in standard deviations of the paired difference over seeds.

    That of the control where the margin is a share of it, the margin itself where it is absolute. None for ratios, and
    where nothing can be found.
    """
    power = _power(claim, outlook.num_pairs, outlook.alpha)
    return detectable(power) if power and not outlook.lacking else None


def found_with(verdict: Verdict) -> tuple[float, float] | None:
    """The standard deviation over seeds of a verdict's difference, and the true difference that is found at that spread
    with POWER_WANTED at the level of the verdict; both in the outcome's unit. None where there is no spread to know.
    """
    found = verdict.estimate
    if found is None or not found.half_width:
        return None
    spread = found.half_width * math.sqrt(found.num) / t_quantile(found.num, 1 - verdict.alpha)
    least = detectable(lambda effect, _: power_better(found.num, effect, 1.0, verdict.alpha))
    return None if least is None else (spread, least * spread)


def _smallest(num: int) -> float:
    """The smallest one-sided p of sign flips, or of signs."""
    return max(0.5**num, 1 / (SAMPLED_FLIPS + 1) if num > EXACT_LIMIT else 0.0)


def _margin(claim: Claim, sd: float) -> float | None:
    """A margin given in the outcome's unit, in standard deviations."""
    if claim.margin_points is not None:
        return claim.margin_points / 100 / sd
    return claim.margin / sd if claim.kind == "slope" and claim.margin is not None else None


def _power(claim: Claim, num: int, level: float) -> Callable[[float, float | None], float] | None:
    """Power as a function of effect and absolute margin, both in standard deviations; None where nothing gives it."""
    if claim.kind == "ratio" or num < 2:
        return None
    if claim.word not in WITHOUT_DIFFERENCE:
        return lambda effect, margin: power_better(num, abs(effect), 1.0, level)
    if claim.margin is not None and claim.kind != "slope":
        share = claim.margin
        # Three arms that vary alike over seeds: the control's effect then spreads as much as the difference.
        return lambda effect, margin: power_with_control(
            num, share, 1.0, effect, 1.0, np.random.default_rng(0), alpha=level
        )
    if claim.word == "equivalent":
        return lambda effect, margin: power_equivalent(num, margin or effect, 1.0, alpha=level)
    # One side only: the paired t against the far end of the margin.
    return lambda effect, margin: power_better(num, margin or effect, 1.0, min(0.999, 2 * level))


def detectable(power: Callable[[float, float | None], float]) -> float | None:
    """The smallest effect in standard deviations with POWER_WANTED, to a hundredth, by halving."""
    low, high = 0.0, MOST_SPREADS
    if power(high, None) < POWER_WANTED:
        return None
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, None) >= POWER_WANTED else (middle, high)
    return high
