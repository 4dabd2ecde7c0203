"""Training speed at fixed batch sizes: bsexp against a bare loop, a DataLoader with transforms, and Lightning.

The network has three convolutions with batch norm and 16, 32 and 64 channels (`cnn --norm batch`), images are 28x28,
the optimizer is SGD with momentum. A ratio is the other's seconds per update over bsexp's: above 1 bsexp is faster.
bsexp's time holds all that lies between two updates; no evaluation falls into it. The bare loop runs with bsexp's
settings (channels_last, allocator, fused optimizer), the other peers as their users write them; each candidate has a
process of its own.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tests.benchmarks import loops
from tests.benchmarks.measuring import (
    MET,
    TARGET,
    Column,
    Repeats,
    Report,
    alternate,
    installed,
    number,
    parser,
    target,
)
from tests.benchmarks.workers import Candidate, Run

SIZES = (8, 32, 128, 512, 2048)


class Peer(NamedTuple):
    """One comparison: whose time is divided by which of bsexp's, from which batch size on, and the target."""

    title: str
    name: str
    ours: str
    limit: float | None
    least: int = 1


CANDIDATES: dict[str, Callable[..., Run]] = {
    "bare": loops.bare_loop,
    "plain": loops.bsexp_loop,
    "augmented": partial(loops.bsexp_loop, augment=True),
    "averaged": partial(loops.bsexp_loop, averaging="ema"),
    "loader 0": partial(loops.loader_loop, workers=0),
    "loader 2": partial(loops.loader_loop, workers=2),
    "lightning": loops.lightning_loop,
}
OWN = ("bare", "plain", "augmented", "averaged")
COMPARISONS = (
    Peer("bare loop", "bare", "plain", 0.95),
    Peer("bare loop; only bsexp augments", "bare", "augmented", 0.85),
    Peer("itself: what averaging costs", "plain", "averaged", None),
    Peer("DataLoader + transforms, 0 workers; both augment", "loader 0", "augmented", 2.5, 128),
    Peer("DataLoader + transforms, 2 workers; both augment", "loader 2", "augmented", 2.5, 128),
    Peer("Lightning on tensors", "lightning", "plain", 1.5, 128),
)
NEEDS = {"lightning": "lightning"}


def main() -> None:
    """Measure each batch size in turn."""
    made = parser(__doc__ or "", repeats=15)
    made.add_argument("--sizes", default=",".join(map(str, SIZES)), help="batch sizes")
    loops.add_conditions(made)
    made.add_argument("--seconds", type=float, default=0.4, help="about how long one repeat of one candidate takes")
    made.add_argument("--only-bare", action="store_true", help="leave the peers out")
    options = made.parse_args()
    wanted = OWN if options.only_bare else tuple(CANDIDATES)
    conditions = loops.Conditions.of(options)
    if options.cpu_time:
        wanted = tuple(name for name in wanted if name != "loader 2")  # its work is done in other processes
    names = [name for name in wanted if installed(NEEDS.get(name, "torch"))]
    missing = [name for name in wanted if name not in names]
    report = Report("engine", options.json, options.repeats, **conditions._asdict())
    with contextlib.ExitStack() as stack:
        candidates = {name: stack.enter_context(Candidate(CANDIDATES[name])) for name in names}
        for size in map(int, options.sizes.split(",")):
            times = measure(candidates, size, conditions, options)
            show(report, size, times, missing)
    report.close()


def measure(
    candidates: dict[str, Candidate], size: int, conditions: loops.Conditions, options: Any
) -> dict[str, Repeats]:
    """Seconds per update of each candidate."""
    measures = {}
    for name, candidate in candidates.items():
        candidate.prepare(batch_size=size, conditions=conditions)
        updates = candidate.calibrate(options.seconds)
        measures[name] = partial(_each, candidate, updates)
    return alternate(measures, options.repeats)


def _each(candidate: Candidate, updates: int) -> float:
    return candidate.run(updates) / updates


def show(report: Report, size: int, times: dict[str, Repeats], missing: list[str]) -> None:
    """One table for one batch size."""
    rows = []
    for peer in COMPARISONS:
        if peer.name in missing:
            rows.append({"against": f"{peer.title}: not installed"})
        elif peer.name in times:
            theirs, ours = times[peer.name], times[peer.ours]
            row = {"against": peer.title, "ratio": theirs.over(ours), "theirs": theirs, "ours": ours}
            row |= {"their_speed": size / theirs.median, "our_speed": size / ours.median}
            rows.append(target(row, peer.limit, True) if peer.limit and size >= peer.least else row)
    columns = (
        Column("bsexp against", number("against")),
        Column("ratio (quartiles)", number("ratio", ".3f")),
        TARGET,
        MET,
        Column("images/s: bsexp", number("our_speed", ",.0f")),
        Column("the other", number("their_speed", ",.0f")),
    )
    report.table(f"batch size {size}", columns, rows)


if __name__ == "__main__":
    main()
