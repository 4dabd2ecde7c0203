"""`python -m tests.benchmarks.summary [DIR]`: DIR/README.md (results/benchmarks) from the JSON files in DIR.

Each benchmark was called one or more times, NAME-1.json, NAME-2.json; a table has a column for each call, ratios first.
The words around the tables are in `summary.md` beside this file.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
ORDER = ("engine", "growing", "sweep", "prefix", "start", "gpu")
# Of each benchmark's rows: the column that names them, then what is told of each call.
NAMES = ("against", "size", "what", "experiment", "command", "program", "run", "count")
TOLD: dict[str, tuple[tuple[str, str], ...]] = {
    "ratio": (("ratio", ".3f"),),
    "longest": (("samples / longest run", ".3f"),),
    "share": (("samples / alone", ".3f"),),
    "time": (("time / alone", ".2f"),),
    "shown": (("value", ".2f"),),
    "our_speed": (("images/s", ",.0f"),),
    "their_speed": (("the other's", ",.0f"),),
    "peak": (("peak MB", ",.0f"),),
    "files": (("files", ""),),
    "seconds": (("seconds", ".3f"),),
}
SKIPPED = {"shown": "ratio"}


def main(folder: Path = ROOT / "results" / "benchmarks") -> int:
    """Write the README."""
    parts = [(Path(__file__).parent / "summary.md").read_text(encoding="utf-8").strip()]
    for name in ORDER:
        calls = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{name}-*.json"))]
        if calls:
            parts.append(section(name, calls))
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return 0


def section(name: str, calls: list[dict[str, Any]]) -> str:
    """A benchmark: how it was called and measured, then its tables."""
    told = "; ".join(
        f"call {k}: {call['environment']['date']}, load before {call['environment']['load_at_start']:.2f}, "
        f"{call['repeats']} repeats"
        for k, call in enumerate(calls, start=1)
    )
    machine = calls[0]["environment"]
    versions = ", ".join(
        f"{key} {machine[key]}" for key in ("python", "torch", "lightning", "ray", "typer") if key in machine
    )
    head = f"## {name}\n\n`python -m tests.benchmarks.{name} --json results/benchmarks/{name}-1.json`\n\n"
    gpu = f"{machine['device']} beside " if "device" in machine else ""
    head += f"{gpu}{machine['cpu']}, {machine['cores']} cores; {versions}; {told}."
    return "\n\n".join([head, *(table(title, calls) for title in calls[0]["tables"])])


def table(title: str, calls: list[dict[str, Any]]) -> str:
    """One table of all calls, as Markdown. What a call didn't measure, for want of a peer, is a dash."""
    every = [call["tables"].get(title, []) for call in calls]
    name = next(key for key in NAMES if any(key in row for row in every[0]))
    rows: dict[str, list[dict[str, Any]]] = {}
    for place, found in enumerate(every):
        for row in found:
            rows.setdefault(str(row[name]), [{}] * len(calls))[place] = row
    shown = [row for found in rows.values() for row in found]
    keys = [key for key in TOLD if any(row.get(key) is not None for row in shown)]
    keys = [key for key in keys if not (key in SKIPPED and all(row.get(SKIPPED[key]) is not None for row in shown))]
    keys = [key for key in keys if not (key == "ratio" and "shown" in keys)]
    headings = [title, *(f"{TOLD[key][0][0]} call {k}".strip() for key in keys for k in range(1, len(calls) + 1))]
    lines = []
    for called, found in rows.items():
        cells = [called, *(_cell(row.get(key), TOLD[key][0][1]) for key in keys for row in found)]
        cells.append(next((row["target"] for row in found if row.get("target")), ""))
        met = [row.get("met") for row in found]
        told = ["-" if one is None else "met" if one else "**not met**" for one in met]
        cells.append(", ".join(told) if any(one is not None for one in met) else "")
        lines.append("| " + " | ".join(cells) + " |")
    headings += ["target", ""]
    head = ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    return "\n".join(head + lines)


def _cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        low, high = value["quartiles"]
        spread = f" ({low:{form}}–{high:{form}})" if len(value["repeats"]) > 1 else ""
        return f"{value['median']:{form}}{spread}"
    return value if isinstance(value, str) else f"{value:{form}}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if len(sys.argv) > 1 else main())
