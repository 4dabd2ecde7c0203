"""Reports: figures, tables, report.md and report.html from the results of one experiment.

The one rule: `write_report` is a pure function of the results; the same results give the same bytes, anywhere, anytime.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.errors import StoreError

if TYPE_CHECKING:
    import pandas

    from bsexp.report.groups import Group
    from bsexp.report.timing import Hardware
    from bsexp.store.tables import Results

FIGURES = (
    "verdicts",
    "final",
    "budgets",
    "curves",
    "curves-averaged",
    "schedules",
    "decisions",
    "shadow",
    "time",
    "rates",
    "critical-batch",
)
# What not every report has: an earlier one's is removed where this one has none.
SOMETIMES = re.compile(rf"({'|'.join(FIGURES)})(--[a-z0-9.-]+)?\.(png|svg)|times\.csv")


@dataclass(frozen=True)
class Report:
    """What a report found. `arms` has one row per arm, `differences` one per arm and outcome (columns in `frames`).

    `notes`: what a reader must know first, as sentences. `figures`: the names of the files drawn, without folder.
    `times`: modelled times, one row per arm and number of workers (columns in `timing`); None without a hardware table.
    """

    arms: "pandas.DataFrame"
    differences: "pandas.DataFrame"
    notes: list[str]
    figures: list[str]
    verdicts: "pandas.DataFrame"
    claims: list[dict[str, Any]]
    times: "pandas.DataFrame | None" = None

    def as_json(self) -> dict[str, Any]:
        """`arms`, `differences`, `verdicts`, `claims`, `notes` and, where a hardware table was given, `times` as plain
        lists, dictionaries, numbers and texts.
        """
        from bsexp.report.frames import records

        tables = {"arms": records(self.arms), "differences": records(self.differences)}
        times = {} if self.times is None else {"times": records(self.times)}
        # A ratio may be infinite, which JSON can't say.
        verdicts = self.verdicts.replace([math.inf, -math.inf], None)
        told = {"verdicts": records(verdicts), "claims": self.claims, "notes": list(self.notes)}
        return {**tables, **told, **times}

    def terminal_table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Column names and rows for a terminal: an arm a row, means with the half-width of their 95 % t-interval."""
        names = (
            "arm",
            "lr",
            "updates",
            "seeds",
            "test accuracy %",
            "test loss",
            "averaged: accuracy %",
            "not finished",
        )
        rows = []
        for arm in self.arms.to_dict("records"):
            missing = int(arm["num_seeds"] - arm["finished"])
            cells = [str(arm["arm"]), _short(arm["lr"], "g"), _short(arm["updates"], ",.0f"), f"{arm['finished']:.0f}"]
            cells += [_spread(arm, "test_accuracy", 100, 2), _spread(arm, "test_loss", 1, 4)]
            cells += [_spread(arm, "test_accuracy_ema", 100, 2), str(missing) if missing else ""]
            rows.append(cells)
        return names, rows


def _short(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) and value == value else "-"


def _spread(arm: dict[Any, Any], name: str, scale: float, digits: int) -> str:
    """mean ± half-width; the mean alone where one seed gives no interval."""
    mean, high = arm[name], arm[f"{name}_high"]
    if mean is None or mean != mean:
        return "-"
    text = f"{mean * scale:.{digits}f}"
    return text if high is None or high != high else f"{text} ± {(high - mean) * scale:.{digits}f}"


def write_report(results: "Results", folder: Path, hardware: "Hardware | None" = None) -> Report:
    """Write report.md, report.html, arms.csv, differences.csv and the figures (PNG, SVG) into `folder`; with `hardware`
    also what the arms' updates cost there (times.csv).

    Each file is written beside and renamed; figures of an earlier report that no longer exist are removed. Raises
    StoreError where the folder cannot be written.
    """
    from bsexp.analysis.verdicts import judge_results
    from bsexp.report.critical_ladders import critical_parts
    from bsexp.report.document import build, render_html, render_markdown
    from bsexp.report.drawing import png_bytes, svg_bytes
    from bsexp.report.figures import draw
    from bsexp.report.frames import arm_frame, difference_frame
    from bsexp.report.groups import make_groups, without_variants
    from bsexp.report.ladders import ladder_parts
    from bsexp.report.verdicts import claim_documents, verdict_frame, verdicts_csv

    findings = judge_results(results)
    groups = make_groups(without_variants(results))
    figures: dict[str, bytes] = {}
    stems: list[dict[str, str]] = []
    for group, ending in zip(groups, _endings(groups), strict=True):
        stems.append({})
        for name, figure in draw(group).items():
            stem = stems[-1][name] = name + ending
            figures |= {f"{stem}.png": png_bytes(figure), f"{stem}.svg": svg_bytes(figure)}
    shown = None
    if findings:
        from bsexp.report.forest import forest, picture

        if (glance := forest(findings)) is not None:
            figures |= {"verdicts.png": png_bytes(glance), "verdicts.svg": svg_bytes(glance)}
            shown = picture(findings, "verdicts")
    parts, drawn = ladder_parts(results)
    critical, more = critical_parts(results)
    parts, drawn = [*parts, *critical], {**drawn, **more}
    for stem, figure in drawn.items():
        figures |= {f"{stem}.png": png_bytes(figure), f"{stem}.svg": svg_bytes(figure)}
    document = build(results, groups, stems, findings, shown, parts)
    times = None
    if hardware is not None:
        from bsexp.report.timed import add_times

        document, times, drawn = add_times(document, results, groups, _endings(groups), hardware)
        for stem, figure in drawn.items():
            figures |= {f"{stem}.png": png_bytes(figure), f"{stem}.svg": svg_bytes(figure)}
    arms, differences = arm_frame(groups, list(results.arms)), difference_frame(groups)
    images = {name.removesuffix(".svg"): data for name, data in figures.items() if name.endswith(".svg")}
    verdicts = verdict_frame(findings, results)
    texts = {
        "arms.csv": arms.to_csv(index=False, lineterminator="\n"),
        "differences.csv": differences.to_csv(index=False, lineterminator="\n"),
        "report.md": render_markdown(document),
        "report.html": render_html(document, images),
    }
    if findings:
        texts["verdicts.csv"] = verdicts_csv(verdicts)
    if times is not None:
        texts["times.csv"] = times.to_csv(index=False, lineterminator="\n")
    _write(folder, {**figures, **{name: text.encode() for name, text in texts.items()}})
    claims = claim_documents(findings)
    return Report(arms, differences, document.all_notes, list(figures), verdicts, claims, times)


def _endings(groups: "list[Group]") -> list[str]:
    """What sets the file names of several groups apart: `--digits-mlp`; empty for a single one."""
    if len(groups) == 1:
        return [""]
    endings: list[str] = []
    for group in groups:
        words = re.sub(r"[^a-z0-9.]+", "-", f"{group.dataset} {group.model}".lower()).strip("-.") or "group"
        again = sum(re.fullmatch(rf"--{re.escape(words)}(-\d+)?", other) is not None for other in endings)
        endings.append(f"--{words}-{again + 1}" if again else f"--{words}")
    return endings


def _write(folder: Path, files: dict[str, bytes]) -> None:
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            path = folder / name
            beside = folder / f".{name}.{os.getpid()}.tmp"
            try:
                beside.write_bytes(data)
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
        for path in sorted(folder.iterdir()):
            if SOMETIMES.fullmatch(path.name) and path.name not in files:
                path.unlink()
    except OSError as error:
        raise StoreError(
            "report", f"{path}: {error.strerror or error}", "make room or choose a writable --out"
        ) from None


def draw_plan(rows: list[dict[str, Any]], name: str, num_train: int, file: Path) -> None:
    """Draw planned updates (as `simulate` yields them, with noise_scale) like the schedules of a report, into `file`.

    The ending chooses PNG, SVG or PDF. Raises StoreError where it can't be written.
    """
    from matplotlib.figure import Figure

    from bsexp.store.files import usable

    epochs = [row["samples"] / num_train for row in rows]
    figure = Figure(figsize=(7, 7), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    titles = (("batch_size", "batch size, samples"), ("lr", "learning rate"), ("noise_scale", "noise scale g"))
    for axes, (key, title) in zip(panels, titles, strict=True):
        values = [row[key] for row in rows]
        if any(value is None for value in values):
            axes.text(0.5, 0.5, "defined for SGD only", ha="center", va="center", transform=axes.transAxes)
        else:
            axes.step(epochs, values, where="post", color="#0072B2")
            if min(values) > 0 and max(values) > 4 * min(values):
                axes.set_yscale("log", base=2 if key == "batch_size" else 10)
        axes.set_ylabel(title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(name, loc="left")
    panels[-1].set_xlabel(f"epochs of {num_train:,} samples")
    with usable(file):
        figure.savefig(file, dpi=150)
