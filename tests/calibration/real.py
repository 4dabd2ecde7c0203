"""`python -m tests.calibration.real [NUM] [DIR]`: NUM real null experiments (200), to DIR (results/calibration).

Each experiment trains three arms with 12 seeds on digits: `a` and `b` are the same arm with other seeds, so that what
they differ in is chance; the control `c` has an eighth of their learning rate. Every run is trained once and used once.
The words come from `judge` on what the runs really did, predictions of single images included.
"""

import multiprocessing
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bsexp.analysis.claims import Claim, Record, Verdict
from bsexp.analysis.judging import judge
from bsexp.store.products import Products
from bsexp.store.products import Row as TableRow
from tests.calibration.scenarios import Row
from tests.calibration.truth import is_wrong

ROOT = Path(__file__).parent.parent.parent
PAIRS, WORKERS = 12, 2
SEEDS = tuple(range(PAIRS))
ARM = {"schedule": "fixed-small", "train_size": 256, "label_noise": 0.2, "batch_size": 32, "epochs": 6.0, "evals": 1}
RATES = {"a": 0.05, "b": 0.05, "c": 0.05 / 8}
OUTCOMES = ("test_loss", "test_accuracy")
CLAIMS = [
    Claim(f"{word} in {outcome}", ("a", "b"), outcome, word, SEEDS, margin=0.25, control="c")
    for outcome in OUTCOMES
    for word in ("better", "worse", "equivalent", "not-worse")
]


@dataclass(frozen=True)
class Told:
    """What one experiment came to: each claim alone, and all as one family."""

    alone: list[Verdict]
    family: list[Verdict]


def experiment(number: int) -> Told:
    """Experiment `number`: its 36 runs are trained here, then judged."""
    made = {
        (arm, seed): _trained(rate, (3 * number + place) * PAIRS + seed)
        for place, (arm, rate) in enumerate(RATES.items())
        for seed in SEEDS
    }
    tables = {name: Products.of([by_image[name] for _, by_image in made.values()]) for name in OUTCOMES}
    records = {
        key: replace(record, examples={name: TableRow(table, place) for name, table in tables.items()})
        for place, (key, (record, _)) in enumerate(made.items())
    }
    random = np.random.default_rng(number)
    alone = [judge([claim], records, generator=random)[0] for claim in CLAIMS]
    return Told(alone, judge(CLAIMS, records, generator=random))


def _trained(lr: float, seed: int) -> tuple[Record, dict[str, np.ndarray]]:
    """What a run came to, over all test images and for each."""
    import torch

    from bsexp.config import RunConfig
    from bsexp.data.sources import load_images
    from bsexp.data.splits import prepare
    from bsexp.engine.loop import Training

    torch.set_num_threads(1)
    config = RunConfig(**ARM, lr=lr, seed=seed, averaging="none")
    training = Training(config, data=prepare(config, load_images("digits")), device="cpu")
    for _ in training:
        pass
    outcome, last = training.outcome, training.predictions["last"]
    right = (last.classes == training.test_labels).numpy().astype("uint8")
    by_image = {"test_loss": last.losses.numpy().astype(np.float64), "test_accuracy": right}
    return Record(outcome.status, {name: getattr(outcome, name) for name in OUTCOMES}), by_image


def rows_of(told: list[Told]) -> list[Row]:
    """Shares of wrong words, claim by claim and for the family, and of intervals over the truth, which is 0."""
    num, name = len(told), "the same arm, other seeds"
    rows = []
    for place, claim in enumerate(CLAIMS):
        mine = [each.alone[place] for each in told]
        wrong = sum(is_wrong(claim.word, _verdict(one), 0.0, _margin(one)) for one in mine)
        rows.append(Row(name, f"wrong: {claim.name}", "wrong", wrong, num, 0.05))
        for verdict in ("supported", "refuted", "inconclusive"):
            count = sum(_verdict(one) == verdict for one in mine)
            rows.append(Row(name, f"{claim.name}: {verdict}", "seen", count, num))
        if claim.word == "better":
            for what, found in (
                ("seeds", [one.estimate for one in mine]),
                ("new data", [one.new_data for one in mine]),
            ):
                inside = sum(e is not None and e.low is not None and e.low <= 0 <= (e.high or 0.0) for e in found)
                goal = 0.95 if what == "seeds" else None
                text = f"95 % interval over {what} covers 0, {claim.outcome}"
                rows.append(Row(name, text, "covers" if goal else "seen", inside, num, goal))
    families = [
        any(is_wrong(c.word, _verdict(one), 0.0, _margin(one)) for c, one in zip(CLAIMS, each.family, strict=True))
        for each in told
    ]
    rows.append(Row(name, f"any wrong word in a family of {len(CLAIMS)}", "wrong", sum(families), num, 0.05))
    return rows


def _verdict(one: Verdict) -> str:
    assert one.word is not None
    return one.word.verdict


def _margin(one: Verdict) -> float:
    return one.margin or 0.0


def main(num: int = 200, folder: Path = ROOT / "results" / "calibration") -> int:
    """Train, judge, print and write; 1 where a bound is broken."""
    from tests.calibration.__main__ import table, write_rows

    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        told = []
        for number, one in enumerate(pool.imap(experiment, range(num)), start=1):
            told.append(one)
            if number % 20 == 0:
                print(f"{number} of {num} experiments, {time.monotonic() - began:.0f} s", flush=True)
    rows = rows_of(told)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "real.csv", rows)
    head = (Path(__file__).parent / "real.md").read_text(encoding="utf-8").replace("NUM", f"{num:,}")
    broken, bound = sum(not row.holds for row in rows), sum(row.goal is not None for row in rows)
    text = f"{head.strip()}\n\n{bound - broken} of {bound} bounds hold.\n\n{table(rows)}\n"
    (folder / "real.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if broken else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    number = int(given[0]) if given else 200
    sys.exit(main(number, Path(given[1])) if len(given) > 1 else main(number))
