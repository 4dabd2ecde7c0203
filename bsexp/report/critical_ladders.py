"""The critical batch of a training: the sentence, the table and the figure of updates to a target against batch size.

The one rule: a number is said where the fit pins it down on both sides; else its bound, or why there is none.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from bsexp.analysis.critical_ladder import CriticalLadder, Size, critical_ladders
from bsexp.analysis.paired import mean_interval
from bsexp.report import numbers
from bsexp.report.drawing import End, label_ends, labelled_line, set_scale, style
from bsexp.report.ladders import LadderPart
from bsexp.report.palette import FAINT, Look, look
from bsexp.report.tables import Cell, Table
from bsexp.report.wording import Picture

if TYPE_CHECKING:
    from bsexp.store.tables import Results

TITLE = "Critical batch"


def critical_parts(results: "Results") -> tuple[list[LadderPart], dict[str, Figure]]:
    """The parts of a report about critical batches, and their figures by the names of their files."""
    found = critical_ladders(results)
    endings = [""] if len(found) == 1 else [f"--{number}" for number in range(1, len(found) + 1)]
    stems = [f"critical-batch{ending}" for ending in endings]
    pairs = list(zip(found, stems, strict=True))
    parts = [LadderPart(sentence(ladder), _picture(ladder, stem), _table(ladder)) for ladder, stem in pairs]
    return parts, {stem: _draw(ladder) for ladder, stem in pairs}


def sentence(ladder: CriticalLadder) -> str:
    """The critical batch with its interval, or its bound, or that it can't be told, and why."""
    fit, sizes = ladder.fit, [size.batch_size for size in ladder.sizes]
    low, high = fit.estimate.low, fit.estimate.high
    span = f"{len(sizes)} batch sizes from {sizes[0]:,} to {sizes[-1]:,}"
    notes = "".join(f" {note}" for note in fit.notes)
    if fit.says == "nothing" or low is None or high is None:
        return f"The critical batch can't be told from {span}.{notes}"
    if fit.says != "estimate":
        bound = f"at least {_samples(low)}" if fit.says == "at least" else f"at most {_samples(high)}"
        return f"Only a bound of the critical batch can be told from {span}: {bound}.{notes}"
    fitted = _fitted(ladder)
    assert fitted is not None
    updates, samples = (numbers.count(round(each)) for each in fitted)
    interval = f"between {numbers.number(_short(low))} and {numbers.number(_short(high))}"
    return (
        f"Over {span} the critical batch is {_samples(fit.estimate.mean)}, {interval}: there the target takes twice "
        f"the {updates} updates that no batch does without, and twice the {samples} samples that the smallest batches "
        f"need.{notes}"
    )


def _short(value: float) -> float:
    """Three digits of it, which is more than any of its intervals is good for."""
    return float(f"{value:.3g}")


def _samples(value: float) -> str:
    return f"{numbers.number(_short(value))} samples"


def _known(size: Size) -> bool:
    return bool(np.isfinite(size.updates).all())


def _fitted(ladder: CriticalLadder) -> tuple[float, float] | None:
    """The fewest updates and samples of the fit where that pins the critical batch down; else nothing is drawn."""
    updates, samples = ladder.fewest_updates, ladder.fewest_samples
    return (updates, samples) if ladder.fit.says == "estimate" and updates and samples else None


def _table(ladder: CriticalLadder) -> Table:
    rows = []
    for size in ladder.sizes:
        cells = [Cell(size.arm), Cell(numbers.count(size.batch_size), float(size.batch_size))]
        cells.append(Cell(numbers.number(size.lr), size.lr))
        if _known(size):
            logs = np.log(size.updates)
            ends = mean_interval(logs, 0.95)
            values = (logs.mean(), *((ends.low, ends.high) if ends else ()))
            cells += [_count(values, factor) for factor in (1, size.batch_size)]
        else:
            cells += [Cell("–"), Cell("–")]
        reached = int(np.isfinite(size.updates).sum())
        rows.append([*cells, Cell(f"{reached} of {len(size.updates)}", float(reached))])
    name, value = ladder.target
    note = (
        f"Target: {name} {value:g}, with a constant rate. Means and 95 % t-intervals over seeds, of logarithms. "
        "Fitted: S(B) = s_min (1 + b_crit / B) by least squares of log S over sizes that always reached the target; "
        "the interval is BCa over seeds. McCandlish et al. 2018, arXiv:1812.06162."
    )
    headings = ["Arm", "Batch size", "Tuned rate", "Updates to the target", "Samples to the target", "Reached"]
    return Table(TITLE, headings, rows, note)


def _count(logs: Sequence[float | None], factor: int) -> Cell:
    mean, *ends = [factor * math.exp(value) for value in logs if value is not None]
    interval = f" [{', '.join(numbers.count(round(end)) for end in ends)}]" if ends else ""
    return Cell(numbers.count(round(mean)) + interval, mean)


def _picture(ladder: CriticalLadder, stem: str) -> Picture:
    told = [
        f"batch {size.batch_size:,}: "
        + (f"{round(float(np.exp(np.log(size.updates).mean()))):,} updates" if _known(size) else "not always reached")
        for size in ladder.sizes
    ]
    caption = "Small dots: seeds; large ones: their means, where all reached the target."
    if _fitted(ladder):
        caption += (
            " Line: the fit. Dotted: the updates that no batch does without, and the samples that the smallest need, "
            "divided by the batch; they cross at the critical batch, which is shaded from end to end of its interval."
        )
    return Picture(stem, TITLE, f"Updates to the target against batch size. {'; '.join(told)}.", caption)


def _draw(ladder: CriticalLadder) -> Figure:
    """Updates to the target on logarithmic axes, the fit through them and its two asymptotes."""
    batches = np.array([size.batch_size for size in ladder.sizes], dtype=float)
    finite = np.concatenate([size.updates[np.isfinite(size.updates)] for size in ladder.sizes])
    fit, own, faint = ladder.fit, look(0), Look(FAINT, FAINT, (0, (1, 2)), "o")
    with style():
        figure = Figure(figsize=(9, 5))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.09, right=0.98, top=0.92, bottom=0.12)
        axes.set_title("Updates to the target")
        axes.set_xlabel("batch size, samples")
        set_scale(axes, "x", "log2", batches.min() / 1.2, batches.max() * 1.2)
        if len(finite):
            set_scale(axes, "y", "log", finite.min() / 1.6, finite.max() * 1.6)
        for size in ladder.sizes:
            reached = size.updates[np.isfinite(size.updates)]
            axes.plot(np.full(len(reached), size.batch_size), reached, "o", color=own.color, markersize=3, alpha=0.4)
            if _known(size):
                axes.plot(size.batch_size, np.exp(np.log(reached).mean()), "o", color=own.color, markersize=8, zorder=5)
        labels: list[End] = []
        if fitted := _fitted(ladder):
            fewest_updates, fewest_samples = fitted
            line = np.geomspace(batches.min(), batches.max(), 100)
            curves = (
                ("fit", fewest_updates + fewest_samples / line, own, 2.0),
                ("fewest updates", np.full_like(line, fewest_updates), faint, 1.0),
                ("fewest samples", fewest_samples / line, faint, 1.0),
            )
            for name, values, looks, width in curves:
                inside = values >= axes.get_ylim()[0]
                if inside.any():  # A fit may lie below all that was measured.
                    labels.append(labelled_line(axes, line[inside], values[inside], name, looks, width))
            if fit.estimate.low is not None and fit.estimate.high is not None:
                axes.axvspan(fit.estimate.low, fit.estimate.high, color=own.color, alpha=0.1, linewidth=0)
        label_ends(axes, labels)
        return figure
