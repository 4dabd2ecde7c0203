"""What `bsexp measure` found, in words, tables and figures: measured.md in the report of a folder.

The one rule: it is a pure function of the files in the folder: whatever of hardware.csv, gradient.csv and critical.csv
is there is told, measured now or earlier.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bsexp.analysis.critical_batch import Critical, critical_batches
from bsexp.analysis.gradients import EXPECTED, error_slope
from bsexp.analysis.hardware import HardwareTable, knee
from bsexp.analysis.paired import Estimate
from bsexp.analysis.ratios import Ratio
from bsexp.records import CriticalRow, GradientRow
from bsexp.report import numbers
from bsexp.report.branching import critical_figure
from bsexp.report.document import markdown, markdown_table
from bsexp.report.drawing import png_bytes, svg_bytes
from bsexp.report.stochastic import gradient_figure, memory_figure, point_name, points_of, throughput_figure
from bsexp.report.tables import Cell, Table
from bsexp.store.files import ensure_folder, read_json, write_bytes, write_text
from bsexp.store.hardware import read_about, read_hardware
from bsexp.store.measured import read_critical, read_gradients
from bsexp.store.paths import Experiment, about_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Part:
    """One thing that was measured: sentences, tables, and figures by name with their captions."""

    title: str
    sentences: list[str]
    tables: list[Table]
    figures: dict[str, tuple["Figure", str]] = field(default_factory=dict)


def write_measured(place: Experiment) -> list[Part]:
    """Write report/measured.md and its figures for what was measured in `place`; the parts that it has."""
    parts = []
    if place.gradients.exists():
        num_train = int(read_json(about_table(place.gradients))["num_train"])
        parts.append(gradient_part(read_gradients(place.gradients), num_train))
    if place.hardware.exists():
        table = HardwareTable.of(read_hardware(place.hardware))
        parts.append(hardware_part(table, read_about(place.hardware)))
    if place.critical.exists():
        parts.append(critical_part(read_critical(place.critical)))
    ensure_folder(place.report)
    lines = [f"# {markdown(place.title)}"]
    for part in parts:
        lines += [f"## {part.title}", *(f"- {markdown(sentence)}" for sentence in part.sentences)]
        for name, (figure, caption) in part.figures.items():
            write_bytes(place.report / f"{name}.png", png_bytes(figure))
            write_bytes(place.report / f"{name}.svg", svg_bytes(figure))
            lines.append(f"![{markdown(caption)}]({name}.png)")
        for table_ in part.tables:
            lines += [f"### {markdown(table_.title)}", markdown_table(table_), markdown(table_.note)]
    text = "\n\n".join(lines).replace("\n\n- ", "\n- ")
    write_text(place.report / "measured.md", text + "\n")
    return parts


# -- gradients: claim 1


def gradient_part(rows: list[GradientRow], num_train: int) -> Part:
    """Errors and cosines of batches' gradients, and b_simple in two ways."""
    points = points_of(rows)
    sentences = [_slopes(points, num_train), _noises(points)]
    table = Table(
        "Gradients of batches",
        ["Point", "Batch size", "E|g_B − g|², without replacement", "with", "Cosine", "Draws"],
        [_gradient_cells(row, rows) for row in rows if not row.replacement],
        f"g: the exact gradient of {num_train:,} training samples, without augmentation, dropout and weight decay. "
        "± 1.96 standard errors of the mean over draws.",
    )
    caption = "Error of a batch's gradient and its cosine with the exact one, against the batch size. " + sentences[0]
    return Part(
        "The gradient of a batch", sentences, [table], {"gradient": (gradient_figure(rows, num_train), caption)}
    )


def _slopes(points: Mapping[int, list[GradientRow]], num_train: int) -> str:
    told = []
    for own in points.values():
        found = []
        for replacement, way in ((False, "without replacement"), (True, "with")):
            slope = error_slope([row for row in own if row.replacement == replacement], num_train)
            if slope is not None:
                found.append(f"{_bracketed(slope)} {way}")
        if found:
            told.append(f"{point_name(own[0])} {' and '.join(found)}")
    if not told:
        return "One batch size: how the error falls with it can't be told."
    return (
        "The smaller the batch, the further its gradient is from the exact one: E|g_B − g|² falls as a power of B, "
        f"{'; '.join(told)}; {numbers.number(EXPECTED)} is expected, and drawing without replacement has its factor "
        "1 − B/N taken out."
    )


def _bracketed(found: Estimate, digits: int = 3) -> str:
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]".replace("-", "−")


def _noises(points: Mapping[int, list[GradientRow]]) -> str:
    told, inside, known = [], 0, 0
    for own in points.values():
        row = own[0]
        high = math.inf if row.b_simple_high is None and row.b_simple_low is not None else row.b_simple_high
        text = (
            f"{point_name(row)} {_ratio_text(Ratio(_number(row.b_simple), row.b_simple_low, high, 0))} by micro-batches"
        )
        if row.b_simple_exact is not None:
            text += f", {numbers.number(row.b_simple_exact)} from the gradient of each sample"
            if row.b_simple_low is not None and high is not None:
                known += 1
                inside += row.b_simple_low <= row.b_simple_exact <= high
        told.append(text)
    agree = f" The interval holds the exact value at {inside} of {known} points." if known else ""
    return f"b_simple = tr(Σ)/|G|², in samples: {'; '.join(told)}.{agree}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _ratio_text(ratio: Ratio) -> str:
    value = "no value" if math.isnan(ratio.value) else numbers.number(ratio.value)
    if ratio.low is None or ratio.high is None:
        return value
    high = "∞" if math.isinf(ratio.high) else numbers.number(ratio.high)
    return f"{value} [{numbers.number(ratio.low)}, {high}]"


def _gradient_cells(row: GradientRow, rows: list[GradientRow]) -> list[Cell]:
    def error(one: GradientRow) -> Cell:
        text = f"{one.gradient_error:.4g} ± {1.96 * one.error_spread:.2g}"
        return Cell(text, one.gradient_error)

    key = (row.samples, row.batch_size)
    other = next((one for one in rows if one.replacement and (one.samples, one.batch_size) == key), None)
    cosine = Cell(f"{row.cosine:.4f} ± {1.96 * row.cosine_spread:.2g}".replace("-", "−"), row.cosine)
    cells = [Cell(point_name(row)), Cell(numbers.count(row.batch_size), float(row.batch_size)), error(row)]
    return [*cells, Cell(numbers.DASH) if other is None else error(other), cosine, Cell(f"{row.draws:,}", row.draws)]


# -- hardware: claim 6


def hardware_part(table: HardwareTable, about: Mapping[str, Any]) -> Part:
    """Throughput and memory against the batch size."""
    best = knee(table)
    found = f"The knee is batch {best:,}, the smallest within 10 % of the most samples per second."
    sentences = [faster(table), found]
    on = ", ".join(str(about[name]) for name in ("model", "dataset", "cpu") if about.get(name))
    rows = [
        [
            Cell(f"{size:,}", float(size)),
            Cell(f"{1000 * seconds:.4g} ± {1000 * 1.96 * spread:.2g}", seconds),
            Cell(f"{size / seconds:,.0f}", size / seconds),
            Cell(numbers.DASH) if peak is None else Cell(f"{peak / 1e6:,.0f}", float(peak)),
        ]
        for size, seconds, spread, peak in zip(
            table.sizes, table.seconds_per_update, table.spread, table.peak_memory_bytes, strict=True
        )
    ]
    headings = ["Batch size", "ms per update", "Samples/s", "Peak memory (MB)"]
    listed = Table("Updates by batch size", headings, rows, f"Measured on {table.device}" + (f": {on}." if on else "."))
    figures = {"throughput": (throughput_figure(table), f"Samples per second against the batch size. {sentences[0]}")}
    if (memory := memory_figure(table)) is not None:
        figures["memory"] = (memory, f"Peak memory against the batch size. {sentences[0]}")
    return Part("Time and memory of an update", sentences, [listed], figures)


def faster(table: HardwareTable) -> str:
    """Whether larger batches are faster on this table, by how much, and what memory they take: one sentence."""
    rates = table.samples_per_second
    if len(rates) < 2:
        return "One batch size was measured: nothing to compare it with."
    best = max(range(len(rates)), key=rates.__getitem__)
    low, high = table.sizes[0], table.sizes[best]
    if not best:
        return f"Larger batches are not faster here: batch {low:,} has the most samples per second."
    text = f"Larger batches are faster here: {rates[best] / rates[0]:.3g}-fold from batch {low:,} to {high:,}"
    before, after = table.peak_memory_bytes[0], table.peak_memory_bytes[best]
    if before is None or after is None:
        return f"{text}; memory was not measured."
    grown = f"{(after - before) / 1e6:,.0f} MB, from {before / 1e6:,.0f} to {after / 1e6:,.0f} MB"
    return f"{text}; memory grows by {grown}."


# -- the critical batch


def critical_part(rows: list[CriticalRow]) -> Part:
    """The critical batch at each point where branches began, beside b_simple there."""
    points = critical_batches(rows)
    if not points:
        return Part(
            "The critical batch", ["No point has all branches of a seed, its own batch trained to the end."], []
        )
    sentences = [critical_sentence(points)]
    listed = Table(
        "Critical batch",
        ["Branches from", "Critical batch", "b_simple", "Spread (nats)", "Seeds"],
        [
            [
                Cell(f"{100 * point.share:g} % ({point.epoch:.3g} epochs)", point.share),
                Cell(batch_text(point)),
                Cell(_ratio_text(point.b_simple)),
                Cell(numbers.loss(point.spread), point.spread),
                Cell(numbers.count(point.batch.num), float(point.batch.num)),
            ]
            for point in points
        ],
        "Critical batch: the largest whose best branch ends within the spread that the trunk's own batch shows from "
        "order to order, linear in log B between the sizes tried. In brackets 95 % intervals over seeds: BCa, and "
        "Fieller's for b_simple.",
    )
    caption = f"Critical batch and b_simple along training. {sentences[0]}"
    return Part("The critical batch", sentences, [listed], {"critical": (critical_figure(points), caption)})


def critical_sentence(points: list[Critical]) -> str:
    """The critical batch and b_simple at each point, in one sentence."""
    told = [
        f"from {100 * point.share:g} % {batch_text(point)}, where b_simple is {_ratio_text(point.b_simple)}"
        for point in points
    ]
    return f"Up to which batch a branch loses nothing, in samples: {'; '.join(told)}."


def batch_text(point: Critical) -> str:
    """A critical batch with its interval; a bound where it isn't pinned down, and said to be one."""
    found = point.batch
    if point.says == "estimate":
        return f"{numbers.number(found.mean)} [{numbers.number(found.low)}, {numbers.number(found.high)}]"
    if point.says == "at least":
        return f"at least {numbers.number(found.low)} (only a bound)"
    if point.says == "at most":
        return f"at most {numbers.number(found.high)} (only a bound)"
    if point.says == "between":
        return f"between {numbers.number(found.low)} and {numbers.number(found.high)} (only a bound)"
    if found.low is None:
        number = "above all that were tried" if math.isinf(found.mean) else numbers.number(found.mean)
        return f"{number} ({found.num} seeds: no interval)"
    return "not to be told from these branches"
