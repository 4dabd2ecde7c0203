"""Puts the times of a machine into a document that is otherwise complete.

The one rule: it only adds: a table, a figure and notes to each section that has times; nothing else changes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bsexp.report.breakeven import break_even, picture
from bsexp.report.document import Document, Section
from bsexp.report.groups import Group
from bsexp.report.timing import GroupTime, Hardware, group_time, time_frame, time_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from bsexp.store.tables import Results


def add_times(
    document: Document, results: "Results", groups: Sequence[Group], endings: Sequence[str], hardware: Hardware
) -> tuple[Document, "pandas.DataFrame", dict[str, "Figure"]]:
    """The document with times, the times as rows, and the figures by the names of their files without ending.

    `endings` set apart the files of each group. Raises UsageError where a table that was asked for lacks a batch size.
    """
    times = [group_time(results, group, hardware) for group in groups]
    figures: dict[str, Figure] = {}
    sections = [
        _with_time(section, time, f"time{ending}", figures)
        for section, time, ending in zip(document.sections, times, endings, strict=True)
    ]
    return replace(document, sections=sections), time_frame(times), figures


def _with_time(section: Section, time: GroupTime, stem: str, figures: dict[str, "Figure"]) -> Section:
    section = replace(section, notes=[*section.notes, *time.notes])
    if not time.arms:
        return section
    section = replace(section, tables=[*section.tables, time_table(time)])
    figure = break_even(time)
    if figure is None:
        return section
    figures[stem] = figure
    return replace(section, figures=[*section.figures, picture(time, stem)])
