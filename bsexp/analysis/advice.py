"""What trials say: which candidate keeps the quality of the usual decay, and which of these takes the least time.

The one rule: nothing is recommended that wasn't measured to its end and found, with 95 % confidence over all looks at a
growing number of seeds, to lose no more than the tolerance; what can't be told from noise is said to be so.

A few seeds don't tell their own spread. That of a difference over seeds is steadied by the spread of trainings that
were repeated in other orders of the samples. Where a candidate ends worse than without any decay it is hardly stable,
and no interval is stated: two such trainings say next to nothing of a third.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance

from scipy.special import stdtr, stdtrit

from bsexp.analysis.hardware import Modelled
from bsexp.analysis.looks import one_sided_levels, spent_evenly
from bsexp.analysis.paired import Estimate
from bsexp.analysis.trials import LEVEL, by_seed, degrees_of_freedom, deviation
from bsexp.records import TrialRow

# Degrees of freedom that repetitions in other orders are given beside those of the seeds: few, for they don't know how
# seeds differ. With 2, intervals of two or three seeds drawn from grids of whole runs held in 86 to 92 %.
STEADY = 2
# As many candidates get more seeds, if these tell them within with more than this chance.
CONTENDERS, LEAST_CHANCE = 3, 0.1
# Less saved isn't worth a schedule of one's own.
LEAST_SAVED = 0.01
DECAY, CONSTANT = "decay", "constant"


@dataclass(frozen=True)
class Candidate:
    """How a candidate ended: `worse` by so much than decay, in the metric's unit, losses and accuracies alike; without
    an interval where it ended worse than the constant rate.

    `word`: reference, within (the tolerance), unclear, beyond (it), diverged or unjudged.
    """

    arm: str
    worse: Estimate | None
    word: str


@dataclass(frozen=True)
class Judgement:
    """All candidates, the usual decay first. `effect`: what decaying brings over the constant rate; `margin`: what may
    be lost of it, None where it isn't shown to bring anything. `sd`: of the difference of a
    candidate's training from one of decay, over seeds.
    """

    metric: str
    effect: Estimate
    margin: float | None
    sd: float
    candidates: tuple[Candidate, ...]


def judge(
    rows: Sequence[TrialRow], arms: Sequence[str], metric: str, tolerance: float, looks: Sequence[int]
) -> Judgement | None:
    """What the endings say of `arms`; None where the usual decay itself, or the constant rate, diverged.

    `tolerance`: the share of the effect that may be lost, above 0. `looks`: the numbers of seeds, rising, at which
    whoever adds seeds looks at what the first ones say. The first look that tells a candidate's word decides, unless
    later seeds are on the other side of the margin. Seeds count from 0. A candidate's other orders count from the
    second look on: they are made of what the first one left open.
    """
    levels = _levels(looks)
    judged = None
    for look in looks:
        mine = [row for row in rows if row.seed < look and (look > looks[0] or in_first_look(row))]
        judged = _look(mine, arms, metric, tolerance, levels, look, judged)
        if judged is None:
            break
    return judged


def _levels(looks: Sequence[int]) -> dict[int, float]:
    """The one-sided level of each look: together that of an interval at LEVEL."""
    return dict(zip(looks, one_sided_levels(tuple(looks), (1 - LEVEL) / 2, spent_evenly), strict=True))


def in_first_look(row: TrialRow) -> bool:
    """Whether the first look counts an ending of one of its seeds."""
    return row.order == 0 or row.arm in (DECAY, CONSTANT)


def _look(
    rows: Sequence[TrialRow],
    arms: Sequence[str],
    metric: str,
    tolerance: float,
    levels: Mapping[int, float],
    look: int,
    before: Judgement | None,
) -> Judgement | None:
    """What `look` seeds say, where earlier looks told `before`. `levels`: one-sided, of each look."""
    ends = {arm: by_seed([row for row in rows if row.arm == arm], metric) for arm in arms}
    decay, constant = _Ends.of(ends[DECAY]), _Ends.of(ends[CONSTANT])
    if not decay.costs or decay.diverged or constant.diverged:
        return None
    brings = _contrast([(1.0, constant), (-1.0, decay)])
    effect = brings.estimate
    known = before if before is not None and before.margin is not None else None
    shown = known is not None or (effect.num == look and brings.above_zero(levels[look]))
    # As for candidates: unless later seeds are on the other side.
    shown = shown and effect.mean > 0
    margin = tolerance * effect.mean if shown else None
    judged = [Candidate(DECAY, Estimate(0.0, 0.0, 0.0, effect.num), "reference")]
    judged.append(Candidate(CONSTANT, effect, "beyond" if shown and tolerance < 1 else "unclear"))
    # What was tested at an earlier look: without a margin nothing was, nor what had no interval.
    tested = [each for each in known.candidates if each.worse and each.worse.low is not None] if known else []
    told = {each.arm: each.word for each in tested}
    # Of a single training's difference from a single one of decay, each.
    variances = []
    # A training of a candidate is taken to differ from order to order as one of decay does. What went its own way for
    # longer differs more; how much is told by what parted there.
    bound = math.inf if margin is None else effect.mean
    apart = _apart({row.arm: row.share for row in rows}, ends, bound)
    for arm, costs in ends.items():
        if arm in (DECAY, CONSTANT):
            continue
        if len(costs) < min(levels):
            judged.append(Candidate(arm, None, "unjudged"))
            continue
        if _diverged(costs):
            judged.append(Candidate(arm, None, "diverged"))
            continue
        found = _Ends(costs, max(decay.deviation, apart[arm]))
        worse = _contrast([(1.0, found), (-1.0, decay)])
        if worse.mean > bound:
            judged.append(Candidate(arm, Estimate(worse.mean, None, None, worse.num), "beyond"))
            continue
        variances.append(worse.spread**2 + found.saved + decay.saved)
        # What is lost beyond the tolerated share of the effect of the same seeds: that share isn't known exactly.
        lost = _contrast([(1.0, found), (tolerance - 1.0, decay), (-tolerance, constant)])
        word = told.get(arm, "unclear")
        # Once for each number of seeds that it has at a look.
        if shown and word == "unclear" and worse.num in levels and (worse.num == look or arm not in told):
            level = levels[worse.num]
            word = "within" if lost.below_zero(level) else "beyond" if lost.above_zero(level) else word
        if (word == "within" and lost.mean > 0) or (word == "beyond" and lost.mean <= 0):
            word = "unclear"
        judged.append(Candidate(arm, worse.estimate, word))
    sd = math.sqrt(median(variances)) if variances else decay.deviation * math.sqrt(2)
    return Judgement(metric, effect, margin, sd, tuple(judged))


@dataclass(frozen=True)
class _Ends:
    """How an arm ended, by seed and order; `deviation`: of one training of it from order to order."""

    costs: Mapping[int, Sequence[float]]
    deviation: float

    @classmethod
    def of(cls, costs: Mapping[int, Sequence[float]]) -> "_Ends":
        """Those of an arm whose orders tell how much it differs."""
        return cls(costs, 0.0 if _diverged(costs) else deviation(costs.values()))

    @property
    def diverged(self) -> bool:
        return _diverged(self.costs)

    @property
    def repeated(self) -> int:
        """In how many orders each seed has it, at least."""
        return min(map(len, self.costs.values()))

    @property
    def expected(self) -> float:
        """The variance of a seed's mean over its orders."""
        return self.deviation**2 / self.repeated

    @property
    def saved(self) -> float:
        """The variance that this mean has less than a single training."""
        return self.deviation**2 - self.expected


def _diverged(costs: Mapping[int, Sequence[float]]) -> bool:
    return any(math.isinf(cost) for of_seed in costs.values() for cost in of_seed)


@dataclass(frozen=True)
class _Contrast:
    """The mean over `num` seeds of a difference between arms, and its `spread` over seeds, of so many degrees of
    `freedom`.
    """

    mean: float
    spread: float
    freedom: int
    num: int

    def _reach(self, level: float) -> float:
        return -float(stdtrit(self.freedom, level)) * self.spread / math.sqrt(self.num)

    def below_zero(self, level: float) -> bool:
        """Whether it surely isn't above zero, at a one-sided level."""
        return self.mean + self._reach(level) <= 0

    def above_zero(self, level: float) -> bool:
        """Whether it surely is above zero, at a one-sided level."""
        return self.mean - self._reach(level) > 0

    @property
    def estimate(self) -> Estimate:
        """With the interval at LEVEL."""
        reach = self._reach((1 - LEVEL) / 2)
        return Estimate(self.mean, self.mean - reach, self.mean + reach, self.num)


def _contrast(parts: Sequence[tuple[float, _Ends]]) -> _Contrast:
    """The sum of weighted ends, over the seeds that all of `parts` have.

    The variance over n seeds has n - 1 degrees of freedom, which alone says little. It is steadied by what the orders
    of the samples would make it, with STEADY of them (a moderated t: Smyth 2004, 10.2202/1544-6115.1027).
    """
    seeds = [seed for seed in parts[0][1].costs if all(seed in ends.costs for _, ends in parts)]
    values = [sum(weight * fmean(ends.costs[seed]) for weight, ends in parts) for seed in seeds]
    expected = sum(weight**2 * ends.expected for weight, ends in parts)
    own = variance(values) if len(values) > 1 else 0.0
    freedom = STEADY + len(values) - 1
    spread = math.sqrt((STEADY * expected + (len(values) - 1) * own) / freedom)
    return _Contrast(fmean(values), spread, freedom, len(values))


def _apart(
    begun: Mapping[str, float], ends: Mapping[str, Mapping[int, Sequence[float]]], bound: float
) -> dict[str, float]:
    """For each arm the standard deviation over seeds of how much worse than decay one training of it ends: that of all
    arms that begin at the same share of the budget (`begun`). 0 where decay begins, whose orders tell it.

    What ends worse than by `bound` differs far more, and is left out where the others have as many degrees of freedom
    as the pool is given (STEADY).
    """
    decay = ends[DECAY]
    every = {
        arm: [costs[0] - fmean(decay[seed]) for seed, costs in found.items() if seed in decay]
        for arm, found in ends.items()
    }
    known = {arm: values for arm, values in every.items() if len(values) > 1 and all(map(math.isfinite, values))}
    of_share = {}
    for share in set(begun.values()) - {begun[DECAY]}:
        here = [values for arm, values in known.items() if begun[arm] == share]
        well = [values for values in here if fmean(values) <= bound]
        of_share[share] = deviation(well if degrees_of_freedom(well) >= STEADY else here)
    return {arm: of_share.get(share, 0.0) for arm, share in begun.items()}


def hopeful(found: Candidate | None, judged: Judgement, smaller: bool) -> bool:
    """Whether another rate of a candidate that ended as `found` may be worth a trial; `smaller`: than that one's."""
    if found is None or found.word == "diverged":
        return smaller
    return found.worse is not None and found.worse.mean <= judged.effect.mean


def contenders(judged: Judgement, times: Sequence[Mapping[str, Modelled]], looks: Sequence[int]) -> set[str]:
    """What might save more than what is within the tolerance already, on each machine, but isn't told from noise; none
    where nothing hangs on more seeds. `times`: by machine, the candidates' times over that of decay. `looks`: as for
    `judge`.

    It is those that save most in expectation, by the chance that the seeds of the last look tell them within: what is
    fastest often lies near the edge of the tolerance, where no number of seeds tells.
    """
    found: set[str] = set()
    last, level = list(_levels(looks).items())[-1]
    ends = {each.arm: each.worse for each in judged.candidates if each.worse}
    # Without a margin: what isn't worse than the constant rate.
    most = judged.effect.mean if judged.margin is None else judged.margin
    for ratios in times:
        best, unclear = _best(judged, ratios)
        open_ = [arm for arm in unclear if ends[arm].num < last]
        chances = {arm: _chance(ends[arm], most, last, level) for arm in open_}
        saved = {
            arm: (ratios[best].value - ratios[arm].value) * chance
            for arm, chance in chances.items()
            if chance > LEAST_CHANCE
        }
        found |= set(sorted(saved, key=lambda arm: -saved[arm])[:CONTENDERS])
    return found


def _chance(worse: Estimate, most: float, num: int, level: float) -> float:
    """That `num` seeds tell a candidate to lose no more than `most`, at a one-sided level, by what those so far say.

    The predictive probability where nothing was known before (Spiegelhalter, Freedman & Blackburn 1986).
    """
    assert worse.high is not None
    freedom = STEADY + worse.num - 1
    spread = (worse.high - worse.mean) / float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(worse.num)
    bound = most + float(stdtrit(STEADY + num - 1, level)) * spread / math.sqrt(num)
    ahead = spread * math.sqrt(1 / worse.num - 1 / num) if num > worse.num else 0.0
    return float(stdtr(freedom, (bound - worse.mean) / ahead)) if ahead else float(worse.mean <= bound)


def _best(judged: Judgement, ratios: Mapping[str, Modelled]) -> tuple[str, list[str]]:
    """The candidate with the least time of those that are within the tolerance, of equally fast ones the one that loses
    least, decay where none saves any; and what isn't told from noise and would save more, by rising time.
    """
    lost = {each.arm: each.worse.mean for each in judged.candidates if each.worse}
    words = {candidate.arm: candidate.word for candidate in judged.candidates}
    within = [arm for arm, word in words.items() if word == "within" and _saves(ratios[arm])]
    best = min(within, key=lambda arm: (ratios[arm].value, lost[arm]), default=DECAY)
    most = ratios[best].value * (1 - LEAST_SAVED)
    unclear = [
        arm
        for arm, word in words.items()
        if word == "unclear" and arm != CONSTANT and _saves(ratios[arm]) and ratios[arm].value < most
    ]
    return best, sorted(unclear, key=lambda arm: ratios[arm].value)


# -- what to do


@dataclass(frozen=True)
class Choice:
    """What is recommended on one machine: an arm or, where it can't be told, None; `why`, as a sentence.

    `unclear`: what might save more, and can't be told from noise; by rising time.
    """

    arm: str | None
    why: str
    unclear: tuple[str, ...]


def choose(judged: Judgement | None, ratios: Mapping[str, Modelled]) -> Choice:
    """The candidate with the least time of those that are within the tolerance; `ratios`: times over that of decay."""
    if judged is None:
        return Choice(None, "the trunk diverged: use a smaller --lr", ())
    if judged.margin is None:
        why = "decaying the rate isn't shown to bring anything over a constant one, so there is nothing to lose by"
        return Choice(
            None,
            f"{why} (more --epochs, a task with less noise or, where it was given, another --lr would settle it)",
            (),
        )
    best, unclear = _best(judged, ratios)
    if best == DECAY and unclear:
        return Choice(None, "what might save time can't be told from noise by these seeds", tuple(unclear))
    why = "the least time of all that are within the tolerance"
    if best == DECAY:
        why = "nothing that is within the tolerance takes less time"
    return Choice(best, why, tuple(unclear))


def _saves(ratio: Modelled) -> bool:
    """Whether time is saved beyond what the table isn't sure of."""
    return ratio.high < 1 and ratio.value <= 1 - LEAST_SAVED
