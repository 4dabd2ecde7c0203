"""The figure of `bsexp measure --critical`: the critical batch along training, and the branches that it comes from.

The one rule: a bound is drawn as an arrow, and never as a number.
"""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsexp.analysis.critical_batch import Critical
from bsexp.report.drawing import set_scale, style
from bsexp.report.palette import FAINT, INK, look

MARKS = {"none": "o", "sqrt": "s", "linear": "^"}


def critical_figure(points: Sequence[Critical]) -> Figure:
    """On top the critical batch and b_simple against epochs; below, for each point, how branches ended."""
    with style():
        figure = Figure(figsize=(13, 8.4))
        grid = figure.add_gridspec(
            2,
            len(points),
            height_ratios=[1.15, 1],
            left=0.07,
            right=0.985,
            top=0.95,
            bottom=0.15,
            hspace=0.36,
            wspace=0.25,
        )
        _along(figure.add_subplot(grid[0, :]), points)
        for place, point in enumerate(points):
            _ended(figure.add_subplot(grid[1, place]), point, place == 0)
        key = (
            "Above: 95 % intervals over seeds; an arrow: only a bound. Grey: the batch sizes tried. "
            "Below: validation loss of averaged weights at\nthe end of branches, less that of the trunk's own batch, "
            "for the rule that suited each size best (○ same rate, □ square root, △ linear),\n"
            "paired by seed, with 95 % t-intervals; band: the spread of the trunk's own batch over orders."
        )
        figure.text(0.07, 0.015, key, color=FAINT, fontsize=9, va="bottom")
        return figure


def _along(axes: Axes, points: Sequence[Critical]) -> None:
    sizes = [branch.batch_size for branch in points[0].branches]
    tops = [point.b_simple.value for point in points if math.isfinite(point.b_simple.value)]
    low, high = min([sizes[0], *tops]) / 2.0, max([sizes[-1], *tops]) * 2.0
    set_scale(axes, "y", "log2", low, high)
    last = max(point.epoch for point in points)
    set_scale(axes, "x", "linear", 0.0, last * 1.12)
    axes.axhspan(sizes[0], sizes[-1], color="#F1F1F1", linewidth=0, zorder=0)
    shift = 0.006 * last
    for point in points:
        _batch(axes, point, point.epoch - shift, low, high)
        ratio = point.b_simple
        looks = look(1)
        if ratio.low is not None and ratio.high is not None:
            axes.vlines(
                point.epoch + shift,
                max(ratio.low, low),
                min(ratio.high, high),
                color=looks.text,
                linewidth=2.2,
                zorder=3,
            )
        if math.isfinite(ratio.value):
            axes.plot(
                point.epoch + shift,
                ratio.value,
                "s",
                color=looks.color,
                markeredgecolor="white",
                markersize=8,
                zorder=4,
            )
    axes.set_title("Critical batch by branches (●), and b_simple = tr(Σ)/|G|² at the same points (■), in samples")
    axes.set_xlabel("where branches began (epochs)")


def _batch(axes: Axes, point: Critical, place: float, low: float, high: float) -> None:
    found, looks = point.batch, look(0)
    lowest, highest = found.low or low, found.high or high
    arrow = {"arrowstyle": "-|>", "color": looks.text, "linewidth": 2.0, "shrinkA": 0, "shrinkB": 0}
    if point.says in ("estimate", "between"):
        axes.vlines(place, lowest, highest, color=looks.text, linewidth=2.2, zorder=3)
    if point.says == "estimate" or (found.low is None and math.isfinite(found.mean)):
        axes.plot(place, found.mean, "o", color=looks.color, markeredgecolor="white", markersize=9, zorder=4)
    elif point.says in ("at least", "at most"):
        edge, beyond = (lowest, high) if point.says == "at least" else (highest, low)
        axes.annotate("", (place, math.sqrt(edge * beyond)), (place, edge), arrowprops=arrow)
        axes.plot(place, edge, "_", color=looks.text, markersize=12, markeredgewidth=2)


def _ended(axes: Axes, point: Critical, first: bool) -> None:
    sizes = [branch.batch_size for branch in point.branches]
    set_scale(axes, "x", "log2", sizes[0] / 1.4, sizes[-1] * 1.4)
    axes.axhspan(-point.spread, point.spread, color="#E3ECF3", linewidth=0, zorder=0)
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    shown = [branch for branch in point.branches if branch.difference is not None]
    means = [branch.difference.mean for branch in shown if branch.difference]
    axes.plot([branch.batch_size for branch in shown], means, color=look(0).color, linewidth=1.3, zorder=2)
    for branch in shown:
        found = branch.difference
        assert found is not None
        if found.low is not None and found.high is not None:
            axes.vlines(branch.batch_size, found.low, found.high, color=look(0).text, linewidth=1.4, zorder=3)
        axes.plot(
            branch.batch_size, found.mean, MARKS[branch.lr_rule], color=look(0).color, markeredgecolor="white",
            markersize=7, zorder=4,
        )  # fmt: skip
    for branch in point.branches:
        if branch.difference is None:
            axes.text(branch.batch_size, 0.02, "✗", transform=axes.get_xaxis_transform(), ha="center", color=INK)
    axes.set_title(f"from {100 * point.share:g} % ({point.epoch:.3g} epochs)")
    axes.set_xlabel("batch size (samples)")
    if first:
        axes.set_ylabel("loss, less that of the own batch (nats)")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
