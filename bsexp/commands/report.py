"""`bsexp report`: tables and figures from results."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.commands.given import absent, talk_of, values_of
from bsexp.commands.machines import machine_of
from bsexp.console import Talk
from bsexp.errors import BsexpError, StoreError
from bsexp.store.paths import Experiment

if TYPE_CHECKING:
    from bsexp.report import Report
    from bsexp.report.timing import Hardware


def main(folder: str | None, given: dict[str, Any]) -> int:
    """Report on one experiment, or on each one in a folder of results."""
    talk = talk_of(given)
    values = values_of(given)
    places = find_experiments(Path(folder or "results"))
    documents = []
    for place in places:
        skip = talk.warn if values.get("skip_bad") else None
        hardware = machine_of(values, place)
        report = report_experiment(place, talk, not values.get("json"), skip is not None, hardware)
        documents.append({"experiment": place.name, **report.as_json()})
        if values.get("pack"):
            from bsexp.store.pack import pack

            talk.note(f"packed: {pack(place) / 1e6:.2f} MB in {place.path}")
    if values.get("json"):
        talk.document(documents[0] if len(documents) == 1 else {"experiments": documents})
    return 0


def find_experiments(folder: Path) -> list[Experiment]:
    """The experiment at `folder`, or those directly below it; StoreError where there is none."""
    if not folder.is_dir():
        raise StoreError("results", f"{folder}: {absent(folder)}", "bsexp sweep makes one")
    here = Experiment(folder)
    if is_experiment(here):
        return [here]
    found = [place for path in sorted(folder.iterdir()) if path.is_dir() and is_experiment(place := Experiment(path))]
    if not found:
        raise StoreError("results", f"{folder}: no results in it", "bsexp sweep makes some")
    return found


def is_experiment(place: Experiment) -> bool:
    """Whether a folder holds an experiment: run folders, or what `--pack` makes of them."""
    return place.has_runs or place.packed or place.definition.exists()


def report_experiment(
    place: Experiment, talk: Talk, show: bool, skip_bad: bool = False, hardware: "Hardware | None" = None
) -> "Report":
    """Write the report of one experiment and, where `show` says so, print its summary. `hardware`: with times there."""
    from bsexp.report import write_report
    from bsexp.store.tables import load_results, write_runs_table

    def skipped(error: BsexpError) -> None:
        talk.warn(f"left out: {error}")

    results = load_results(place.path, skipped if skip_bad else None)
    if place.has_runs and not skip_bad:
        write_runs_table(place)
    report = write_report(results, place.report, hardware)
    if show:
        _show(report, place, talk)
    return report


def _show(report: "Report", place: Experiment, talk: Talk) -> None:
    columns, rows = report.terminal_table()
    if rows:
        talk.table(columns, rows, title=place.name)
    if report.times is not None and len(report.times):
        from bsexp.report.timing import terminal_rows

        device = str(report.times["device"].iloc[0])
        talk.table(*terminal_rows(report.times), title=f"time on {device}, modelled from its hardware table")
    for note in report.notes:
        talk.note(f"note: {note}")
    talk.result(f"report: {place.report / 'report.html'}")
