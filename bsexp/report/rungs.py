"""What each arm ends at with each budget: the figure of a ladder of budgets.

The one rule: a line joins runs that had a whole schedule each, of their own length; it is no learning curve.
"""

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from bsexp.analysis.paired import Estimate, mean_interval
from bsexp.report.drawing import End, label_ends, style
from bsexp.report.groups import Group
from bsexp.report.palette import Look, look

PANELS = (("test_loss", "Test loss (nats)", 1.0), ("test_accuracy", "Test accuracy (%)", 100.0))


def climbs(group: Group) -> dict[str, list[str]]:
    """The labels of each arm that was run with several budgets, by rising budget; by the arm's name without them."""
    found: dict[str, dict[float, str]] = {}
    for label in group.labels:
        epochs = group.finished.loc[group.finished["label"] == label, "epochs"]
        if len(epochs):
            found.setdefault(_without_budget(label), {})[float(epochs.iloc[0])] = label
    return {
        arm: [labels[key] for key in sorted(labels)]
        for arm, labels in found.items()
        if any("budget=" in label for label in labels.values()) and len(labels) > 1
    }


def budgets(group: Group) -> Figure | None:
    """Loss and accuracy at the end against the budget, a line per arm, with 95 % t-intervals; None without a ladder."""
    arms = climbs(group)
    if not arms or not all(group.has(name) for name, *_ in PANELS):
        return None
    looks = {arm: look(place) for place, arm in enumerate(arms)}
    with style():
        figure = Figure(figsize=(14, 4.6))
        grid = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.05, right=0.985, top=0.9, bottom=0.14, wspace=0.14)
        for axes, (name, title, scale) in zip(grid, PANELS, strict=True):
            axes.set_title(title)
            axes.set_xlabel("budget (epochs)")
            _panel(axes, group.finished, arms, looks, name, scale)
        return figure


def _panel(
    axes: Axes, runs: pd.DataFrame, arms: dict[str, list[str]], looks: dict[str, Look], name: str, scale: float
) -> None:
    ends = []
    shown: set[float] = set()
    for place, (arm, labels) in enumerate(arms.items()):
        points = [_point(runs[runs["label"] == label], name) for label in labels]
        told = [(epochs, found) for epochs, found in points if found is not None]
        xs = np.array([epochs for epochs, _ in told])
        means = np.array([scale * found.mean for _, found in told])
        half = np.array([scale * (found.half_width or 0.0) for _, found in told])
        # Next to each other: intervals at one budget would lie on one another.
        moved = xs * 2.0 ** (0.05 * (place - (len(arms) - 1) / 2))
        axes.errorbar(
            moved,
            means,
            yerr=half,
            color=looks[arm].color,
            linestyle=looks[arm].dashes,
            marker=looks[arm].marker,
            markersize=6,
            linewidth=1.7,
            elinewidth=1.4,
            capsize=0,
            zorder=3,
        )
        shown |= set(xs.tolist())
        ends.append(End(float(moved[-1]), float(means[-1]), arm, looks[arm]))
    low, high = min(shown), max(shown)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(sorted(shown)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(axes.get_ylim())
    label_ends(axes, ends)


def _point(runs: pd.DataFrame, name: str) -> tuple[float, Estimate | None]:
    return float(runs["epochs"].iloc[0]), mean_interval(runs[name])


def _without_budget(label: str) -> str:
    """The arm's name with its other cells.

    >>> _without_budget("a[budget=0.5]"), _without_budget("a[dropout=0,budget=0.5]"), _without_budget("a")
    ('a', 'a[dropout=0]', 'a')
    >>> _without_budget("a[budget=0.5, dropout=0]")
    'a[dropout=0]'
    """
    text = re.sub(r"(, ?)?budget=[^],]*", "", label, count=1)
    return re.sub(r"\[(, ?|(?=\]))", "[", text).replace("[]", "")
