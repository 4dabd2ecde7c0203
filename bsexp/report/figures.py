"""The figures of a report, and the one that shows its outcome.

The one rule: a run that diverged, collapsed or failed never enters a mean; it is named beside its arm. Each function
returns a Figure that belongs to nobody (no pyplot), or None where there is nothing to draw.
"""

import zlib
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bsexp.analysis.paired import Estimate, mean_interval
from bsexp.report.curves import curves
from bsexp.report.deciding import decisions, shadow
from bsexp.report.drawing import short, style
from bsexp.report.frames import by_seed
from bsexp.report.groups import Group
from bsexp.report.numbers import plus_minus, span
from bsexp.report.palette import ALARM, FAINT
from bsexp.report.rungs import budgets
from bsexp.report.traces import schedules

PANELS = (("test_accuracy", "Test accuracy (%)", 100.0, 2), ("test_loss", "Test loss (nats)", 1.0, 4))
ROW = 0.62


def draw(group: Group) -> dict[str, Figure]:
    """All figures that the group's results allow, by name, in the order of the report."""
    made = {
        "final": final(group),
        "budgets": budgets(group),
        "curves": curves(group),
        "curves-averaged": curves(group, averaged=True),
        "schedules": schedules(group),
        "decisions": decisions(group),
        "shadow": shadow(group),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def final(group: Group) -> Figure | None:
    """Test accuracy and loss at the end: a dot per seed, the mean with its 95 % t-interval, a row per arm.

    Averaged weights, where evaluated, are the hollow second row. None where no finished run has a test outcome.
    """
    if not any(group.has(name) for name, *_ in PANELS):
        return None
    averaged = group.has("test_accuracy_ema") or group.has("test_loss_ema")
    labels = group.labels
    with style():
        row = ROW + 0.12 * averaged
        height = row * len(labels) + 1.25
        figure = Figure(figsize=(14, height))
        grid = figure.subplots(1, 2, sharey=True)
        left = 0.02 + _widest(figure, [short(label) for label in labels])
        figure.subplots_adjust(left=left, right=0.885, top=1 - 0.5 / height, bottom=0.62 / height, wspace=0.38)
        cut = False
        for axes, (name, title, scale, digits) in zip(grid, PANELS, strict=True):
            axes.set_title(title)
            cut |= _limits(axes, group, name, scale)
            for place, label in enumerate(labels):
                if place % 2 == 0:
                    axes.axhspan(place - 0.5, place + 0.5, color="#F6F6F6", linewidth=0, zorder=0)
                _arm(axes, group, label, place, name, scale, digits, averaged)
            axes.grid(False, axis="y")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.set_yticks(range(len(labels)), [""] * len(labels))
            axes.set_ylim(len(labels) - 0.5, -0.5)
        _names(grid[0], group)
        figure.text(left, 0.12 / height, _key(group, averaged, cut), color=FAINT, fontsize=9, va="bottom")
        return figure


def _widest(figure: Figure, names: list[str]) -> float:
    """The room that the arms' names need left of the panels, as a share of the figure's width."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    widths = []
    for name in [*names, "2 of 6 ran out of memory"]:
        text = figure.text(0, 0, name, weight="bold", fontsize=10.5)
        widths.append(text.get_window_extent(renderer).width / figure.bbox.width)
        text.remove()
    return max(widths)


def _key(group: Group, averaged: bool, cut: bool) -> str:
    counts = group.finished.groupby("label").size()
    if counts.max() < 2:
        text = "One run per arm: there is no interval."
    else:
        text = "Dots: seeds. Bars: mean and its 95 % t-interval over seeds."
    text += " Hollow: averaged weights." if averaged else ""
    return text + (" A bar that reaches the panel's edge goes on beyond it." if cut else "")


def _names(axes: Axes, group: Group) -> None:
    across = axes.get_yaxis_transform()
    for place, label in enumerate(group.labels):
        mishap = group.mishaps(label)
        done = group.finished[group.finished["label"] == label]
        updates = f"{span(done['updates'].to_list())} updates" if len(done) else "no finished run"
        lift = 0.13 + 0.13 * bool(mishap)
        at: dict[str, Any] = {"transform": across, "ha": "right", "va": "center"}
        axes.text(-0.03, place - lift, short(label), color=group.looks[label].text, weight="bold", fontsize=10.5, **at)
        axes.text(-0.03, place - lift + 0.27, updates, color=FAINT, fontsize=9, **at)
        if mishap:
            axes.text(-0.03, place - lift + 0.53, f"✗ {mishap}", color=ALARM, fontsize=9, **at)


def _values(group: Group, label: str, name: str, scale: float) -> dict[int, float]:
    return {seed: value * scale for seed, value in by_seed(group, label, name).items() if np.isfinite(value)}


def _limits(axes: Axes, group: Group, name: str, scale: float) -> bool:
    """Room for all seeds and intervals, up to three times the spread of the dots; whether an interval was cut."""
    low, high, edges = np.inf, -np.inf, []
    for label in group.labels:
        for outcome in (name, f"{name}_ema"):
            values = list(_values(group, label, outcome, scale).values())
            low, high = min([low, *values]), max([high, *values])
            estimate = mean_interval(values)
            edges += [estimate.low, estimate.high] if estimate and estimate.low is not None else []
    if not np.isfinite(low):
        axes.set_xlim(0, 1)
        axes.set_xticks([])
        return False
    width = high - low or max(abs(high), 1.0) * 0.02
    ends = [low, high, *(edge for edge in edges if edge is not None)]
    cut = min(ends) < low - width or max(ends) > high + width
    low, high = max(min(ends), low - width), min(max(ends), high + width)
    pad = 0.04 * (high - low) or width
    # A cut bar runs through to the very edge, so that it is seen to be cut.
    axes.set_xlim(low if cut else low - pad, high if cut else high + pad)
    return cut


def _arm(
    axes: Axes, group: Group, label: str, place: int, name: str, scale: float, digits: int, averaged: bool
) -> None:
    plain = mean_interval(_values(group, label, name, scale).values())
    if plain is None:
        text = "not measured" if (group.finished["label"] == label).any() else "no finished run"
        axes.text(0.02, place, text, transform=axes.get_yaxis_transform(), va="center", color=FAINT, style="italic")
        return
    _row(axes, group, label, place - 0.17 * averaged, name, scale, digits, hollow=False)
    if averaged:
        _row(axes, group, label, place + 0.2, f"{name}_ema", scale, digits, hollow=True)


def _row(
    axes: Axes, group: Group, label: str, height: float, name: str, scale: float, digits: int, hollow: bool
) -> None:
    values = _values(group, label, name, scale)
    estimate = mean_interval(values.values())
    if estimate is None:
        return
    looks = group.looks[label]
    face = "white" if hollow else looks.color
    jitter = [height + (0.06 if hollow else 0.08) * _jitter(seed) for seed in values]
    axes.scatter(
        list(values.values()), jitter, s=15, marker="o", facecolor=face, edgecolor=looks.color, linewidth=0.8,
        alpha=0.55, zorder=3,
    )  # fmt: skip
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(height, estimate.low, estimate.high, color=looks.text, linewidth=1.2 if hollow else 2.4, zorder=4)
    axes.plot(
        estimate.mean, height, marker=looks.marker, markersize=6 if hollow else 8, markerfacecolor=face,
        markeredgecolor="white" if not hollow else looks.text, markeredgewidth=1.0, zorder=5, clip_on=False,
    )  # fmt: skip
    _value(axes, estimate, height, digits, hollow)


def _value(axes: Axes, estimate: Estimate, height: float, digits: int, hollow: bool) -> None:
    axes.text(
        1.02, height, plus_minus(estimate, 1.0, digits), transform=axes.get_yaxis_transform(), va="center",
        fontsize=8.5 if hollow else 10, color=FAINT if hollow else "#222222",
    )  # fmt: skip


def _jitter(seed: int) -> float:
    """A fixed place in [-1, 1] for a seed, the same in every arm and figure."""
    return zlib.crc32(str(seed).encode()) / 2**31 - 1
