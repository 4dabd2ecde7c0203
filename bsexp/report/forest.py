"""The verdicts as a figure: each claim's difference with its interval and margin, and the word beside it.

The one rule: the figure shows what the table of verdicts says, a panel for each outcome, in its own unit and direction.
"""

import textwrap

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bsexp.analysis.verdicts import Findings, Judged
from bsexp.report.drawing import style
from bsexp.report.palette import ALARM, FAINT, INK
from bsexp.report.verdicts import difference_text, size_of, unit_of
from bsexp.report.wording import Picture

ROW, WRAP = 0.78, 54
COLORS = {"supported": "#00664A", "refuted": ALARM, "inconclusive": FAINT, "exploratory": FAINT}
MARGIN_SHADE = "#DCE9F2"


def forest(findings: Findings) -> Figure | None:
    """A row for each claim that has an estimate with finite ends, in panels by outcome; None without one."""
    panels: dict[str, list[tuple[int, Judged]]] = {}
    for number, judged in enumerate(findings.judged, start=1):
        if _drawable(judged):
            panels.setdefault(_axis(judged), []).append((number, judged))
    if not panels:
        return None
    with style():
        rows = [len(each) for each in panels.values()]
        height = ROW * sum(rows) + 1.05 * len(panels) + 0.25
        figure = Figure(figsize=(12, height))
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=rows)[:, 0]
        figure.subplots_adjust(
            left=0.34, right=0.7, top=1 - 0.45 / height, bottom=0.62 / height, hspace=1.05 / (height / len(panels))
        )
        for axes, (title, members) in zip(grid, panels.items(), strict=True):
            _panel(axes, title, members)
        FigureCanvasAgg(figure)
        return figure


def _drawable(judged: Judged) -> bool:
    found = size_of(judged)
    return all(value is not None and abs(value) != float("inf") for value in found)


def _axis(judged: Judged) -> str:
    """What a panel's axis shows."""
    claim = judged.declared.claim
    if claim.kind == "slope":
        return f"slope of log2 {claim.outcome}, less what was expected"
    if claim.kind == "ratio":
        return f"log2 ratio of {claim.outcome}, first over second"
    unit = unit_of(judged).name
    return f"difference in {claim.outcome}{f' ({unit})' if unit else ''}, first less second"


def _panel(axes: Axes, title: str, members: list[tuple[int, Judged]]) -> None:
    across = axes.get_yaxis_transform()
    scale = unit_of(members[0][1]).scale
    for place, (number, judged) in enumerate(members):
        verdict = judged.verdict
        point, low, high = (scale * value for value in size_of(judged) if value is not None)
        word = verdict.word.verdict if verdict.word else "exploratory"
        color = COLORS[word]
        if verdict.margin is not None and verdict.margin > 0:
            margin = scale * verdict.margin
            axes.fill_between([-margin, margin], place - 0.36, place + 0.36, color=MARGIN_SHADE, linewidth=0, zorder=1)
        axes.hlines(place, low, high, color=color, linewidth=2.6, zorder=3)
        axes.plot(point, place, marker="D", markersize=7, color=color, markeredgecolor="white", zorder=4)
        text = textwrap.fill(f"{number}. {judged.declared.text}", WRAP, max_lines=3, placeholder=" …")
        axes.text(-0.03, place, text, transform=across, ha="right", va="center", fontsize=9.5)
        claimed = f"{judged.declared.claim.word}: {verdict.text}"
        axes.text(
            1.02,
            place,
            f"{textwrap.fill(claimed, 42)}\n{difference_text(judged)}, {verdict.num_pairs} seeds",
            transform=across,
            va="center",
            fontsize=9,
            color=color,
            linespacing=1.35,
        )
    axes.axvline(0, color=INK, linewidth=0.9, zorder=2)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(members) - 0.5, -0.5)
    axes.set_xlabel(title)


def picture(findings: Findings, stem: str) -> Picture:
    """The words for the figure."""
    told = [
        f"{number}. {judged.verdict.text}, {difference_text(judged)}"
        for number, judged in enumerate(findings.judged, start=1)
        if _drawable(judged)
    ]
    return Picture(
        stem,
        "Verdicts at a glance",
        f"The difference of each claim with its interval and margin. {'; '.join(told)}.",
        "Diamonds: mean differences; bars: intervals at the level left after Holm; shaded: the margin that was "
        "declared, inside which arms count as equal.",
    )
