"""The figures of `bsexp measure`: gradient errors, throughput and memory against the batch size.

The one rule: what must hold by arithmetic is a line, what was measured a mark with its error, and the two are never
mixed.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsexp.analysis.hardware import HardwareTable, knee
from bsexp.records import GradientRow
from bsexp.report.drawing import End, label_ends, set_scale, style
from bsexp.report.palette import FAINT, INK, Look, look

Z = 1.959964


def points_of(rows: Sequence[GradientRow]) -> dict[int, list[GradientRow]]:
    """The rows of each point of training, by the samples seen there."""
    found: dict[int, list[GradientRow]] = {}
    for row in rows:
        found.setdefault(row.samples, []).append(row)
    return found


def point_name(row: GradientRow) -> str:
    """A point of training in words."""
    epochs = f"{row.epoch:.3g}"
    return "at the start" if not row.samples else f"after {epochs} epoch{'s'[: epochs != '1']}"


def gradient_figure(rows: Sequence[GradientRow], num_train: int) -> Figure:
    """E|g_B - g|^2 and the cosine of the two against B, for each point of training."""
    points = points_of(rows)
    with style():
        figure = Figure(figsize=(13, 5.6))
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.06, right=0.99, top=0.925, bottom=0.19, wspace=0.14)
        _errors(left, points, num_train)
        _cosines(right, points, num_train)
        key = (
            "Marks: means over at least 64 batches, filled without and hollow with replacement, with 95 % intervals. "
            "Lines on the left: (1 − B/N) tr(Σ)/B, from\nthe gradient of each sample; dashed: tr(Σ)/B, the 1/B line. "
            "Lines on the right: 1 / √(1 + b_simple (1 − B/N) / B), which holds where gradients are about equally long."
        )
        figure.text(0.06, 0.02, key, color=FAINT, fontsize=9, va="bottom")
        return figure


def _looks(points: dict[int, list[GradientRow]]) -> list[Look]:
    return [look(place) for place in range(len(points))]


def _errors(axes: Axes, points: dict[int, list[GradientRow]], num_train: int) -> None:
    every = [row for rows in points.values() for row in rows]
    sizes = sorted({row.batch_size for row in every})
    errors = [row.gradient_error for row in every if row.gradient_error > 0]
    set_scale(axes, "x", "log2", sizes[0] / 1.3, sizes[-1] * 1.3)
    set_scale(axes, "y", "log", min(errors) / 2, max(errors) * 2)
    ends = []
    for rows, looks in zip(points.values(), _looks(points), strict=True):
        variance = rows[0].grad_var
        if variance is not None:
            grid = np.geomspace(sizes[0], sizes[-1], 200)
            axes.plot(grid, variance / grid, color=looks.color, linewidth=1.0, linestyle=(0, (4, 2)), zorder=2)
            axes.plot(grid, variance / grid * (1 - grid / num_train), color=looks.color, linewidth=1.4, zorder=3)
        for replacement in (True, False):
            own = [row for row in rows if row.replacement == replacement]
            _marks(
                axes, own, [row.gradient_error for row in own], [Z * row.error_spread for row in own], looks,
                hollow=replacement,
            )  # fmt: skip
        last = [row for row in rows if not row.replacement][-1]
        ends.append(End(last.batch_size * 1.1, last.gradient_error, point_name(last), looks))
    axes.set_title("Error of a batch's gradient, E|g_B − g|²")
    axes.set_xlabel("batch size B (samples)")
    label_ends(axes, ends)


def _marks(
    axes: Axes, rows: Sequence[GradientRow], heights: Sequence[float], reach: Sequence[float], looks: Look, hollow: bool
) -> None:
    places = [row.batch_size * (1.06 if hollow else 1.0) for row in rows]
    lows = [
        max(height - half, height / 20) if height > 0 else height - half
        for height, half in zip(heights, reach, strict=True)
    ]
    axes.vlines(places, lows, np.add(heights, reach), color=looks.text, linewidth=1.0, zorder=4)
    axes.plot(
        places, heights, linestyle="none", marker=looks.marker, markersize=5.5, zorder=5,
        markerfacecolor="white" if hollow else looks.color, markeredgecolor=looks.text, markeredgewidth=0.9,
    )  # fmt: skip


def _cosines(axes: Axes, points: dict[int, list[GradientRow]], num_train: int) -> None:
    sizes = sorted({row.batch_size for rows in points.values() for row in rows})
    set_scale(axes, "x", "log2", sizes[0] / 1.3, sizes[-1] * 1.3)
    lowest = min(row.cosine - Z * row.cosine_spread for rows in points.values() for row in rows)
    set_scale(axes, "y", "linear", min(0.0, lowest), 1.02)
    ends = []
    for rows, looks in zip(points.values(), _looks(points), strict=True):
        b = rows[0].b_simple_exact
        if b is not None:
            grid = np.geomspace(sizes[0], sizes[-1], 200)
            axes.plot(
                grid, 1 / np.sqrt(1 + b * (1 - grid / num_train) / grid), color=looks.color, linewidth=1.2, zorder=3
            )
        own = [row for row in rows if not row.replacement]
        _marks(axes, own, [row.cosine for row in own], [Z * row.cosine_spread for row in own], looks, hollow=False)
        ends.append(End(own[-1].batch_size * 1.1, own[-1].cosine, point_name(own[-1]), looks))
    axes.set_title("Cosine of a batch's gradient with the exact one")
    axes.set_xlabel("batch size B (samples)")
    label_ends(axes, ends)


def throughput_figure(table: HardwareTable) -> Figure:
    """Samples per second against the batch size, with the knee."""
    sizes, rates = np.array(table.sizes, dtype=float), np.array(table.samples_per_second)
    relative = np.array(table.spread) / np.array(table.seconds_per_update)
    with style():
        figure, axes = _single("Samples per second", sizes)
        set_scale(
            axes,
            "y",
            "log" if rates.max() / rates.min() > 8 else "linear",
            *_span(rates, log=rates.max() > 8 * rates.min()),
        )
        axes.plot(sizes, rates, color=look(0).color, linewidth=1.8, zorder=3)
        axes.vlines(
            sizes, rates * (1 - Z * relative), rates * (1 + Z * relative), color=look(0).text, linewidth=1.6, zorder=4
        )
        axes.plot(sizes, rates, "o", color=look(0).color, markeredgecolor="white", markersize=6, zorder=5)
        best = knee(table)
        axes.axvline(best, color=FAINT, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            f"knee: batch {best:,}, within 10 % of the most", (best, 0.03), xycoords=axes.get_xaxis_transform(),
            xytext=(-5, 0), textcoords="offset points", ha="right", fontsize=9, color=INK,
        )  # fmt: skip
        return figure


def memory_figure(table: HardwareTable) -> Figure | None:
    """Peak memory against the batch size; None where it was not measured."""
    pairs = [
        (size, peak / 1e6) for size, peak in zip(table.sizes, table.peak_memory_bytes, strict=True) if peak is not None
    ]
    if not pairs:
        return None
    sizes, peaks = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    with style():
        what = "of the device's tensors" if table.device.startswith("cuda") else "of a process that does nothing else"
        figure, axes = _single(f"Peak memory {what} (MB)", sizes)
        set_scale(axes, "y", "linear", 0.0, float(peaks.max()) * 1.08)
        axes.plot(sizes, peaks, color=look(1).color, linewidth=1.8, zorder=3)
        axes.plot(sizes, peaks, "s", color=look(1).color, markeredgecolor="white", markersize=6, zorder=5)
        return figure


def _single(title: str, sizes: np.ndarray) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.2, 4.6))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.1, right=0.98, top=0.91, bottom=0.13)
    set_scale(axes, "x", "log2", float(sizes.min()) / 1.3, float(sizes.max()) * 1.3)
    axes.set_title(title)
    axes.set_xlabel("batch size (samples per update)")
    return figure, axes


def _span(values: np.ndarray, log: bool) -> tuple[float, float]:
    return (float(values.min()) / 1.5, float(values.max()) * 1.5) if log else (0.0, float(values.max()) * 1.1)
