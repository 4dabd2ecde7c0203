"""Learning rate against batch size: the sentence, the table and the figure for arms tuned at several batch sizes.

The one rule: a law is named where its exponent lies in the interval of the fit, and every size that is not in the fit
is shown and said to be left out.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsexp.analysis.rates import NEAR, Ladder, Usable, ladders
from bsexp.report import numbers
from bsexp.report.drawing import label_ends, labelled_line, set_scale, style
from bsexp.report.palette import FAINT, Look, look
from bsexp.report.tables import Cell, Table, usable_text
from bsexp.report.wording import Picture

if TYPE_CHECKING:
    from bsexp.store.tables import Results

LAWS = (("no scaling", 0.0), ("square root", 0.5), ("linear", 1.0))
TITLE = "Learning rate against batch size"


@dataclass(frozen=True)
class LadderPart:
    """What a report says of one ladder: a sentence, the words for its figure, and a table."""

    text: str
    figure: Picture
    table: Table


def ladder_parts(results: "Results") -> tuple[list[LadderPart], dict[str, Figure]]:
    """The parts of a report about ladders of batch sizes, and their figures by the names of their files."""
    found = ladders(results)
    stems = ["rates" if len(found) == 1 else f"rates--{number}" for number in range(1, len(found) + 1)]
    parts = [
        LadderPart(sentence(ladder), _picture(ladder, stem), _table(ladder))
        for ladder, stem in zip(found, stems, strict=True)
    ]
    return parts, {stem: _draw(ladder) for ladder, stem in zip(found, stems, strict=True)}


def sentence(ladder: Ladder) -> str:
    """How the tuned rate goes with the batch, in one sentence; or that it can't be told, and why."""
    fit, sizes = ladder.fit, [rung.batch_size for rung in ladder.rungs]
    if fit.says != "estimate":
        span = f"{len(sizes)} batch sizes from {sizes[0]:,} to {sizes[-1]:,}"
        return f"How the tuned learning rate goes with the batch can't be told from {span}. {' '.join(fit.notes)}"
    point, low, high = fit.estimate.mean, fit.estimate.low, fit.estimate.high
    assert low is not None
    assert high is not None
    held = [name for name, power in LAWS if low <= power <= high]
    agrees = f"agrees with {' and '.join(held)}" if held else "agrees with none of them"
    agrees = "rules none of them out" if len(held) == len(LAWS) else agrees
    laws = ", ".join(f"{name} {power:g}" for name, power in LAWS)
    text = (
        f"Over {fit.estimate.num} batch sizes the tuned learning rate goes as the batch to the power {_power(point)}, "
        f"between {_power(low)} and {_power(high)} ({laws}), which {agrees}."
    )
    return " ".join([text, *fit.notes])


def _power(value: float) -> str:
    text = f"{value:.2f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def _width(rates: Usable) -> Cell:
    return Cell(("" if rates.bounded else "≥ ") + f"×{numbers.number(rates.high / rates.low)}", rates.high / rates.low)


def _table(ladder: Ladder) -> Table:
    rows = []
    for rung in ladder.rungs:
        rates = rung.rates
        cells = [Cell(rung.arm), Cell(numbers.count(rung.batch_size), float(rung.batch_size))]
        cells += [Cell(numbers.number(rates.best), rates.best), Cell(usable_text(rates), rates.low), _width(rates)]
        rows.append(
            [*cells, Cell(numbers.loss(rates.loss), rates.loss), Cell("yes" if _fitted(ladder, rates) else "no")]
        )
    note = (
        f"Rates as trained with at the arm's own batch size, from the trials on validation. Usable: those next to the "
        f"best whose loss is at most {NEAR:.0%} above its own; ≤ and ≥ where none beyond was tried. A size is in the "
        "fit where worse rates were tried on both sides of its best. The interval of the power is a t-interval over "
        "batch sizes, and no narrower than the steps of the grids allow."
    )
    headings = ["Arm", "Batch size", "Tuned rate", "Usable rates", "Width", "Validation loss (nats)", "In the fit"]
    return Table(TITLE, headings, rows, note)


def _fitted(ladder: Ladder, rates: Usable) -> bool:
    return rates.bounded and ladder.fit.says == "estimate"


def _picture(ladder: Ladder, stem: str) -> Picture:
    told = [
        f"batch {rung.batch_size:,}: {numbers.number(rung.rates.best)}, usable {usable_text(rung.rates)}"
        for rung in ladder.rungs
    ]
    return Picture(
        stem,
        TITLE,
        f"Tuned learning rate and usable range against batch size. {'; '.join(told)}.",
        "Dots: the best rate tried at each batch size, hollow where it is not in a fit; bars: the rates whose "
        f"validation loss is within {NEAR:.0%} of the best, with an arrow where they may go on. Dotted: no scaling, "
        "square root and linear.",
    )


def _draw(ladder: Ladder) -> Figure:
    """Best rates with their usable range on logarithmic axes, the fit through them, and the three laws."""
    sizes = np.array([rung.batch_size for rung in ladder.rungs], dtype=float)
    best = np.array([rung.rates.best for rung in ladder.rungs])
    within = np.array([_fitted(ladder, rung.rates) for rung in ladder.rungs])
    middle = within if within.any() else np.ones(len(sizes), dtype=bool)
    centre = np.log(sizes[middle]).mean(), np.log(best[middle]).mean()
    ends = sizes[[0, -1]]
    lines = {name: np.exp(centre[1] + power * (np.log(ends) - centre[0])) for name, power in LAWS}
    with style():
        figure = Figure(figsize=(9, 5))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.09, right=0.98, top=0.92, bottom=0.12)
        axes.set_title("Learning rate tuned at each batch size")
        axes.set_xlabel("batch size, samples")
        every = [*best, *(end for rung in ladder.rungs for end in (rung.rates.low, rung.rates.high))]
        every += [value for line in lines.values() for value in line]
        set_scale(axes, "x", "log2", ends[0] / 1.2, ends[1] * 1.2)
        set_scale(axes, "y", "log", min(every) / 1.6, max(every) * 1.6)
        faint, own = Look(FAINT, FAINT, (0, (1, 2)), "o"), look(0)
        labels = [labelled_line(axes, ends, line, name, faint, 1.0) for name, line in lines.items()]
        if ladder.fit.says == "estimate":
            line = np.exp(centre[1] + ladder.fit.estimate.mean * (np.log(ends) - centre[0]))
            labels.append(labelled_line(axes, ends, line, f"fit: power {_power(ladder.fit.estimate.mean)}", own, 2.0))
        for rung, fitted in zip(ladder.rungs, within, strict=True):
            _range(axes, rung.batch_size, rung.rates, own)
            face = own.color if fitted else "white"
            spot = rung.batch_size, rung.rates.best
            axes.plot(*spot, marker="o", markersize=8, color=own.color, markerfacecolor=face, zorder=5)
        label_ends(axes, labels)
        return figure


def _range(axes: Axes, size: float, rates: Usable, looks: Look) -> None:
    axes.vlines(size, rates.low, rates.high, color=looks.color, alpha=0.35, linewidth=7, zorder=3)
    for end, tried, marker, away in ((rates.low, rates.below, "v", 1 / 1.18), (rates.high, rates.above, "^", 1.18)):
        if not tried:
            axes.plot(size, end * away, marker=marker, markersize=6, color=looks.color, zorder=4)
