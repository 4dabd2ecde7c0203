"""The verdicts in README.md, made from the verdicts.csv of every committed folder of results.

    python -m tests.readme_verdicts

The one rule: README says what the committed files say; where there are no verdicts, it has no section about them.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bsexp.report.document import markdown
from bsexp.report.frames import records
from bsexp.report.verdicts import amount, unit_for
from bsexp.store.paths import Experiment
from bsexp.store.tables import read_definition
from tests.conftest import ROOT

BEGIN, END = "<!-- verdicts: made by `python -m tests.readme_verdicts` -->", "<!-- end of verdicts -->"
# Where the section goes when there is none yet: before this heading.
BEFORE = "## Strategies\n"
HEADINGS = ("claim", "found", "how sure", "report", "made again by")
INTRODUCTION = """\
## What was found

Claims were declared before the data, and each word needs all tests to agree, after Holm over an experiment's claims.
Differences are those of the two arms in the order that the report names them, with the interval at the level left to
the claim; where a claim stayed inconclusive, the difference that would have been found says what was not seen."""

# What verdicts.csv says where a claim wasn't declared before its data.
UNDECLARED = "exploratory"
CHANGED = "*Claims that were changed after the data are exploratory: estimates, not findings.*"


def judged(results: Path) -> list[Experiment]:
    """The folders of results, by name, that have verdicts on claims."""
    places = (Experiment(path) for path in sorted(results.iterdir()))
    return [place for place in places if verdicts(place).exists() and rows_of(place)]


def verdicts(place: Experiment) -> Path:
    """Where an experiment's verdicts are."""
    return place.report / "verdicts.csv"


def rows_of(place: Experiment) -> list[dict[str, Any]]:
    """The rows of verdicts.csv; None for an empty cell."""
    return records(pd.read_csv(verdicts(place)))


def section(results: Path) -> str:
    """The section of README.md about what is in the folder `results`, markers included; empty without any verdict."""
    places = judged(results)
    if not places:
        return ""
    return "\n\n".join([f"{BEGIN}\n{INTRODUCTION}", *(_experiment(place) for place in places)]) + f"\n{END}\n"


def _experiment(place: Experiment) -> str:
    definition = read_definition(place)
    claims = {claim["text"]: claim for claim in definition.get("claims", [])}
    link = f"[{place.name}](results/{place.name}/report/report.md)"
    lines = [f"### {markdown(definition.get('question') or place.name)}", ""]
    if any(str(row["verdict"]).startswith(UNDECLARED) for row in rows_of(place)):
        lines += [CHANGED, ""]
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    for row in rows_of(place):
        claim = claims.get(row["claim"], {})
        cells = [markdown(row["claim"]), _found(row, claim), "; ".join(_how_sure(row, claim))]
        lines.append(f"| {' | '.join([*cells, link, f'`bsexp report results/{place.name}`'])} |")
    return "\n".join(lines)


def _unit(row: Mapping[str, Any], claim: Mapping[str, Any]) -> Any:
    unit = unit_for(claim.get("kind", ""), row["outcome"])
    return unit._replace(name="log2") if claim.get("kind") == "ratio" else unit


def _found(row: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    """The word that was claimed and what became of it, and the difference with its interval."""
    unit = _unit(row, claim)
    word = f"{claim['expect']}: {row['verdict']}" if "expect" in claim else str(row["verdict"])
    if row["difference"] is None:
        return markdown(word)
    size, low, high = (amount(row[name], unit) for name in ("difference", "low", "high"))
    interval = "" if row["low"] is None else f" [{low}, {high}]"
    return markdown(f"{word}; {size}{interval} {unit.name}".rstrip())


def _how_sure(row: Mapping[str, Any], claim: Mapping[str, Any]) -> Iterator[str]:
    """p, the number of pairs and, where nothing follows, what would have been found."""
    word, unit = str(row["verdict"]).partition(" ")[0].rstrip(",:"), _unit(row, claim)
    if word == "supported" and row["p_holm"] is not None:
        yield f"p {row['p_holm']:.2g} after Holm"
    elif row["p"] is not None:
        yield f"p {row['p']:.2g} of no difference"
    yield f"{row['num_pairs']} seeds"
    if word != "inconclusive":
        return
    if row["power"] is not None:
        yield f"planned with power {row['power']:.2f}"
    if row["detectable"] is not None:
        margin = "" if row["margin"] is None else f" (margin {amount(row['margin'], unit).lstrip('+')})"
        size = amount(row["detectable"], unit).lstrip("+")
        yield f"a true difference of {size} {unit.name}".rstrip() + f"{margin} would be found in four of five"


def updated(readme: str, made: str) -> str:
    """README.md with the section `made` in place of the one that it has; without it where `made` is empty.

    ValueError where there is no place for a first one.
    """
    before, begin, rest = readme.partition(BEGIN)
    if begin:
        _, end, after = rest.partition(f"{END}\n")
        if not end:
            raise ValueError(f"README.md has no line {END!r}")
        return before + made + (after if made else after.removeprefix("\n"))
    if not made:
        return readme
    before, heading, after = readme.partition(BEFORE)
    if not heading:
        raise ValueError(f"README.md has no heading {BEFORE!r}")
    return f"{before}{made}\n{heading}{after}"


def main() -> None:
    """Bring README.md up to date."""
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    made = updated(text, section(ROOT / "results"))
    if made != text:
        readme.write_text(made, "utf-8")
    sys.stdout.write(f"{readme.name}: {'as it was' if made == text else 'changed'}\n")


if __name__ == "__main__":
    main()
