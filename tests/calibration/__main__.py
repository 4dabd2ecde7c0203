"""`python -m tests.calibration [NUM] [DIR]`: NUM simulated experiments each (2,000), to DIR (results/calibration)."""

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.calibration.intervals import of_fits, over_images, over_seeds
from tests.calibration.scenarios import Row, failures, holm_for_refutations, looks, sign_flips, tuned, words

PARTS: list[tuple[str, Callable[[int], list[Row]]]] = [
    ("Words", words),
    ("Tuned learning rates", tuned),
    ("Declared looks", looks),
    ("Failures", failures),
    ("Holm", holm_for_refutations),
    ("Sign flips", sign_flips),
    ("Intervals over seeds", over_seeds),
    ("Intervals for new test data", over_images),
    ("Fits", of_fits),
]
ROOT = Path(__file__).parent.parent.parent


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    lines = ["| scenario | what | rate | bound | holds |", "|---|---|---:|---:|---|"]
    for row in rows:
        if row.goal is None and not row.count:
            continue  # What never happened is in the CSV.
        bound = "" if row.goal is None else f"{row.goal:.2f} {'+' if row.kind == 'wrong' else '±'} {row.slack:.4f}"
        holds = "" if row.goal is None else "yes" if row.holds else "**no**"
        lines.append(f"| {row.scenario} | {row.what} | {row.share:.4f} | {bound} | {holds} |")
    return "\n".join(lines)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Rows as a CSV, with every count."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["scenario", "what", "kind", "count", "num", "share", "goal", "holds"])
        for row in rows:
            goal = "" if row.goal is None else row.goal
            writer.writerow([row.scenario, row.what, row.kind, row.count, row.num, f"{row.share:.4f}", goal, row.holds])


def main(num: int = 2000, folder: Path = ROOT / "results" / "calibration") -> int:
    """Run everything, print and write it; 1 where a bound is broken."""
    folder.mkdir(parents=True, exist_ok=True)
    done, began = [], time.monotonic()
    for title, make in PARTS:
        rows = make(num)
        done.append((title, rows))
        print(f"\n## {title} ({time.monotonic() - began:.0f} s)\n\n{table(rows)}", flush=True)
    every = [row for _, rows in done for row in rows]
    write_rows(folder / "calibration.csv", every)
    head = (Path(__file__).parent / "head.md").read_text(encoding="utf-8").replace("NUM", f"{num:,}")
    broken = [row for row in every if not row.holds]
    bound = sum(row.goal is not None for row in every)
    told = f"{bound - len(broken)} of {bound} bounds hold."
    text = "\n\n".join([head.strip(), told, *(f"## {title}\n\n{table(rows)}" for title, rows in done)])
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{told}")
    return 1 if broken else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    number = int(given[0]) if given else 2000
    sys.exit(main(number, Path(given[1])) if len(given) > 1 else main(number))
