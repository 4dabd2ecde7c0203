"""Decisions of closed loops in results, packs and reports: exact updates, what is drawn, what is refused."""

import csv
import gzip
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bsexp import RunConfig, Training
from bsexp.analysis.facts import facts_of
from bsexp.data.sources import load_images
from bsexp.data.splits import prepare
from bsexp.errors import BsexpError, StoreError
from bsexp.records import DecisionRow, StepRecord, columns
from bsexp.report import write_report
from bsexp.report.courses import asked, course, deciding, decisions_table, unusable
from bsexp.report.figures import draw
from bsexp.report.groups import make_groups
from bsexp.report.updates import run_updates
from bsexp.schedules import Progress
from bsexp.schedules.closed import replayed
from bsexp.store.tables import load_results
from tests.conftest import Bsexp
from tests.made_results import results
from tests.test_figures import texts


def row(samples: int, policy: str, batch: int, reason: str = "by noise", lr_factor: float = 1.0) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(columns(DecisionRow))
    values |= {"step": samples // 10 - 1, "samples": samples, "epoch": samples / 100, "policy": policy}
    return values | {"batch_size": batch, "lr_factor": lr_factor, "reason": reason}


def frame(rows: dict[tuple[str, int], list[dict[str, Any]]]) -> pd.DataFrame:
    """Decisions of runs of `tests.made_results`, by arm and seed: 400 samples from a batch of 10."""
    parts = [
        pd.DataFrame(found).assign(arm=arm, seed=seed, config_hash=f"{arm}-{seed}")
        for (arm, seed), found in rows.items()
    ]
    return pd.concat(parts, ignore_index=True)


# -- exact updates


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"schedule": "adaptive-batch", "max_batch": 100}, {"policy": "gns"}),
        ({"schedule": "adaptive-batch", "label_noise": 0.2, "batch_size": 10}, {"policy": "loss", "floor": 0.4}),
        ({"schedule": "adaptive-batch"}, {"policy": "shadow", "follow_parameters": {"shape": "exponential"}}),
        ({"schedule": "adaptive-lr", "batch_size": 48}, {"policy": "gain"}),
    ],
    ids=lambda value: value.get("policy", "") if isinstance(value, dict) else "",
)
def test_updates_worked_out_from_decisions_are_those_that_were_made(
    options: dict[str, Any], parameters: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    config = RunConfig(**{"epochs": 6.0, "train_size": 400, "parameters": parameters, **options})
    records = list(Training(config, data=prepare(config, load_images("digits")), device="cpu"))
    made = [record.batch_size for record in records if isinstance(record, StepRecord)]
    found = results(accuracies={"loop": (0.8,)})
    found.runs["updates"], found.runs["samples"], found.runs["batch_size"] = len(made), 2400, config.batch_size
    found.evals["samples"] = found.evals["epoch"] * 600
    found.evals["epoch"] = found.evals["samples"] / 400
    decisions = [record for record in records if isinstance(record, DecisionRow)]
    given = pd.DataFrame([{name: getattr(d, name) for name in columns(DecisionRow)} for d in decisions])
    given = given.assign(arm="loop", seed=0, config_hash="loop-0")
    # The log of made results has 40 rows, not one for each update.
    whole = results(
        accuracies={"loop": (0.8,)},
        runs=found.runs,
        evals=found.evals,
        decisions=given,
        configs={"loop-0": config.model_dump()},
    )
    (group,) = make_groups(whole)
    updates = run_updates(whole, group, whole.runs.iloc[0].to_dict())
    assert updates == {size: float(number) for size, number in sorted(Counter(made).items())}


def test_replayed_decisions_hold_from_the_samples_at_which_they_were_made() -> None:
    schedule = replayed(16, [(64, 32), (128, 8)])
    at = [schedule(Progress(0, samples, 400, 100)).batch_size for samples in (0, 63, 64, 127, 128, 399)]
    assert at == [16, 16, 32, 32, 8, 8]


def test_decisions_that_do_not_lead_to_the_run_are_not_believed() -> None:
    stray = frame({("small", seed): [row(45, "noise", 20)] for seed in range(3)})
    made = results(decisions=stray)
    made.runs["updates"] = 33
    (group,) = make_groups(made)
    with pytest.raises(BsexpError, match="decisions: one at 45 samples, where no update ended"):
        run_updates(made, group, made.runs.iloc[0].to_dict())
    other = results(decisions=frame({("small", 0): [row(50, "noise", 20)]}))
    other.runs["updates"] = 33
    with pytest.raises(BsexpError, match="what it decided gives 23 updates of 400 samples, run small-0 made 33"):
        run_updates(other, make_groups(other)[0], other.runs.iloc[0].to_dict())


# -- figures and table


def adaptive() -> pd.DataFrame:
    """`small` grows to 20 at a half in seeds 0 and 1, and to 40 at a quarter in seed 2."""
    late = [row(100, "noise", 10, "held: not measured yet"), row(200, "noise", 20)]
    early = [row(100, "noise", 40, "by noise; at most doubled"), row(200, "noise", 40, "by noise; max_batch")]
    return frame({("small", 0): late, ("small", 1): late, ("small", 2): early})


def test_a_course_holds_each_decision_until_the_next() -> None:
    (group,) = make_groups(results(decisions=adaptive()))
    assert deciding(group) == ["small"]
    found = course(group, "small", "noise")
    assert found.epochs[[0, 200, 400]].tolist() == pytest.approx([0, 2, 4])
    assert found.values[:, [0, 99, 100, 199, 200, 400]].tolist() == [
        [10, 10, 10, 10, 20, 20],
        [10, 10, 10, 10, 20, 20],
        [10, 10, 40, 40, 40, 40],
    ]
    assert found.median[[0, 150, 200]].tolist() == [10, 10, 20]


def test_runs_that_did_not_finish_are_left_out() -> None:
    (group,) = make_groups(results(decisions=adaptive(), status={("small", 2): "diverged"}))
    assert len(course(group, "small", "noise").values) == 2
    none = {("small", seed): "diverged" for seed in range(3)}
    (group,) = make_groups(results(decisions=adaptive(), status=none))
    assert deciding(group) == []
    assert "decisions" not in draw(group)


def test_the_figure_shows_what_was_decided_beside_the_others_as_they_were_trained() -> None:
    (group,) = make_groups(results(decisions=adaptive()))
    figures = draw(group)
    assert "shadow" not in figures
    (axes,) = figures["decisions"].axes
    lines = {(line.get_color(), line.get_linewidth()): line for line in axes.lines if len(line.get_xdata()) > 2}
    bold = lines[group.looks["small"].color, 2.4]
    assert bold.get_drawstyle() == "steps-post"
    assert list(bold.get_ydata()) == list(course(group, "small", "noise").median)
    grow = lines[group.looks["grow"].color, 1.2]
    # 20 updates of 10, 5 of 40; the first row's value holds from 0.
    assert list(grow.get_ydata()) == [10] * 21 + [40] * 5
    assert {"small", "large", "grow"} <= set(texts(figures["decisions"]))
    thin = [line for line in axes.lines if line.get_linewidth() == 0.7]
    assert sorted(line.get_ydata()[-1] for line in thin) == [20, 20, 40]


def test_a_decided_rate_has_a_panel_of_its_own() -> None:
    rates = frame({("small", seed): [row(200, "plateau", 10, "a plateau", 0.1)] for seed in range(3)})
    (group,) = make_groups(results(decisions=rates))
    batch, factor = draw(group)["decisions"].axes
    assert "Factor on the learning rate" in factor.get_title(loc="left")
    line = next(line for line in factor.lines if line.get_linewidth() == 2.4)
    assert np.unique(line.get_ydata()).tolist() == [0.1, 1.0]
    assert "Batch size" in batch.get_title(loc="left")


def shadowed() -> pd.DataFrame:
    rows = [
        row(200, "shadow", 10, "follows growing-batch"),
        row(200, "gns", 20),
        row(200, "cabs", 10, "held: refused: cabs: with momentum 0.9; it is derived without"),
    ]
    return frame({("small", seed): rows for seed in range(3)})


def test_what_policies_would_have_chosen_is_drawn_and_the_unusable_ones_are_named(tmp_path: Path) -> None:
    made = results(decisions=shadowed())
    (group,) = make_groups(made)
    assert (asked(group, "small"), unusable(group, "small"), deciding(group)) == (["gns"], ["cabs"], [])
    figures = draw(group)
    assert "decisions" not in figures
    assert {"gns", "as trained"} <= set(texts(figures["shadow"]))
    assert "cabs" not in texts(figures["shadow"])
    write_report(made, tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert re.search(r"!\[.*gns 20\.\]\(shadow\.png\)", text)
    assert "Can't be used in this setting: cabs." in text
    assert "| small | (gns) | 1 | 100 % | 0 % | 0 % | 0 % | 20 |" in text


def test_the_table_counts_decisions() -> None:
    (group,) = make_groups(results(decisions=adaptive()))
    table = decisions_table(group)
    assert table is not None
    # Six decisions: three grew (one of them doubled twice over, limited), none shrank, two held, two at a limit.
    assert [cell.text for cell in table.rows[0]] == [
        "small",
        "noise",
        "2",
        "50 %",
        "0 %",
        "33 %",
        "33 %",
        "20 (20 to 40)",
    ]
    assert decisions_table(make_groups(results())[0]) is None


def test_measured_noise_has_a_panel_beside_the_schedules() -> None:
    made = results()
    made.steps["b_simple"] = made.steps["b_simple"].astype(float)
    made.steps.loc[made.steps["arm"] == "grow", "b_simple"] = 50.0
    panels = draw(make_groups(made)[0])["schedules"].axes
    assert len(panels) == 4
    assert [text.get_text() for text in panels[3].texts] == ["grow"]
    assert len(draw(make_groups(results())[0])["schedules"].axes) == 3


def test_the_warm_up_of_a_closed_loop_is_known_and_its_phases_are_not() -> None:
    made = results()
    made.arms["small"].clear()
    made.arms["small"].update(schedule="adaptive-batch", parameters={"policy": "gns"}, epochs=4.0, warmup_epochs=0.5)
    found = facts_of(made, ["small"], {})["small"]
    assert (found.warmup_samples, found.phase_updates, found.last_updates) == (50, (), None)


# -- files


OPTIONS = ("--epochs", "3", "--train-size", "300", "--evals", "3", "--threads", "1", "--max-batch", "60")


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a fixed batch, a policy and a shadow, two seeds each."""
    import os
    import subprocess
    import sys

    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("loops")
    (folder / "loops.toml").write_text(
        '[run]\nepochs = 3\ntrain_size = 300\nseeds = "0-1"\nmax_batch = 60\nevals = 3\n'
        '[arms.fixed]\nschedule = "fixed-small"\n[arms.noise]\nschedule = "adaptive-batch"\npolicy = "gns"\n'
        '[arms.asked]\nschedule = "adaptive-batch"\npolicy = "shadow"\n'
    )
    command = [sys.executable, "-m", "bsexp", "sweep", "loops.toml", "--jobs", "1", "--no-report", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder / "results" / "loops"


def test_a_packed_folder_keeps_decisions_and_gives_the_same_report(bsexp: Bsexp, loops: Path, tmp_path: Path) -> None:
    place = tmp_path / "results" / "loops"
    shutil.copytree(loops, place)
    lines = ["device,batch_size,micro_batch_size,seconds_per_update,spread,samples_per_second,peak_memory_bytes"]
    lines += [f"cpu,{size},{size},{0.01 + size / 1000},0.0,{size / (0.01 + size / 1000)}," for size in (1, 60)]
    (place / "hardware.csv").write_text("\n".join(lines) + "\n")
    first = json.loads(bsexp("report", "results/loops", "--pack", "--json").stdout)
    assert {time["arm"] for time in first["times"]} == {"fixed", "noise", "asked"}
    lines = (place / "runs.csv").read_text("utf-8").splitlines()
    runs = {line["arm"]: line for line in csv.DictReader(lines)}
    for time in first["times"]:
        # Seconds of an update are 10 ms and 1 ms a sample, so that 900 samples take .9 s.
        assert time["seconds"] == pytest.approx(0.9 + 0.01 * time["updates"])
    assert float(runs["fixed"]["updates"]) == next(t["updates"] for t in first["times"] if t["arm"] == "fixed")
    before = {path.name: path.read_bytes() for path in (place / "report").iterdir()}
    assert {"decisions.png", "shadow.png", "times.csv"} <= set(before)
    assert (place / "decisions.csv.gz").exists()
    unpacked, environments = load_results(place).decisions, load_results(place).environments
    shutil.rmtree(place / "runs")
    shutil.rmtree(place / "report")
    again = bsexp("report", "results/loops")
    assert again.returncode == 0, again.stderr
    assert {path.name: path.read_bytes() for path in (place / "report").iterdir()} == before
    packed = load_results(place).decisions
    document = json.loads((place / "environments.json").read_text())
    assert document["common"]["device"] == "cpu"
    assert "device" not in document["environments"][0]
    assert load_results(place).environments == environments
    assert unpacked is not None
    assert packed is not None
    # What policies saw is kept of one seed; what they made of it, which the report reads, of all.
    seen = ["loss", "grad_sq_norm", "grad_var", "b_simple", "cosine", "val_loss"]
    first = packed["seed"] == 0
    pd.testing.assert_frame_equal(unpacked[first], packed[first], check_dtype=False)
    pd.testing.assert_frame_equal(unpacked.drop(columns=seen), packed.drop(columns=seen), check_dtype=False)
    assert unpacked["b_simple"][~first].notna().any()
    assert packed[~first][seen].isna().all(axis=None)
    assert packed.groupby("arm")["seed"].nunique().to_dict() == {"asked": 2, "noise": 2}


def test_results_without_closed_loops_have_no_decisions_and_pack_none(bsexp: Bsexp, tmp_path: Path) -> None:
    assert bsexp("run", "fixed-small", *OPTIONS).returncode == 0
    assert load_results(tmp_path / "results" / "runs").decisions is None
    assert bsexp("report", "--pack").returncode == 0
    assert not (tmp_path / "results/runs/decisions.csv.gz").exists()


Change = Callable[[str], str]


def _swap(first: int, second: int) -> Change:
    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        lines[first], lines[second] = lines[second], lines[first]
        return "".join(lines)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_swap(1, 2), r":3: step \d+ of gns after \d+"),
        (lambda text: text.replace("step,", "steps,", 1), ":1: column 'step' is missing"),
        (lambda text: text.rstrip() + ",1\n", "values for 14 columns"),
        (lambda text: text.replace(",gns,", ",,", 1), ":2: policy is empty"),
        (
            lambda text: re.sub(r"\n(\d+),\d+,([^\n]*)\n\Z", r"\n\1,9999,\2\n", text),
            r":\d+: decided at 9999 samples, the run ended at 900",
        ),
    ],
)
def test_an_edited_decisions_csv_is_refused_by_file_and_line(
    loops: Path, tmp_path: Path, change: Change, said: str
) -> None:
    place = tmp_path / "loops"
    shutil.copytree(loops, place)
    path = sorted(place.glob("runs/noise-*/decisions.csv"))[0]
    path.write_text(change(path.read_text()))
    with pytest.raises(StoreError, match=said) as caught:
        load_results(place)
    assert str(path) in str(caught.value)
    skipped: list[BsexpError] = []
    assert len(load_results(place, skipped.append).runs) == 5
    assert len(skipped) == 1
    path.unlink()
    with pytest.raises(StoreError, match="No such file"):
        load_results(place)


def test_a_damaged_packed_table_is_refused_or_left_out(bsexp: Bsexp, loops: Path, tmp_path: Path) -> None:
    place = tmp_path / "results" / "loops"
    shutil.copytree(loops, place)
    assert bsexp("report", "results/loops", "--pack").returncode == 0
    shutil.rmtree(place / "runs")
    path = place / "decisions.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    for changed, said in (
        (text.replace("noise,", "other,", 1), r"other \w+ is not in runs.csv"),
        (text + text.splitlines()[1] + "\n", "after"),
    ):
        path.write_bytes(gzip.compress(changed.encode()))
        with pytest.raises(StoreError, match=said):
            load_results(place)
        left = load_results(place, lambda error: None)
        assert (left.decisions, left.left_out) == (None, ("decisions.csv.gz" + left.left_out[0][16:],))
        (group,) = make_groups(left)
        assert {"decisions", "shadow"}.isdisjoint(draw(group))
