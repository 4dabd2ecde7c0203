"""The figure of a range test: loss and its average against the learning rate, with what was read off them.

The one rule: it shows all of the ramp and what was judged; where nothing is suggested, nothing is marked as such.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsexp.analysis.range_test import RangeTest
from bsexp.records import RampRow
from bsexp.report import numbers
from bsexp.report.drawing import set_scale, style
from bsexp.report.palette import ALARM, FAINT, look
from bsexp.report.wording import Picture

# Above the start of the loss there is room for its rise, not for all of an explosion.
ROOM = 0.35
SINGLE, SMOOTHED, CHOSEN = look(5), look(0), look(2)
LINE = 13


def draw_ramp(rows: Sequence[RampRow], found: RangeTest, title: str) -> Figure:
    """Loss against learning rate: dots for updates, a line for their average, marks for what was found."""
    with style():
        figure = Figure(figsize=(9, 5))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.08, right=0.98, top=0.79, bottom=0.11)
        axes.set_title(title, pad=12 + 3 * LINE)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss (nats)")
        rates, losses = np.array([row.lr for row in rows]), np.array([row.loss for row in rows])
        smooth = np.array([np.nan if row.smoothed_loss is None else row.smoothed_loss for row in rows])
        set_scale(axes, "x", "log", found.lowest_lr, found.highest_lr)
        low, high = _limits(losses, smooth, found)
        set_scale(axes, "y", "linear", low, high)
        axes.plot(rates, losses, linestyle="none", marker=".", markersize=3.5, color=SINGLE.color, alpha=0.55, zorder=2)
        axes.plot(rates, smooth, color=SMOOTHED.color, linewidth=2.2, zorder=3)
        _mark(axes, found.steepest_at, "steepest fall", FAINT, 0)
        _mark(axes, found.diverged_at, "diverged", ALARM, 1)
        _mark(axes, found.suggested_lr, "suggested", CHOSEN.text, 2, width=1.8)
        return figure


def _limits(losses: np.ndarray, smooth: np.ndarray, found: RangeTest) -> tuple[float, float]:
    """The range of the loss that is shown: from the least of all up to its start and some more."""
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return 0.0, 1.0
    low = min(float(finite.min()), float(np.nanmin(smooth)) if np.isfinite(smooth).any() else float(finite.min()))
    start = float(finite[0]) if found.start_loss is None else found.start_loss
    reach = max(start - low, 0.1 * abs(start), 1e-3)
    return low - 0.04 * reach, start + ROOM * reach


def _mark(axes: Axes, rate: float | None, name: str, color: str, line: int, width: float = 1.1) -> None:
    """A vertical line at `rate` and its number above the panel, on a line of its own; nothing for None."""
    if rate is None:
        return
    axes.axvline(rate, color=color, linewidth=width, zorder=4)
    low, high = axes.get_xlim()
    share = float(np.log(rate / low) / np.log(high / low))
    axes.annotate(
        f"{name} {numbers.number(float(f'{rate:.2g}'))}",
        (rate, 1.0),
        xytext=(0, 4 + LINE * line),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha="left" if share < 0.1 else "right" if share > 0.9 else "center",
        fontsize=9.5,
        color=color,
        annotation_clip=False,
    )


def picture(rows: Sequence[RampRow], found: RangeTest, said: str, stem: str) -> Picture:
    """The words for the figure; `said` is the finding as a sentence."""
    parts = [f"Training loss of {len(rows):,} updates against a learning rate that rises from {found.lowest_lr:g}"]
    parts[0] += f" to {rows[-1].lr:.2g}."
    if found.start_loss is not None:
        parts.append(f"The smoothed loss begins at {numbers.number(found.start_loss)} nats")
        if found.lowest_at is not None:
            parts[-1] += f", is lowest with {numbers.number(found.lowest_loss)} at {found.lowest_at:.2g}"
        parts[-1] += f" and diverged at {found.diverged_at:.2g}." if found.diverged_at else " and never diverged."
    parts.append(f"{said[:1].upper()}{said[1:]}.")
    return Picture(
        stem,
        "Range test of the learning rate",
        " ".join(parts),
        "Dots: the loss of each update's batch. Line: their average, with a half-life of 1 % of the ramp, so that it "
        "comes a little later. What is above the panel is not shown.",
    )
