"""Times in a report: hand-worked seconds, where batch sizes come from, what is told instead where they aren't known."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from bsexp.analysis.hardware import HardwareTable
from bsexp.config import RunConfig
from bsexp.errors import MemoryExhausted, UsageError
from bsexp.planning import plan_run
from bsexp.records import HardwareRow
from bsexp.report import write_report
from bsexp.report.groups import make_groups
from bsexp.report.timing import Hardware, Network
from bsexp.report.updates import run_updates
from bsexp.schedules import simulate
from bsexp.store.hardware import write_hardware
from bsexp.store.tables import Results
from bsexp.sweep import measuring
from bsexp.sweep.measuring import Surroundings
from tests.conftest import ROOT, Bsexp
from tests.made_results import results
from tests.test_report import row

# 1 + B / 10 seconds.
TABLE = HardwareTable("cpu", (1, 10, 40), (1.1, 2.0, 5.0), (0.0, 0.0, 0.0), (None, None, None))
ABOUT = {"model": "mlp", "dataset": "digits", "cpu": "a processor", "threads": 1}
HARDWARE = Hardware(TABLE, ABOUT)


def made(**changes: Any) -> Results:
    """Arms small (40 updates of 10), large (10 of 40), grow (20 of 10, 5 of 40), each logged update by update."""
    found = results(**changes)
    found.runs.loc[found.runs["arm"] == "grow", "updates"] = 25
    return found


def test_the_table_has_the_hand_worked_seconds_and_ratios(tmp_path: Path) -> None:
    write_report(made(), tmp_path, HARDWARE)
    text = (tmp_path / "report.md").read_text("utf-8")
    title = "## Time, modelled on a processor, 1 thread"
    # 40 * 2 = 80 seconds, 10 * 5 = 50, 20 * 2 + 5 * 5 = 65.
    for arm, updates, seconds, ratio in (("small", "40", "80", "1.000"), ("large", "10", "50", "0.625")):
        found = row(text, title, arm)
        assert (found["Updates"], found["Time (s)"], found["Time relative to small"]) == (updates, seconds, ratio)
    grow = row(text, title, "grow")
    assert (grow["Time (s)"], grow["Time relative to small"]) == ("65", "0.812")
    assert grow["Updates relative to small"] == "0.625"
    assert grow["Samples/s"] == "6"
    assert "mlp on digits, batch 1 to 40" in text


def test_workers_have_columns_rows_and_their_own_seconds(tmp_path: Path) -> None:
    report = write_report(made(), tmp_path, replace(HARDWARE, workers=(1, 4)))
    assert report.times is not None
    times = {(line["arm"], line["workers"]): line for line in report.as_json()["times"]}
    # 4 workers: 3 samples of 10 each: 1.3 seconds; 10 of 40: 2 seconds.
    assert times["small", 4]["seconds"] == pytest.approx(40 * 1.3)
    assert times["grow", 4]["ratio"] == pytest.approx((20 * 1.3 + 5 * 2) / (40 * 1.3))
    assert times["grow", 4]["reference"] == "small"
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["times"]
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "Time (s), 4 ideal workers" in text
    assert "talking to each other costs them nothing" in text
    assert (tmp_path / "times.csv").read_text().splitlines()[0].startswith("dataset,model,arm,reference,device,workers")


def test_workers_that_talk_pay_for_each_update(tmp_path: Path) -> None:
    hardware = replace(HARDWARE, workers=(1, 4), network=Network(0.001, 1e6))
    results = made()
    report = write_report(results, tmp_path, hardware)
    times = {(line["arm"], line["workers"]): line for line in report.as_json()["times"]}
    # 6 messages, each 1 ms and a quarter of the gradient's 4 bytes a parameter.
    (parameters,) = set(results.runs["num_parameters"])
    talk = 6 * (0.001 + parameters * 4 / 4 / 1e6)
    assert times["small", 1]["seconds"] == pytest.approx(40 * 2)
    assert times["small", 4]["seconds"] == pytest.approx(40 * (1.3 + talk))
    assert times["grow", 4]["ratio"] == pytest.approx((20 * 1.3 + 5 * 2 + 25 * talk) / (40 * (1.3 + talk)))
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "Time (s), 4 workers" in text
    assert "each 0.001 s and its bytes at 1e+06 bytes/s, none of it hidden" in text


def test_the_spread_of_the_table_becomes_an_interval(tmp_path: Path) -> None:
    spread = replace(TABLE, spread=(0.0, 0.1, 0.1))
    report = write_report(made(), tmp_path, Hardware(spread))
    times = {line["arm"]: line for line in report.as_json()["times"]}
    assert times["small"]["ratio_low"] == times["small"]["ratio_high"] == 1.0
    # large / small = 10 s40 / 40 s10: relative errors of 2 % and 5 % add in squares.
    reach = 1.959964 * (0.02**2 + 0.05**2) ** 0.5
    assert times["large"]["ratio_high"] / times["large"]["ratio"] == pytest.approx(2.718281828**reach)


def test_the_figure_is_described_with_its_numbers_and_removed_with_its_table(tmp_path: Path) -> None:
    report = write_report(made(), tmp_path, HARDWARE)
    assert {"time.png", "time.svg"} <= set(report.figures)
    text = (tmp_path / "report.md").read_text("utf-8")
    alt = re.search(r"!\[(.*)\]\(time\.png\)", text)
    assert alt
    assert "grow 0.625 of the updates, 0.812 of the time" in alt[1]
    # 400 samples in 40 updates; 1 second is worth ten samples.
    assert "fixed cost is worth 10 samples, the mean batch of small" in text
    assert "10 samples' worth" in text
    write_report(made(), tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("time")]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [((1.0, 11.0, 50.0), "a sample costs more in a large batch"), ((1.0, 1.0, 1.0), "at the far right")],
)
def test_a_machine_without_a_place_on_the_axis_is_told_so(
    tmp_path: Path, seconds: tuple[float, ...], said: str
) -> None:
    if seconds[0] == seconds[1]:
        seconds = (1.0, 0.99, 0.9)
    write_report(made(), tmp_path, Hardware(replace(TABLE, seconds_per_update=seconds)))
    assert said in (tmp_path / "report.md").read_text("utf-8")


def test_the_same_results_and_table_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_report(made(), tmp_path / folder, HARDWARE)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_table_of_another_network_is_told(tmp_path: Path) -> None:
    report = write_report(made(), tmp_path, replace(HARDWARE, about={**ABOUT, "model": "resnet20"}))
    assert "Times rest on a table measured with resnet20 on digits, not mlp on digits." in report.notes


def test_a_table_measured_on_a_busy_machine_is_told(tmp_path: Path) -> None:
    report = write_report(made(), tmp_path, replace(HARDWARE, about={**ABOUT, "load": 3.61}))
    assert any("while the machine had other work to do (load 3.6)" in note for note in report.notes)
    quiet = write_report(made(), tmp_path, replace(HARDWARE, about={**ABOUT, "load": 0.1}))
    assert not any("other work" in note for note in quiet.notes)


def test_a_size_that_was_not_measured_is_refused_where_the_table_was_asked_for_and_told_elsewhere(
    tmp_path: Path,
) -> None:
    short = HardwareTable("cpu", (1, 10), (1.1, 2.0), (0.0, 0.0), (None, None))
    with pytest.raises(UsageError, match=r"made, arm large: .*batch size 40 is outside the measured 1 to 10"):
        write_report(made(), tmp_path, Hardware(short))
    report = write_report(made(), tmp_path, Hardware(short, asked=False))
    assert [line["arm"] for line in report.as_json()["times"]] == ["small"]
    assert any(note.startswith("large: no time: hardware table: batch size 40") for note in report.notes)


def test_arms_without_known_updates_have_no_time_and_say_why(tmp_path: Path) -> None:
    found = made()
    thinned = found.steps[(found.steps["arm"] != "grow") | (found.steps["step"] % 2 == 0)]
    # No schedule is called "grow".
    report = write_report(replace(found, steps=thinned), tmp_path, HARDWARE)
    assert [line["arm"] for line in report.as_json()["times"]] == ["small", "large"]
    assert any(note.startswith("grow: no time: schedule: unknown name 'grow'") for note in report.notes)


def test_without_a_finished_run_there_is_no_time(tmp_path: Path) -> None:
    status = {(arm, seed): "diverged" for arm in ("small", "large", "grow") for seed in range(3)}
    report = write_report(made(status=status), tmp_path, HARDWARE)
    assert report.as_json()["times"] == []
    assert "Time, modelled" not in (tmp_path / "report.md").read_text("utf-8")


def grown(updates: int | None = None) -> tuple[Results, RunConfig]:
    """One run of a real schedule, 1,293 samples, 2 epochs, with a log that lacks most updates."""
    config = RunConfig(schedule="growing-batch", epochs=2.0, parameters={"shape": "exponential"})
    plan = plan_run(config, 1293)
    found = results(accuracies={"grow": (0.8,)})
    found.runs["updates"], found.runs["samples"] = updates or plan.updates, plan.total_samples
    found.evals["samples"] = (found.evals["epoch"] / 2 * 1293).round()
    found.evals["epoch"] = found.evals["samples"] / 1293
    return replace(found, configs={"grow-0": config.model_dump()}), config


def test_a_thinned_log_is_made_whole_by_the_schedule() -> None:
    found, config = grown()
    (group,) = make_groups(found)
    expected: dict[int, float] = {}
    for update in simulate(config.build_schedule(), total_samples=2586, num_train=1293):
        expected[update.batch_size] = expected.get(update.batch_size, 0) + 1
    assert len(expected) > 5
    assert run_updates(found, group, found.runs.iloc[0].to_dict()) == expected


def test_a_schedule_that_gives_other_updates_than_were_made_is_not_believed() -> None:
    found, _ = grown(updates=77)
    (group,) = make_groups(found)
    with pytest.raises(UsageError, match=r"its schedule gives \d+ updates of 2,586 samples, run grow-0 made 77"):
        run_updates(found, group, found.runs.iloc[0].to_dict())


# -- the commands

QUICK = ("--epochs", "1", "--train-size", "200", "--evals", "1", "--threads", "1")


def table(path: Path, sizes: tuple[int, ...] = (1, 8, 128)) -> None:
    rows = [
        HardwareRow("cpu", size, size, 0.01 + 0.001 * size, 0.0, size / (0.01 + 0.001 * size), None) for size in sizes
    ]
    write_hardware(path, rows, {"model": "mlp", "dataset": "digits"})


def test_measure_writes_a_table_that_report_and_plan_read(bsexp: Bsexp, tmp_path: Path) -> None:
    sizes = ("--batch-sizes", "1,16", "--repeats", "3", "--threads", "1", "--only", "hardware")
    result = bsexp("measure", *sizes, "--name", "mine", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    rows = document["rows"]
    assert [line["batch_size"] for line in rows] == [1, 16]
    assert all(line["seconds_per_update"] > 0 and line["peak_memory_bytes"] > 10**7 for line in rows)
    assert rows[1]["samples_per_second"] > rows[0]["samples_per_second"]
    assert document["knee"] == 16
    about = json.loads((tmp_path / "results/mine/hardware.json").read_text())
    assert (about["model"], about["dataset"], about["threads"], about["repeats"]) == ("mlp", "digits", 1, 3)
    assert str(tmp_path) not in json.dumps(about)
    files = sorted(path.name for path in (tmp_path / "results/mine").iterdir())
    assert files == ["hardware.csv", "hardware.json", "report"]
    planned = bsexp("plan", "fixed-small", "--hardware", document["file"], "--json", "--rows", "2", "--epochs", "2")
    (planned_time,) = json.loads(planned.stdout)["times"]
    # 2,586 samples in batches of 16, the last two of 13: 160 updates of 16, 2 of 13.
    seconds = [line["seconds_per_update"] for line in rows]
    assert planned_time["seconds"] == pytest.approx(160 * seconds[1] + 2 * (seconds[0] * 3 / 15 + seconds[1] * 12 / 15))
    words = bsexp("plan", "fixed-small", "--hardware", document["file"], "--workers", "4").stdout
    assert "with 4 ideal workers" in words


def test_report_takes_the_table_named_or_the_one_beside_the_results(bsexp: Bsexp, tmp_path: Path) -> None:
    for schedule in ("fixed-small", "growing-batch"):
        bsexp("run", schedule, *QUICK)
    assert "times" not in json.loads(bsexp("report", "--json").stdout)
    table(tmp_path / "other.csv")
    named = json.loads(bsexp("report", "--json", "--hardware", "other.csv", "--workers", "2,8").stdout)
    assert [line["workers"] for line in named["times"]] == [1, 2, 8, 1, 2, 8]
    # 200 samples: 11 updates of 16 leave 24, two of 12. A sample costs 1 ms, an update 10 ms.
    assert named["times"][0]["seconds"] == pytest.approx(13 * 0.01 + 0.2)
    table(tmp_path / "results/runs/hardware.csv", sizes=(1, 8))
    beside = json.loads(bsexp("report", "--json").stdout)
    assert beside["times"] == []
    assert any("batch size 16 is outside the measured 1 to 8" in note for note in beside["notes"])
    table(tmp_path / "results/runs/hardware.csv")
    shown = bsexp("report")
    assert "time on cpu" in shown.stdout
    assert (tmp_path / "results/runs/report/time.png").exists()


def test_the_report_of_a_sweep_tells_times_too(bsexp: Bsexp, tmp_path: Path) -> None:
    sweep = ("sweep", "--schedule", "fixed-small,growing-batch", "--seeds", "0", "--jobs", "1", *QUICK)
    table(tmp_path / "t.csv")
    found = bsexp(*sweep, "--hardware", "t.csv")
    assert found.returncode == 0, found.stderr
    assert "time on cpu" in found.stdout
    times = pd.read_csv(tmp_path / "results/runs/report/times.csv")
    assert times["arm"].to_list() == ["fixed-small", "growing-batch"]
    assert times["seconds"][0] == pytest.approx(0.33)
    # What was trained is reported, also where the table doesn't cover it.
    table(tmp_path / "t.csv", sizes=(1, 8))
    found = bsexp(*sweep, "--hardware", "t.csv")
    assert found.returncode == 0, found.stderr
    assert "batch size 16 is outside the measured 1 to 8" in found.stderr
    assert (tmp_path / "results/runs/report/report.md").exists()
    # As report does, with the table beside the results.
    table(tmp_path / "results/runs/hardware.csv")
    assert "time on cpu" in bsexp(*sweep).stdout


def test_a_sweep_asks_for_its_table_before_it_trains(bsexp: Bsexp, tmp_path: Path) -> None:
    found = bsexp("sweep", "--schedule", "fixed-small", "--seeds", "0", *QUICK, "--hardware", "nothing.csv")
    assert found.returncode == 2
    assert "--hardware: nothing.csv: no such file" in found.stderr
    assert not (tmp_path / "results").exists()


def test_plan_tells_times_of_an_experiment(bsexp: Bsexp, tmp_path: Path) -> None:
    table(tmp_path / "t.csv")
    arms = '[arms.a]\nschedule = "fixed-small"\n[arms.b]\nschedule = "growing-batch"\n'
    (tmp_path / "e.toml").write_text(arms + '[run]\nepochs = 1\ntrain_size = 200\nseeds = "0"\n')
    document = json.loads(bsexp("plan", "e.toml", "--json", "--hardware", "t.csv", "--workers", "4").stdout)
    assert [(line["arm"], line["workers"]) for line in document["times"]] == [("a", 1), ("a", 4), ("b", 1), ("b", 4)]
    assert document["times"][0]["seconds"] == pytest.approx(0.33)
    # With 4 workers: 11 updates of 4 each, two of 3: 13 * 10 ms + 50 ms.
    assert document["times"][1]["seconds"] == pytest.approx(0.18)
    assert "in brackets: of the first arm's time" in bsexp("plan", "e.toml", "--hardware", "t.csv").stdout


def test_plan_tells_how_many_workers_are_useful_and_draws_it(bsexp: Bsexp, tmp_path: Path) -> None:
    # 10 ms and 1 ms a sample.
    table(tmp_path / "t.csv", sizes=(1, 64))
    arms = '[arms.a]\nschedule = "fixed-small"\n[arms.b]\nschedule = "growing-batch"\nmilestones = [0.5]\nfactor = 2\n'
    run = '[run]\nepochs = 1\ntrain_size = 192\nbatch_size = 16\nmax_batch = 64\nseeds = "0"\nmodel = "mlp"\n'
    (tmp_path / "e.toml").write_text(arms + run)
    asked = ("plan", "e.toml", "--hardware", "t.csv", "--workers", "1,2,4")
    document = json.loads(bsexp(*asked, "--json").stdout)
    # Ideal workers: of 16 samples, 26 ms, two take 18 each and four 14: 36 is less than 52, 56 isn't. Of 32, 42 ms,
    # four take 18 each: 72 is less than 84.
    assert document["elastic"]["a"] == {
        "fewest": 2,
        "most": 2,
        "mean_workers": pytest.approx(2.0),
        "seconds": pytest.approx(12 * 0.018),
    }
    b = document["elastic"]["b"]
    assert (b["fewest"], b["most"], b["seconds"]) == (2, 4, pytest.approx(6 * 0.018 + 3 * 0.018))
    # A message takes a second: nobody is useful but one.
    slow = json.loads(bsexp(*asked, "--json", "--all-reduce", "1,1e9").stdout)
    assert (slow["elastic"]["b"]["most"], slow["elastic"]["b"]["mean_workers"]) == (1, 1.0)
    times = {(line["arm"], line["workers"]): line["seconds"] for line in slow["times"]}
    assert times["a", 2] == pytest.approx(12 * (0.018 + 2.0), rel=1e-3)
    shown = bsexp(*asked, "--all-reduce", "1e-5,1e9", "--figure", "f.png")
    assert "2 to 4" in shown.stdout
    assert "each 1e-05 s and its bytes at 1e+09 bytes/s" in shown.stdout
    assert (tmp_path / "f.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "results", "--hardware", "nothing.csv"], "--hardware: nothing.csv: no such file"),
        (["report", "results", "--hardware", "results"], "--hardware: results: a folder"),
        (["report", "results", "--workers", "4"], "without a table of seconds per update; add --hardware"),
        (["plan", "fixed-small", "--workers", "0"], "--workers: '0'; give whole numbers from 1"),
        (["plan", "fixed-small", "--workers", "4"], "without a table of seconds per update"),
        (["plan", "fixed-small", "--all-reduce", "1e-5,1e9"], "without a table of seconds per update"),
        (["plan", "fixed-small", "--all-reduce", "1e-5"], "'1e-5'; give SECONDS,BYTES_PER_SECOND, as 5e-5,1.25e9"),
        (["plan", "fixed-small", "--hardware", "t.csv", "--all-reduce", "0,1"], "0,1 without workers who talk"),
        (
            ["plan", "fixed-small", "--hardware", "t.csv", "--workers", "2", "--all-reduce", "0,0"],
            "0,0: 0 bytes per second",
        ),
        (["plan", "fixed-small", "--hardware", "t.csv"], "batch size 16 is outside the measured 1 to 8"),
        (["measure", "--batch-sizes", "4,900"], "at most num_train // 2 = 646"),
        (["measure", "--batch-sizes", "4,,8"], "'4,,8'; give whole numbers from 1, separated by commas"),
        (["measure", "--norm", "batch", "--batch-sizes", "1", "--model", "cnn"], "a batch of 1 in parts of 1 sample"),
        (["measure", "--repeats", "1"], "--repeats: '1'; give a whole number from 3"),
    ],
)
def test_wrong_usage_is_one_line_with_code_2(bsexp: Bsexp, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "results/runs/runs").mkdir(parents=True)
    table(tmp_path / "t.csv", sizes=(1, 8))
    result = bsexp(*arguments)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_damaged_table_is_an_error_of_the_results(bsexp: Bsexp, tmp_path: Path) -> None:
    table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace("cpu,8", "cpu,0"))
    result = bsexp("plan", "fixed-small", "--hardware", "t.csv")
    assert result.returncode == 5
    assert "t.csv:3: batch_size is 0" in result.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals as on Linux")
def test_ctrl_c_while_measuring_leaves_nothing_and_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bsexp", "measure", "--batch-sizes", "1,2,4,8", "--threads", "1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "samples/s" in line:  # One size is done, the next one is being measured.
            break
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not (tmp_path / "results").exists()
    process.stderr.close()
    deadline = time.monotonic() + 20
    while lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not lives(process.pid)


def lives(group: int) -> bool:
    """Whether a process of a process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_size_that_memory_does_not_hold_ends_the_table_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(config: RunConfig, surroundings: Surroundings, repeats: int) -> Any:
        if config.batch_size > 4:
            raise MemoryExhausted("out of memory", f"a batch of {config.batch_size}")
        timing = SimpleNamespace(
            device="cpu", micro_batch_size=config.batch_size, seconds=(0.2, 0.1, 0.3), peak_memory_bytes=100
        )
        return timing, {"threads": 1}

    monkeypatch.setattr(measuring, "_in_a_process", pretend)
    configs = measuring.sizes_to_measure({"dataset": "digits", "model": "mlp"}, [2, 4, 8, 16])
    told: list[str] = []
    surroundings = Surroundings("cpu", 1, False, True)
    rows, settled = measuring.measure_sizes(configs, surroundings, 9, told.append)
    assert [row.batch_size for row in rows] == [2, 4]
    assert (rows[1].seconds_per_update, rows[1].samples_per_second) == (0.2, 20.0)
    # Nine values, quartiles .1 and .3: 1.2533 / 1.349 * .2 / 3.
    assert rows[1].spread == pytest.approx(0.061937, rel=1e-4)
    assert settled == {"threads": 1}
    assert sum("batch 8 and above are left out: out of memory" in text for text in told) == 1
    with pytest.raises(MemoryExhausted):
        measuring.measure_sizes(configs[2:], surroundings, 3, told.append)


def test_without_sizes_the_powers_of_two_that_can_be_trained_are_measured() -> None:
    digits = measuring.sizes_to_measure({"dataset": "digits", "model": "mlp"}, None)
    # 1,293 samples are trained on, and a batch is at most half of them.
    assert [config.batch_size for config in digits] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    batch = measuring.sizes_to_measure({"dataset": "digits", "model": "cnn", "norm": "batch", "ghost_batch": 0}, None)
    assert batch[0].batch_size == 2
