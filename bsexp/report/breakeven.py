"""When growing the batch begins to save time: the break-even figure and its words.

The one rule: the lines are what follows from updates and samples alone for any machine; only the dots are measured, and
where a machine has no place on the axis that is said instead of drawn.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsexp.analysis.hardware import fit_cost, half_saved_at, num_updates, relative_time
from bsexp.report import numbers
from bsexp.report.drawing import End, label_ends, set_scale, style
from bsexp.report.palette import FAINT
from bsexp.report.timing import ArmTime, GroupTime, all_reduce_of, machine
from bsexp.report.wording import Picture

POINTS = 200
LEFT, RIGHT = 1 / 64, 128.0
WIDE = 8.0
THICKEST, THINNEST = 5.0, 1.6


def break_even(time: GroupTime) -> Figure | None:
    """Each arm's time relative to the first's, against an update's fixed cost in samples' worth; None for one arm."""
    others = time.arms[1:]
    if not others:
        return None
    spots = places(time)
    half = half_saved_at(time.reference.updates)
    low = min([LEFT * half, *(0.5 * place for place in spots.values())])
    high = max([RIGHT * half, *(3.0 * place for place in spots.values())])
    grid = np.geomspace(low, high, POINTS)
    lines = {arm.label: [relative_time(arm.updates, time.reference.updates, k) for k in grid] for arm in others}
    with style():
        height = max(4.6, 1.6 + 0.19 * len(others))
        figure = Figure(figsize=(11, height))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.065, right=0.99, top=1 - 0.72 / height, bottom=0.62 / height)
        axes.set_title(f"Time relative to {time.reference.label}", pad=24)
        axes.set_xlabel("fixed cost of an update, in samples' worth of work")
        _limits(axes, time, lines, low, high)
        # Lines that coincide stay visible: later ones are thinner and lie on earlier ones.
        widths = np.linspace(THICKEST, THINNEST, len(others)) if len(others) > 1 else [2.0]
        for arm, width in zip(others, widths, strict=True):
            looks = time.group.looks[arm.label]
            axes.plot(grid, lines[arm.label], color=looks.color, linestyle=looks.dashes, linewidth=width, zorder=3)
        _mark_half(axes, half)
        for workers, place in spots.items():
            _mark(axes, time, others, workers, place)
        label_ends(
            axes,
            [End(high, lines[arm.label][-1], arm.label, time.group.looks[arm.label]) for arm in others],
        )
        return figure


def places(time: GroupTime) -> dict[int, float]:
    """Where the machine stands on the axis for each number of workers; empty where it has no place there."""
    cost = fit_cost(time.hardware.table)
    if cost is None or not math.isfinite(cost.fixed_samples) or cost.fixed_samples <= 0:
        return {}
    talk = all_reduce_of(time.group, time.hardware)
    fixed = {workers: cost.per_update + (talk.seconds(workers) if talk else 0.0) for workers in time.hardware.workers}
    return {workers: workers * seconds / cost.per_sample for workers, seconds in fixed.items()}


def _limits(axes: Axes, time: GroupTime, lines: dict[str, list[float]], low: float, high: float) -> None:
    values = [value for line in lines.values() for value in line]
    values += [found.value for arm in time.arms for found in arm.ratios.values()]
    set_scale(axes, "x", "log", low, high)
    if max(values) > WIDE:
        set_scale(axes, "y", "log", min(values) / 1.3, max(values) * 1.3)
    else:
        set_scale(axes, "y", "linear", 0.0, 1.08 * max(values))


def _mark_half(axes: Axes, half: float) -> None:
    axes.axvline(half, color=FAINT, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    _above(axes, half, f"half saved at {half:,.3g}", 4)


def _above(axes: Axes, place: float, text: str, lift: float) -> None:
    axes.annotate(
        text,
        (place, 1.0),
        xytext=(0, lift),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=FAINT,
        annotation_clip=False,
    )


def _mark(axes: Axes, time: GroupTime, others: list[ArmTime], workers: int, place: float) -> None:
    axes.axvline(place, color=FAINT, linewidth=0.9, zorder=1)
    name = f"{workers:,} worker{'s'[: workers != 1]}" if len(time.hardware.workers) > 1 else "measured"
    _above(axes, place, f"{name}: {place:,.3g}", 15)
    for arm in others:
        looks, found = time.group.looks[arm.label], arm.ratios[workers]
        axes.vlines(place, found.low, found.high, color=looks.text, linewidth=2.4, zorder=4)
        axes.plot(
            place,
            found.value,
            marker=looks.marker,
            markersize=7,
            color=looks.color,
            markeredgecolor="white",
            zorder=5,
            linestyle="none",
        )


def picture(time: GroupTime, stem: str) -> Picture:
    """The words for the figure."""
    first, half = time.reference, half_saved_at(time.reference.updates)
    told = []
    for arm in time.arms[1:]:
        if arm.updates == first.updates:
            told.append(f"{arm.label} 1, for its updates are the same")
            continue
        share = num_updates(arm.updates) / num_updates(first.updates)
        times = ", ".join(
            f"{found.value:.3f} of the time" + (f" with {workers:,} workers" if workers > 1 else "")
            for workers, found in arm.ratios.items()
        )
        told.append(f"{arm.label} {share:.3f} of the updates, {times}")
    return Picture(
        stem,
        "When fewer updates save time",
        f"Time relative to {first.label} against the fixed cost of an update, on {machine(time.hardware)}. "
        + "; ".join(told)
        + ".",
        "Lines: an update costs a fixed amount and so much per sample. On the left only samples cost: equal samples "
        "take equal time, whatever the batch. On the right only updates cost, and all that fewer of them promise is "
        f"saved; half of it where an update's fixed cost is worth {numbers.number(half)} samples, the mean batch of "
        f"{first.label}. {_dots(time)}",
    )


def _dots(time: GroupTime) -> str:
    spots = places(time)
    cost = fit_cost(time.hardware.table)
    if cost is None:
        return "The table has one batch size, which tells no fixed cost: no dots."
    if not spots:
        if cost.per_sample <= 0:
            return "On this machine a sample costs nothing measurable: it stands at the far right, without dots."
        return (
            "On this machine a sample costs more in a large batch than in a small one: it stands left of all, no dots."
        )
    many = max(time.hardware.workers) > 1
    return (
        "Dots: what the measured table gives, placed at the fixed cost of the straight line through it, "
        f"{numbers.number(cost.fixed_samples)} samples' worth"
        + (f" (P workers: P times that{', with their talking' if time.hardware.network else ''})" if many else "")
        + ". A dot off its line: seconds per update are no straight line in the batch size."
    )
