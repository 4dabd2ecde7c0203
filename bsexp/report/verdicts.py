"""Verdicts as a reader sees them: the table, the notes under it, verdicts.csv, and `claims` of --json.

The one rule: a word never stands alone; the number, its interval and the number of pairs stand beside it.
"""

from typing import Any

import pandas as pd

from bsexp.analysis.verdicts import Findings, Judged
from bsexp.report import numbers
from bsexp.report.tables import Cell, Table

VERDICT_COLUMNS = (
    *("claim", "arm_a", "arm_b", "outcome", "num_pairs", "difference", "low", "high", "p", "p_holm", "p_signflip"),
    *("p_equivalence", "margin", "min_p", "verdict", "note"),
)


def _size(judged: Judged) -> tuple[float | None, float | None, float | None]:
    """The difference as told, first less second in the outcome's own direction, with its interval.

    Verdicts speak of gains: costs are turned round again, so that a loss that is larger is a positive difference.
    """
    verdict, sign = judged.verdict, judged.declared.claim.sign
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


def _text(value: float | None, judged: Judged) -> str:
    if value is None:
        return numbers.DASH
    if "accuracy" in judged.declared.claim.outcome:
        return f"{100 * value:+.2f}".replace("-", "−")
    return f"{value:+.4f}".replace("-", "−")


def verdict_table(findings: Findings) -> Table:
    """The claims with their verdicts, in the order they were declared."""
    rows = []
    for judged in findings.judged:
        claim, verdict = judged.declared.claim, judged.verdict
        point, low, high = _size(judged)
        told = _text(point, judged)
        if low is not None:
            told += f" [{_text(low, judged)}, {_text(high, judged)}]"
        p_holm = numbers.DASH if verdict.p_holm is None else f"{verdict.p_holm:.2g}"
        margin = numbers.DASH if verdict.margin is None else _text(verdict.margin, judged).lstrip("+")
        names = " − ".join(verdict.arms) if claim.kind != "slope" else ", ".join(verdict.arms)
        cells = [Cell(judged.declared.text), Cell(f"{claim.word}: {verdict.text}"), Cell(names), Cell(claim.outcome)]
        rows.append([*cells, Cell(told, point), Cell(margin), Cell(p_holm), Cell(str(verdict.num_pairs))])
    note = (
        f"{findings.standing} Differences are the first arm less the second, accuracies in points, losses in nats, "
        "ratios as log2; intervals at the level left after Holm over the claims. Positive losses are worse."
    )
    headings = ["Claim", "Verdict", "Arms", "Outcome", "Difference", "Margin", "p (Holm)", "Pairs"]
    return Table("Verdicts", headings, rows, note)


def verdict_notes(findings: Findings) -> list[str]:
    """What belongs to each verdict: its own notes, the rates chosen, and what the claim comes to in variants."""
    found = []
    for judged in findings.judged:
        parts = list(judged.verdict.notes)
        rates = [f"{arm} {lr:g}" for arm, lr in judged.rates.items() if lr is not None]
        parts += [f"Learning rates: {', '.join(rates)}."] if rates else []
        parts += [f"With {what}: {other.text}." for what, other in judged.elsewhere.items()]
        if parts:
            found.append(f"{judged.declared.text}: {' '.join(parts)}")
    return found


def answer(findings: Findings) -> str:
    """How many claims came to what, in one sentence."""
    words = [judged.verdict.word.verdict if judged.verdict.word else "exploratory" for judged in findings.judged]
    kinds = ("supported", "refuted", "inconclusive", "exploratory")
    parts = [f"{count} {kind}" for kind in kinds if (count := words.count(kind))]
    return f"Of {len(words)} declared claim{'s'[: len(words) != 1]}: {', '.join(parts)}."


def verdict_frame(findings: Findings | None) -> pd.DataFrame:
    """verdicts.csv: a row per claim; empty where nothing was claimed."""
    rows = []
    for judged in findings.judged if findings else ():
        verdict = judged.verdict
        point, low, high = _size(judged)
        first, second = (*verdict.arms, "")[:2] if len(verdict.arms) == 2 else (" ".join(verdict.arms), "")
        row = [judged.declared.text, first, second, verdict.outcome, verdict.num_pairs, point, low, high]
        row += [verdict.p, verdict.p_holm, verdict.p_sign_flip, verdict.p_equivalence, verdict.margin, verdict.min_p]
        rows.append([*row, verdict.text, " ".join(verdict.notes)])
    return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))


def claim_documents(findings: Findings | None) -> list[dict[str, Any]]:
    """`claims` of `report --json`."""
    found = []
    for judged in findings.judged if findings else ():
        verdict = judged.verdict
        point, low, high = _size(judged)
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
