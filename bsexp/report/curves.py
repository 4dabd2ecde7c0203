"""Learning curves: loss and accuracy against samples, updates and seconds.

The one rule: only finished runs are drawn, and a mean is taken only at points of the budget that all its seeds have.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from bsexp.analysis.paired import mean_band
from bsexp.report.drawing import End, label_ends, set_scale, style
from bsexp.report.groups import Group

CLOCKS = (("epoch", "samples seen (epochs{})"), ("step", "updates"), ("train_seconds", "training time (s)"))
LOG_SPAN = 4.0


@dataclass(frozen=True)
class Curve:
    """An arm's curves on the common evaluation grid: `x` (points,), `values` (seeds, points, (x, y))."""

    label: str
    x: np.ndarray
    values: np.ndarray

    def band(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and both ends of its interval at each point, (points,) each; of a single run all are its values."""
        mean, low, high = mean_band(self.values[:, :, 1])
        return mean, mean if low is None else low, mean if high is None else high

    def after_start(self) -> "Curve":
        """Without the points at x = 0."""
        kept = (self.values[:, :, 0] > 0).all(axis=0)
        return Curve(self.label, self.x[kept], self.values[:, kept])


def curves(group: Group, averaged: bool = False) -> Figure | None:
    """Loss and accuracy against samples, updates and training seconds; of the averaged weights, against samples.

    Each finished run is a thin line where there aren't too many, each arm's mean a bold one with its pointwise 95 %
    t-interval. Row k of evals.csv is the same point of the budget in every seed; its x is the mean over seeds.
    `averaged`: None where averaged weights were not measured.
    """
    ending = "_ema" if averaged else ""
    names = [f"{group.split}_loss{ending}", f"{group.split}_accuracy{ending}"]
    evals = group.evals[group.evals["config_hash"].isin(group.finished["config_hash"])]
    if not len(evals) or any(name not in evals or not evals[name].notna().any() for name in names):
        return None
    evals = evals.sort_values(["seed", "config_hash", "step"], kind="stable")
    arms = [label for label in group.labels if (evals["label"] == label).any()]
    columns = [*(clock for clock, _ in CLOCKS), *names]
    own = {label: _runs(evals[evals["label"] == label], columns) for label in arms}
    with style():
        height = max(3.3, 0.4 + 0.17 * len(arms))
        # The clocks of averaged weights are those of the last ones, drawn beside them.
        clocks = CLOCKS[:1] if averaged else CLOCKS
        lines = 1 if averaged else len(names)
        size = lines * height + 0.9
        figure = Figure(figsize=(11 if averaged else 16, size))
        grid = figure.subplots(lines, len(names) if averaged else len(clocks), squeeze=False)
        top, left, bottom = 1 - 0.45 / size, 0.768 / figure.get_figwidth(), 0.5625 / size
        figure.subplots_adjust(left=left, right=0.995, top=top, bottom=bottom, wspace=0.13, hspace=0.26)
        for row in range(len(names)):
            own_panels = grid[0, row:] if averaged else grid[row]
            for column, ((clock, title), axes) in enumerate(zip(clocks, own_panels, strict=False)):
                scales = np.array([1.0, 100.0 if row else 1.0])
                found = [_curve(label, own[label][:, :, [column, 3 + row]] * scales) for label in arms]
                axes.set_xlabel(title.format(_epoch(evals)))
                drawn = [curve for curve in found if curve is not None]
                _draw_curves(axes, group, drawn, clock, lines=group.draws_seeds)
            own_panels[0].set_title(_panel_title(group, row, averaged))
        return figure


def _panel_title(group: Group, row: int, averaged: bool) -> str:
    split = "Validation" if group.split == "val" else "Test"
    return split + (" accuracy (%)" if row else " loss (nats)") + (", averaged weights" if averaged else "")


def _epoch(frame: pd.DataFrame) -> str:
    """The size of an epoch in words, found from counts, for an axis label."""
    last = frame[frame["epoch"] > 0]
    sizes = (last["samples"] / last["epoch"]).round() if len(last) else pd.Series(dtype=float)
    return f" of {sizes.iloc[-1]:,.0f}" if len(sizes) and sizes.nunique() == 1 else ""


def _runs(evals: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """The runs of one arm on their common evaluation points: (seeds, points, columns). `evals` is sorted by run."""
    codes = pd.factorize(evals["config_hash"])[0]
    runs = np.split(evals[columns].to_numpy(dtype=float), np.flatnonzero(np.diff(codes)) + 1)
    points = min(len(run) for run in runs)
    return np.stack([run[:points] for run in runs])


def _curve(label: str, values: np.ndarray) -> Curve | None:
    # A value that one seed lacks has no mean over the same seeds.
    values = values[:, np.isfinite(values).all(axis=(0, 2))]
    return Curve(label, values[:, :, 0].mean(axis=0), values) if values.shape[1] else None


def _draw_curves(axes: Axes, group: Group, drawn: list[Curve], clock: str, lines: bool) -> None:
    if not drawn:
        return
    if _limits(axes, drawn, clock, lines):
        # A logarithmic axis has no 0: a line from there would be drawn flat over updates nobody looked at.
        drawn = [curve.after_start() for curve in drawn]
    shade = min(0.15, 0.9 / len(drawn))
    alpha = min(0.45, max(0.05, 8 / sum(len(curve.values) for curve in drawn)))
    ends = []
    for curve in drawn:
        looks = group.looks[curve.label]
        mean, low, high = curve.band()
        if len(curve.values) > 1:
            if lines:
                each = LineCollection(list(curve.values), colors=looks.color, linewidths=0.6, alpha=alpha, zorder=2)
                axes.add_collection(each, autolim=False)
            axes.fill_between(curve.x, low, high, color=looks.color, alpha=shade, linewidth=0, zorder=3)
        axes.plot(curve.x, mean, color=looks.color, linestyle=looks.dashes, linewidth=1.9, zorder=4)
        ends.append(End(float(curve.x[-1]), float(mean[-1]), curve.label, looks))
    label_ends(axes, ends)


def _limits(axes: Axes, drawn: list[Curve], clock: str, lines: bool) -> bool:
    """Set both axes; whether x is logarithmic.

    The y axis leaves out the first third of the evaluations, a steep fall that would flatten all that follows.
    """
    seen = [curve.values[:, :, 1] if lines else np.stack(curve.band()) for curve in drawn]
    late = [values[:, values.shape[1] // 3 :] for values in seen]
    low = min(float(values.min()) for values in late)
    high = max(float(values.max()) for values in late)
    pad = 0.06 * (high - low) or max(abs(high), 1e-3) * 0.02
    set_scale(axes, "y", "linear", low - pad, high + pad)
    # A slow seed that is drawn has its place too, and does not run on under the names.
    lasts = [float(curve.values[:, -1, 0].max() if lines else curve.x[-1]) for curve in drawn]
    firsts = [float(curve.x[curve.x > 0][0]) for curve in drawn if (curve.x > 0).any()]
    if clock != "epoch" and firsts and min(lasts) > 0 and max(lasts) / min(lasts) > LOG_SPAN:
        # Before that nothing is inside the y limits.
        entries = [_entry(curve, low - pad, high + pad) for curve in drawn]
        set_scale(axes, "x", "log", max(min(firsts), 0.7 * min(entries)), max(lasts))
        return True
    set_scale(axes, "x", "linear", 0.0, max(max(lasts), 1e-9))
    return False


def _entry(curve: Curve, low: float, high: float) -> float:
    """Where the mean is first seen: the x of its first point inside the y limits."""
    mean = curve.values[:, :, 1].mean(axis=0)
    seen = np.flatnonzero((mean >= low) & (mean <= high) & (curve.x > 0))
    return float(curve.x[seen[0]]) if len(seen) else float(curve.x[-1])
