"""The candidates of an advice: which larger batches are trained to the end at which rates, and which for more seeds.

The one rule: two seeds of everything come first; what time is left goes to what the advice hangs on.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bsexp.commands.advised_rate import constant_rates
from bsexp.console import duration
from bsexp.sweep.advising import (
    BRANCH,
    CONSTANT,
    DECAY,
    ENDING,
    FIRST,
    LOOKS,
    ORDERS,
    SLOWER,
    Growth,
    Trial,
    key_of,
)
from bsexp.sweep.critical import RULES

if TYPE_CHECKING:
    from bsexp.analysis.advice import Candidate, Judgement
    from bsexp.analysis.hardware import HardwareTable, Modelled
    from bsexp.analysis.local_critical import Local
    from bsexp.commands.trying import Job


def try_batches(job: "Job", lr: float) -> "list[Local]":
    """The local critical batches; what goes on from the trunk at its end is made beside them, and so are smaller
    constant rates.
    """
    from bsexp.analysis.local_critical import local_critical

    question = job.question
    branches = question.branches(lr)
    job.make(lr, [*branches, *question.endings(lr), *question.constants(constant_rates(lr)[1:])], FIRST)
    wanted = {trial.key(seed) for trial in branches for seed in FIRST}
    return local_critical([row for row in job.kept.rows if row.stage == BRANCH and key_of(row) in wanted])


def try_growth(job: "Job", lr: float, points: "Sequence[Local]") -> None:
    """Larger batches to the end: with the rate that suited branches best and, where there is time and hope, others.

    There is none where that rate ended worse than the constant rate does and, where it diverged, for larger ones.
    """
    from bsexp.analysis.advice import hopeful
    from bsexp.analysis.local_critical import rule_for

    question = job.question
    first = []
    for place in question.places():
        rule = rule_for(points, place.share, place.multiplier * question.batch_size)
        if rule is not None:
            first.append(replace(place, lr_rule=rule))
        else:
            why = "all branches of this batch diverged from there on"
            question.left_out[question.arm_of(place).rpartition("-")[0]] = why
    job.make(lr, question.grown(lr, first), FIRST)
    judged = judged_by(job, lr, LOOKS[0], ())
    if judged is None:
        # Without a decay to compare with there is nothing to advise.
        return
    ended = {each.arm: each for each in judged.candidates}
    others = [
        other
        for place in first
        for other in [replace(place, lr_rule=rule) for rule in RULES]
        if hopeful(ended.get(question.arm_of(place)), judged, other.lr_factor < place.lr_factor)
    ]
    _try_more(job, lr, others, f"other rates at {lr:g}", "other rates for larger batches")
    _try_more(job, lr, _slower(job, lr), f"half of {lr:g}", "growing batches at half the rate")


def _try_more(job: "Job", lr: float, growths: Sequence[Growth], which: str, told: str) -> None:
    """Make what goes on with `growths`, if there is time; `which` is remembered, and the user `told`."""
    trials = job.question.grown(lr, growths)
    cost = job.cost(lr, trials, FIRST)
    if cost and job.there_is_time(which, cost):
        job.talk.note(f"{told}: about {duration(cost)}")
        job.make(lr, trials, FIRST)


def _slower(job: "Job", lr: float) -> list[Growth]:
    """What is worth a trial at half the rate: of each place where the batch grows the rule that ended best there, if
    there is hope and it isn't within the tolerance as it is.
    """
    from bsexp.analysis.advice import hopeful

    judged = judged_by(job, lr, LOOKS[0], ())
    if judged is None:
        return []
    ended = {each.arm: each for each in judged.candidates}
    best: dict[tuple[float, int], tuple[Growth, Candidate]] = {}
    for growth in growths_of(job, lr):
        last, place = ended[job.question.arm_of(growth)], (growth.share, growth.multiplier)
        if growth.share and growth.base == 1 and (place not in best or _worse(last) < _worse(best[place][1])):
            best[place] = growth, last
    return [
        replace(growth, base=SLOWER)
        for growth, last in best.values()
        if last.word != "within" and hopeful(last, judged, smaller=True)
    ]


def growths_of(job: "Job", lr: float) -> list[Growth]:
    """All growth that was tried at the rate `lr`."""
    made = {key_of(row) for row in job.kept.rows}
    every = [
        replace(place, lr_rule=rule, base=base)
        for place in job.question.places()
        for rule in RULES
        for base in ((1.0, SLOWER) if place.share else (1.0,))
    ]
    return [growth for growth in every for trial in job.question.grown(lr, [growth]) if trial.key(FIRST[0]) in made]


def judged_by(
    job: "Job", lr: float, seeds: int = LOOKS[-1], known: Collection[tuple[Any, ...]] | None = None
) -> "Judgement | None":
    """What the trials of the first `seeds` seeds say; `known`: of what wasn't made for the first look only these."""
    from bsexp.analysis.advice import in_first_look, judge

    arms = job.candidates(lr, growths_of(job, lr))
    configs = {(arm, config.batch_size, config.lr) for arm, config in arms.items()}
    ends = [row for row in job.kept.rows if row.stage == ENDING and row.seed < seeds]
    if known is not None:
        ends = [row for row in ends if (row.seed in FIRST and in_first_look(row)) or key_of(row) in known]
    rows = [row for row in ends if (row.arm, row.batch_size, row.lr) in configs]
    return judge(rows, list(arms), job.metric, job.tolerance, LOOKS)


def add_seeds(job: "Job", lr: float, tables: "Sequence[HardwareTable]", workers: Sequence[int]) -> None:
    """More seeds, from look to look, of what the advice hangs on, as long as it does and there is time.

    What is known by the fewest seeds comes to its next look first; what goes on from the trunk is repeated in other
    orders, if there is time for these. What they are for is decided by what was made for the looks before, whatever
    else there is already: asked again, it decides alike.
    """
    from bsexp.analysis.advice import contenders

    question, growths = job.question, growths_of(job, lr)
    configs = job.candidates(lr, growths)
    times = _ratios({arm: question.updates(config) for arm, config in configs.items()}, tables, workers)
    every = [*job.endings(lr), *question.grown(lr, growths)]
    known: set[tuple[Any, ...]] = set()
    furthest = LOOKS[0]
    while (judged := judged_by(job, lr, furthest, known)) and (arms := contenders(judged, times, LOOKS)):
        fewest = min(each.worse.num for each in judged.candidates if each.arm in arms and each.worse)
        look = next(look for look in LOOKS if look > fewest)
        trials = [trial for trial in every if trial.arm in {*arms, DECAY, CONSTANT}]
        others = question.repeated(trial for trial in trials if trial.arm in arms)
        named = f"{look} seeds of {', '.join(sorted(arms))}"
        ways = {f"{named}, in {len(ORDERS)} orders": [*trials, *others]} if others else {}
        made = next((way for told, way in {**ways, named: trials}.items() if _made(job, lr, way, look, told)), None)
        if made is None:
            break
        known |= {trial.key(seed) for trial in made for seed in range(look)}
        furthest = max(furthest, look)


def _made(job: "Job", lr: float, trials: Sequence[Trial], num: int, named: str) -> bool:
    """Whether the first `num` seeds of `trials` are there, made now if there is time."""
    cost = job.cost(lr, trials, range(num))
    if cost:
        if not job.there_is_time(f"{named}, at {lr:g}", cost):
            return False
        job.talk.note(f"{named}: about {duration(cost)}")
        job.make(lr, trials, range(num))
    return True


def _ratios(
    updates: Mapping[str, Any], tables: "Sequence[HardwareTable]", workers: Sequence[int]
) -> "list[dict[str, Modelled]]":
    """By machine, each candidate's time over that of decay."""
    from bsexp.analysis.hardware import time_ratio
    from bsexp.analysis.trials import LEVEL

    return [
        {arm: time_ratio(table, made, updates[DECAY], number, LEVEL) for arm, made in updates.items()}
        for table in tables
        for number in workers
    ]


def _worse(found: "Candidate") -> float:
    """How much worse than decay it ended in the mean; infinitely where it diverged."""
    return found.worse.mean if found.worse else math.inf
