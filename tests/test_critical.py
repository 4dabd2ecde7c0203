"""The critical batch: forks that go on as their trunk would have, hand-worked crossings, branches kept one by one."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bsexp import RunConfig, Training
from bsexp.analysis.critical_batch import Critical, critical_batches, crossings, says_of
from bsexp.analysis.paired import Estimate
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.engine.forks import Fork
from bsexp.engine.unwatched import Unwatched
from bsexp.errors import StoreError, UsageError
from bsexp.records import CriticalRow, EvalRow, StepRecord
from bsexp.report.branching import critical_figure
from bsexp.report.measured import batch_text, critical_part
from bsexp.store.measured import critical_branches, read_critical
from bsexp.sweep import critical
from bsexp.sweep.critical import Branch, branch_config, branches, grow, trunks
from tests.conftest import Bsexp
from tests.test_engine import timeless, weights
from tests.test_figures import texts

SMALL: dict[str, Any] = {"schedule": "fixed-small", "train_size": 400, "epochs": 6.0, "evals": 1, "batch_size": 10}


def config_of(**options: Any) -> RunConfig:
    return RunConfig(**{**SMALL, **options})


# -- forks


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"warmup_epochs": 3.0}, {"optimizer": "adamw"}], ids=str)
def test_a_fork_without_a_change_ends_as_its_trunk_does(digits: Images, options: dict[str, Any]) -> None:
    config = config_of(**options)
    data = prepare(config, digits)
    whole = Training(config, data=data, device="cpu")
    last = [record for record in whole if isinstance(record, EvalRow)][-1]
    trunk = Unwatched(config, data=data, device="cpu")
    while trunk.samples < 1000:
        next(trunk)
    fork = Fork(config, trunk.state(), data=data, whole=2400, device="cpu")
    found = fork.evaluations()
    assert found is not None
    end = found[-1]
    values = ("samples", "val_loss", "val_accuracy", "val_loss_ema", "val_accuracy_ema", "train_loss")
    assert [getattr(end, name) for name in values] == [getattr(last, name) for name in values]
    assert all(torch.equal(a, b) for a, b in zip(weights(fork), weights(whole), strict=True))
    # The trunk goes on as if nobody had forked it.
    while trunk.samples < 2400:
        next(trunk)
    assert all(torch.equal(a, b) for a, b in zip(weights(trunk), weights(whole), strict=True))


def test_a_fork_ends_exactly_at_its_budget_with_the_trunks_half_life_and_never_sees_the_test_split(
    digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsexp.engine.loop.predict", lambda *_: pytest.fail("the test split was looked at"))
    config = config_of()
    data = prepare(config, digits)
    trunk = Unwatched(config, data=data, device="cpu")
    while trunk.samples < 120:
        next(trunk)
    changed = branch_config(config, Branch(0.05, 4, "sqrt"), 120, 400)
    assert (changed.batch_size, changed.lr) == (40, pytest.approx(2 * config.lr))
    fork = Fork(changed, trunk.state(), data=data, whole=2400, device="cpu")
    assert fork._own.averaged is not None
    assert fork._own.averaged.half_life == pytest.approx(48)
    made = []
    for record in fork:
        if isinstance(record, StepRecord):
            made.append(record)
        if isinstance(record, EvalRow):
            break
    # 120 samples in batches of 40.
    assert [(record.samples, record.batch_size, record.lr) for record in made] == [
        (samples, 40, pytest.approx(2 * config.lr)) for samples in (160, 200, 240)
    ]


def test_another_order_reads_other_samples_from_the_same_weights(digits: Images) -> None:
    config = config_of()
    data = prepare(config, digits)
    trunk = Unwatched(config, data=data, device="cpu")
    while trunk.samples < 400:
        next(trunk)
    losses = []
    for order in (0, 0, 1, 2, 2):
        fork = Fork(config, trunk.state(), data=data, whole=2400, device="cpu", order=order)
        losses.append([float(record.loss) for record in fork if isinstance(record, StepRecord)][:5])
    assert losses[0] == losses[1]
    assert losses[3] == losses[4]
    assert losses[0] != losses[2] != losses[3]


@pytest.mark.parametrize(("dropout", "alike"), [(0.0, True), (0.5, False)])
def test_another_order_has_other_dropout_masks(digits: Images, dropout: float, alike: bool) -> None:
    config = config_of(dropout=dropout)
    data = prepare(config, digits)
    trunk = Unwatched(config, data=data, device="cpu")
    next(trunk)
    state = trunk.state()
    own, other = (Fork(config, state, data=data, whole=2400, device="cpu", order=order) for order in (0, 1))
    # The same samples, so that only masks can tell the two.
    other._stream = own._stream
    first = next(float(record.loss) for record in own if isinstance(record, StepRecord))
    own._stream.seek(state["samples"])
    second = next(float(record.loss) for record in other if isinstance(record, StepRecord))
    assert (first == second) == alike


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_forks_of_one_state_do_not_know_of_each_other(digits: Images, optimizer: str) -> None:
    config = config_of(optimizer=optimizer)
    data = prepare(config, digits)
    trunk = Unwatched(config, data=data, device="cpu")
    while trunk.samples < 100:
        next(trunk)
    state = trunk.state()
    ends = [Fork(config, state, data=data, whole=2400, device="cpu").evaluations() for _ in range(2)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert [timeless(each) for each in ends[0]] == [timeless(each) for each in ends[1]]
    assert all(
        torch.equal(a, b) for a, b in zip(trunk.model.state_dict().values(), state["model"].values(), strict=True)
    )


def test_a_fork_that_diverges_has_no_end(digits: Images) -> None:
    config = config_of()
    data = prepare(config, digits)
    trunk = Unwatched(config, data=data, device="cpu")
    next(trunk)
    fork = Fork(config_of(lr=1e20), trunk.state(), data=data, whole=2400, device="cpu")
    assert fork.evaluations() is None


# -- branches


def test_there_are_branches_with_each_batch_and_rule_and_the_own_one_in_three_orders() -> None:
    every = branches()
    assert len(every) == len(set(every)) == 4 * (3 + 5 * 3)
    own = [branch for branch in every if branch.multiplier == 1]
    assert {(branch.share, branch.order, branch.lr_rule) for branch in own} == {
        (share, order, "none") for share in (0.05, 0.15, 0.4, 0.8) for order in (0, 1, 2)
    }
    trunk = config_of(lr=0.01)
    rates = [branch_config(trunk, Branch(0.4, 16, rule), 960, 400).lr for rule in ("none", "sqrt", "linear")]
    assert rates == pytest.approx([0.01, 0.04, 0.16])
    assert branch_config(trunk, Branch(0.4, 1, "none"), 970, 400).total_samples(400) == 970 + 120


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 32}, "batch_size: 1024; at most num_train // 2 = 646"),
        ({"warmup_epochs": 2.0}, "warmup_epochs: 2; it must have ended where the first branches begin, after 1 epochs"),
        ({"averaging": "none"}, "averaging: none; branches are read on averaged weights"),
        ({"val_fraction": 0.0}, "val_fraction: 0; branches are read on a validation split"),
        ({"norm": "batch", "model": "cnn-small", "ghost_batch": 8}, "norm batch"),
    ],
)
def test_what_can_not_be_branched_is_refused_before_anything_is_trained(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        trunks({"dataset": "digits", "batch_size": 8, **options}, [0, 1])


def test_branches_of_a_trunk_are_the_same_whichever_are_missing() -> None:
    (trunk,) = trunks({"dataset": "digits", "train_size": 600, "batch_size": 8, "epochs": 2.0}, [3])
    some = [Branch(0.05, 1, "none"), Branch(0.4, 8, "linear"), Branch(0.4, 32, "none")]
    rows = {(row.share, row.batch_size): row for row in grow(trunk, some, "cpu")}
    alone = next(iter(grow(trunk, some[1:2], "cpu")))
    assert alone == rows[0.4, 64]
    first = rows[0.05, 8]
    # 1,200 samples: the first branches begin after 64 and take 60.
    assert (first.samples, first.updates, first.seed, first.order) == (64, 8, 3, 0)
    assert rows[0.4, 256].updates == 1
    assert rows[0.4, 64].lr == pytest.approx(8 * trunk.lr)
    assert rows[0.4, 64].grad_var == rows[0.4, 256].grad_var != first.grad_var
    assert all(row.val_loss_ema is not None and row.val_loss is not None for row in rows.values())


# -- the analysis, on made-up branches


def test_crossings_are_linear_in_log_batch() -> None:
    table = np.array([[0.0, 1.0, 3.0, 7.0], [0.0, -1.0, 0.0, 1.0], [0.0, 4.0, 9.0, 9.0], [0.0, 5.0, 1.0, 6.0]])
    found = crossings([16, 32, 64, 128], table, np.array([2.0, 2.0, 1.0, 2.0]))
    # Half of the way from 32 to 64; never; a quarter of an octave; the last one that is within, a fifth beyond 64.
    assert found.tolist() == pytest.approx([32 * 2**0.5, math.inf, 16 * 2**0.25, 64 * 2**0.2])
    diverged = crossings([16, 32], np.array([[0.0, math.inf]]), np.array([1.0]))
    assert diverged.tolist() == [16.0]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (Estimate(64.0, 40.0, 100.0, 12), "estimate"),
        (Estimate(64.0, 30.0, 100.0, 12), "between"),
        (Estimate(64.0, 40.0, 130.0, 12), "between"),
        (Estimate(300.0, 200.0, math.inf, 12), "at least"),
        (Estimate(math.inf, 200.0, math.inf, 12), "at least"),
        (Estimate(20.0, 16.0, 30.0, 12), "at most"),
        (Estimate(64.0, 16.0, math.inf, 12), "nothing"),
        (Estimate(64.0, None, None, 3), "nothing"),
    ],
)
def test_a_number_is_told_only_where_it_is_pinned_down(batch: Estimate, said: str) -> None:
    assert says_of(batch, 16, 512) == said


def made(
    seeds: int, slope: float = 1.0, noise: float = 0.0, spread: float = 1.0, share: float = 0.05, **changes: Any
) -> list[CriticalRow]:
    """Branches from 16 to 512 whose loss grows by `slope` for each octave beyond 32, best with the root of the rate."""
    draw, rows = np.random.default_rng(0), []

    def row(seed: int, size: int, rule: str, order: int, loss: float) -> CriticalRow:
        base = {"samples": 100, "epoch": 0.6, "lr": 0.1, "updates": 5, "val_loss": loss, "grad_sq_norm": 2.0}
        return CriticalRow(
            **{**base, "grad_var": 100.0 + seed, **changes},
            seed=seed, share=share, batch_size=size, lr_rule=rule, order=order, val_loss_ema=loss,
        )  # fmt: skip

    for seed in range(seeds):
        # Seeds differ a lot, orders by `spread`: a variance of spread^2 over two orders.
        own = 10.0 * seed
        rows.append(row(seed, 16, "none", 0, own))
        for order, sign in ((1, 1), (2, -1)):
            rows.append(row(seed, 16, "none", order, own + sign * spread / 2**0.5))
        for size in (32, 64, 128, 256, 512):
            grown = slope * (math.log2(size) - 5) + float(draw.normal(0, noise))
            for rule, worse in (("none", 2.0), ("sqrt", 0.0), ("linear", 5.0)):
                rows.append(row(seed, size, rule, 0, own + grown + worse))
    return rows


def test_the_critical_batch_of_made_up_branches_is_found() -> None:
    (point,) = critical_batches(made(12))
    # The loss has grown by the spread, 1, at 64; at 128 it is beyond it.
    assert point.spread == pytest.approx(1.0)
    assert point.batch.mean == pytest.approx(64.0)
    assert [branch.lr_rule for branch in point.branches] == ["none"] + ["sqrt"] * 5
    assert [branch.difference.mean for branch in point.branches if branch.difference] == pytest.approx(
        [0, 0, 1, 2, 3, 4]
    )
    assert (point.says, point.b_simple.value) == ("estimate", pytest.approx(105.5 / 2))


def test_the_interval_covers_the_truth_and_narrow_ones_are_estimates() -> None:
    (point,) = critical_batches(made(12, noise=0.3))
    assert point.batch.low is not None
    assert point.batch.high is not None
    assert point.batch.low < 64 < point.batch.high
    assert point.says == "estimate"
    (wide,) = critical_batches(made(12, slope=0.3, noise=1.5))
    assert wide.says != "estimate"


def test_flat_and_steep_losses_give_bounds() -> None:
    (flat,) = critical_batches(made(12, slope=0.0))
    # All sizes are within in every draw: the largest of them is a lower bound.
    assert (flat.batch.mean, flat.batch.low, flat.says) == (math.inf, 512.0, "at least")
    assert batch_text(flat) == "at least 512 (only a bound)"
    (steep,) = critical_batches([row for row in made(12, slope=50.0, noise=0.1) if row.batch_size != 32])
    assert (steep.says, steep.batch.mean < 32) == ("estimate", True)
    part = critical_part(made(12, slope=0.2, noise=0.1))
    assert "only a bound" in part.sentences[0]


def test_a_branch_that_diverged_rules_out_its_rule_and_with_all_of_them_its_size() -> None:
    rows = made(12)
    bad = [row for row in rows if row.batch_size == 64 and row.seed == 3]
    for row in bad[:2]:
        rows[rows.index(row)] = CriticalRow(**{**_values(row), "val_loss_ema": None, "val_loss": None})
    (point,) = critical_batches(rows)
    # None and sqrt are out at 64: linear is 5 worse, so that only 32 is within.
    assert 32 <= point.batch.mean < 64
    for row in rows[:]:
        if row.batch_size == 64 and row.seed == 3 and row.val_loss_ema is not None:
            rows[rows.index(row)] = CriticalRow(**{**_values(row), "val_loss_ema": None})
    (point,) = critical_batches(rows)
    assert point.branches[2].difference is None
    assert point.batch.mean == pytest.approx(32.0)
    assert "✗" in texts(critical_figure([point]))


@pytest.mark.parametrize("order", [0, 1])
def test_where_the_trunks_own_batch_diverged_no_batch_is_called_critical(order: int) -> None:
    rows = made(12)
    (bad,) = (row for row in rows if (row.batch_size, row.seed, row.order) == (16, 3, order))
    rows[rows.index(bad)] = CriticalRow(**{**_values(bad), "val_loss_ema": None, "val_loss": None})
    assert critical_batches(rows) == []


def _values(row: CriticalRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def test_seeds_without_all_branches_are_left_out_and_few_seeds_have_no_interval() -> None:
    rows = made(3)
    rows = [row for row in rows if not (row.seed == 1 and row.batch_size == 512)]
    (point,) = critical_batches(rows)
    assert (point.batch.num, point.batch.low, point.says) == (2, None, "nothing")
    assert batch_text(point) == "64 (2 seeds: no interval)"
    # Nothing to compare: without the own batch, or with nothing but it.
    assert critical_batches([row for row in made(2) if row.batch_size != 16]) == []
    assert critical_batches([row for row in made(2) if row.batch_size == 16]) == []


def test_the_figure_draws_estimates_as_marks_and_bounds_as_arrows() -> None:
    rows = made(12, noise=0.1) + made(12, slope=0.2, noise=0.1, share=0.4)
    points = critical_batches(rows)
    assert [point.says for point in points] == ["estimate", "at least"]
    figure = critical_figure(points)
    along = figure.axes[0]
    marks = [line for line in along.lines if line.get_marker() == "o"]
    assert [float(line.get_ydata()[0]) for line in marks] == [pytest.approx(points[0].batch.mean)]
    arrows = [text for text in along.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 1
    assert "at least" in critical_part(rows).sentences[0]


# -- files and the program


def test_branches_are_kept_one_by_one_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "critical.csv"
    kept = critical_branches(path, {"lr": 0.1, "epochs": 2.0})
    kept.begin({"seeds": [0]})
    rows = made(2)
    rows[4] = CriticalRow(**{**_values(rows[4]), "val_loss": None, "val_loss_ema": None})
    for row in reversed(rows):
        kept.keep(row)
        assert len(read_critical(path)) == len(kept.rows)
    assert sorted(map(str, read_critical(path))) == sorted(map(str, rows))
    again = critical_branches(path, {"lr": 0.1, "epochs": 2})
    assert again.rows == kept.rows
    with pytest.raises(StoreError, match=r"critical.csv has lr = 0.1 there, 0.2 now; choose another --name"):
        critical_branches(path, {"lr": 0.2, "epochs": 2.0})
    path.write_text(path.read_text().replace("sqrt", "", 1))
    with pytest.raises(StoreError, match=r"critical.csv:\d+: lr_rule is empty"):
        critical_branches(path, {"lr": 0.1, "epochs": 2.0})


QUICK = ("--dataset", "digits", "--train-size", "600", "--batch-size", "8", "--epochs", "1", "--jobs", "1")


def test_the_program_makes_what_is_missing_and_nothing_twice(bsexp: Bsexp, tmp_path: Path) -> None:
    first = bsexp("measure", "--critical", *QUICK, "--seeds", "0", "--json")
    assert first.returncode == 0, first.stderr
    place = tmp_path / "results" / "critical"
    document = json.loads(first.stdout)
    assert [point["share"] for point in document["points"]] == [0.05, 0.15, 0.4, 0.8]
    assert document["points"][0]["batch"]["num"] == 1
    whole = (place / "critical.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 73
    assert {"critical.csv", "critical.json", "report"} == {path.name for path in place.iterdir()}
    assert {"critical.png", "critical.svg", "measured.md"} == {path.name for path in (place / "report").iterdir()}
    # As if it had been interrupted.
    (place / "critical.csv").write_bytes(b"".join(lines[:30] + lines[50:]))
    second = bsexp("measure", "--critical", *QUICK, "--seeds", "0")
    assert second.returncode == 0, second.stderr
    assert "20 of 72 branches to make" in second.stderr
    assert "only a bound" in second.stdout or "no interval" in second.stdout
    assert (place / "critical.csv").read_bytes() == whole
    third = bsexp("measure", "--critical", *QUICK, "--seeds", "0")
    assert "0 of 72 branches to make" in third.stderr
    more = bsexp("measure", "--critical", *QUICK, "--seeds", "1")
    assert more.returncode == 0, more.stderr
    assert "seed 1 at 0.8 of the budget: done" in more.stderr
    assert json.loads((place / "critical.json").read_text())["seeds"] == [0, 1]
    other = bsexp("measure", "--critical", *QUICK, "--seeds", "0", "--lr", "0.5")
    assert (other.returncode, "has lr = 0.0125 there, 0.5 now" in other.stderr) == (5, True)


def test_a_trunk_that_diverged_is_told_with_its_seed() -> None:
    (trunk,) = trunks({"dataset": "digits", "train_size": 600, "batch_size": 8, "epochs": 1.0, "lr": 1e20}, [5])
    with pytest.raises(UsageError, match=r"seed 5 had diverged after \d+ samples"):
        list(grow(trunk, critical.branches(), "cpu"))


def test_a_point_without_an_interval_says_how_many_seeds_there_are() -> None:
    point = Critical(0.1, 1.0, 0.1, (), Estimate(math.inf, None, None, 4), "nothing", None)  # type: ignore[arg-type]
    assert batch_text(point) == "above all that were tried (4 seeds: no interval)"
