"""Verdicts as a reader sees them: the table, the notes under it, verdicts.csv, and `claims` of --json.

The one rule: a word never stands alone; the number, its interval and the number of pairs stand beside it.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from bsexp.analysis.declared import OF_TWINS
from bsexp.analysis.facts import runs_of
from bsexp.analysis.fits import heterogeneity
from bsexp.analysis.outlook import found_with, outlooks
from bsexp.analysis.paired import t_quantile
from bsexp.analysis.verdicts import Findings, Judged
from bsexp.records import InspectedRow
from bsexp.report import numbers
from bsexp.report.tables import Cell, Table
from bsexp.store.inspected import read_inspected

if TYPE_CHECKING:
    from bsexp.analysis.claims import Verdict
    from bsexp.store.tables import Results

VERDICT_COLUMNS = (
    *("claim", "arm_a", "arm_b", "outcome", "budget", "num_pairs", "difference", "low", "high", "p", "p_holm"),
    *("p_signflip", "p_equivalence", "margin", "min_p", "power", "verdict", "note", "detectable"),
)
# Digits of the numbers in verdicts.csv. The last ones of a double depend on the processor that added them up.
DIGITS = 10


FAR = " Of disagreement and barrier, which say how far two orders of the samples lead apart, more counts as better."
# Outcomes from 0 to 1 besides accuracies.
SHARES = ("memorised", "generalization_gap", "disagreement", "calibration_error")


def size_of(judged: Judged, other: "Verdict | None" = None) -> tuple[float | None, float | None, float | None]:
    """The difference as told, first less second in the outcome's own direction, with its interval.

    Verdicts speak of gains: costs are turned round again, so that a loss that is larger is a positive difference.
    `other`: a verdict on the same claim among other runs, in place of its own.
    """
    verdict, sign = other or judged.verdict, judged.declared.claim.sign
    given: tuple[float | None, float | None, float | None] | None = verdict.median
    if verdict.estimate is not None:
        given = verdict.estimate.mean, verdict.estimate.low, verdict.estimate.high
    if given is None:
        return None, None, None
    point, low, high = given
    # Slopes are compared as they are, ratios as -log2(first / second).
    sign = {"slope": 1.0, "ratio": -1.0}.get(judged.declared.claim.kind, sign)
    if sign < 0:
        low, high = high, low
    return tuple(None if each is None else sign * each + 0.0 for each in (point, low, high))  # type: ignore[return-value]


class Unit(NamedTuple):
    """How a claim's numbers are told: times `scale`, with so many digits, in a unit (empty: none)."""

    scale: float
    digits: int
    name: str


def unit_of(judged: Judged) -> Unit:
    """Shares are told in points, losses in nats; slopes and logarithms of ratios have no unit."""
    return unit_for(judged.declared.claim.kind, judged.declared.claim.outcome)


def unit_for(kind: str, outcome: str) -> Unit:
    """The unit of a claim of this kind about this outcome."""
    if kind in ("slope", "ratio"):
        return Unit(1.0, 4, "")
    if "accuracy" in outcome or outcome in SHARES:
        return Unit(100.0, 2, "points")
    if "seconds" in outcome:
        return Unit(1.0, 2, "seconds")
    return Unit(1.0, 4, "nats" if "loss" in outcome or outcome == "barrier" else "")


def _text(value: float | None, judged: Judged) -> str:
    return amount(value, unit_of(judged))


def amount(value: float | None, unit: Unit) -> str:
    """A signed number in its unit, without the unit's name; a dash for none."""
    if value is None:
        return numbers.DASH
    scale, digits, _ = unit
    text = f"{scale * value:+.{digits}f}"
    # A rounded zero has no sign.
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def difference_text(judged: Judged, other: "Verdict | None" = None) -> str:
    """The difference with its interval, as text."""
    point, low, high = size_of(judged, other)
    told = _text(point, judged)
    return told if low is None else f"{told} [{_text(low, judged)}, {_text(high, judged)}]"


def _names(judged: Judged) -> str:
    """What was subtracted from what."""
    arms = judged.verdict.arms
    return ", ".join(arms) if judged.declared.claim.kind == "slope" else " − ".join(arms)


def verdict_table(findings: Findings) -> Table:
    """The claims with their verdicts, in the order they were declared."""
    rows = []
    for number, judged in enumerate(findings.judged, start=1):
        claim, verdict = judged.declared.claim, judged.verdict
        told = Cell(difference_text(judged), size_of(judged)[0])
        p_holm = numbers.DASH if verdict.p_holm is None else f"{verdict.p_holm:.2g}"
        margin = numbers.DASH if verdict.margin is None else _text(verdict.margin, judged).lstrip("+")
        text = f"{number}. {judged.declared.text}"
        cells = [Cell(text), Cell(f"{claim.word}: {verdict.text}"), Cell(_names(judged)), Cell(claim.outcome), told]
        pairs = Cell(str(verdict.num_pairs), float(verdict.num_pairs))
        rows.append([*cells, Cell(margin, verdict.margin), Cell(p_holm, verdict.p_holm), pairs])
    note = (
        f"{findings.standing} Differences are the first arm less the second, shares in points, losses in nats, "
        "ratios as log2; intervals at the level left after Holm over the claims. Positive losses are worse."
        + (FAR if any(judged.declared.claim.outcome in OF_TWINS for judged in findings.judged) else "")
    )
    headings = ["Claim", "Verdict", "Arms", "Outcome", "Difference", "Margin", "p (Holm)", "Pairs"]
    return Table("Verdicts", headings, rows, note)


def verdict_notes(findings: Findings, results: "Results") -> list[str]:
    """What belongs to each verdict: its own notes, rates chosen, what goes with a sharpness, where it was claimed."""
    found = []
    sharp = any(judged.declared.claim.outcome == "sharpness" for judged in findings.judged)
    inspected = read_inspected(results.place.inspected) if sharp else {}
    for number, judged in enumerate(findings.judged, start=1):
        parts = [*_margin_note(judged), *judged.verdict.notes]
        rates = [f"{arm} {lr:g}" for arm, lr in judged.rates.items() if lr is not None]
        parts += [f"Learning rates: {', '.join(rates)}."] if rates else []
        parts += _with_the_rate(judged, results, inspected) if judged.declared.claim.outcome == "sharpness" else []
        parts += [f"Claimed by {judged.declared.source}."] if judged.declared.source else []
        if parts:
            found.append(f"Claim {number}: {' '.join(parts)}")
    return found


def _with_the_rate(judged: Judged, results: "Results", inspected: Mapping[str, InspectedRow]) -> list[str]:
    """lr x sharpness of each arm: a sharpness alone follows the rate (see signals.sharpness)."""
    told = []
    for arm in judged.verdict.arms:
        runs = runs_of(results, arm, judged.rates.get(arm))
        found = [inspected[key].lr_sharpness for key in runs["config_hash"] if key in inspected]
        if sizes := [size for size in found if size is not None]:
            told.append(f"{arm} {numbers.number(float(f'{fmean(sizes):.3g}'))}")
    return [f"Learning rate × sharpness, mean over seeds: {', '.join(told)}."] if told else []


def _margin_note(judged: Judged) -> list[str]:
    """What the margin amounts to: in its unit, as a share of the control's effect, and in test images."""
    verdict = judged.verdict
    if verdict.margin is None or verdict.margin_share is None:
        return []
    told = f"{_text(verdict.margin, judged).lstrip('+')} {unit_of(judged).name}".rstrip()
    images = "" if verdict.margin_images is None else f", {verdict.margin_images:.1f} test images"
    return [f"Margin: {told}, {100 * verdict.margin_share:.0f} % of the control's effect{images}."]


def sensitivity_table(findings: Findings) -> Table | None:
    """What each claim comes to among the variants of its arms; None where nothing was varied."""
    rows = []
    for number, judged in enumerate(findings.judged, start=1):
        own = judged.verdict
        cells = [Cell("as declared"), Cell(own.text), Cell(difference_text(judged), size_of(judged)[0])]
        mine = [[Cell(f"{number}. {judged.declared.text}"), *cells, Cell(str(own.num_pairs), float(own.num_pairs))]]
        for what, other in judged.elsewhere.items():
            told = Cell(difference_text(judged, other), size_of(judged, other)[0])
            pairs = Cell(str(other.num_pairs), float(other.num_pairs))
            mine.append([Cell(f"{number}."), Cell(f"with {what}"), Cell(other.text), told, pairs])
        rows += mine if judged.elsewhere else []
    if not rows:
        return None
    note = (
        "The same claim at the level it was tested at, among arms that all differ in one thing: lr_factor multiplies "
        "the chosen learning rates, the control's stays. A word that changes at half or twice the rate is marked "
        "tuning-sensitive above."
    )
    return Table("Sensitivity", ["Claim", "Runs", "Verdict", "Difference", "Pairs"], rows, note)


def pooled_table(findings: Findings) -> Table | None:
    """Each effect that several claims measure (`pool`): its mean over tasks, and whether the tasks differ."""
    pools: dict[str, list[tuple[Judged, float, float]]] = {}
    for judged in findings.judged:
        point, error = size_of(judged)[0], _error(judged)
        if judged.declared.pool and point is not None and error is not None:
            pools.setdefault(judged.declared.pool, []).append((judged, point, error))
    rows = [_pooled(name, members) for name, members in pools.items() if len(members) > 1]
    if not rows:
        return None
    note = (
        "Mean over tasks like these with its 95 % Hartung-Knapp interval, effects in the outcome's unit. Cochran's Q "
        "asks whether the effect is the same on all tasks; its p is that of Welch's test, which allows for few seeds. "
        "I² is the share of the spread between tasks that chance does not explain. Few tasks tell little about others."
    )
    headings = ["Effect", "Tasks", "Mean effect", "Spread between tasks", "Q", "p of equal effects", "I²"]
    return Table("Across tasks", headings, rows, note)


def _error(judged: Judged) -> float | None:
    """The standard error of a difference; None where it has none."""
    found = judged.verdict.estimate
    if found is None or not found.half_width:
        return None
    return found.half_width / t_quantile(found.num, 1 - judged.verdict.alpha)


def _pooled(name: str, members: list[tuple[Judged, float, float]]) -> list[Cell]:
    claims, points, errors = zip(*members, strict=True)
    found = heterogeneity(points, errors, [judged.verdict.num_pairs for judged in claims])
    texts = [_text(value, claims[0]) for value in (found.pooled.mean, found.pooled.low, found.pooled.high)]
    between = _text(found.between**0.5, claims[0]).lstrip("+")
    return [
        Cell(name),
        Cell(", ".join(judged.verdict.arms[0] for judged in claims)),
        Cell(f"{texts[0]} [{texts[1]}, {texts[2]}]", found.pooled.mean),
        Cell(between, found.between**0.5),
        Cell(f"{found.q:.2f} on {found.freedom}", found.q),
        Cell(f"{found.p:.2g}", found.p),
        Cell(f"{found.share:.0%}", found.share),
    ]


def answer(findings: Findings, results: "Results") -> str:
    """The first claim with its numbers, then how many claims came to what: two sentences."""
    words = [judged.verdict.word.verdict if judged.verdict.word else "exploratory" for judged in findings.judged]
    kinds = ("supported", "refuted", "inconclusive", "exploratory")
    parts = [f"{count} {kind}" for kind in kinds if (count := words.count(kind))]
    counts = f"Of {len(words)} declared claims: {', '.join(parts)}." if len(words) > 1 else ""
    return f"{_lead(findings.judged[0], results)} {counts}".strip()


def _lead(judged: Judged, results: "Results") -> str:
    claim, verdict = judged.declared.claim, judged.verdict
    told = f"“{judged.declared.text.rstrip('.')}” is {verdict.text}"
    point, low, high = size_of(judged)
    if point is None:
        return f"{told}."
    names = " less ".join(verdict.arms)
    if claim.kind in ("slope", "ratio"):
        names = {"slope": "the slope less what is expected", "ratio": f"log2 of {' over '.join(verdict.arms)}"}[
            claim.kind
        ]
    told += f": in {claim.outcome.replace('_', ' ')} {names} is {_text(point, judged)} {unit_of(judged).name}".rstrip()
    if low is not None:
        told += f", between {_text(low, judged)} and {_text(high, judged)},"
    told += f" over {verdict.num_pairs} seeds"
    if verdict.margin is not None:
        told += f", with a margin of {_text(verdict.margin, judged).lstrip('+')}"
    return f"{told}{_updates(judged, results)}."


def _updates(judged: Judged, results: "Results") -> str:
    """How many updates each of two arms made, where they differ."""
    if len(judged.verdict.arms) != 2:
        return ""
    counts = [runs_of(results, arm, judged.rates.get(arm))["updates"] for arm in judged.verdict.arms]
    if not all(len(each) for each in counts):
        return ""
    first, second = (float(each.median()) for each in counts)
    return f", in {first:,.0f} against {second:,.0f} updates" if first != second else ""


def verdict_frame(findings: Findings | None, results: "Results") -> pd.DataFrame:
    """verdicts.csv: a row per claim; empty where nothing was claimed. `budget`: epochs, where the arms share it;
    `power`: as planned, where the claim states sd and effect; `detectable`: the true difference that would be found in
    four of five such experiments, at the spread that was seen.
    """
    rows = []
    power = [one.power for one in outlooks([judged.declared for judged in findings.judged])] if findings else []
    for judged, planned in zip(findings.judged if findings else (), power, strict=True):
        verdict = judged.verdict
        first, second = (*verdict.arms, "")[:2] if len(verdict.arms) == 2 else (" ".join(verdict.arms), "")
        epochs = results.runs.loc[results.runs["arm"].isin(verdict.arms), "epochs"].unique()
        budget = float(epochs[0]) if len(epochs) == 1 else None
        row = [judged.declared.text, first, second, verdict.outcome, budget, verdict.num_pairs, *size_of(judged)]
        row += [verdict.p, verdict.p_holm, verdict.p_sign_flip, verdict.p_equivalence, verdict.margin, verdict.min_p]
        least = found_with(verdict)
        rows.append([*row, planned, verdict.text, " ".join(verdict.notes), None if least is None else least[1]])
    return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))


def verdicts_csv(frame: pd.DataFrame) -> str:
    """The text of verdicts.csv: numbers to 10 significant digits, so that the same results give it anywhere."""
    return frame.to_csv(index=False, lineterminator="\n", float_format=f"%.{DIGITS}g")


def claim_documents(findings: Findings | None) -> list[dict[str, Any]]:
    """`claims` of `report --json`."""
    found = []
    for judged in findings.judged if findings else ():
        verdict = judged.verdict
        point, low, high = size_of(judged)
        reason = [verdict.word.reason] if verdict.word and verdict.word.reason else []
        found.append(
            {
                "text": judged.declared.text,
                "source": judged.declared.source,
                "verdict": verdict.word.verdict if verdict.word else "exploratory",
                "note": " ".join([*reason, *verdict.notes]),
                "difference": _finite(point),
                "interval": None if low is None else [_finite(low), _finite(high)],
                "p": verdict.p,
                "p_holm": verdict.p_holm,
                "num_pairs": verdict.num_pairs,
            }
        )
    return found


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) != float("inf") else None
