"""From declared claims and runs to verdicts.

The one rule: a word needs every test to agree: t, exact sign flips, and the variance over seeds x test examples where
predictions are stored; after Holm over the family, with failures counted, on all declared seeds or a declared look.

Support of the claimed words is corrected by Holm, over the p of each claim's least favourable test: the chance of any
wrongly supported word in the family is at most alpha. Refutations are tested at alpha / family size each, so that the
same holds for wrongly refuted words; at Holm's larger levels it would not, because a claim that was rightly supported
could have been refuted by chance. For both together the chance is alpha for a single claim, and for a family may exceed
it only where claims lie just on their margins (results/calibration: .06 to .07 at worst).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bsexp.analysis.claims import Claim, Outcomes, Verdict
from bsexp.analysis.exact import Sides, holm, order_interval, sign_flip, sign_test, smallest_sign_flip_p
from bsexp.analysis.gathering import Contrasts, Gathered, gather
from bsexp.analysis.looks import look_levels
from bsexp.analysis.paired import Estimate, mean_interval
from bsexp.analysis.targets import median
from bsexp.analysis.twoway import over_seeds, two_way
from bsexp.analysis.words import (
    FEWEST_PAIRS,
    INCONCLUSIVE,
    UNSTABLE,
    Evidence,
    Levels,
    Word,
    after_failures,
    agreed,
    for_new_data,
    levels,
    support,
    word,
)
from bsexp.errors import UsageError

ALPHA = 0.05
UNKNOWN = Sides(1.0, 1.0)


def judge(
    claims: Sequence[Claim],
    outcomes: Outcomes,
    *,
    alpha: float = ALPHA,
    generator: np.random.Generator | None = None,
) -> list[Verdict]:
    """A verdict for each claim, in order; all of them are one family.

    `outcomes`: (arm, seed) -> Record, of reported and tuning seeds. `alpha` in (0, 1): chance of any wrongly supported
    word. Claims with looks are each tested at alpha / family size, spent over the looks; the first look with a word
    stands. `generator` draws sign flips where more than 20 pairs are there (ValueError without one). UsageError for
    two claims of one name.
    """
    names = [claim.name for claim in claims]
    if len(set(names)) < len(names):
        raise UsageError("claims", ", ".join(sorted({n for n in names if names.count(n) > 1})), "name each once")
    if not claims:
        return []
    share = alpha / len(claims)
    if any(claim.looks for claim in claims):
        return [_over_looks(claim, outcomes, share, len(claims), generator) for claim in claims]
    found = [gather(claim, outcomes) for claim in claims]
    tests = [_tests(claim, one, generator) for claim, one in zip(claims, found, strict=True)]
    p_values = [_p(claim, one, each) for claim, one, each in zip(claims, found, tests, strict=True)]
    steps = holm(p_values, alpha)
    return [
        _verdict(claim, outcomes, one, each, (levels(level), levels(share)), (level, share, adjusted))
        for claim, one, each, level, adjusted in zip(claims, found, tests, steps.alphas, steps.adjusted, strict=True)
    ]


def explore(first: str, second: str, outcome: str, outcomes: Outcomes, seeds: Sequence[int]) -> Verdict:
    """An estimate with its 95 % interval and p for two arms that no claim compares: no word."""
    claim = Claim("exploratory", (first, second), outcome, "better", tuple(seeds))
    found = gather(claim, outcomes)
    tests = _tests(claim, found, np.random.default_rng(0))
    both = levels(ALPHA)
    told = _verdict(claim, outcomes, found, tests, (both, both), (ALPHA, ALPHA, 1.0))
    note = "Nobody declared this comparison before the data: an estimate, not a finding."
    return replace(told, word=None, p_support=None, p_holm=None, p_equivalence=None, notes=(*told.notes, note))


def _over_looks(
    claim: Claim, outcomes: Outcomes, share: float, family: int, generator: np.random.Generator | None
) -> Verdict:
    """The verdict of the first look that gives a word, else of the last one that is complete."""
    looks = claim.looks or (len(claim.seeds),)
    latest: Verdict | None = None
    for place, look in enumerate(looks):
        found = gather(claim, outcomes, claim.seeds[:look])
        if latest is not None and (found is None or found.missing):
            break
        tests = _tests(claim, found, generator)
        both = look_levels(looks, place, share)
        # At most alpha exactly where this look's level is kept: adjusted for the family and for looking more than once.
        p_holm = min(1.0, family * share / both.plain * _p(claim, found, tests))
        told = _verdict(claim, outcomes, found, tests, (both, both), (both.plain, both.plain, p_holm))
        note = f"Look {place + 1} of {len(looks)}, at {look} seeds, tested at {both.plain:.2g} of {share:.2g}."
        latest = replace(told, look=look, notes=(*told.notes, note)) if claim.looks else told
        if latest.word and latest.word.verdict != "inconclusive":
            break
    assert latest is not None
    return latest


def _tests(claim: Claim, found: Gathered | None, generator: np.random.Generator | None) -> list[Evidence]:
    """The evidence of each test: t and sign flips over seeds, then seeds x examples; for ratios the sign test alone."""
    if found is None:
        return []
    given = found.contrasts
    parts = {"difference": given.difference, "lower": given.lower, "upper": given.upper}
    if given.control is not None:
        parts["control"] = given.control
    if claim.kind == "ratio":
        return [_evidence({name: sign_test(values) for name, values in parts.items()}, given)]
    # Without a margin all three are the same values, whose signs need flipping once.
    parts = {name: given.difference if np.array_equal(v, given.difference) else v for name, v in parts.items()}
    by_t = {
        name: over_seeds(values, given.scale).sides if len(values) > 1 else UNKNOWN for name, values in parts.items()
    }
    distinct = {id(values): values for values in parts.values()}
    flips = {key: sign_flip(each, generator) if len(each) else UNKNOWN for key, each in distinct.items()}
    by_flip = {name: flips[id(values)] for name, values in parts.items()}
    tests = [_evidence(by_t, given), _evidence(by_flip, given)]
    if given.tables:
        tests.append(_evidence({name: two_way(table).sides for name, table in given.tables.items()}, given))
    return tests


def _evidence(sides: dict[str, Sides], given: Contrasts) -> Evidence:
    return Evidence(sides["difference"], sides["lower"], sides["upper"], sides.get("control"), given.relative)


def _fewest(given: Contrasts) -> int:
    return min(len(v) for v in (given.difference, given.lower, given.upper, given.control) if v is not None)


def _p(claim: Claim, found: Gathered | None, tests: list[Evidence]) -> float:
    """The p of the claimed word by its least favourable test; 1 where nothing could support it."""
    if found is None or found.missing or _fewest(found.contrasts) < FEWEST_PAIRS:
        return 1.0
    if claim.kind != "ratio" and (
        after_failures(claim.word, Word("supported"), found.failed, UNKNOWN, ALPHA).verdict != "supported"
    ):
        return 1.0
    return max(support(claim.word, each) for each in tests)


def _word(claim: Claim, found: Gathered, tests: list[Evidence], both: tuple[Levels, Levels], share: float) -> Word:
    if found.missing:
        pairs = len({seed for _, seed in found.missing})
        if len(found.unmeasured) == len(found.missing):
            return Word("inconclusive", f"not measured on {pairs} of {len(claim.seeds)} seeds")
        return Word("inconclusive", f"unfinished: {pairs} of {len(claim.seeds)} seeds missing")
    if _fewest(found.contrasts) < FEWEST_PAIRS:
        given = Word("inconclusive", f"fewer than {FEWEST_PAIRS} pairs")
    else:
        words = [word(claim.word, each, *both) for each in tests]
        given = agreed(words[:2])
        given = for_new_data(given, words[2]) if len(words) > 2 else given
    # A miss is a cost like any other for a ratio: failures are in it already.
    counted = claim.kind == "ratio"
    return given if counted else after_failures(claim.word, given, found.failed, found.uneven or UNKNOWN, share)


def _verdict(
    claim: Claim,
    outcomes: Outcomes,
    found: Gathered | None,
    tests: list[Evidence],
    both: tuple[Levels, Levels],
    adjusted: tuple[float, float, float],
) -> Verdict:
    alpha, share, p_holm = adjusted
    if found is None:
        note = "In one of the two sets no arm trained on all tuning seeds: there is no best one."
        arms = tuple(str(arm) for arm in claim.arms)
        return Verdict(claim.name, arms, claim.outcome, INCONCLUSIVE, 0, alpha, p_holm=1.0, notes=(note,))
    given, num = found.contrasts, len(found.contrasts.difference)
    told = _word(claim, found, tests, both, share)
    ratio = claim.kind == "ratio"
    margin, of_effect, images, effect = _margin(claim, given)
    has_margin = claim.margin is not None or claim.margin_points is not None
    return Verdict(
        claim=claim.name,
        arms=found.arms,
        outcome=claim.outcome,
        word=told,
        num_pairs=num,
        alpha=alpha,
        estimate=None if ratio else mean_interval(given.difference, 1 - alpha),
        narrow=None if ratio else mean_interval(given.difference, 1 - 2 * alpha),
        new_data=two_way(given.tables["difference"]).interval(1 - alpha) if given.tables else None,
        median=_median(given.difference, 1 - alpha) if ratio and num else None,
        p=tests[0].difference.two_sided if num > 1 and not ratio else None,
        p_sign_flip=tests[-1 if ratio else 1].difference.two_sided if num else None,
        p_equivalence=max(tests[0].lower.above, tests[0].upper.below) if num > 1 and has_margin and not ratio else None,
        p_support=_p(claim, found, tests),
        p_holm=p_holm,
        min_p=smallest_sign_flip_p(num),
        margin=margin,
        margin_share=of_effect,
        margin_images=images,
        control_effect=effect,
        failures=found.failures,
        p_failures=None if found.uneven is None else found.uneven.two_sided,
        notes=(*found.notes, *_notes(claim, outcomes, found, told, alpha)),
    )


def _median(values: np.ndarray, level: float) -> tuple[float, float, float]:
    low, high, _ = order_interval(values, level)
    return median(values), low, high


def _margin(claim: Claim, given: Contrasts) -> tuple[float | None, float | None, float | None, Estimate | None]:
    """The margin in the outcome's unit, as share of the control effect, in test images; and the control effect."""
    effect = None if given.control is None else mean_interval(given.control)
    size = claim.margin_points / 100 if claim.margin_points is not None else None
    share = claim.margin
    if claim.margin is not None and claim.kind in ("slope", "ratio"):
        return claim.margin, None, None, effect
    if claim.margin is not None:
        # A control that isn't worse has no effect to take a share of.
        size = claim.margin * effect.mean if effect and effect.mean > 0 else None
    elif size is not None and effect and effect.mean > 0:
        share = size / effect.mean
    images = claim.num_test or (given.tables["difference"].num if given.tables else 0)
    known = size is not None and images and "accuracy" in claim.outcome
    return size, share, size * images if known and size is not None else None, effect


def _notes(claim: Claim, outcomes: Outcomes, found: Gathered, told: Word, alpha: float) -> list[str]:
    notes = []
    control = found.contrasts.control
    shares = claim.margin is not None and claim.kind not in ("slope", "ratio")
    if shares and control is not None and control.size and float(control.mean()) <= 0:
        notes.append(f"No margin: the control {claim.control} didn't end worse, and the margin is a share of that.")
    for arm, failures in found.failures.items():
        if failures.count:
            share = f"{failures.low:.0%} to {failures.high:.0%}"
            notes.append(f"{arm}: {failures.count} of {failures.num} runs failed to train (95 % interval {share}).")
    if sum(found.failed) and found.uneven and told.reason != UNSTABLE and claim.kind != "ratio":
        notes.append(f"Failures: exact McNemar p {found.uneven.two_sided:.2g}; compared among pairs that both trained.")
    if found.missing:
        notes.append(f"Not there: {', '.join(f'{arm} seed {seed}' for arm, seed in found.missing[:5])}.")
    least = smallest_sign_flip_p(len(found.contrasts.difference))
    if claim.kind != "ratio" and len(found.contrasts.difference) >= FEWEST_PAIRS and least > alpha:
        notes.append(
            f"The smallest sign-flip p of {len(found.contrasts.difference)} pairs is {least:.2g}: above {alpha:.2g}."
        )
    difference = found.contrasts.difference
    # Not for ratios: two infinities have no spread that could be computed.
    if claim.kind != "ratio" and len(difference) > 1 and float(np.ptp(difference)) == 0:
        notes.append("All differences are equal: there is no spread to judge by.")
    if claim.kind in ("two-arms", "best-of-a-set") and not found.contrasts.tables:
        notes.append("Without stored predictions the interval speaks of new seeds on this test set only.")
    if found.num_missed:
        notes.append(f"Both arms missed the target on {found.num_missed} seeds, which count as ties.")
    declared = {*claim.seeds, *claim.tuning_seeds}
    extra = sorted({seed for arm, seed in outcomes if arm in found.arms} - declared)
    if extra:
        notes.append(f"Seeds {', '.join(map(str, extra))} are not part of the claim and were not used.")
    return notes
