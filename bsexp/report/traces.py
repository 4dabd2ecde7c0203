"""What each arm did: batch size, learning rate and noise scale along the budget, and the noise that was measured.

The one rule: values are those logged by one run of each arm, and what changes in steps, as a batch always does, is
drawn as steps.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsexp.report.drawing import End, label_ends, set_scale, style
from bsexp.report.frames import trace
from bsexp.report.groups import Group

PANELS = (
    ("batch_size", "Batch size (samples per update)"),
    ("lr", "Learning rate"),
    ("noise_scale", "Noise scale g = lr / (1 − momentum) · (N / batch size − 1)"),
)
MEASURED = ("b_simple", "Measured noise: b_simple = tr(Σ) / |G|² (samples)")
WIDE_SPAN = 20.0
THICKEST, THINNEST = 6.0, 1.4


def schedules(group: Group) -> Figure | None:
    """Batch size, learning rate and noise scale of each arm against samples in epochs; None where nothing was logged.

    With a panel for b_simple where some run measured it. Lines that coincide stay visible: later arms are thinner and
    lie on earlier ones.
    """
    traces = {label: trace(group, label) for label in group.labels}
    traces = {label: steps for label, steps in traces.items() if len(steps)}
    if not traces:
        return None
    shown = [*PANELS, *([MEASURED] if any(steps["b_simple"].notna().any() for steps in traces.values()) else [])]
    with style():
        height = max(2.5, 0.5 + 0.17 * len(traces))
        total = len(shown) * height + 0.8
        figure = Figure(figsize=(11, total))
        panels = figure.subplots(len(shown), 1)
        figure.subplots_adjust(left=0.065, right=0.99, top=1 - 0.4 / total, bottom=0.55 / total, hspace=0.32)
        panels[-1].set_xlabel(f"samples seen (epochs{_size(traces)})")
        for axes, (column, title) in zip(panels, shown, strict=True):
            _panel(axes, group, traces, column)
            axes.set_title(title)
        return figure


def _size(traces: dict[str, pd.DataFrame]) -> str:
    sizes = {round(steps["samples"].iloc[-1] / steps["epoch"].iloc[-1]) for steps in traces.values()}
    return f" of {sizes.pop():,}" if len(sizes) == 1 else ""


def _panel(axes: Axes, group: Group, traces: dict[str, pd.DataFrame], column: str) -> None:
    lines = {label: steps[["epoch", column]].to_numpy(dtype=float) for label, steps in traces.items()}
    log = column != "lr"
    if column == MEASURED[0]:
        lines = {label: line for label, line in lines.items() if np.isfinite(line[:, 1]).any()}
    values = np.concatenate([line[:, 1] for line in lines.values()])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if not len(positive):
        axes.set_axis_off()
        axes.text(0, 0.5, "not measured, or zero throughout", transform=axes.transAxes)
        return
    log = log or float(np.quantile(positive, 0.98) / np.quantile(positive, 0.02)) > WIDE_SPAN
    low, high = _range(positive, column, log)
    set_scale(axes, "y", "log2" if column == "batch_size" else "log" if log else "linear", low, high)
    set_scale(axes, "x", "linear", 0.0, max(float(line[-1, 0]) for line in lines.values()))
    ends = []
    for place, (label, line) in enumerate(lines.items()):
        looks = group.looks[label]
        width = THICKEST - (THICKEST - THINNEST) * place / max(1, len(lines) - 1) if len(lines) > 1 else 2.2
        heights = np.where((line[:, 1] > 0) | (not log), line[:, 1], np.nan)
        # A row speaks of the updates up to its samples, so the first value holds from 0 on.
        axes.plot(
            np.concatenate([[0.0], line[:, 0]]),
            np.concatenate([heights[:1], heights]),
            drawstyle="steps-pre" if column == "batch_size" or _in_steps(line[:, 1]) else "default",
            color=looks.color,
            linestyle=looks.dashes,
            linewidth=width,
            solid_capstyle="butt",
            solid_joinstyle="miter",
            zorder=3 + place / 100,
        )
        seen = np.flatnonzero(np.isfinite(heights))
        if len(seen):
            ends.append(End(float(line[-1, 0]), float(heights[seen[-1]]), label, looks))
    label_ends(axes, ends, traces)


def _in_steps(values: np.ndarray) -> bool:
    """Whether a value holds for long stretches; a curve that moves with every row is no staircase."""
    return int((np.diff(values) != 0).sum()) * 4 < len(values)


def _range(positive: np.ndarray, column: str, log: bool) -> tuple[float, float]:
    low, high = float(positive.min()), float(positive.max())
    if column == "batch_size":
        return low / 1.5, high * 1.5
    if not log:
        return 0.0, high * 1.08
    # Annealing to almost zero would otherwise take the whole axis.
    low = max(low, float(np.quantile(positive, 0.02)) / 3, high / 1e5)
    return low / 1.3, high * 1.5
