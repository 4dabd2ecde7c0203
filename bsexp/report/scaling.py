"""Time to the budget against the number of workers, for each arm of a planned experiment.

The one rule: every point follows from an arm's updates, a measured table and the stated cost of talking; nothing is
fitted and nothing is drawn between numbers of workers that were asked for but straight lines.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.report.drawing import End, label_ends, png_bytes, set_scale, style, svg_bytes
from bsexp.report.palette import look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bsexp.analysis.hardware import Elastic
    from bsexp.report.timing import Hardware


def scaling(
    times: Mapping[str, Sequence[Mapping[str, Any]]], useful: "Mapping[str, Elastic]", hardware: "Hardware"
) -> "Figure":
    """Lines: seconds of each arm against a fixed number of workers. Marks: with as many at each update as are useful,
    at their mean number. Both axes logarithmic."""
    from matplotlib.figure import Figure

    from bsexp.report.timing import machine

    with style():
        figure = Figure(figsize=(9, 5.4))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.09, right=0.99, top=0.87, bottom=0.11)
        where = "ideal workers" if hardware.network is None else "workers that talk"
        axes.set_title(f"Time to the budget with {where}, on {machine(hardware)}", pad=14)
        axes.set_xlabel("workers that share each update; marks: as many as are useful, on average")
        axes.set_ylabel("seconds")
        seconds = [time["seconds"] for found in times.values() for time in found]
        seconds += [found.seconds for found in useful.values()]
        set_scale(axes, "x", "log2", 0.94, 1.06 * max(hardware.workers))
        set_scale(axes, "y", "log", 0.8 * min(seconds), 1.25 * max(seconds))
        ends = []
        for place, (arm, found) in enumerate(times.items()):
            looks = look(place)
            numbers, values = [time["workers"] for time in found], [time["seconds"] for time in found]
            axes.plot(numbers, values, color=looks.color, linestyle=looks.dashes, linewidth=2.0, zorder=3)
            ends.append(End(numbers[-1], values[-1], arm, looks))
            if arm in useful:
                spot = useful[arm]
                axes.plot(
                    spot.mean_workers,
                    spot.seconds,
                    marker=looks.marker,
                    markersize=9,
                    color=looks.color,
                    markeredgecolor="white",
                    linestyle="none",
                    zorder=5,
                )
        label_ends(axes, ends)
        return figure


def draw_scaling(
    times: Mapping[str, Sequence[Mapping[str, Any]]],
    useful: "Mapping[str, Elastic]",
    hardware: "Hardware",
    file: Path,
) -> None:
    """Draw `scaling` into `file`, as PNG, SVG or PDF by its ending. Raises StoreError where it can't be written."""
    from bsexp.store.files import usable

    figure = scaling(times, useful, hardware)
    told = "; ".join(
        f"{arm}: {found[0]['seconds']:.4g} to {found[-1]['seconds']:.4g} s" for arm, found in times.items()
    )
    with usable(file):
        if file.suffix.lower() == ".pdf":
            figure.savefig(file, metadata={"CreationDate": None})
        else:
            file.write_bytes((png_bytes if file.suffix.lower() == ".png" else svg_bytes)(figure, told))
