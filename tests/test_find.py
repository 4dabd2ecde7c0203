"""find-lr and find-batch: rates and batches known beforehand, nothing of the user's changed, real processes."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bsexp import RunConfig, Training
from bsexp.analysis.range_test import RangeTest, half_life, judge_ramp
from bsexp.commands.find_lr import sentence
from bsexp.commands.given import bytes_of
from bsexp.data.sources import load_images
from bsexp.data.splits import prepare
from bsexp.engine.ramp import climb
from bsexp.errors import MemoryExhausted, UsageError
from bsexp.records import FitRow, HardwareRow, RampRow
from bsexp.report.drawing import svg_bytes
from bsexp.report.ramp import draw_ramp, picture
from bsexp.signals.divergence import Course
from bsexp.sweep import memory
from bsexp.sweep.fitting import bisect, joined
from bsexp.sweep.measuring import Surroundings, _time, config_of_size
from bsexp.sweep.ramps import ramp_config
from tests.conftest import ROOT, Bsexp
from tests.faults.programs import SLEEPING

LOWEST, HIGHEST, UPDATES = 1e-5, 10.0, 1000


def followed(levels: list[float]) -> Course:
    """A course that stays at each level for 60 half-lives, so that its average is there too, and its noise nothing."""
    course = Course(1.0)
    for level in levels:
        for _ in range(60):
            course = course.follow(level, 1)
    return course


# -- divergence


@pytest.mark.parametrize(
    ("levels", "diverged"),
    [
        ([2.3, 2.0, 1.5], False),
        # Half of the fall from 2.3 to 1.5 is lost again above 1.9: also far below any multiple of the minimum.
        ([2.3, 1.5, 1.89], False),
        ([2.3, 1.5, 1.91], True),
        ([2.3, 0.1, 0.4], False),  # four times the minimum, and a ninth of what was won
        # What has not fallen by a tenth has diverged at twice its start.
        ([2.0, 1.81, 3.9], False),
        ([2.0, 1.81, 4.1], True),
        ([2.0, 1.79, 3.9], True),
        ([2.0, math.nan], True),
        ([2.0, math.inf], True),
    ],
)
def test_a_loss_has_diverged_when_it_has_lost_half_of_its_fall(levels: list[float], diverged: bool) -> None:
    assert followed(levels).diverged is diverged


def test_noise_is_neither_a_fall_nor_a_divergence() -> None:
    """A thousand updates of 16 samples whose batches' losses vary by 15 and 50 % of their mean, which never moves."""
    for seed in range(60):
        for spread in (0.15, 0.5):
            course = Course(160.0)
            for loss in np.random.default_rng(seed).normal(2.0, 2.0 * spread, 1000):
                course = course.follow(loss, 16)
                assert not course.fallen, (seed, spread)
                assert not course.diverged, (seed, spread)


def test_the_error_of_a_smoothed_loss_is_that_of_many() -> None:
    ends = []
    for seed in range(400):
        course = Course(160.0)
        for loss in np.random.default_rng(seed).normal(2.0, 0.3, 200):
            course = course.follow(loss, 16)
        ends.append((course.smoothed.value, course.error(16)))
    values, errors = np.array(ends).T
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_the_start_is_the_average_of_the_first_three_half_lives() -> None:
    course = Course(2.0)
    for loss in (3.0, 3.0, 3.0, 9.0, 9.0):
        course = course.follow(loss, 1)
        assert math.isnan(course.start)
        assert not course.diverged
    # Weights fall by half in two updates.
    expected = np.average([3, 3, 3, 9, 9, 9], weights=2.0 ** np.arange(-2.5, 0.5, 0.5))
    assert course.follow(9.0, 1).start == pytest.approx(expected)


# -- judging


def ramp(loss: Callable[[float], float], updates: int = UPDATES) -> list[RampRow]:
    """Rows of one sample each, with a loss that depends on the share x of the ramp; they end where it diverges."""
    rows: list[RampRow] = []
    course = Course(half_life(updates))
    for k in range(updates):
        x = k / updates
        course = course.follow(loss(x), 1)
        rows.append(RampRow(k, k + 1, rate(x), loss(x), course.smoothed.value))
        if course.diverged:
            break
    return rows


def rate(x: float) -> float:
    return 10.0 ** (-5 + 6 * x)


def judged(loss: Callable[[float], float]) -> RangeTest:
    return judge_ramp(ramp(loss), UPDATES, LOWEST, HIGHEST)


def course_of(falls: float, until: float, breaks: float) -> Callable[[float], float]:
    """2 nats, down to 1 between two shares of the ramp, level from there, 10 from another share on."""
    return lambda x: 10.0 if x >= breaks else float(np.interp(x, [falls, until], [2.0, 1.0]))


def test_a_tenth_of_the_rate_of_divergence_is_suggested_and_the_steepest_fall_told() -> None:
    found = judged(course_of(0.5, 0.6, 0.8))
    # One update of 10 nats moves the average by 1 - 2^-.1 = .067 of 9: to 1.6, above the limit of 1.5.
    assert found.diverged_at == pytest.approx(rate(0.8))
    assert found.suggested_lr == pytest.approx(rate(0.8) / 10)
    # The straight fall, seen .0144 of the ramp later; any stretch of .05 well inside it is as steep.
    assert found.steepest_at is not None
    assert rate(0.53) < found.steepest_at < rate(0.60)
    assert (found.start_loss, found.lowest_loss) == (pytest.approx(2.0), pytest.approx(1.0, abs=0.01))
    assert rate(0.6) < (found.lowest_at or 0) < rate(0.8)
    assert found.reason == ""
    said = "learning rate 0.063 at batch 16: a tenth of 0.63, where the loss diverged; it fell fastest"
    assert sentence(found, 16) == f"{said} at {found.steepest_at:.2g}"
    early = judged(course_of(0.0, 0.1, 0.8))
    assert early.steepest_at is None
    assert sentence(early, 16) == f"{said} where the ramp begins"


NOTHING = {
    "the loss never fell by a tenth up to 10": lambda x: 2.0,
    # 8 nats (1 - 2^(-k/10)) above 2 after k updates: twice the start from the fifth on, at .804 of the ramp.
    "the loss never fell by a tenth before it diverged at 0.67": course_of(0.9, 1.0, 0.8),
    "the loss fell, but never diverged up to 10": course_of(0.5, 0.6, 2.0),
    "a tenth of 7.9e-05, where it diverged, is below the ramp": course_of(0.12, 0.15, 0.15),
}


@pytest.mark.parametrize("said", NOTHING)
def test_nothing_is_suggested_that_was_not_seen_inside_the_ramp(said: str) -> None:
    found = judged(NOTHING[said])  # type: ignore[arg-type]
    assert found.suggested_lr is None
    assert found.reason.startswith(said)
    assert sentence(found, 16) == f"no learning rate is suggested: {found.reason}"


def test_a_ramp_that_is_not_finite_from_the_first_update_on_is_judged_and_drawn() -> None:
    rows = [RampRow(0, 16, LOWEST, math.nan, None)]
    found = judge_ramp(rows, 16 * UPDATES, LOWEST, HIGHEST)
    assert found.reason.startswith("the loss never fell by a tenth before it diverged at 1e-05")
    assert found.start_loss is None
    draw_ramp(rows, found, "nothing")
    with pytest.raises(ValueError, match="has rows"):
        judge_ramp([], UPDATES, LOWEST, HIGHEST)


def test_the_figure_is_described_with_its_numbers() -> None:
    rows = ramp(course_of(0.5, 0.6, 0.8))
    found = judge_ramp(rows, UPDATES, LOWEST, HIGHEST)
    alt = picture(rows, found, sentence(found, 16), "find_lr").alt
    assert alt.startswith("Training loss of 801 updates against a learning rate that rises from 1e-05 to 0.63.")
    assert "begins at 2 nats" in alt
    assert "diverged at 0.63." in alt
    figure = draw_ramp(rows, found, "a title")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"steepest fall {found.steepest_at:.2g}", "diverged 0.63", f"suggested {found.suggested_lr:.2g}"]
    svg = svg_bytes(figure, alt).decode()
    assert f"<title>{alt}</title>" in svg
    assert svg_bytes(draw_ramp(rows, found, "a title"), alt).decode() == svg


# -- ramps that are trained


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a module into the current folder, to be imported from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))

    return write


QUADRATIC = """
    import torch

    CURVATURE = {curvature}


    def data():
        labels = torch.arange(800) % 2
        images = (255 * labels).to(torch.uint8)[:, None, None].expand(800, 4, 4).contiguous()
        return {{"train": (images[:600], labels[:600]), "test": (images[600:], labels[600:])}}


    class Parabola(torch.nn.Module):
        # Two logits whose cross-entropy, for the label that the image shows, is q = L / 2 (w - a)^2 + 0.1 to the last
        # bit of arithmetic: log(1 + e^d) with d = log(e^q - 1). a is -1 for black images and 1 for white ones.
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            a = x.mean((1, 2, 3)).sign()
            q = 0.5 * CURVATURE * (self.w - a) ** 2 + 0.1
            d = q + torch.log1p(-torch.exp(-q))
            return torch.stack([torch.where(a > 0, d, 0.0), torch.where(a > 0, 0.0, d)], 1)


    def net(image_shape, num_classes):
        return Parabola()
"""


@pytest.mark.parametrize(("curvature", "momentum"), [(1.0, 0.0), (20.0, 0.0), (5.0, 0.5)])
def test_a_parabola_diverges_where_theory_says(
    own: Callable[[str, str], None], curvature: float, momentum: float
) -> None:
    """SGD on curvature L is stable below 2 (1 + m) / L (Polyak 1964); its noise keeps the weight from sitting still."""
    name = f"parabola_{curvature:g}_{momentum:g}".replace(".", "_")
    own(name, QUADRATIC.format(curvature=curvature))
    options = {"schedule": "fixed-small", "parameters": {}, "dataset": f"{name}:data", "model": f"{name}:net"}
    options |= {"batch_size": 16, "momentum": momentum, "precision": "fp64", "weight_decay": 0.0, "augment": False}
    config = ramp_config(options, 0, UPDATES, LOWEST, HIGHEST)
    rows = climb(config, half_life=half_life(16 * UPDATES), device="cpu")
    assert rows[0].loss == pytest.approx(0.1 + curvature / 2 * np.mean([4.0, 16.0]), rel=0.3)
    found = judge_ramp(rows, 16 * UPDATES, LOWEST, HIGHEST)
    edge = 2 * (1 + momentum) / curvature
    assert found.diverged_at is not None
    # Just below the edge noise alone is many times the loss; just above it grows by so much an update.
    assert 0.9 * edge < found.diverged_at < 1.4 * edge
    assert found.suggested_lr == pytest.approx(found.diverged_at / 10)


SHARED = """
    import torch

    NET = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32),
                              torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 10))


    def net(image_shape, num_classes):
        return NET
"""


def test_a_network_that_somebody_else_has_is_left_as_it_was(own: Callable[[str, str], None]) -> None:
    own("shared_net", SHARED)
    import shared_net  # type: ignore[import-not-found]

    shared_net.NET.eval()
    before = {name: tensor.clone() for name, tensor in shared_net.NET.state_dict().items()}
    torch.manual_seed(5)
    options = {"schedule": "fixed-small", "parameters": {}, "model": "shared_net:net", "precision": "fp64"}
    config = ramp_config(options, 0, 200, LOWEST, HIGHEST)
    rows = climb(config, half_life=32.0, device="cpu")
    after = shared_net.NET.state_dict()
    assert rows[0].loss != rows[50].loss
    assert not shared_net.NET.training
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert all(weight.grad is None for weight in shared_net.NET.parameters())
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    again = climb(config, half_life=32.0, device="cpu")
    assert [row.loss for row in again] == [row.loss for row in rows]


def digits_config(schedule: str, **options: Any) -> RunConfig:
    parameters = options.pop("parameters", {})
    return ramp_config({"schedule": schedule, "parameters": parameters, **options}, 0, UPDATES, LOWEST, HIGHEST)


def test_the_ramp_has_the_batch_of_the_rate_and_the_momentum_of_the_highest_one() -> None:
    assert digits_config("fixed-small").batch_size == 16
    # A large batch, with a rate that is told at the small one.
    assert digits_config("fixed-large").batch_size == 16
    assert digits_config("fixed-large", reference_batch=32).batch_size == 32
    assert digits_config("fixed-small", momentum=0.5).momentum == 0.5
    cycle = digits_config("one-cycle")
    assert cycle.momentum == pytest.approx(0.85, abs=1e-3)
    assert digits_config("adaptive-batch").momentum == 0.9


def test_the_ramp_rises_by_equal_factors_from_end_to_end_in_the_updates_asked_for() -> None:
    config = digits_config("fixed-small", batch_size=8)
    data = prepare(config, load_images("digits"))
    training = Training(config, data=data, device="cpu")
    assert training.plan.updates == UPDATES
    assert training.total_samples == 8 * UPDATES
    rates = [row.lr for row in climb(config, half_life=half_life(8 * UPDATES), data=data, device="cpu")]
    assert rates[:3] == pytest.approx([LOWEST * (HIGHEST / LOWEST) ** (k / UPDATES) for k in range(3)])


def test_what_cannot_be_a_ramp_is_refused(bsexp: Bsexp, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--highest-lr: 0\.1; it must be above --lowest-lr, 1"):
        ramp_config({"schedule": "fixed-small", "parameters": {}}, 0, UPDATES, 1.0, 0.1)
    refused = [
        (["--updates", "50"], "--updates: 50; a ramp is smoothed and needs 100 at least"),
        (["--lowest-lr", "0"], "--lowest-lr: '0'; give a number above 0"),
        (["--batch-size", "1000"], "at most num_train // 2 = 646"),
        (["growing-bach"], "did you mean 'growing-batch'?"),
    ]
    for arguments, said in refused:
        result = bsexp("find-lr", *arguments)
        assert result.returncode == 2, result.stderr
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_digits_get_a_rate_at_which_they_learn_faster_than_below_and_above(bsexp: Bsexp, tmp_path: Path) -> None:
    result = bsexp("find-lr", "--threads", "1", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    place = tmp_path / "results" / "find-lr"
    assert sorted(path.name for path in place.iterdir()) == [f"find_lr.{e}" for e in ("csv", "json", "png", "svg")]
    assert document["file"] == "results/find-lr/find_lr.csv"
    assert (document["batch_size"], document["schedule"], document["seed"]) == (16, "fixed-small", 0)
    assert document["suggested_lr"] == pytest.approx(document["diverged_at"] / 10)
    rows = table(place / "find_lr.csv")
    assert float(rows[-1]["lr"]) == document["diverged_at"]
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in document["rows"]]
    assert document["alt"] in (place / "find_lr.svg").read_text()
    images = load_images("digits")

    def outcome(lr: float) -> float:
        config = RunConfig(schedule="fixed-small", lr=lr, epochs=2.0, evals=1, averaging="none")
        training = Training(config, data=prepare(config, images), device="cpu")
        for _ in training:
            pass
        assert training.outcome is not None
        return training.outcome.val_loss if training.outcome.val_loss is not None else math.inf

    best = outcome(document["suggested_lr"])
    assert best < outcome(document["suggested_lr"] / 30)
    assert best < outcome(document["diverged_at"])


def test_a_second_call_gives_the_same_bytes_and_another_seed_does_not(bsexp: Bsexp, tmp_path: Path) -> None:
    for name, seed in (("one", "0"), ("two", "0"), ("three", "1")):
        result = bsexp("find-lr", "one-cycle", "--updates", "200", "--threads", "1", "--seed", seed, "--name", name)
        assert result.returncode == 0, result.stderr
    first, second, third = (tmp_path / "results" / name for name in ("one", "two", "three"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert (first / "find_lr.csv").read_bytes() != (third / "find_lr.csv").read_bytes()


def test_a_ramp_that_ends_too_early_suggests_nothing_and_is_fine(bsexp: Bsexp) -> None:
    result = bsexp("find-lr", "--highest-lr", "1e-4", "--updates", "100", "--threads", "1", "--quiet")
    assert result.returncode == 0
    assert result.stdout.startswith("no learning rate is suggested: the loss never fell by a tenth up to 0.0001")
    assert result.stderr == ""


def test_a_network_that_fails_in_training_ends_it_with_3(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        textwrap.dedent("""
        import torch
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(64, 10)
            def forward(self, x):
                if self.training:
                    raise KeyError("nothing")
                return self.layer(x.flatten(1))
        def net(image_shape, num_classes):
            return Net()
        """)
    )
    result = bsexp("find-lr", "--model", "bad:net", "--quiet")
    assert result.returncode == 3
    assert result.stderr.startswith("bsexp: find-lr: KeyError: 'nothing'; ")
    assert not (tmp_path / "results").exists()


def interrupted(folder: Path, arguments: list[str], begun: Callable[[str], bool]) -> str:
    """What a command says from a Ctrl-C on, which its whole terminal gets once `begun` is true of a line that it says;
    it must end with 130, and no process may be left of it.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "bsexp", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any(begun(line) for line in process.stderr)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    words = process.stderr.read()
    process.stderr.close()
    gone(process.pid)
    return words


def gone(group: int) -> None:
    """Waits until no process of a process group is left."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a process is left")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals as on Linux")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SLEEPING)

    def asleep(line: str) -> bool:
        while "net on digits" in line and not (tmp_path / "asleep").exists():
            time.sleep(0.05)
        return "net on digits" in line

    for arguments, begun in (
        (["find-lr", "--model", "own:net", "--threads", "1"], asleep),
        (["find-batch", "--batch-sizes", "1,2,4,8", "--threads", "1"], lambda line: "samples/s" in line),
    ):
        words = interrupted(tmp_path, arguments, begun)
        assert words == "bsexp: stopped by SIGINT; run the same command again\n"
        assert not (tmp_path / "results").exists()


# -- the largest batch


@pytest.mark.parametrize(
    ("limit", "low", "high", "found", "tried"),
    [
        # 8, 16 fit, 32 doesn't; 24 doesn't, 20 fits, 22, 21: what is 1 apart is closest.
        (20, 4, 1000, (20, 21), [8, 16, 32, 24, 20, 22, 21]),
        (1000, 4, 20, (20, None), [8, 16, 20]),
        (19, 4, 20, (19, 20), [8, 16, 20, 18, 19]),
        (4, 4, 4, (4, None), []),
        (1, 1, 9, (1, 2), [2]),
    ],
)
def test_sizes_are_doubled_then_halved(
    limit: int, low: int, high: int, found: tuple[int, int | None], tried: list[int]
) -> None:
    seen: list[int] = []

    def fits(size: int) -> bool:
        seen.append(size)
        return size <= limit

    assert bisect(fits, low, high) == found
    assert seen == tried


def test_what_fits_and_what_does_not_are_a_32nd_apart_at_most() -> None:
    for limit in (100, 777, 5000, 26_999):
        known, refused = bisect(lambda size: size <= limit, 1, 10**6)  # noqa: B023
        assert refused is not None
        assert known <= limit < refused
        assert refused - known <= max(1, known / 32)


def test_timings_and_tries_are_one_table_by_size() -> None:
    timed = [HardwareRow("cpu", size, size, 0.1, 0.0, size / 0.1, 100) for size in (1, 8)]
    tried = [FitRow("cpu", size, size, None, None, None, None, size < 20, "") for size in (16, 24, 12)]
    rows = joined(timed, tried)
    assert [row.batch_size for row in rows] == [1, 8, 12, 16, 24]
    assert [row.fits for row in rows] == [True, True, True, True, False]


def test_memory_is_told_in_powers_of_a_thousand() -> None:
    assert [bytes_of(text) for text in ("1", "64K", "1.25M", "8G", "2T")] == [
        1,
        64_000,
        1_250_000,
        8 * 10**9,
        2 * 10**12,
    ]


def test_the_tightest_limit_of_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": ["MemTotal: 9000 kB", "MemAvailable:    8000 kB"],
        "/proc/self/cgroup": ["0::/outer/inner"],
        "/sys/fs/cgroup/outer/inner/memory.max": ["max"],
        "/sys/fs/cgroup/outer/inner/memory.current": ["1"],
        "/sys/fs/cgroup/outer/memory.max": ["5000000"],
        "/sys/fs/cgroup/outer/memory.current": ["2000000"],
    }
    monkeypatch.setattr(memory, "_lines", lambda path: files.get(str(path), []))
    assert memory.free_memory() == 3_000_000
    files["/sys/fs/cgroup/outer/memory.max"] = ["max"]
    assert memory.free_memory() == 8000 * 1024
    files.clear()
    assert memory.free_memory() is None


HUNGRY = """
    import os
    import torch


    class Hungry(torch.nn.Module):
        # 250,000 activations of 4 bytes for each sample: 1 MB, of which the backward pass needs another for their
        # gradients.
        def __init__(self, crash):
            super().__init__()
            self.layer, self.wide, self.crash = torch.nn.Linear(64, 10), torch.nn.Linear(1, 250_000), crash

        def forward(self, x):
            x = x.flatten(1)
            if self.training and self.crash and len(x) > 40:
                os.abort()
            return self.layer(x) + self.wide(x[:, :1]).square().mean(1, keepdim=True)


    def hungry(image_shape, num_classes):
        return Hungry(False)


    def crashing(image_shape, num_classes):
        return Hungry(True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux holds a process to its memory")
def test_the_largest_batch_is_found_by_what_its_memory_allows(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(textwrap.dedent(HUNGRY))
    common = ("--model", "own:hungry", "--batch-sizes", "8,16", "--threads", "1", "--json")
    result = bsexp("find-batch", *common, "--memory", "1.8G")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    fits = {row["batch_size"] for row in document["rows"] if row["fits"]}
    refused = {row["batch_size"]: row["reason"] for row in document["rows"] if not row["fits"]}
    assert document["largest"] == max(fits)
    assert document["smallest_refused"] == min(refused)
    assert document["memory_bytes"] == 1_800_000_000
    assert 0 < document["smallest_refused"] - document["largest"] <= max(1, document["largest"] / 32)
    assert set(refused.values()) == {"out of memory"}
    peaks = {row["batch_size"]: row["peak_memory_bytes"] for row in document["rows"] if row["fits"]}
    # Files that are mapped, torch's own among them, are in memory as well and not held to it.
    assert peaks[document["largest"]] < 1_800_000_000 + 300_000_000
    # 2 MB at least a sample; 10 MB at most, as allocators keep what was freed, beside 900 for a process with torch.
    assert (1800 - 900) / 10 < document["largest"] < 1800 / 2
    rows = table(tmp_path / "results" / "find-batch" / "find_batch.csv")
    assert [int(row["batch_size"]) for row in rows] == [row["batch_size"] for row in document["rows"]]
    # The knee by hand: the smallest batch with nine tenths of the most samples a second.
    rates = {row["batch_size"]: row["samples_per_second"] for row in document["rows"] if row["samples_per_second"]}
    assert set(rates) == {8, 16}
    assert document["knee"] == min(size for size, found in rates.items() if found >= 0.9 * max(rates.values()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux holds a process to its memory")
def test_a_process_that_dies_costs_nothing_and_counts_as_too_large(bsexp: Bsexp, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(textwrap.dedent(HUNGRY))
    common = ("--model", "own:crashing", "--batch-sizes", "32", "--threads", "1", "--train-size", "200")
    result = bsexp("find-batch", *common)
    assert result.returncode == 0, result.stderr
    assert "batch 40 fits into" in result.stdout
    assert "at once, 41 does not: --micro-batch 40 runs larger ones in parts" in result.stdout
    rows = {row["batch_size"]: row for row in table(tmp_path / "results" / "find-batch" / "find_batch.csv")}
    assert rows["64"]["fits"] == "False"
    assert "its process was ended by SIGABRT" in rows["64"]["reason"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux holds a process to its memory")
def test_memory_that_not_even_the_smallest_batch_fits_into_ends_it_with_7(bsexp: Bsexp, tmp_path: Path) -> None:
    result = bsexp("find-batch", "--memory", "50M", "--quiet")
    assert result.returncode == 7
    assert result.stderr.count("\n") == 1
    assert "before it trains, and may have 50 MB; give it more (--memory)" in result.stderr
    assert not (tmp_path / "results").exists()


def test_where_all_that_the_data_allow_fits_that_is_said(bsexp: Bsexp) -> None:
    result = bsexp("find-batch", "--batch-sizes", "16,256", "--train-size", "600", "--threads", "1", "--quiet")
    assert result.returncode == 0, result.stderr
    assert "every batch that the data allow fits into" in result.stdout
    assert "at once, up to 300" in result.stdout


def test_a_wrong_amount_of_memory_is_refused(bsexp: Bsexp) -> None:
    for text in ("0", "8 G", "8Gi", "-1G", "much"):
        result = bsexp("find-batch", f"--memory={text}")
        assert result.returncode == 2, result.stderr
        assert "--memory" in result.stderr
        assert "K, M, G or T" in result.stderr


def test_where_nobody_holds_a_process_to_its_memory_a_size_that_takes_more_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bsexp.engine.device.hold_to", lambda memory, device: False)
    config = config_of_size({"dataset": "digits", "train_size": 200}, 8)
    surroundings = Surroundings("cpu", None, False, False, memory=1000)
    with pytest.raises(MemoryExhausted, match=r"batch size 8 takes [0-9,]+ bytes"):
        _time(config.model_dump(), surroundings, 1)
    timing, _ = _time(config.model_dump(), replace(surroundings, memory=10**12), 1)
    assert len(timing.seconds) == 1
