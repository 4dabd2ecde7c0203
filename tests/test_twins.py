"""Twins, what is measured between them, and what is measured of finished runs afterwards: from file to verdict."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bsexp.analysis.claims import Claim
from bsexp.analysis.declared import Design, read_claims
from bsexp.analysis.outcomes import outcomes_of
from bsexp.analysis.twins import find_twins, twin_of
from bsexp.analysis.twoway import two_way
from bsexp.analysis.verdicts import judge_results
from bsexp.config import RunConfig
from bsexp.data.sources import load_images
from bsexp.data.splits import prepare
from bsexp.engine.landscape import Landscape
from bsexp.errors import StoreError, UsageError
from bsexp.records import InspectedRow
from bsexp.store.inspected import read_inspected, write_inspected
from bsexp.store.pack import pack
from bsexp.store.paths import Experiment
from bsexp.store.products import Products
from bsexp.store.tables import load_results
from bsexp.sweep.experiment import read_experiment
from bsexp.sweep.inspecting import inspect_runs
from tests.conftest import ROOT, Bsexp

SEEDS = tuple(range(6))


def arm(schedule: str = "fixed-small", **rest: Any) -> dict[str, Any]:
    return {"schedule": schedule, "parameters": {}, **rest}


def test_a_twin_differs_in_nothing_but_the_order() -> None:
    arms = {
        "a": arm(),
        "said": arm(order=1, batch_size=16, dataset="digits"),  # the defaults, said
        "other-batch": arm(order=1, batch_size=32),
        "other-schedule": arm("lr-decay", order=1),
        "other-noise": arm(order=1, label_noise=0.2),
        "b": arm(batch_size=32),
    }
    twins = {"a": ("said",), "said": ("a",), "b": ("other-batch",), "other-batch": ("b",)}
    assert find_twins(arms, {}, tuned=False) == twins


def test_two_other_orders_are_twins_of_the_first_and_not_of_each_other() -> None:
    arms = {"a": arm(), "again": arm(order=1), "late": arm(order=1, order_from=2), "third": arm(order=2)}
    assert twin_of("again", arms, {}, False) == twin_of("late", arms, {}, False) == "a"
    with pytest.raises(UsageError) as told:
        twin_of("a", arms, {}, False)
    assert str(told.value) == "a: has several twins: again, late, third; name one of these: they have one each"


def test_twins_have_one_learning_rate() -> None:
    arms = {"a": arm(), "again": arm(order=1)}
    assert twin_of("a", arms, {"again": ("a", 1.0)}, tuned=True) == "again"
    for rates, tuned, lrs in (({}, True, {}), ({"again": ("a", 2.0)}, True, {}), ({}, False, {"again": 0.1})):
        given = {name: {**settings, **({"lr": lrs[name]} if name in lrs else {})} for name, settings in arms.items()}
        with pytest.raises(UsageError, match="another learning rate than again") as told:
            twin_of("a", given, rates, tuned)
        assert 'lr_from = "a"' in str(told.value)
        with pytest.raises(UsageError, match='lr_from = "a"'):
            twin_of("again", given, rates, tuned)
    both = {"a": arm(lr=0.1), "again": arm(order=1, lr=0.1)}
    assert twin_of("a", both, {}, tuned=True) == "again"


CLAIM = {"text": "t", "compare": ["a", "b"], "metric": "disagreement", "expect": "better"}
PAIRS = {"a": arm(), "a2": arm(order=1), "b": arm(batch_size=32), "b2": arm(batch_size=32, order=1)}


def test_a_claim_about_twins_needs_them() -> None:
    (found,) = read_claims([CLAIM], Design(PAIRS, SEEDS))
    assert (found.claim.outcome, found.claim.sign) == ("disagreement", 1.0)
    lonely = {name: settings for name, settings in PAIRS.items() if name != "b2"}
    with pytest.raises(UsageError) as told:
        read_claims([CLAIM], Design(lonely, SEEDS))
    said = "claims[0].metric: disagreement: b: has no twin in another order; add an arm that is the same"
    assert str(told.value).startswith(said)
    control = {**CLAIM, "compare": ["a", "a2"], "expect": "equivalent", "margin": 0.25, "control": "b"}
    with pytest.raises(UsageError, match="b: has no twin"):
        read_claims([control], Design(lonely, SEEDS))


def test_what_counts_as_better() -> None:
    signs = {"disagreement": 1, "barrier": 1, "sharpness": -1, "lr_sharpness": -1, "calibration_error": -1}
    for outcome, sign in {**signs, "val_loss_at_target": -1, "val_accuracy_at_target": 1}.items():
        assert Claim("c", ("a", "b"), outcome, "better", SEEDS).sign == sign


def experiment(metric: str, **run: Any) -> dict[str, Any]:
    arms = {"a": {"schedule": "fixed-small"}, "a2": {"schedule": "fixed-small", "order": 1, "lr_from": "a"}}
    arms |= {name.replace("a", "b"): {**each, "batch_size": 32} for name, each in arms.items()}
    arms["b2"]["lr_from"] = "b"
    claims = [{"text": "t", "compare": ["a", "b"], "metric": metric, "expect": "better"}]
    tune = {"lr": [0.01], "seeds": "100"}
    return {"run": {"seeds": "0-5", **run}, "tune": tune, "arms": arms, "claims": claims}


def test_what_needs_weights_is_refused_where_they_are_not_kept() -> None:
    for metric in ("sharpness", "lr_sharpness", "barrier"):
        with pytest.raises(UsageError, match="without kept weights; add save_model = true to") as told:
            read_experiment(experiment(metric), {}, "", "x")
        assert told.value.what == "claims[0].metric"
        assert read_experiment(experiment(metric, save_model=True), {}, "", "x").inspected
    assert not read_experiment(experiment("disagreement"), {}, "", "x").inspected


def test_variants_of_a_claim_about_twins_have_their_twins_varied_too() -> None:
    asked = read_experiment({**experiment("disagreement"), "sensitivity": {"lr_factor": [2.0]}}, {}, "", "x")
    assert set(asked.variants) == {f"{name}[lr_factor=2]" for name in ("a", "a2", "b", "b2")}


FILE = """
[run]
dataset = "digits"
label_noise = 0.2
epochs = 3
evals = 6
seeds = "0-5"
save_model = true
underpowered = true
[target]
train_loss = 1.9
[tune]
lr = [0.0125, 0.05]
seeds = "100"
[arms.small]
schedule = "fixed-small"
batch_size = 8
[arms.small-again]
schedule = "fixed-small"
batch_size = 8
order = 1
lr_from = "small"
[arms.large]
schedule = "fixed-small"
batch_size = 64
[arms.large-late]
schedule = "fixed-small"
batch_size = 64
order = 1
order_from = 2
lr_from = "large"
[[claims]]
text = "Small batches lead further apart"
compare = ["small", "large"]
metric = "disagreement"
expect = "better"
[[claims]]
text = "There is a higher barrier between small batches"
compare = ["small", "large"]
metric = "barrier"
expect = "better"
[[claims]]
text = "Large batches end in sharper places"
compare = ["large", "small"]
metric = "sharpness"
expect = "worse"
[[claims]]
text = "Large batches are worse calibrated"
compare = ["large", "small"]
metric = "calibration_error"
expect = "worse"
[[claims]]
text = "At equal training loss large batches are worse"
compare = ["large", "small"]
metric = "val_loss_at_target"
expect = "worse"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment above, made once, with its report; its results folder."""
    folder = tmp_path_factory.mktemp("twins")
    (folder / "try.toml").write_text(FILE)
    command = [sys.executable, "-m", "bsexp", "sweep", "try.toml", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return folder / "results" / "try"


def predictions(made: Path, name: str, seed: int) -> dict[str, Any]:
    (folder,) = made.glob(f"runs/{name}-lr*-s{seed}-*")
    with np.load(folder / "test_predictions.npz") as arrays:
        return dict(arrays)


def means_of(made: Path) -> dict[str, Any]:
    findings = judge_results(load_results(made))
    assert findings is not None
    return {judged.declared.claim.outcome: judged for judged in findings.judged}


def test_disagreement_is_the_share_of_images_that_two_stored_runs_predict_differently(made: Path) -> None:
    found = outcomes_of(load_results(made), ["disagreement"], {})
    shares, rows = {}, []
    for arm, twin in (("small", "small-again"), ("large", "large-late")):
        for seed in range(6):
            one, two = (predictions(made, name, seed)["last_classes"] for name in (arm, twin))
            different = one != two
            for name in (arm, twin):
                record = found[name, seed]
                assert record.values["disagreement"] == pytest.approx(different.mean())
                table, place = record.examples["disagreement"]
                rows.append(different)
                assert (table.num, table.sums[place]) == (len(different), different.sum())
                assert table.products[place, place] == different.sum()
            shares[arm, seed] = different.mean()
    assert min(shares.values()) > 0
    verdict = means_of(made)["disagreement"].verdict
    assert verdict.num_pairs == 6
    assert verdict.estimate.mean == pytest.approx(
        np.mean([shares["small", seed] - shares["large", seed] for seed in range(6)])
    )
    assert verdict.new_data.mean == pytest.approx(verdict.estimate.mean)
    # The interval for new images is that of the plain table of images on which twins disagree.
    columns = np.array(rows, dtype=float).reshape(2, 6, 2, -1)[:, :, 0]
    assert verdict.new_data.half_width == pytest.approx(
        two_way(Products.of(columns[0] - columns[1])).interval(1 - verdict.alpha).half_width
    )


def test_packed_results_give_the_same_verdicts(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "try")
    pack(Experiment(tmp_path / "try"))
    shutil.rmtree(tmp_path / "try" / "runs")
    assert {key: each.verdict for key, each in means_of(tmp_path / "try").items()} == {
        key: each.verdict for key, each in means_of(made).items()
    }
    with pytest.raises(StoreError, match="inspect before packing"):
        inspect_runs(Experiment(tmp_path / "try"), "cpu", lambda text: None)


def test_a_run_whose_twin_failed_counts_as_failed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "try")
    results = load_results(tmp_path / "try")
    runs = results.runs.copy()
    runs.loc[(runs["arm"] == "small-again") & (runs["seed"] == 3), "status"] = "diverged"
    results.runs[:] = runs
    found = outcomes_of(results, ["disagreement", "barrier"], {})
    assert found["small", 3].values["disagreement"] == found["small", 3].values["barrier"] == np.inf
    assert np.isfinite(found["small", 4].values["disagreement"])  # type: ignore[arg-type]


def test_the_sweep_has_measured_what_its_claims_are_about(made: Path) -> None:
    rows = read_inspected(Experiment(made).inspected)
    assert len(rows) == 24
    table = pd.read_csv(made / "runs.csv")
    for row in rows.values():
        (folder,) = made.glob(f"runs/*-{row.config_hash[:8]}")
        steps = pd.read_csv(folder / "steps.csv")
        assert row.lr == steps["lr"].iloc[-1]
        assert row.sharpness is not None
        assert row.lr_sharpness == pytest.approx(row.lr * row.sharpness)
        assert row.sharpness > 0
        assert row.barrier is not None
        assert row.twin == {"small": "small-again", "large": "large-late"}.get(row.arm, row.arm.partition("-")[0])
    by_arm = pd.DataFrame([(row.arm, row.seed, row.barrier) for row in rows.values()], columns=["arm", "seed", "b"])
    both = by_arm.pivot_table(index="seed", columns="arm", values="b")
    # From either end the way is the same.
    assert np.allclose(both["small"], both["small-again"], rtol=1e-3, atol=1e-6)
    assert len(table) == 24


def test_calibration_is_that_of_the_stored_confidences(made: Path) -> None:
    rows = [row for row in read_inspected(Experiment(made).inspected).values() if row.arm == "large"]
    for row in rows:
        kept = predictions(made, "large", row.seed)
        confidences, right = kept["last_confidences"].astype(float), kept["last_classes"] == kept["labels"]
        bins = np.clip(np.ceil(confidences * 15) - 1, 0, 14)
        frame = pd.DataFrame({"bin": bins, "gap": right - confidences}).groupby("bin")["gap"].sum()
        assert row.calibration_error == pytest.approx(frame.abs().sum() / len(right))


def test_a_sharpness_is_told_with_the_learning_rate(made: Path) -> None:
    text = (made / "report" / "report.md").read_text()
    rows = read_inspected(Experiment(made).inspected).values()
    for arm in ("small", "large"):
        mean = np.mean([row.lr_sharpness for row in rows if row.arm == arm])
        assert re.search(rf"Learning rate × sharpness, mean over seeds: .*{arm} {mean:.3g}", text)


def test_claims_about_them_are_judged(made: Path) -> None:
    judged = means_of(made)
    rows = read_inspected(Experiment(made).inspected).values()
    for outcome in ("barrier", "sharpness", "calibration_error"):
        verdict = judged[outcome].verdict
        assert verdict.num_pairs == 6
        means = {arm: np.mean([getattr(row, outcome) for row in rows if row.arm == arm]) for arm in ("small", "large")}
        first, second = verdict.arms
        sign = judged[outcome].declared.claim.sign
        assert sign * verdict.estimate.mean == pytest.approx(means[first] - means[second])
    assert "Of disagreement and barrier" in (made / "report" / "report.md").read_text()


def test_the_loss_at_equal_training_loss_is_read_where_training_passed_it(made: Path) -> None:
    results = load_results(made)
    found = outcomes_of(results, ["val_loss_at_target"], {})
    values = []
    for run in results.runs.to_dict("records"):
        curve = results.evals[results.evals["config_hash"] == run["config_hash"]]
        below = np.flatnonzero((curve["train_loss"] < 1.9).to_numpy())
        told = found[run["arm"], run["seed"]].values.get("val_loss_at_target")
        steady = [k for k in below if k + 1 in below]
        if not steady:
            assert told is None
            continue
        k = steady[0]
        before, after = curve["train_loss"].iloc[k - 1], curve["train_loss"].iloc[k]
        share = (before - 1.9) / (before - after)
        losses = curve["val_loss"].iloc[k - 1], curve["val_loss"].iloc[k]
        assert told == pytest.approx(losses[0] + share * (losses[1] - losses[0]))
        values.append(told)
    assert len(values) >= 12


def test_the_barrier_is_that_to_the_twins_own_weights(made: Path, tmp_path: Path) -> None:
    """The twin's file holds a network made here: the same one with its hidden units in another order.

    It says the same, so both ends have one loss, and what lies between is another network.
    """
    shutil.copytree(made, tmp_path / "try")
    (tmp_path / "try" / "inspected.csv").unlink()
    (own,) = tmp_path.glob("try/runs/large-lr*-s2-*")
    (other,) = tmp_path.glob("try/runs/large-late-lr*-s2-*")
    weights = torch.load(own / "model.pt", weights_only=True)
    # pixels-128-128-classes: the first layer's units the other way round, and the second layer's inputs with them.
    (first, bias), (second, _), _ = (list(weights)[k : k + 2] for k in (0, 2, 4))
    turned = {**weights, first: weights[first].flip(0), bias: weights[bias].flip(0), second: weights[second].flip(1)}
    torch.save(turned, other / "model.pt")
    rows = {(row.arm, row.seed): row for row in inspect_runs(Experiment(tmp_path / "try"), "cpu", lambda text: None)}
    config = RunConfig(**json.loads((own / "config.json").read_text())["config"])
    landscape = Landscape(config, prepare(config, load_images("digits")), "cpu")
    ends = [landscape.loss(each) for each in (weights, turned)]
    assert ends[0] == pytest.approx(ends[1])
    middle = landscape.loss({name: (weights[name] + turned[name]) / 2 for name in weights})
    assert middle > ends[0] + 0.05
    # Both ways are the same, and symmetrical: the middle is its top, or nearly.
    for arm in ("large", "large-late"):
        assert rows[arm, 2].barrier == pytest.approx(middle - ends[0], rel=0.05)
    assert rows["large", 2].sharpness == pytest.approx(rows["large-late", 2].sharpness, rel=2e-3)


def test_inspecting_again_measures_only_what_is_missing(made: Path, tmp_path: Path, bsexp: Bsexp) -> None:
    shutil.copytree(made, tmp_path / "results" / "try")
    place = Experiment(tmp_path / "results" / "try")
    rows = read_inspected(place.inspected)
    changed, kept, *_ = rows
    # What stands there is taken as it is: a number that nobody measured shows it.
    rows[kept] = replace(rows[kept], sharpness=123.0, barrier=4.5)
    write_inspected(place.inspected, [row for key, row in rows.items() if key != changed])
    found = bsexp("inspect", "results/try", "--json")
    assert found.returncode == 0, found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    document = json.loads(found.stdout)
    assert document["experiment"] == "try"
    assert len(document["rows"]) == 24
    again = read_inspected(place.inspected)
    assert again.keys() == rows.keys()
    assert again[kept] == rows[kept]
    assert again[changed].sharpness == pytest.approx(rows[changed].sharpness, rel=1e-3)
    assert bsexp("inspect", "results/try").stderr == ""


def test_without_kept_weights_there_is_calibration_only(bsexp: Bsexp, tmp_path: Path) -> None:
    bsexp("run", "fixed-small", "--epochs", "0.5", "--train-size", "200", "--evals", "2")
    found = bsexp("inspect", "results/runs", "--json")
    assert found.returncode == 0, found.stderr
    (row,) = json.loads(found.stdout)["rows"]
    assert row["sharpness"] is row["barrier"] is row["lr_sharpness"] is None
    assert 0 <= row["calibration_error"] <= 1
    assert bsexp("inspect", "results/nowhere").returncode == 5


def test_a_table_that_was_edited_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "inspected.csv"
    row = InspectedRow("a", 0, "abc", 0.1, 0.05, 12.0, 0.6, "", None)
    other = InspectedRow("a", 1, "abd", None, 0.0, None, None, "a2", 0.0)
    write_inspected(path, [other, row])
    assert read_inspected(path) == {"abc": row, "abd": other}
    text = path.read_text()
    for old, new, said in (
        ("0.1,0.05", "1.1,0.05", ":2: calibration_error is 1.1"),
        ("12.0", "steep", ":2: sharpness is 'steep'"),
        ("abd", "abc", ":3: the run abc again"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(StoreError) as told:
            read_inspected(path)
        assert said in str(told.value)
    assert read_inspected(tmp_path / "nowhere.csv") == {}


def test_weights_that_are_damaged_are_told(made: Path, tmp_path: Path, bsexp: Bsexp) -> None:
    shutil.copytree(made, tmp_path / "results" / "try")
    (tmp_path / "results" / "try" / "inspected.csv").unlink()
    (folder,) = (tmp_path / "results" / "try" / "runs").glob("large-lr*-s0-*")
    (folder / "model.pt").write_bytes(b"nonsense")
    found = bsexp("inspect", "results/try", "-q")
    assert found.returncode == 5
    assert "model.pt" in found.stderr


def test_a_barrier_without_an_end_is_read_again(tmp_path: Path) -> None:
    row = InspectedRow("a", 0, "0" * 40, 0.1, 0.01, None, None, "b", math.inf)
    write_inspected(tmp_path / "inspected.csv", [row])
    assert list(read_inspected(tmp_path / "inspected.csv").values()) == [row]
