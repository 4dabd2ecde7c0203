"""From the results of an experiment to the verdicts on its claims.

The one rule: what is judged is what was declared before the data: the claims, margins and seeds of claims.lock. What
was declared later, or otherwise, gets an estimate and no word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bsexp.analysis.claims import Claim, Outcomes, Verdict
from bsexp.analysis.declared import EXPECTED, Declared, Design, read_claims
from bsexp.analysis.judging import ALPHA, judge
from bsexp.analysis.outcomes import chosen_rates, outcomes_of
from bsexp.analysis.words import after_tuning
from bsexp.store.lock import changes, declaration, read_lock

if TYPE_CHECKING:
    from bsexp.store.tables import Results


@dataclass(frozen=True)
class Judged:
    """A claim as declared and its verdict. `elsewhere`: what the same claim comes to in each variant of [sensitivity].

    `rates`: the chosen learning rate of each arm, None where it wasn't tuned.
    """

    declared: Declared
    verdict: Verdict
    elsewhere: dict[str, Verdict]
    rates: dict[str, float | None]


@dataclass(frozen=True)
class Findings:
    """The judged claims; `standing` says when they were declared, `changed` what became different afterwards.

    `chosen`: the learning rate of each arm that was tuned, or takes a tuned one's.
    """

    judged: list[Judged]
    standing: str
    changed: list[str]
    chosen: dict[str, float] = field(default_factory=dict)


def judge_results(results: "Results") -> Findings | None:
    """The verdicts on the claims of an experiment; None where it has none. UsageError for claims damaged since."""
    definition = results.definition
    now = declaration(definition)
    lock = read_lock(results.place)
    kept = lock or now
    if not (now["claims"] or kept["claims"]):
        return None
    arms = {
        arm: settings
        for arm, settings in definition.get("arms", {}).items()
        if arm not in definition.get("variants", {})
    }
    tune = definition.get("tune", {})
    looks, seeds = tuple(kept["looks"]), tuple(kept["seeds"])
    target = bool(definition.get("target") or kept["target"])
    rates = {arm: (str(rate["of"]), float(rate["times"])) for arm, rate in definition.get("rates", {}).items()}
    design = Design(arms, seeds, tuple(tune.get("seeds", ())), looks, target, rates)
    before, declared = read_claims(kept["claims"], design), read_claims(now["claims"], design)
    # A claim can't be taken back: those behind it in the family would be held to less.
    declared += [each for each in before if each.text not in {one.text for one in declared}]
    chosen = chosen_rates(results)
    outcomes = outcomes_of(results, {each.claim.outcome for each in (*before, *declared)}, chosen)
    family = dict(zip((each.claim for each in before), _judge([each.claim for each in before], outcomes), strict=True))
    changed = changes(lock, now) if lock else []
    late = _late(lock, now)
    judged = []
    for each in declared:
        # What was not declared like this stands alone, and takes nothing from those that were.
        verdict = family.get(each.claim) or _judge([each.claim], outcomes)[0]
        elsewhere = _elsewhere(each.claim, verdict, definition, outcomes)
        told = _after_tuning(verdict, elsewhere, chosen)
        if each.text in late:
            told = replace(told, word=None, p_holm=None, notes=(*told.notes, late[each.text]))
        judged.append(Judged(each, told, elsewhere, {arm: chosen.get(arm) for arm in verdict.arms}))
    return Findings(judged, _standing(lock, changed), changed, chosen)


def _judge(claims: Sequence[Claim], outcomes: Outcomes, alpha: float = ALPHA) -> list[Verdict]:
    return judge(claims, outcomes, alpha=alpha, generator=np.random.default_rng(0))


def _standing(lock: Mapping[str, Any] | None, changed: list[str]) -> str:
    if lock is None:
        return "Declared without a claims.lock: nothing shows that it was before the data."
    if lock["runs_before"]:
        return f"Declared when {lock['runs_before']} runs were there already."
    if changed:
        return f"Changed afterwards: {'; '.join(changed)}."
    return f"Declared before the data (claims.lock {lock['hash'][:8]})."


def _late(lock: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, str]:
    """The claims, by text, that get no word, and why."""
    texts = [claim["text"] for claim in now["claims"]]
    if lock is None:
        return dict.fromkeys(texts, "There is no claims.lock: an estimate, not a finding.")
    if lock["runs_before"]:
        return dict.fromkeys(texts, "Declared after runs had ended: an estimate, not a finding.")
    ruled = [key for key in ("tune", "looks", "target") if lock[key] != now[key]]
    if ruled:
        why = f"Its {' and '.join(ruled)} changed after runs had ended: an estimate, not a finding."
        return dict.fromkeys(texts, why)
    before = {claim["text"]: _meaning(claim) for claim in lock["claims"]}
    why = "Declared or changed after runs had ended: an estimate, not a finding."
    return {claim["text"]: why for claim in now["claims"] if before.get(claim["text"]) != _meaning(claim)}


def _meaning(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in claim.items() if key not in ("source", *EXPECTED)}


def _after_tuning(verdict: Verdict, elsewhere: Mapping[str, Verdict], chosen: Mapping[str, float]) -> Verdict:
    if verdict.word is None:
        return verdict
    tuned = all(arm in chosen for arm in verdict.arms)
    others = [other.word.verdict for what, other in elsewhere.items() if what.startswith("lr_factor=") and other.word]
    return replace(verdict, word=after_tuning(verdict.word, tuned, any(o != verdict.word.verdict for o in others)))


def _elsewhere(claim: Claim, verdict: Verdict, definition: Mapping[str, Any], outcomes: Outcomes) -> dict[str, Verdict]:
    """The claim among the variants of its arms that differ alike, at the level that it was tested at."""
    variants: dict[str, dict[str, str]] = {}
    for cell, where in definition.get("variants", {}).items():
        variants.setdefault(where["what"], {})[where["of"]] = cell
    if claim.kind not in ("two-arms", "best-of-a-set"):
        return {}
    found = {}
    seeds = claim.seeds[: verdict.look]
    for what, cells in variants.items():
        if not any(arm in cells for arm in verdict.arms):
            continue
        arms = tuple(cells.get(arm, arm) for arm in verdict.arms)
        if any((arm, seed) not in outcomes for arm in arms for seed in seeds):
            continue  # An unfinished variant says nothing yet, also not that the word is another one.
        control = cells.get(claim.control, claim.control) if claim.control else None
        same = replace(claim, kind="two-arms", arms=arms, control=control, seeds=seeds, tuning_seeds=(), looks=())
        found[what] = _judge([same], outcomes, verdict.alpha)[0]
    return found


def settled(results: "Results") -> bool:
    """Whether every claim has got a word, so that no further look is needed."""
    findings = judge_results(results)
    return findings is not None and all(
        one.verdict.word is not None and one.verdict.word.verdict != "inconclusive" for one in findings.judged
    )
