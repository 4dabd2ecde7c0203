"""Closed loops in a training: what is decided is done, told, resumed to the same bytes, and can be replayed."""

import csv
import json
import math
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from bsexp import RunConfig, Training
from bsexp.data.sources import Images
from bsexp.data.splits import prepare
from bsexp.records import DecisionRow, EvalRow, StepRecord, StepRow, columns
from bsexp.store.paths import Experiment
from tests.conftest import Bsexp
from tests.faults.programs import Program, contents, wait_until
from tests.test_engine import timeless, weights

SMALL: dict[str, Any] = {"schedule": "adaptive-batch", "epochs": 6.0, "train_size": 400, "evals": 30}


def adaptive(
    digits: Images, policy: str, state: dict[str, Any] | None = None, parameters: Any = (), **options: Any
) -> Training:
    config = RunConfig(**{**SMALL, "parameters": {"policy": policy, **dict(parameters)}, **options})
    return Training(config, state, data=prepare(config, digits), device="cpu")


def of(records: list[Any], kind: type) -> list[Any]:
    return [record for record in records if isinstance(record, kind)]


@pytest.mark.parametrize("policy", ["gns", "norm-test", "diversity", "cosine", "loss", "plateau"])
def test_what_is_decided_is_done_within_its_bounds(digits: Images, policy: str) -> None:
    run = adaptive(digits, policy, parameters={"min_batch": 8}, max_batch=100)
    records = list(run)
    decisions, updates = of(records, DecisionRow), of(records, StepRecord)
    assert sum(update.batch_size for update in updates) == updates[-1].samples == 2400
    assert run.outcome is not None
    assert run.outcome.status == "finished"
    assert 15 < len(decisions) <= 99
    for row, after in zip(decisions, [*decisions[1:], None], strict=True):
        assert 8 <= row.batch_size <= 100
        if after is not None:
            assert row.batch_size / 2 <= after.batch_size <= 2 * row.batch_size
        following = [u for u in updates if row.step < u.step and (after is None or u.step <= after.step)]
        # The last two updates share what is left.
        assert all(u.batch_size == row.batch_size for u in following if u.step < len(updates) - 2)
    # One after the first update past each percent of 2,400 samples, unless one update passes several.
    ends = [0, *(update.samples for update in updates[:-1])]
    assert [row.samples for row in decisions] == [b for a, b in pairwise(ends) if a // 24 != b // 24]
    assert len({row.batch_size for row in decisions}) > 1


def test_a_row_tells_what_was_seen(digits: Images) -> None:
    records = list(adaptive(digits, "gns", parameters={"min_batch": 2}, evals=100))
    rows, evals = of(records, DecisionRow), of(records, EvalRow)
    for row in rows:
        assert row.epoch == row.samples / 400
        assert row.grad_var is not None
        if row.b_simple is None:
            assert row.grad_sq_norm is None or row.grad_sq_norm <= 0
            assert row.reason.startswith("held")
        else:
            assert row.b_simple == pytest.approx(row.grad_var / row.grad_sq_norm)
            assert row.wanted == row.b_simple
            assert row.cosine == pytest.approx(1 / (1 + 2 * row.b_simple / row.batch_size))
    by_samples = {row.samples: row.val_loss for row in evals}
    assert [row.val_loss for row in rows if row.samples in by_samples] == [
        by_samples[row.samples] for row in rows if row.samples in by_samples
    ]
    assert any(row.samples in by_samples for row in rows)


def test_the_loss_that_is_seen_is_smoothed_in_samples(digits: Images) -> None:
    """The first decision, worked out from the updates before it: half-life 24 samples, 1 % of the budget."""
    records = list(adaptive(digits, "loss", batch_size=10, precision="fp64"))
    first = records.index(of(records, DecisionRow)[0])
    total = weight = 0.0
    losses = [float(record.loss) for record in of(records[:first], StepRecord)]
    for loss in losses:
        kept = 0.5 ** (10 / 24)
        total, weight = kept * total + (1 - kept) * loss, kept * weight + 1 - kept
    row = records[first]
    assert len(losses) == 3
    assert row.loss == pytest.approx(total / weight, rel=1e-12)
    assert row.wanted == pytest.approx(10 * losses[0] / (total / weight), rel=1e-12)


CASES: list[Any] = [
    ("gns", {}, {"dropout": 0.3}),
    ("norm-test", {}, {"micro_batch": 30}),
    ("diversity", {}, {"norm": "batch", "ghost_batch": 4}),
    ("cabs", {"effective_lr": True}, {"log_samples": 0}),
    ("loss", {"floor": 0.1}, {"label_noise": 0.2, "log_samples": 500}),
    ("plateau", {"patience": 1}, {}),
    ("shadow", {"follow_parameters": {"shape": "exponential"}}, {}),
]


@pytest.mark.parametrize("share", [0.05, 0.33, 0.8])
@pytest.mark.parametrize(("policy", "parameters", "options"), CASES, ids=[case[0] for case in CASES])
def test_a_loop_that_is_stopped_in_mid_run_goes_on_to_the_same_bytes(
    digits: Images, share: float, policy: str, parameters: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    whole = adaptive(digits, policy, parameters=parameters, **options)
    expected = [timeless(record) for record in whole]
    first = adaptive(digits, policy, parameters=parameters, **options)
    begun = [timeless(next(first)) for _ in range(round(share * len(expected)))]
    torch.save(first.state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = adaptive(digits, policy, state, parameters=parameters, **options)
    assert begun + [timeless(record) for record in second] == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))


@pytest.mark.parametrize("policy", ["plateau", "gain"])
def test_an_adaptive_rate_goes_on_to_the_same_bytes(digits: Images, policy: str) -> None:
    options: dict[str, Any] = {"schedule": "adaptive-lr", "batch_size": 32, "lr": 0.05}
    parameters = {"patience": 0, "threshold": 0.05} if policy == "plateau" else {}
    expected = [timeless(record) for record in adaptive(digits, policy, parameters=parameters, **options)]
    first = adaptive(digits, policy, parameters=parameters, **options)
    begun = [timeless(next(first)) for _ in range(len(expected) // 2)]
    second = adaptive(digits, policy, first.state(), parameters=parameters, **options)
    assert begun + [timeless(record) for record in second] == expected
    updates = [record for record in expected if "loss" in record and "batch_size" in record and "epoch" not in record]
    assert {update["batch_size"] for update in updates[:-2]} == {32}
    rates = [update["lr"] for update in updates]
    if policy == "plateau":
        assert all(after in (before, pytest.approx(before / 10)) for before, after in pairwise(rates))
        assert min(rates) < 0.05 == max(rates)
    else:
        # Between the rate at the reference batch, 16, and twice that.
        assert rates[0] == 0.05
        assert all(0.05 < rate < 0.1 for rate in rates[20:])


@pytest.mark.parametrize(("policy", "scaling"), [("gns", "sqrt"), ("norm-test", "none"), ("diversity", "linear")])
def test_logged_batch_sizes_replayed_as_custom_give_the_same_run(digits: Images, policy: str, scaling: str) -> None:
    run = adaptive(digits, policy, max_batch=64, warmup_epochs=0.5)
    records = list(run)
    decisions = of(records, DecisionRow)
    curve = {
        "curve": "piecewise",
        "boundaries": [row.samples / 2400 for row in decisions],
        "values": [1.0, *(row.batch_size / 16 for row in decisions)],
    }
    options = {**SMALL, "schedule": "custom", "parameters": {"batch": curve}, "lr_scaling": scaling, "max_batch": 64}
    config = RunConfig(**options, measure_noise=True, warmup_epochs=0.5)
    replay = Training(config, data=prepare(config, digits), device="cpu")
    again = list(replay)
    assert [timeless(r) for r in records if not isinstance(r, DecisionRow)] == [timeless(record) for record in again]
    assert all(torch.equal(a, b) for a, b in zip(weights(run), weights(replay), strict=True))
    assert len({row.batch_size for row in decisions}) > 1
    assert all(row.grad_var is not None for row in of(again, StepRow) if row.samples > 300)


def test_shadow_trains_as_what_it_follows(digits: Images) -> None:
    records = list(adaptive(digits, "shadow", parameters={"follow_parameters": {"shape": "exponential"}}))
    options = {**SMALL, "schedule": "growing-batch", "parameters": {"shape": "exponential"}, "measure_noise": True}
    config = RunConfig(**options)
    plain = list(Training(config, data=prepare(config, digits), device="cpu"))
    decisions = of(records, DecisionRow)
    assert [timeless(r) for r in records if not isinstance(r, DecisionRow)] == [timeless(record) for record in plain]
    names = ["shadow", "gns", "norm-test", "diversity", "cosine", "cabs", "loss", "plateau"]
    assert [row.policy for row in decisions] == names * (len(decisions) // len(names))
    assert all(row.reason.startswith("held: refused: cabs") for row in decisions if row.policy == "cabs")
    after = {u.step: u.batch_size for u in of(plain, StepRecord)}
    assert all(after[row.step + 1] == row.batch_size for row in decisions[:-24] if row.policy == "shadow")


def test_a_loop_that_diverges_is_a_result(digits: Images) -> None:
    run = adaptive(digits, "loss", lr=1e6, log_samples=600)
    rows = of(list(run), DecisionRow)
    assert run.outcome is not None
    assert run.outcome.status == "diverged"
    assert all(row.reason.startswith("held") for row in rows if row.loss is None)
    assert all(row.loss is None or math.isfinite(row.loss) for row in rows)


def test_measuring_is_paid_for_by_the_policy_that_decides_by_it(digits: Images) -> None:
    """A measuring pass is part of the training where the schedule needs it, and of looking on where it doesn't."""
    ticks = iter(range(10**9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: float(next(ticks)))
        counts = []
        for on in (False, True):
            config = RunConfig(**SMALL | {"schedule": "fixed-small", "measure_noise": on, "batch_size": 24})
            run = Training(config, data=prepare(config, digits), device="cpu")
            list(run)
            assert run.outcome is not None
            counts.append(run.outcome.eval_seconds)
    # Each of the 100 updates is measured: one tick more on the clock of looking on.
    assert counts[1] - counts[0] == 100


# -- files


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_program_writes_decisions_and_plans_bounds(bsexp: Bsexp, tmp_path: Path) -> None:
    options = ["adaptive-batch", "--set", "policy=noise", "--epochs", "3", "--train-size", "400", "--max-batch", "40"]
    result = bsexp("run", *options, "--json")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / json.loads(result.stdout)["run_dir"]
    rows = rows_of(folder / "decisions.csv")
    assert tuple(rows[0]) == columns(DecisionRow)
    assert all(row["policy"] == "noise" and row["reason"] for row in rows)
    assert all(16 <= int(row["batch_size"]) <= 40 for row in rows)
    document = json.loads(bsexp("plan", *options, "--json").stdout)
    updates = json.loads((folder / "summary.json").read_text())["updates"]
    assert document["fewest_updates"] <= updates <= document["updates"]
    assert (document["smallest_batch"], document["largest_batch"], document["rows"]) == (16, 40, [])
    told = bsexp("plan", *options)
    assert "decided along the run within 16 to 40" in told.stdout
    drawn = bsexp("plan", *options, "--figure", "plan.png")
    assert (drawn.returncode, drawn.stderr.startswith("bsexp: --figure: with adaptive-batch")) == (2, True)
    names = [item["name"] for item in json.loads(bsexp("list", "policies", "--json").stdout)["items"]]
    assert {"adaptive-batch: norm-test", "adaptive-lr: gain"} <= set(names)


def test_a_killed_run_leaves_the_same_files(tmp_path: Path) -> None:
    options = ("run", "adaptive-batch", "--epochs", "40", "--checkpoint-seconds", "0", "--threads", "1", "--quiet")
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = Program(tmp_path / "whole", *options)
    assert whole.wait() == 0, whole.said()
    cut = Program(tmp_path / "cut", *options)
    place = tmp_path / "cut" / "results" / "runs" / "runs"
    wait_until(lambda: any(_decided(path) > 3 for path in place.glob("*/attempt-*/decisions.csv")), cut)
    cut.signal(signal.SIGKILL)
    assert cut.wait() == -signal.SIGKILL
    again = Program(tmp_path / "cut", *options, name="again")
    assert again.wait() == 0, again.said()
    one, other = (Experiment(tmp_path / name / "results" / "runs").run_folders()[0].path for name in ("whole", "cut"))
    assert (one / "decisions.csv").read_bytes() == (other / "decisions.csv").read_bytes()
    assert contents(one) == contents(other)
    environment = json.loads((other / "environment.json").read_text())
    assert environment["attempts"] == 2


def _decided(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_a_sweep_reports_adaptive_arms_beside_the_others(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "both.toml").write_text(
        '[run]\nepochs = 2\ntrain_size = 300\nseeds = "0-1"\nmax_batch = 64\n'
        '[arms.fixed]\nschedule = "fixed-small"\n[arms.decay]\nschedule = "lr-decay"\n'
        '[arms.noise]\nschedule = "adaptive-batch"\npolicy = "gns"\n'
    )
    plan = json.loads(bsexp("plan", "both.toml", "--json").stdout)
    assert {beginning["arm"] for beginning in plan["shared_beginnings"]} == {"decay"}
    result = bsexp("sweep", "both.toml", "--jobs", "1", "--share-prefix")
    assert result.returncode == 0, result.stderr
    report = tmp_path / "results" / "both" / "report"
    arms = {row["arm"]: row for row in rows_of(report / "arms.csv")}
    # 600 samples in batches of 16: the last two share 24.
    assert float(arms["fixed"]["batch_size_last"]) == 12
    assert float(arms["noise"]["batch_size_last"]) > 16
    assert any("schedule" in path.name for path in report.glob("*.png"))
