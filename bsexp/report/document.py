"""The report as a value, and its two renderings: report.md and report.html.

The one rule: what is said is decided once, in the `Document`; the templates only lay it out. Text that a user wrote is
escaped in both. Nothing in it depends on where, when or how often it was made.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bsexp.analysis.verdicts import Findings
from bsexp.report.courses import decisions_table
from bsexp.report.groups import Group
from bsexp.report.ladders import LadderPart
from bsexp.report.tables import Table, arm_tables, tuning_table
from bsexp.report.threats import threats
from bsexp.report.verdicts import answer, pooled_table, sensitivity_table, verdict_notes, verdict_table
from bsexp.report.wording import READING, Picture, facts, group_notes, notes_of, picture

if TYPE_CHECKING:
    from bsexp.store.tables import Results

DEMONSTRATION = (
    "This is a demonstration on a tiny task. It shows what a report looks like; it is not evidence for or against any "
    "schedule."
)


@dataclass(frozen=True)
class Section:
    """The results of one data set and model. `title` is empty where the report has only one section."""

    title: str
    facts: list[tuple[str, str]]
    notes: list[str]
    figures: list[Picture]
    tables: list[Table]


@dataclass(frozen=True)
class Document:
    """All that a report says, as plain text. `notes`: what a reader must know before believing a number."""

    title: str
    question: str
    banner: str
    notes: list[str]
    sections: list[Section]
    tuning: Table | None
    environment: list[str]
    verdicts: Table | None = None
    answer: str = ""
    verdict_notes: list[str] = field(default_factory=list)
    verdict_figure: Picture | None = None
    sensitivity: Table | None = None
    pooled: Table | None = None
    threats: list[str] = field(default_factory=list)
    ladders: list[LadderPart] = field(default_factory=list)
    reading: list[str] = field(default_factory=lambda: list(READING))

    @property
    def all_notes(self) -> list[str]:
        """The notes of the report and of its sections, told once each."""
        return list(dict.fromkeys([*self.notes, *(note for section in self.sections for note in section.notes)]))


def build(
    results: "Results",
    groups: Sequence[Group],
    stems: Sequence[Mapping[str, str]],
    findings: Findings | None = None,
    verdict_figure: Picture | None = None,
    ladders: Sequence[LadderPart] = (),
) -> Document:
    """The document; `stems` gives for each group its figures' names and their files' names without ending.

    `groups` hold no variants of [sensitivity]; `results` hold all runs.
    """
    sections = [
        Section(
            title=f"{group.dataset}, {group.model}" if len(groups) > 1 else "",
            facts=facts(results, group),
            notes=group_notes(group),
            figures=[picture(group, name, stem) for name, stem in files.items()],
            tables=[*arm_tables(group, claimed=findings is not None), *_decided(group)],
        )
        for group, files in zip(groups, stems, strict=True)
    ]
    tuning = tuning_table(results)
    return Document(
        title=results.name,
        question=results.question,
        banner=DEMONSTRATION if results.demonstration else "",
        notes=notes_of(results),
        sections=sections,
        tuning=tuning,
        # Attempts of one run on one machine are told once.
        environment=list(dict.fromkeys(_environment(machine) for machine in results.environments)),
        verdicts=verdict_table(findings) if findings else None,
        answer=answer(findings, results) if findings else "",
        verdict_notes=verdict_notes(findings, results) if findings else [],
        verdict_figure=verdict_figure,
        sensitivity=sensitivity_table(findings) if findings else None,
        pooled=pooled_table(findings) if findings else None,
        threats=threats(results, findings) if findings else [],
        ladders=list(ladders),
    )


def _decided(group: Group) -> list[Table]:
    table = decisions_table(group)
    return [] if table is None else [table]


def _environment(machine: Mapping[str, Any]) -> str:
    units = {"threads": "threads {}", "python": "Python {}", "torch": "torch {}", "bsexp": "bsexp {}"}
    shown = [(key, machine.get(key)) for key in ("device", "cpu", *units)]
    known = [units.get(key, "{}").format(value) for key, value in shown if value not in (None, "")]
    return ", ".join(dict.fromkeys(known))


def render_markdown(document: Document) -> str:
    """report.md: renders on a code host; figures by relative path in the same folder."""
    jinja = _jinja(autoescape=False, finalize=lambda value: markdown(value) if isinstance(value, str) else value)
    text = jinja.get_template("report.md.j2").render(document=document, raw=Raw, tidy_table=markdown_table)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def render_html(document: Document, images: Mapping[str, bytes]) -> str:
    """report.html: one file that loads nothing; `images` maps a figure's stem to its SVG."""

    def source(stem: str) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(images[stem]).decode()

    return _jinja(autoescape=True).get_template("report.html.j2").render(document=document, source=source)


def _jinja(**options: Any) -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("bsexp.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


class Raw(str):
    """Text that is Markdown already."""


def markdown_table(table: Table) -> str:
    """A table in the pipe syntax of code hosts, numbers flush right."""
    rows = [[markdown(heading) for heading in table.headings]]
    rows.append(["---:" if right else "---" for right in table.numeric])
    rows += [[markdown(cell.text) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def markdown(text: str) -> str:
    """`text` on one line with what Markdown or HTML would take for markup escaped.

    >>> markdown("a|b <i> lr_decay")
    'a\\\\|b &lt;i&gt; lr\\\\_decay'
    """
    if isinstance(text, Raw):
        return str(text)
    line = " ".join(text.split()) if "\n" in text or "\r" in text else text
    # The brackets of an interval are no link.
    line = re.sub(r"(\[[−+\d.,\s]+\](?![(:\[]))|([\\`*_{}\[\]|~$#])", lambda at: at[1] or "\\" + at[2], line)
    line = re.sub(r"(?i)\bhttps?:", lambda found: found[0].replace(":", "&#58;"), line)
    return line.replace("&#", "\0").replace("&", "&amp;").replace("\0", "&#").replace("<", "&lt;").replace(">", "&gt;")
