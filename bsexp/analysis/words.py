"""The words of a verdict, from one-sided p of a difference and of the same difference held against a margin.

The one rule: the first word that applies. An end of a 95 % interval lies above a bound exactly where the one-sided p of
that bound is below .025, one of a 90 % interval where it is below .05; so words are read off p, and the same rule
serves t, sign flips and signs.

All differences are "first arm less second", losses negated: above 0 the first arm is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bsexp.analysis.exact import Sides

WORDS = ("better", "worse", "equivalent", "not-worse", "not-better")
WITHOUT_DIFFERENCE = ("equivalent", "not-worse", "not-better")
FEWEST_PAIRS = 6
BLIND = "the experiment cannot see the effect"
DISAGREE = "tests disagree"
NEGLIGIBLE = "but negligible"
UNSTABLE = "unstable"
UNTUNED = "untuned"
SENSITIVE = "tuning-sensitive"


@dataclass(frozen=True)
class Word:
    """What became of a claim: `verdict` is supported, refuted or inconclusive; `reason` says why, or adds to it."""

    verdict: str
    reason: str = ""

    def __str__(self) -> str:
        if not self.reason:
            return self.verdict
        if self.reason == BLIND:
            return f"{self.verdict}: {self.reason}"
        return (
            f"{self.verdict}, {self.reason}"
            if self.reason.startswith(NEGLIGIBLE)
            else f"{self.verdict} ({self.reason})"
        )


INCONCLUSIVE = Word("inconclusive")


@dataclass(frozen=True)
class Evidence:
    """One test's p: of the difference, of difference + margin (`lower`), of difference - margin (`upper`).

    `control`: of second arm less control, None without a control. `relative`: the margin is a share of that effect, so
    that without the effect there is no margin either.
    """

    difference: Sides
    lower: Sides
    upper: Sides
    control: Sides | None = None
    relative: bool = False


@dataclass(frozen=True)
class Levels:
    """One-sided levels: `strict` for the ends of the 95 % interval, `plain` for those of the 90 % interval."""

    strict: float
    plain: float


def levels(alpha: float) -> Levels:
    """The levels of one look at a two-sided alpha in (0, 1): alpha / 2 and alpha."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1), got {alpha}")
    return Levels(alpha / 2, alpha)


def support(claimed: str, found: Evidence) -> float:
    """The p of a claimed word, to be held against alpha: small where the word is supported."""
    if claimed in ("better", "worse"):
        side = found.difference.above if claimed == "better" else found.difference.below
        return min(1.0, 2 * side)
    parts = {
        "equivalent": (found.lower.above, found.upper.below),
        "not-worse": (found.lower.above,),
        "not-better": (found.upper.below,),
    }[claimed]
    return max(*parts, found.control.above if found.control else 0.0)


def word(claimed: str, found: Evidence, supporting: Levels, refuting: Levels) -> Word:
    """The word for a claim of "first arm is CLAIMED (than/to second)" from one test's evidence.

    *better*: supported L95 > 0, refuted U90 < m, supported with U90 < m "but negligible"; *worse* mirrored.
    *equivalent*: supported -m < L90 and U90 < m; refuted L95 > m or U95 < -m. *not-worse*: supported L90 > -m, refuted
    U90 < -m; *not-better* mirrored. Else inconclusive. ValueError for another word.
    """
    if claimed not in WORDS:
        raise ValueError(f"the words are {', '.join(WORDS)}, got {claimed!r}")
    strict, plain = supporting.strict, supporting.plain
    blind = found.control is not None and found.control.above > plain
    difference, lower, upper = found.difference, found.lower, found.upper
    margins_hold = not (blind and found.relative)
    if claimed in ("better", "worse"):
        better = claimed == "better"
        if (difference.above if better else difference.below) <= strict:
            small = (upper.below if better else lower.above) <= plain
            return Word("supported", NEGLIGIBLE if small and not blind else "")
        refuted = (upper.below if better else lower.above) <= refuting.plain
    else:
        if not blind and support(claimed, found) <= plain:
            return Word("supported")
        refuted = {
            "equivalent": min(upper.above, lower.below) <= refuting.strict,
            "not-worse": lower.below <= refuting.plain,
            "not-better": upper.above <= refuting.plain,
        }[claimed]
    if refuted and margins_hold:
        return Word("refuted")
    return Word("inconclusive", BLIND) if blind else INCONCLUSIVE


def agreed(found: Sequence[Word]) -> Word:
    """The word that all tests give; `inconclusive (tests disagree)` where they give different ones.

    An addition ("but negligible") stands only where each test makes it.
    """
    if not found:
        raise ValueError("words of at least one test are needed, got none")
    if len({each.verdict for each in found}) > 1:
        return Word("inconclusive", DISAGREE)
    return found[0] if len(set(found)) == 1 or found[0].verdict == "inconclusive" else Word(found[0].verdict)


def for_new_data(seeds: Word, population: Word) -> Word:
    """The word for new test data where it differs from the one for this test set; doubts of either stay."""
    if seeds.verdict == "inconclusive" or seeds == population:
        return seeds
    if population.verdict != seeds.verdict:
        return Word("inconclusive", population.reason or "on new test data")
    return population if not population.reason else Word(seeds.verdict)


def after_failures(claimed: str, given: Word, failed: tuple[int, int], uneven: Sides, alpha: float) -> Word:
    """The word once failures are counted: `failed` per arm, `uneven` their exact McNemar p (above: the first's more).

    An arm with a failure cannot be supported as better, equivalent or not worse. Where exact McNemar shows at alpha,
    one-sided for each direction, that an arm fails more often, it is worse (unstable), whatever its lucky runs did.
    """
    worse = uneven.above <= alpha / 2, uneven.below <= alpha / 2
    if any(worse):
        true = {"better": worse[1], "worse": worse[0], "not-worse": worse[1], "not-better": worse[0]}
        return Word("supported" if true.get(claimed, False) else "refuted", UNSTABLE)
    hindering = {"better": failed[0], "not-worse": failed[0], "worse": failed[1], "not-better": failed[1]}
    if given.verdict == "supported" and hindering.get(claimed, sum(failed)):
        return Word("inconclusive", "failures rule it out")
    # The mirror image: a refutation that says the failing arm is as good must not stand either.
    favours_first = claimed in ("worse", "not-better") and failed[0]
    favours_second = claimed in ("better", "not-worse") and failed[1]
    if given.verdict == "refuted" and (favours_first or favours_second):
        return Word("inconclusive", "failures rule it out")
    return given


def after_tuning(given: Word, tuned: bool, flips: bool = False) -> Word:
    """A word without tuning is `untuned`; one that changes at half or twice the chosen lr is `tuning-sensitive`."""
    if given.verdict == "inconclusive" or (tuned and not flips):
        return given
    extra = UNTUNED if not tuned else SENSITIVE
    return Word(given.verdict, f"{given.reason}, {extra}".removeprefix(", "))
