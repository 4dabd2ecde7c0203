"""Claims: from the experiment file to verdicts, and what was declared before the data.

The one rule: what a claim is about is settled before anything is trained, and every wrong claim is refused then.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bsexp.analysis.claims import Record
from bsexp.analysis.declared import Design, read_claims
from bsexp.analysis.judging import judge
from bsexp.analysis.outcomes import BUDGET, END, _add_ladders, _crossings
from bsexp.analysis.verdicts import judge_results
from bsexp.errors import StoreError, UsageError
from bsexp.store.lock import changes, claims_hash, declaration, declare, read_lock
from bsexp.store.paths import Experiment
from bsexp.store.predictions import finished_with_predictions, read_examples, stacked, told_losses
from bsexp.store.products import Products
from bsexp.store.tables import load_results
from bsexp.sweep.experiment import read_experiment
from bsexp.sweep.tuning import Tune, rates_beyond
from tests.conftest import ROOT, Bsexp

SEEDS = tuple(range(6))
CLAIM = {"text": "a is better", "compare": ["a", "b"], "metric": "test_loss", "expect": "better"}
DESIGN = Design({"a": {}, "b": {}, "c[dropout=0]": {}, "c[dropout=0.5]": {"batch_size": 8}}, SEEDS, (100,), (), False)

FILE = """
question = "Does decaying the rate beat keeping it?"
[run]
dataset = "digits"
label_noise = 0.2
epochs = 2
seeds = "0-5"
[tune]
lr = [0.0125, 0.05]
seeds = "100"
[arms.constant]
schedule = "fixed-small"
[arms.decay]
schedule = "lr-decay"
[arms.grow]
schedule = "growing-batch"
lr_from = "decay"
[arms.large]
schedule = "fixed-large"
[sensitivity]
lr_factor = [0.5]
[[claims]]
text = "Growing ends where decaying ends"
compare = ["grow", "decay"]
metric = "test_loss"
expect = "equivalent"
control = "constant"
margin = 0.25
"""


def claimed(**changes: Any) -> dict[str, Any]:
    return {**CLAIM, **changes}


@pytest.mark.parametrize(
    ("claim", "where", "cure"),
    [
        ({"text": "x"}, "claims[0].compare", "text, compare"),
        (claimed(compare=["a", "bb"]), "claims[0].compare", "'b'"),
        (claimed(compare=["a", "c"]), "claims[0].compare", "c[dropout=0]"),
        (claimed(expect="bettr"), "claims[0].expect", "better"),
        (claimed(metric="test_los"), "claims[0].metric", "test_loss"),
        (claimed(metric="updates_to_target", kind="ratio"), "claims[0].metric", "[target]"),
        (claimed(metric="val_loss_at_target"), "claims[0].metric", "[target]"),
        (claimed(expects="better"), "claims[0].expects", "expect"),
        (claimed(expect="equivalent"), "margin", "needs a margin"),
        (claimed(compare=["a", "b", "c"], kind="slope"), "claims[0]", "along"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused_with_its_key(claim: dict[str, Any], where: str, cure: str) -> None:
    with pytest.raises(UsageError) as told:
        read_claims([claim], DESIGN)
    assert where in told.value.what
    assert cure in f"{told.value.which} {told.value.cure}"


def test_two_claims_cannot_say_the_same() -> None:
    with pytest.raises(UsageError, match="can't say the same"):
        read_claims([CLAIM, CLAIM], DESIGN)


def test_in_lists_an_arm_stands_for_all_of_its_cells() -> None:
    (found,) = read_claims([claimed(compare=[["a"], ["b", "c"]])], DESIGN)
    assert found.claim.kind == "best-of-a-set"
    assert found.claim.arms == (("a",), ("b", "c[dropout=0]", "c[dropout=0.5]"))
    assert found.claim.tuning_seeds == (100,)


def experiment(**tables: Any) -> dict[str, Any]:
    arms = {"a": {"schedule": "fixed-small"}, "b": {"schedule": "lr-decay", "lr_from": "a"}}
    return {"run": {"epochs": 4.0}, "tune": {"lr": [0.01], "seeds": "100"}, "arms": arms, **tables}


def test_rungs_of_a_ladder_are_arms_with_a_share_of_the_budget_and_take_the_rate_of_their_own_rung() -> None:
    asked = read_experiment(experiment(budgets={"samples": [0.25, 1.0]}), {}, "", "x")
    assert list(asked.arms) == ["a[budget=0.25]", "a", "b[budget=0.25]", "b"]
    assert [settings["epochs"] for settings in asked.arms.values()] == [1.0, 4.0, 1.0, 4.0]
    assert {arm: rate.of for arm, rate in asked.rates.items()} == {"b[budget=0.25]": "a[budget=0.25]", "b": "a"}


def test_variants_for_sensitivity_differ_in_one_thing_and_take_multiples_of_the_chosen_rate() -> None:
    asked = read_experiment(experiment(sensitivity={"lr_factor": [2.0], "weight_decay": [0.0]}), {}, "", "x")
    assert asked.variants["b[lr_factor=2]"] == ("b", "lr_factor=2")
    assert asked.rates["b[lr_factor=2]"] == ("a", 2.0)
    assert asked.rates["a[weight_decay=0]"] == ("a", 1.0)
    assert asked.arms["a[weight_decay=0]"]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"budgets": {"samples": [0.25, 0.5]}}, "budgets.samples"),
        ({"budgets": {"updates": [1.0]}}, "budgets.updates"),
        ({"sensitivity": {"lr": [0.1]}}, "sensitivity.lr"),
        ({"tune": {"lr": [0.1], "lr_factor": [1.0]}}, "tune.lr_factor"),
        ({"tune": {"lr_factor": 2.0}}, "tune.lr_factor"),
        ({"target": {"train_loss": 0.0}}, "target.train_loss"),
        ({"target": {"train_loss": 1.0, "val_loss": 1.0}}, "target"),
        ({"target": {"val_accuracy": 80.0}}, "target.val_accuracy"),
        ({"target": {"test_accuracy": 0.8}}, "target.test_accuracy"),
        ({"arms": {"a": {"schedule": "fixed-small", "lr_from": "z"}}}, "arms.a.lr_from"),
        ({"run": {"seeds": "auto:8,16"}}, "run.seeds"),
        ({"run": {"seeds": "auto:16,8"}, "claims": [CLAIM]}, "run.seeds"),
    ],
)
def test_what_an_experiment_cannot_mean_is_refused_with_its_key(tables: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError) as told:
        read_experiment(experiment(**tables), {}, "", "x")
    assert key in told.value.what


def test_looks_are_seeds_from_0_on() -> None:
    asked = read_experiment(experiment(run={"seeds": "auto:6,9"}, claims=[CLAIM]), {}, "", "x")
    assert asked.seeds == tuple(range(9))
    assert asked.looks == (6, 9)


def test_a_grid_grows_where_its_best_rate_lies_at_an_end() -> None:
    def rows(arm: str, rates: list[float], best: float) -> list[dict[str, Any]]:
        return [{"arm": arm, "lr": lr, "chosen": lr == best} for lr in rates]

    found = rates_beyond([*rows("low", [1, 3, 6], 1), *rows("in", [1, 2, 4], 2), *rows("high", [1, 3, 6], 6)])
    assert found == {"low": [1 / 3], "high": [12]}
    assert rates_beyond(rows("one", [8.0], 8.0)) == {"one": [4.0, 16.0]}


def test_the_lock_is_written_once_and_says_what_became_different(tmp_path: Path) -> None:
    place = Experiment(tmp_path)
    first = declaration({"claims": [CLAIM], "seeds": [0, 1], "tune": {"lr": [0.1]}})
    assert declare(place, first) == []
    kept = read_lock(place)
    assert kept is not None
    assert kept["hash"] == claims_hash(first)
    assert kept["runs_before"] == 0
    other = declaration({"claims": [claimed(margin=0.5)], "seeds": [0, 1, 2], "tune": {"lr": [0.1]}})
    assert changes(kept, other) == ["claim 'a is better': margin nothing became 0.5", "seeds added: 2"]
    # As long as no run has ended, nothing was seen, and the claims may change.
    assert declare(place, other) == []
    assert read_lock(place)["hash"] == claims_hash(other)  # type: ignore[index]
    document = json.loads(place.claims_lock.read_text())
    document["claims"][0]["margin"] = 0.1
    place.claims_lock.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="not what was written"):
        read_lock(place)


def test_sums_of_products_of_told_losses_are_exact_in_any_order() -> None:
    random = np.random.default_rng(5)
    losses = told_losses(random.gamma(0.3, 8.0, (7, 10_000)))
    assert np.abs(losses - np.round(losses * 4096) / 4096).max() == 0
    table, numbers = Products.of(losses), np.round(losses * 4096).astype(int).tolist()
    expected = [[sum(a * b for a, b in zip(one, two, strict=True)) for two in numbers] for one in numbers]
    assert (table.products * 4096**2).astype(object).tolist() == expected
    assert Products.of(losses[:, ::-1]).products.tolist() == table.products.tolist()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment above, made once; its results folder."""
    folder = tmp_path_factory.mktemp("claims")
    (folder / "try.toml").write_text(FILE)
    command = [sys.executable, "-m", "bsexp", "sweep", "try.toml", "--no-report", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return folder


def test_a_sweep_declares_judges_and_gives_the_same_from_packed_results(made: Path) -> None:
    place = made / "results" / "try"
    results = load_results(place)
    findings = judge_results(results)
    assert findings is not None
    assert findings.standing.startswith("Declared before the data")
    (judged,) = findings.judged
    verdict = judged.verdict
    assert verdict.num_pairs == 6
    assert list(judged.elsewhere) == ["lr_factor=0.5"]
    runs = results.runs
    losses = {arm: runs[runs["arm"] == arm].set_index("seed")["test_loss"] for arm in ("grow", "decay", "constant")}
    assert verdict.estimate is not None
    assert verdict.new_data is not None
    assert verdict.estimate.mean == pytest.approx((losses["decay"] - losses["grow"]).mean())
    assert verdict.new_data.mean == pytest.approx(verdict.estimate.mean, abs=2e-4)
    assert verdict.margin == pytest.approx(0.25 * (losses["constant"] - losses["decay"]).mean())
    # The arm that takes another's rate has it, and half of it in its variant.
    rates = runs.groupby("arm")["lr"].first()
    assert rates["grow"] == rates["decay"]
    assert rates["grow[lr_factor=0.5]"] == rates["decay"] / 2
    packed = made / "packed" / "try"
    shutil.copytree(place, packed)
    from bsexp.store.pack import pack

    pack(Experiment(packed))
    shutil.rmtree(packed / "runs")
    again = judge_results(load_results(packed))
    assert again is not None
    assert again.judged[0] == judged
    # Of what sensitivity added, updates are of no use to a report.
    kept = load_results(packed)
    assert {arm for arm in kept.evals["arm"] if "lr_factor" in arm} == set(results.definition["variants"])
    assert set(kept.steps["arm"]) == set(runs["arm"]) - set(results.definition["variants"])
    with np.load(packed / "test_predictions.npz") as arrays:
        # The claim is about losses, and about these three arms and their variants, not about what is only tried.
        assert set(arrays) == {"last_loss_products", "config_hash"}
        kept = set(arrays["config_hash"].tolist())
    named = runs["arm"].str.partition("[")[0].isin(["grow", "decay", "constant"])
    assert kept == set(runs["config_hash"][named]) < set(runs["config_hash"])


def test_packed_predictions_say_what_those_of_folders_say(made: Path, tmp_path: Path) -> None:
    place, packed = Experiment(tmp_path / "runs"), Experiment(tmp_path / "packed")
    shutil.copytree(made / "results" / "try", place.path)
    # Every third run gets another test set, and every fourth loses its averaged weights.
    for number, (_, folder) in enumerate(finished_with_predictions(place)):
        arrays = dict(np.load(folder.predictions))
        if number % 3 == 0:
            arrays = {name: array[:-7] for name, array in arrays.items()}
        if number % 4 == 0:
            arrays = {name: array for name, array in arrays.items() if "averaged" not in name}
        np.savez(folder.predictions, **arrays)
    packed.path.mkdir()
    packed.evals_table.write_bytes(b"")
    kept = {f"{which}_{metric}_products" for which in ("last", "averaged") for metric in ("loss", "accuracy")}
    np.savez(packed.predictions, **stacked(finished_with_predictions(place), kept))
    assert packed.packed
    for outcome in ("test_loss", "test_accuracy", "test_loss_ema", "test_accuracy_ema"):
        found, again = read_examples(place, outcome), read_examples(packed, outcome)
        assert set(found) == set(again)
        assert 5 < len(found) < len(place.run_folders()) + ("ema" not in outcome)
        assert len({id(row.table) for row in found.values()}) == len({id(row.table) for row in again.values()}) == 2
        for key, (table, number) in found.items():
            other = again[key].table
            assert (table.num, table.sums.tolist(), number) == (other.num, other.sums.tolist(), again[key].place)
            assert table.products.tolist() == other.products.tolist()
    # Against the arrays themselves, read here.
    key, folder = finished_with_predictions(place)[1]
    table, number = read_examples(packed, "test_loss")[key]
    losses = np.load(folder.predictions)["last_losses"].astype(float)
    assert table.sums[number] == pytest.approx(losses.sum(), abs=len(losses) / 4096)
    assert table.products[number, number] == pytest.approx((losses**2).sum(), rel=1e-3)
    answers, number = read_examples(packed, "test_accuracy")[key]
    with np.load(folder.predictions) as arrays:
        assert answers.sums[number] == (arrays["last_classes"] == arrays["labels"]).sum()
    with np.load(packed.predictions) as arrays:
        damaged = {**arrays, "last_loss_products": arrays["last_loss_products"][:-1]}
    np.savez(packed.predictions, **damaged)
    with pytest.raises(StoreError, match="does not fit together"):
        read_examples(packed, "test_loss")


def test_a_claim_changed_after_the_data_gets_no_word(made: Path, tmp_path: Path) -> None:
    place = tmp_path / "try"
    shutil.copytree(made / "results" / "try", place)
    text = (place / "experiment.toml").read_text()
    (place / "experiment.toml").write_text(text.replace("margin = 0.25", "margin = 0.5"))
    findings = judge_results(load_results(place))
    assert findings is not None
    assert "margin 0.25 became 0.5" in findings.standing
    assert findings.judged[0].verdict.text == "exploratory"
    (place / "claims.lock").unlink()
    findings = judge_results(load_results(place))
    assert findings is not None
    assert findings.judged[0].verdict.word is None


def test_the_report_shows_the_verdict_with_its_number(made: Path, tmp_path: Path) -> None:
    from bsexp.report import write_report

    place = tmp_path / "try"
    shutil.copytree(made / "results" / "try", place)
    report = write_report(load_results(place), place / "report")
    table = pd.read_csv(place / "report" / "verdicts.csv")
    assert table["claim"].to_list() == ["Growing ends where decaying ends"]
    row = table.iloc[0]
    assert row["low"] < row["difference"] < row["high"]
    assert report.claims[0]["interval"] == pytest.approx([row["low"], row["high"]])
    for name in ("report.md", "report.html"):
        written = (place / "report" / name).read_text()
        assert "Growing ends where decaying ends" in written
        assert "Declared before the data" in written


def test_a_sweep_that_claims_otherwise_later_says_so(made: Path, tmp_path: Path, bsexp: Bsexp) -> None:
    shutil.copytree(made / "results", tmp_path / "results")
    (tmp_path / "try.toml").write_text(FILE.replace("margin = 0.25", "margin = 0.5"))
    found = bsexp("sweep", "try.toml", "--no-report")
    assert found.returncode == 0
    assert "claims are not those declared before the data" in found.stderr
    assert "margin 0.25 became 0.5" in found.stderr


def test_factors_on_each_arms_default_rate_are_tuned() -> None:
    arms = {"a": {"schedule": "fixed-small"}, "b": {"schedule": "fixed-small", "dataset": "fashion-mnist"}}
    arms |= {"c": {"schedule": "fixed-small", "optimizer": "adamw"}}
    asked = read_experiment(experiment(tune={"lr_factor": [2.0, 0.5], "seeds": "100"}, arms=arms), {}, "", "x")
    assert asked.tune is not None
    rates = {arm: asked.tune.rates(settings) for arm, settings in asked.arms.items()}
    assert rates == {"a": [0.00625, 0.025], "b": [0.01, 0.04], "c": [0.0005, 0.002]}
    assert asked.tune.num_rates == 2
    assert Tune.of(asked.tune.stored()) == asked.tune
    assert Tune.of({"lr": [0.1], "seeds": [7]}) == Tune((0.1,), (7,))


def test_a_sweep_tunes_by_factors_and_a_worker_knows_it(tmp_path: Path, bsexp: Bsexp) -> None:
    text = LOOKS[: LOOKS.index("[arms.slow]")].replace('"auto:8,10"', '"0"').replace("lr = 0.05\n", "")
    text += '[arms.other]\nschedule = "fixed-small"\noptimizer = "adamw"\n'
    (tmp_path / "factors.toml").write_text(text + '[tune]\nlr_factor = [0.5, 1]\nseeds = "100"\n')
    assert bsexp("sweep", "factors.toml", "--jobs", "0").returncode == 0
    found = bsexp("worker", "results/factors", "--json")
    assert found.returncode == 0, found.stderr
    rows = pd.read_csv(tmp_path / "results" / "factors" / "tune.csv")
    assert rows.groupby("arm")["lr"].apply(list).to_dict() == {"good": [0.00625, 0.0125], "other": [0.0005, 0.001]}
    assert json.loads(found.stdout)["finished"] == 2


def evals(*rows: tuple[int, float]) -> pd.DataFrame:
    """Evaluations (samples, val_accuracy), of batches of 10 at 100 samples a second."""
    samples, accuracies = ([row[k] for row in rows] for k in (0, 1))
    frame = pd.DataFrame({"samples": samples, "val_accuracy": accuracies})
    return frame.assign(step=frame["samples"] // 10, train_seconds=frame["samples"] / 100)


def test_a_target_is_reached_between_evaluations_and_never_before_training() -> None:
    curve = evals((0, 0.1), (100, 0.5), (200, 0.7), (300, 0.9))
    expected = {"samples_to_target": 150.0, "updates_to_target": 15.0, "seconds_to_target": 1.5}
    expected |= {"val_accuracy_at_target": 0.6}
    assert _crossings(curve, "val_accuracy", 0.6) == pytest.approx(expected)
    assert _crossings(evals((0, 0.9), (100, 0.9), (200, 0.9)), "val_accuracy", 0.6)["samples_to_target"] == 100.0


def test_how_well_a_run_does_at_its_target_is_read_where_it_is_reached() -> None:
    curve = evals((0, 0.1), (100, 0.5), (200, 0.7), (300, 0.9)).assign(
        train_loss=[2.0, 1.0, 0.8, 0.4], val_loss=[2.0, 1.2, 1.1, 1.3], val_accuracy=[0.1, 0.5, 0.6, 0.5]
    )
    # Half-way between 100 and 200.
    at = _crossings(curve, "train_loss", 0.9)
    assert (at["val_loss_at_target"], at["val_accuracy_at_target"]) == pytest.approx((1.15, 0.55))
    # A last point alone past the target is luck, and a miss has no place to be read at.
    missed = _crossings(curve, "train_loss", 0.5)
    assert missed["samples_to_target"] == np.inf
    assert "val_loss_at_target" not in missed


def test_a_claim_about_what_was_not_measured_says_so() -> None:
    (declared,) = read_claims([claimed(metric="val_loss_at_target")], dataclasses.replace(DESIGN, target=True))
    values = {"val_loss_at_target": 1.0}
    runs = {(arm, seed): Record("finished", values) for arm in "ab" for seed in SEEDS}
    runs["b", 2] = Record("finished", {})
    (verdict,) = judge([declared.claim], runs)
    assert verdict.text == "inconclusive (not measured on 1 of 6 seeds)"
    del runs["a", 3]
    (verdict,) = judge([declared.claim], runs)
    assert verdict.text == "inconclusive (unfinished: 2 of 6 seeds missing)"


def test_an_arm_that_failed_at_its_whole_budget_stays_failed_whatever_its_rungs_did() -> None:
    rung = {BUDGET: 1.0, END: 0.9}
    found = {("a[budget=0.25]", 0): Record("finished", rung), ("a", 0): Record("diverged", {BUDGET: 4.0, END: None})}
    found |= {("b[budget=0.25]", 0): Record("finished", rung | {END: 0.7})}
    found |= {("b", 0): Record("finished", {BUDGET: 4.0, END: 0.9})}
    _add_ladders(found, ("val_accuracy", 0.8))
    assert found["a", 0].status == "diverged"
    assert found["a", 0].values["budget_to_target"] == np.inf
    assert found["b", 0].values["budget_to_target"] == pytest.approx(2.0)  # half-way in log2 from 1 to 4


LOOKS = """
[run]
dataset = "digits"
epochs = 1
seeds = "auto:8,10"
[arms.good]
schedule = "fixed-small"
lr = 0.05
[arms.slow]
schedule = "fixed-small"
lr = 0.0001
[[claims]]
text = "A rate that learns is better"
compare = ["good", "slow"]
metric = "test_accuracy"
expect = "better"
"""


def test_a_sweep_stops_at_the_first_look_at_which_every_claim_has_a_word(tmp_path: Path, bsexp: Bsexp) -> None:
    (tmp_path / "looks.toml").write_text(LOOKS.replace("0.0001", "0.001"))
    found = bsexp("sweep", "looks.toml", "--no-report", "--json")
    assert json.loads(found.stdout)["finished"] == 16, found.stderr
    findings = judge_results(load_results(tmp_path / "results" / "looks"))
    assert findings is not None
    assert findings.judged[0].verdict.look == 8
    assert findings.judged[0].verdict.text == "supported (untuned)"


def test_a_sweep_without_a_word_at_its_first_look_goes_on(tmp_path: Path, bsexp: Bsexp) -> None:
    # The same arm under another name: all differences are 0.
    (tmp_path / "looks.toml").write_text(LOOKS.replace("0.0001", "0.05"))
    found = bsexp("sweep", "looks.toml", "--no-report", "--json")
    assert json.loads(found.stdout)["finished"] == 20, found.stderr


def test_tuning_goes_on_beyond_a_grid_until_the_best_rate_has_neighbours(tmp_path: Path, bsexp: Bsexp) -> None:
    text = LOOKS[: LOOKS.index("[arms.slow]")].replace('"auto:8,10"', '"0"').replace("lr = 0.05\n", "")
    (tmp_path / "grid.toml").write_text(text + '[tune]\nlr = [0.005, 0.01]\nseeds = "100,101"\n')
    command = ("sweep", "grid.toml", "--no-report", "--extend-grid")
    assert bsexp(*command).returncode == 0
    rows = pd.read_csv(tmp_path / "results" / "grid" / "tune.csv")
    (best,) = rows.index[rows["chosen"]]
    assert 1 < best < len(rows) - 1
    assert rows["val_loss"].idxmin() == best
    assert rows["lr"].to_list() == [0.005 * 2**k for k in range(len(rows))]
    assert set(rows["seeds"]) == {"100 101"}
    assert "nothing to make" in bsexp(*command).stderr
