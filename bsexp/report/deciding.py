"""The figures of closed loops: what was decided along runs, and what policies that were only asked would have decided.

The one rule: each finished run is drawn, with the median of all; others stand beside as they were trained.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsexp.report.courses import Course, asked, asking, course, deciding, policies
from bsexp.report.drawing import End, label_ends, set_scale, style
from bsexp.report.frames import trace
from bsexp.report.groups import Group
from bsexp.report.palette import FAINT, INK, Look, look


def decisions(group: Group) -> Figure | None:
    """The batch size that each closed loop decided for, beside the others as they were trained; None without any.

    With a panel for the factor on the learning rate where that was decided, too.
    """
    arms = deciding(group)
    if not arms:
        return None
    moved = [arm for arm in arms if (course(group, arm, policies(group, arm)[0], "lr_factor").values != 1).any()]
    with style():
        height = max(4.0, 1.0 + 0.2 * len(group.labels))
        total = height * (1 + bool(moved) * 0.6) + 0.8
        figure = Figure(figsize=(11, total))
        panels = np.atleast_1d(figure.subplots(1 + bool(moved), 1, height_ratios=[1, 0.6][: 1 + bool(moved)]))
        figure.subplots_adjust(left=0.065, right=0.99, top=1 - 0.4 / total, bottom=0.55 / total, hspace=0.26)
        _batches(panels[0], group, arms)
        panels[0].set_title("Batch size (samples per update), decided along the run")
        if moved:
            _factors(panels[1], group, moved)
            panels[1].set_title("Factor on the learning rate, decided along the run")
        panels[-1].set_xlabel("samples seen (epochs)")
        return figure


def _batches(axes: Axes, group: Group, arms: list[str]) -> None:
    decided = {arm: course(group, arm, policies(group, arm)[0]) for arm in arms}
    planned = {label: trace(group, label) for label in group.labels if label not in arms}
    planned = {label: steps for label, steps in planned.items() if len(steps)}
    sizes = np.concatenate(
        [*(found.values.ravel() for found in decided.values()), *(p["batch_size"] for p in planned.values())]
    )
    set_scale(axes, "y", "log2", float(sizes.min()) / 1.5, float(sizes.max()) * 1.5)
    lasts = [float(found.epochs[-1]) for found in decided.values()]
    set_scale(axes, "x", "linear", 0.0, max([*lasts, *(float(p["epoch"].iloc[-1]) for p in planned.values())]))
    ends = []
    for label, steps in planned.items():
        looks = group.looks[label]
        # A row speaks of the updates up to its samples, so the first value holds from 0 on.
        heights = steps["batch_size"].to_numpy(dtype=float)
        places = np.concatenate([[0.0], steps["epoch"].to_numpy(dtype=float)])
        axes.plot(
            places, np.concatenate([heights[:1], heights]), drawstyle="steps-pre", color=looks.color,
            linestyle=looks.dashes, linewidth=1.2, alpha=0.8, zorder=3,
        )  # fmt: skip
        ends.append(End(float(places[-1]), float(heights[-3] if len(heights) > 2 else heights[-1]), label, looks))
    for label, found in decided.items():
        ends.append(_course(axes, found, label, group.looks[label]))
    label_ends(axes, ends)


def _factors(axes: Axes, group: Group, arms: list[str]) -> None:
    found = {arm: course(group, arm, policies(group, arm)[0], "lr_factor") for arm in arms}
    values = np.concatenate([each.values.ravel() for each in found.values()])
    low, high = float(values[values > 0].min()), float(values.max())
    set_scale(axes, "y", "log" if high / low > 8 else "linear", low / 1.15, high * 1.15)
    set_scale(axes, "x", "linear", 0.0, max(float(each.epochs[-1]) for each in found.values()))
    label_ends(axes, [_course(axes, each, label, group.looks[label]) for label, each in found.items()])


def _course(axes: Axes, found: Course, name: str, looks: Look, width: float = 2.4) -> End:
    """Draw each run thin and their median bold; the end to write the name at."""
    if len(found.values) > 1:
        for values in found.values:
            axes.plot(
                found.epochs, values, drawstyle="steps-post", color=looks.color, linewidth=0.7,
                alpha=max(0.12, 0.5 / len(found.values) ** 0.5), zorder=2,
            )  # fmt: skip
    axes.plot(
        found.epochs, found.median, drawstyle="steps-post", color=looks.color, linestyle=looks.dashes, linewidth=width,
        zorder=4,
    )  # fmt: skip
    return End(float(found.epochs[-1]), float(found.median[-1]), name, looks)


def shadow(group: Group) -> Figure | None:
    """The batch size that each policy would have had along the runs that only asked them; None without such runs."""
    arms = asking(group)
    if not arms:
        return None
    with style():
        height = 4.4
        total = height * len(arms) + 0.8
        figure = Figure(figsize=(11, total))
        panels = np.atleast_1d(figure.subplots(len(arms), 1))
        figure.subplots_adjust(left=0.065, right=0.99, top=1 - 0.4 / total, bottom=0.55 / total, hspace=0.3)
        for axes, arm in zip(panels, arms, strict=True):
            _asked(axes, group, arm)
            axes.set_title(f"Batch size (samples per update): {arm}, and what each policy would have chosen")
        panels[-1].set_xlabel("samples seen (epochs)")
        return figure


def _asked(axes: Axes, group: Group, arm: str) -> None:
    found = {policy: course(group, arm, policy) for policy in asked(group, arm)}
    steps = trace(group, arm)
    trained = steps["batch_size"].to_numpy(dtype=float)
    sizes = np.concatenate([trained, *(each.values.ravel() for each in found.values())])
    set_scale(axes, "y", "log2", float(sizes.min()) / 1.5, float(sizes.max()) * 1.5)
    lasts = [float(each.epochs[-1]) for each in found.values()]
    set_scale(axes, "x", "linear", 0.0, max([*lasts, *steps["epoch"].to_list()[-1:]]))
    # Policies that agree stay visible: later ones are thinner and lie on earlier ones.
    widths = np.linspace(4.6, 1.6, len(found))
    ends = [
        _course(axes, each, policy, look(place), width)
        for (place, (policy, each)), width in zip(enumerate(found.items()), widths, strict=True)
    ]
    if len(trained):
        places = np.concatenate([[0.0], steps["epoch"].to_numpy(dtype=float)])
        axes.plot(
            places, np.concatenate([trained[:1], trained]), drawstyle="steps-pre", color=INK, linewidth=4.0, alpha=0.35,
            zorder=1,
        )  # fmt: skip
        solid = Look(FAINT, INK, (0, None), "o")
        ends.append(
            End(float(places[-1]), float(trained[-3] if len(trained) > 2 else trained[-1]), "as trained", solid)
        )
    label_ends(axes, ends)
