"""results/scaling, made again by `python -m tests.scaling`: plans, a measured table, networks; nothing is trained."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PLACE = Path("results/scaling")
TABLE = "results/hardware/cpu-2-cores-fashion-cnn-small.csv"
WORKERS = "1,2,4,8,16"
# Name, --all-reduce, and what that is meant to be.
NETWORKS = (
    ("ideal", None, "Workers whose talking costs nothing"),
    ("10-gbit", "3e-5,1.25e9", "30 microseconds a message, 10 Gbit/s"),
    ("1-gbit", "1e-4,1.25e8", "100 microseconds a message, 1 Gbit/s"),
)
# Of the arms of dont-decay.toml those that differ in their updates.
ARMS = ("decay", "half", "grow", "grow-linear")

HEAD = """# Do growing batches let a run use more workers later?

Nothing here was trained or timed on several machines. It follows from the updates of the schedules in
[dont-decay.toml](../../experiments/dont-decay.toml) (8,192 images, 12 epochs, batches from 16 up to 694), the
seconds per update that were [measured](../hardware/README.md) for `cnn-small` on one core of an AMD EPYC, and an
assumption about the network: a ring all-reduce of the gradient in fp32, 2 (P - 1) messages, each a latency and its
bytes over the bandwidth, none of it hidden behind computing. Everything is made again by

```
python -m tests.scaling
```

and one table and figure by, for instance,

```
bsexp plan experiments/dont-decay.toml --hardware {table} \\
    --workers {workers} --all-reduce 3e-5,1.25e9 --figure time.png
```

"As many as are useful": at each update the most workers of 1, 2, 4, 8, 16 of whom each has a sample and half of whose
time, at least, saves some. In brackets: relative to `decay` in the same column.
"""

TAIL = """
## What follows

{findings}

It speaks of time to the budget only. Whether these arms end at the same loss is the question of
[dont-decay.toml](../../experiments/dont-decay.toml). Small images and a small network make an update of 16 samples
cheap, which is bad for workers; a larger network on a GPU has another table, for which the same command tells the same.
The table was measured with a wide spread at small sizes, a batch of 2 even slower than one of 4: hence the bumps at
8 workers, who have 2 samples each.
"""


def main() -> None:
    """Plan each network, then write figures and tables."""
    (ROOT / PLACE).mkdir(exist_ok=True)
    text = HEAD.format(table=TABLE, workers=WORKERS)
    found = {name: plan(name, network) for name, network, _ in NETWORKS}
    for name, _, meaning in NETWORKS:
        text += f"\n## {meaning}\n\n![Time to the budget against workers. {meaning}]({name}.png)\n\n"
        text += table(found[name])
    text += TAIL.format(findings=findings(found))
    (ROOT / PLACE / "README.md").write_text(text, encoding="utf-8")
    print(f"{PLACE}/README.md")


def plan(name: str, network: str | None) -> dict[str, Any]:
    """What `bsexp plan --json` says; draws the figure."""
    command = [sys.executable, "-m", "bsexp", "plan", "experiments/dont-decay.toml", "--hardware", TABLE, "--json"]
    command += ["--workers", WORKERS, "--figure", str(PLACE / f"{name}.png")]
    command += ["--all-reduce", network] if network else []
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def seconds(document: dict[str, Any], arm: str, workers: int) -> float:
    """Of one planned run."""
    return next(
        float(line["seconds"]) for line in document["times"] if (line["arm"], line["workers"]) == (arm, workers)
    )


def table(document: dict[str, Any]) -> str:
    """Seconds by arm and number of workers, and with as many as are useful."""
    many = [int(number) for number in WORKERS.split(",")]
    head = ["arm", *("1 worker" if number == 1 else f"{number} workers" for number in many)]
    head += ["as many as are useful", "which are", "on average"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm in ARMS:
        cells = [f"`{arm}`"]
        for number in many:
            own, base = seconds(document, arm, number), seconds(document, ARMS[0], number)
            cells.append(f"{own:.1f} s ({own / base:.2f})")
        own, base = (document["elastic"][name] for name in (arm, ARMS[0]))
        cells.append(f"{own['seconds']:.1f} s ({own['seconds'] / base['seconds']:.2f})")
        fewest, most = own["fewest"], own["most"]
        cells += [f"{fewest}" if fewest == most else f"{fewest} to {most}", f"{own['mean_workers']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def findings(found: dict[str, dict[str, Any]]) -> str:
    """The sentences that the tables support, with their numbers."""
    lines = []
    alone = seconds(found["ideal"], "grow", 1) / seconds(found["ideal"], "decay", 1)
    lines.append(
        f"- On one worker `grow` takes {alone:.2f} of the time of `decay`, for it makes fewer updates of equal samples."
    )
    for name, _, meaning in NETWORKS:
        document = found[name]
        grow, decay = document["elastic"]["grow"], document["elastic"]["decay"]
        lines.append(
            f"- {meaning}: `decay` has use for {decay['most']} workers throughout, "
            f"`grow` for {grow['fewest']} at first and {grow['most']} in the end. With as many as are useful at each "
            f"update it takes {grow['seconds'] / decay['seconds']:.2f} of the time of `decay`, and "
            f"{grow['seconds'] * grow['mean_workers'] / (decay['seconds'] * decay['mean_workers']):.2f} of its "
            "workers' time."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
