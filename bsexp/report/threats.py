"""Threats to validity: for each claim what else may explain its result, and what the experiment could not have seen.

The one rule: each threat comes with its number, or says that it isn't known; what holds for several claims is said
once, with their numbers in the table of verdicts.
"""

from typing import TYPE_CHECKING

from bsexp.analysis.confounds import Facts, confounds
from bsexp.analysis.facts import facts_of, scope_of
from bsexp.analysis.outlook import found_with
from bsexp.analysis.verdicts import Findings, Judged
from bsexp.analysis.words import SENSITIVE
from bsexp.report import numbers
from bsexp.report.verdicts import unit_of

if TYPE_CHECKING:
    from bsexp.store.tables import Results

# More arms than this are looked at one by one: all pairs of a ladder would say the same again and again.
MOST_COMPARED = 3


def threats(results: "Results", findings: Findings) -> list[str]:
    """The threats, as sentences with the numbers of the claims they belong to in front."""
    arms = {arm for judged in findings.judged for arm in _arms(judged)}
    facts = facts_of(results, arms, findings.chosen)
    said: dict[str, list[int]] = {}
    for number, judged in enumerate(findings.judged, start=1):
        for sentence in [*_chance(judged), *_between(judged, facts), *_scope(results, judged)]:
            said.setdefault(sentence, []).append(number)
    whole = len(findings.judged)
    return [f"{_claims(claims, whole)}: {sentence}" for sentence, claims in said.items()] + _of_all(results, findings)


def _arms(judged: Judged) -> tuple[str, ...]:
    """The arms that a verdict rests on: those compared, and the control."""
    control = judged.declared.claim.control
    return tuple(dict.fromkeys([*judged.verdict.arms, *([control] if control else [])]))


def _claims(claims: list[int], whole: int) -> str:
    if len(claims) == whole and whole > 1:
        return "All claims"
    return f"Claim{'s'[: len(claims) > 1]} {', '.join(map(str, claims))}"


def _chance(judged: Judged) -> list[str]:
    """What chance may have hidden: the difference that would have been found, and what new test images add."""
    verdict, found = judged.verdict, judged.verdict.estimate
    least = found_with(verdict)
    if found is None or found.half_width is None or least is None:
        return []
    spread, size = (_size(judged, value) for value in least)
    said = [
        f"Over {found.num} seeds the difference has a standard deviation of {spread}: a true one of "
        f"{size} would be found in four of five such experiments, a smaller one less often."
    ]
    wide = verdict.new_data.half_width if verdict.new_data else None
    if wide and wide > 1.05 * found.half_width:
        said.append(
            f"Its interval speaks of this test set; over new test images as well it is {wide / found.half_width:.1f} "
            f"times as wide, ± {_size(judged, wide)}."
        )
    return said


def _size(judged: Judged, value: float) -> str:
    unit = unit_of(judged)
    return f"{unit.scale * value:.{unit.digits}f} {unit.name}".rstrip()


def _between(judged: Judged, facts: dict[str, Facts]) -> list[str]:
    own = {arm: facts[arm] for arm in judged.verdict.arms if arm in facts}
    reason = judged.verdict.word.reason if judged.verdict.word else ""
    flips = ["Tuning-sensitive: at half or twice the learning rates the word is another one."]
    found = flips if SENSITIVE in reason else []
    if len(own) <= MOST_COMPARED:
        return found + confounds(list(own), own)
    return found + [sentence for arm in own for sentence in confounds([arm], own)]


def _scope(results: "Results", judged: Judged) -> list[str]:
    scopes = dict.fromkeys(scope for arm in judged.verdict.arms if (scope := scope_of(results, arm)))
    return [f"Scope: {'; '.join(scopes)}. Other data, models, budgets and optimizers may differ."] if scopes else []


def _of_all(results: "Results", findings: Findings) -> list[str]:
    """What holds for the experiment as a whole: failures, the number of claims, what was changed afterwards."""
    runs = results.runs
    failed = int((runs["status"] != "finished").sum())
    said = [f"Runs: {failed} of {len(runs)} failed to train; they are counted, never averaged and never left out."]
    num = len(findings.judged)
    said.append(
        f"Looking often: {num} claim{'s'[: num != 1]} in one family at .05 after Holm; everything else in this report "
        "is an estimate without a word."
    )
    if results.tuning is not None and len(results.tuning):
        tried = results.tuning.groupby("arm")["lr"].nunique()
        seeds = {len(str(text).split()) for text in results.tuning["seeds"]}
        said.append(
            f"Tuning: learning rates tried per arm: {numbers.span(tried.to_list())}, on {numbers.span(sorted(seeds))} "
            f"seed{'s'[: max(seeds) > 1]} of their own; momentum and weight decay were not tuned."
        )
    said.append(f"Declaration: {findings.standing}")
    return said
