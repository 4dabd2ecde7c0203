"""Cases 32 and 35 to 38: wrong values, unknown names, damaged experiment files, impossible grids, missing devices.

Everything is refused before anything is written: `refused` asserts that of each command line.
"""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from bsexp import planning
from tests.faults.inside import Said, said
from tests.faults.programs import finish

ARM = '[arms.a]\nschedule = "lr-decay"\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments: str, code: int = 2) -> str:
    """The one line with which a command is refused; an error where a file appears or anything is on stdout."""
    before = sorted(Path().rglob("*"))
    result = said(*arguments)
    assert result.code == code, (arguments, result)
    assert result.out == ""
    assert sorted(Path().rglob("*")) == before
    return result.line


def refused_file(text: str | bytes, *arguments: str) -> str:
    """The same for an experiment file, by every command that reads one, without the file's name in front."""
    Path("e.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    lines = {refused(*command, "e.toml", *arguments) for command in (("sweep",), ("plan",))}
    lines.add(refused("sweep", "e.toml", "--dry-run", *arguments))
    (line,) = lines
    assert line.startswith("bsexp: e.toml:"), line
    return line.removeprefix("bsexp: e.toml:").lstrip()


def allowed(text: str, *arguments: str) -> Said:
    """What `sweep --dry-run` says to an experiment file."""
    Path("e.toml").write_text(text)
    result = said("sweep", "e.toml", "--dry-run", *arguments)
    assert result.code == 0, result
    return result


# -- 32: values

COUNT, RATE, SHARE = "give a whole number from 1", "give a number above 0", "give a number from 0 below 1"
VALUES = [
    *(("batch_size", text, COUNT) for text in ("0", "-4", "1.5", "true", "64k", "1e400", "1e3", "nan", "")),
    *(("lr", text, RATE) for text in ("0", "-0.1", "nan", "inf", "-inf", "1e400", "1e-400", "yes", "0.1.2", "true")),
    *(("epochs", text, RATE) for text in ("0", "-1", "nan", "inf", "1e400", "true")),
    *(("momentum", text, SHARE) for text in ("1", "-0.1", "nan", "1.5")),
    *(("val_fraction", text, SHARE) for text in ("1", "nan")),
    *(("max_batch", text, COUNT) for text in ("0", "x")),
    ("weight_decay", "-1", "give a number from 0"),
    ("micro_batch", "0", "give a whole number from 1 or 'auto'"),
    ("train_size", "1", "give a whole number from 2"),
    ("seed", "2147483648", "give a whole number from 0 to 2147483647"),
    ("nesterov", "maybe", "give true or false"),
]


@pytest.mark.parametrize(("name", "text", "cure"), VALUES, ids=lambda value: value[:12])
def test_a_wrong_value_is_told_with_option_value_and_range(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, cure: str
) -> None:
    flag = "--" + name.replace("_", "-")
    if name != "nesterov":
        for command in ("run", "plan"):
            assert refused(command, "lr-decay", flag, text) == f"bsexp: {flag}: {text!r}; {cure}"
    if text and name not in ("nesterov", "seed"):
        assert refused("sweep", "--schedule", "lr-decay", flag, text) == f"bsexp: {flag}: {text!r}; {cure}"
    if text and name != "nesterov":
        monkeypatch.setenv("BSEXP_" + name.upper(), text)
        assert refused("run", "lr-decay") == f"bsexp: {flag}: {text!r}; {cure}"


@pytest.mark.parametrize(
    ("given", "said_value"),
    [
        ("batch_size = 0", "batch_size: 0; " + COUNT),
        ("batch_size = 1.5", "batch_size: 1.5; " + COUNT),
        ("batch_size = 16.0", "batch_size: 16.0; " + COUNT),
        ("batch_size = true", "batch_size: True; " + COUNT),
        ('batch_size = "64k"', "batch_size: '64k'; " + COUNT),
        ("lr = nan", "lr: nan; " + RATE),
        ("lr = -inf", "lr: -inf; " + RATE),
        ("lr = 1e400", "lr: inf; " + RATE),
        ('lr = "0.1"', "lr: '0.1'; " + RATE),
        ('epochs = "yes"', "epochs: 'yes'; " + RATE),
        ('epochs = "no"', "epochs: 'no'; " + RATE),
        ("epochs = true", "epochs: True; " + RATE),
        ("epochs = 2026-01-01", "epochs: datetime.date(2026, 1, 1); " + RATE),
        (f"epochs = 0x{'f' * 5000}", "epochs: a value too long to print; " + RATE),
        ("momentum = 1", "momentum: 1; " + SHARE),
        ('nesterov = "yes"', "nesterov: 'yes'; give true or false"),
        ("nesterov = 1", "nesterov: 1; give true or false"),
        (f'optimizer = "{"y" * 9000}"', f"optimizer: '{'y' * 76}...; known: adamw, sgd"),
    ],
)
def test_a_wrong_value_in_a_file_is_told_with_its_key_wherever_it_stands(given: str, said_value: str) -> None:
    assert refused_file(f"{ARM}{given}\n") == f"arms.a.{said_value}"
    assert refused_file(f"{ARM}[run]\n{given}\n") == f"run.{said_value}"
    key, _, value = given.partition(" = ")
    assert refused_file(f"{ARM}[grid]\n{key} = [{value}, {value}]\n") == f"grid.{said_value}"


@pytest.mark.parametrize(
    ("milestones", "shown"),
    [
        ("[0.6, 0.3]", "[0.6, 0.3]"),
        ("[0.3, 0.3]", "[0.3, 0.3]"),
        ("[0.0, 0.5]", "0.0"),
        ("[0.5, 1]", "1"),
        ("[]", "[]"),
    ],
)
def test_milestones_are_told_with_their_range(milestones: str, shown: str) -> None:
    cure = "give a list of numbers in (0, 1), strictly increasing"
    assert refused_file(f"{ARM}milestones = {milestones}\n") == f"arms.a.milestones: {shown}; {cure}"
    line = refused("run", "lr-decay", "--set", f"milestones={milestones}")
    assert line.startswith("bsexp: milestones: ")
    assert line.endswith(cure)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", "1e-4"], "epochs: 0.0001; less than one sample of 1293"),
        (["--evals", "25861"], "evals: 25861; at most one per sample: 25,860"),
        (["--nesterov", "--momentum", "0"], "momentum: 0 with nesterov"),
        (["--ghost-batch", "8"], "ghost_batch: 8 with norm 'none'; it has no batch statistics"),
        (["--max-batch", "15"], "max_batch: 15; it must be at least batch_size = 16"),
        (["--warmup-epochs", "20"], "warmup_epochs: 20; the whole run has 20 epochs"),
        (["--val-fraction", "0.9999"], "val_fraction: 0.9999; it leaves 0 of 1437 images"),
    ],
)
def test_values_that_no_run_could_have_are_refused_when_planned(options: list[str], words: str) -> None:
    for command in (["run"], ["run", "--dry-run"], ["plan"]):
        assert words in refused(*command, "growing-batch", *options)
    for command in (["sweep"], ["sweep", "--dry-run"]):
        assert f"arms.growing-batch: {words}" in refused(*command, "--schedule", "growing-batch", *options)


def test_a_budget_without_end_is_refused_before_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsexp.planning.simulate", None)
    # 1e8: 129,300,000,000 samples, 8 * 10^9 updates of 16 and still 10^9 of the largest batch, 129.
    for epochs, shown in (("1e300", "1e+300"), ("1e8", "1e+08")):
        for command in (["run"], ["run", "--dry-run"], ["plan"]):
            line = refused(*command, "growing-batch", "--epochs", epochs)
            assert line == f"bsexp: epochs: {shown}; more than 100,000,000 updates; give fewer epochs"


def test_updates_are_counted_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 * 1,293 / 16 = 1,616.25
    for most, code in ((1616, 2), (1617, 0)):
        planning._plan.cache_clear()
        monkeypatch.setattr("bsexp.planning.MOST_UPDATES", most)
        assert said("run", "fixed-small", "--dry-run").code == code


def test_the_largest_that_is_allowed_is_allowed() -> None:
    assert said("run", "growing-batch", "--evals", "25860", "--dry-run").code == 0
    assert (
        said("run", "lr-decay", "--momentum", "0", "--batch-size", "646", "--max-batch", "646", "--dry-run").code == 0
    )


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "/tmp/elsewhere", "../a", "a\\b", "a\0b"])
def test_a_name_stays_below_the_results(name: str) -> None:
    which = f"{name!r}; give a text that can name a folder: without slashes, not beginning with a dot"
    for command in (("run", "lr-decay"), ("plan", "lr-decay"), ("sweep", "--schedule", "lr-decay")):
        assert refused(*command, "--name", name) == f"bsexp: --name: {which}"
    assert refused_file(f"name = {json.dumps(name)}\n{ARM}") == f"name: {which}"


def test_any_other_name_is_a_name(here: Path) -> None:
    # The last one as a terminal with another encoding gives it.
    for name in ("größe", "two words", "two\nlines", "a.b", "caf\udce9"):
        assert said("run", *SHORT, "--threads", "1", "--name", name, "-q").code == 0
        assert (here / "results" / name / "runs").is_dir()


def test_more_threads_or_workers_than_any_machine_has_are_refused() -> None:
    # A hundred thousand threads ended the process with SIGSEGV.
    for threads in ("0", "1025", "100000000"):
        assert refused("run", *SHORT, "--threads", threads) == (
            f"bsexp: --threads: {threads!r}; give a whole number from 1 to 1024"
        )
    assert refused(*SWEEP[:-1], "100000000000") == (
        "bsexp: --jobs: '100000000000'; give a whole number from 0 to 1024 or 'auto'"
    )


# -- 35: names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "growing-bach"], "schedule: unknown name 'growing-bach'; did you mean 'growing-batch'?"),
        (["run", "lr-decay", "--dataset", "minst"], "dataset: unknown name 'minst'; did you mean 'mnist' or 'kmnist'?"),
        (["run", "lr-decay", "--model", "mpl"], "model: unknown name 'mpl'; did you mean 'mlp'?"),
        (["run", "lr-decay", "--optimizer", "sdg"], "--optimizer: 'sdg'; did you mean 'sgd'?"),
        (["run", "lr-decay", "--lr-scaling", "lienar"], "lr_scaling: 'lienar'; did you mean 'linear'?"),
        (["run", "lr-decay", "--batch-sise", "4"], "No such option: --batch-sise"),
        (["run", "lr-decay", "--set", "shap=cosine"], "unknown name 'shap'; did you mean 'shape'?"),
        (["run", "lr-decay", "--set", "shape=cosin"], "shape: 'cosin'; did you mean 'cosine'?"),
        (["run", "custom", "--set", "lr={curve='liner'}"], "lr.curve: 'liner'; did you mean 'linear'?"),
        (
            ["run", "custom", "--set", "lr={product=[{curve='step',factr=2}]}"],
            "lr.product[0]: step: parameter: unknown name 'factr'; did you mean 'factor'?",
        ),
        (["sweep", "--schedule", "lr-decay,cyclc"], "unknown name 'cyclc'; did you mean 'cyclic'?"),
        (["list", "shapess"], "unknown kind 'shapess'; did you mean 'shapes'?"),
        (["runn"], "No such command 'runn'. Did you mean 'run'?"),
        (["run", "nosuch:schedule"], "schedule: nosuch:schedule; no such module"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(arguments: list[str], words: str) -> None:
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["torchvision:resnet19"], "no classification model 'resnet19'; did you mean 'resnet18'"),
        (["torchvision:resnet18", "--dropout", "0.1"], "dropout: 0.1; model torchvision:resnet18 takes no dropout"),
        (["nosuch:net"], "model: nosuch:net; no such module"),
        (["json:dumps"], "model: json:dumps; building it failed: TypeError"),
    ],
)
def test_a_network_that_cannot_be_built_leaves_no_run_behind(options: list[str], words: str) -> None:
    assert words in refused("run", *SHORT, "-q", "--threads", "1", "--model", *options)


def test_a_refusal_takes_nothing_away_that_was_there(here: Path) -> None:
    (here / "unready.py").write_text("def net(image_shape, num_classes):\n    raise ValueError('not yet')\n")
    run = ("fixed-small", "--model", "unready:net")
    assert said("sweep", "--schedule", *run, "--seeds", "0", "--jobs", "0").code == 0
    assert len(list(here.glob("results/runs/runs/*/config.json"))) == 1
    assert "building it failed: ValueError: not yet" in refused("run", *run, "-q", "--threads", "1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ARM + "[runs]\nlr = 0.1\n", "runs: unknown key; did you mean 'run'?"),
        (ARM + "[run]\nepoch = 1\n", "run.epoch: unknown key; did you mean 'epochs'?"),
        (ARM + "[run.lr]\nvalue = 1\n", "run.lr: {'value': 1}; give a number above 0"),
        (ARM + '[run]\ndataset = "minst"\n', "arms.a: dataset: unknown name 'minst'; did you mean 'mnist'"),
        (ARM + '[run]\nmodel = "mpl"\n', "arms.a: model: unknown name 'mpl'; did you mean 'mlp'?"),
        (ARM + "milestons = [0.5]\n", "arms.a.milestons: unknown key; did you mean 'milestones'?"),
        (ARM + "batchsize = 4\n", "arms.a.batchsize: unknown key; did you mean 'batch_size'?"),
        (ARM + 'shape = "cosin"\n', "arms.a.shape: 'cosin'; did you mean 'cosine'?"),
        (ARM + 'lr = {curve = "linear"}\n', "arms.a.lr: {'curve': 'linear'}; give a number above 0"),
        (ARM.replace("decay", "deacy"), "arms.a: schedule: unknown name 'lr-deacy'; did you mean 'lr-decay'?"),
        (ARM + "[grid]\nfacter = [2]\n", "grid.facter: unknown key; did you mean 'factor'?"),
        (ARM + "[[zip]]\nlr = [0.1]\nepoch = [2]\n", "zip[0]: unknown key; did you mean 'epochs'?"),
        (ARM + "[grid]\nseeds = [1]\n", "grid.seeds: not for single arms; seeds are set for all arms"),
        (ARM + "[[exclude]]\nlrr = 0.1\n", "exclude[0].lrr: unknown key; did you mean 'lr'?"),
        (ARM + '[arms.steady]\nschedule = "cyclic"\n[[exclude]]\narm = "stedy"\n', "did you mean 'steady'?"),
        (ARM + "[tune]\nlr = [0.1]\nseed = 3\n", "tune.seed: unknown key; did you mean 'seeds'?"),
        (
            '[arms.a]\nschedule = "custom"\nlr = {product = [{curve = "linear"}, {curve = "step", factr = 2}]}\n',
            "lr.product[1]: step: parameter: unknown name 'factr'; did you mean 'factor'?",
        ),
    ],
)
def test_an_unknown_key_at_any_depth_is_answered_with_the_nearest(text: str, words: str) -> None:
    assert words in refused_file(text)


def test_a_parameter_may_stand_above_the_shape_that_has_it() -> None:
    allowed(ARM + 'final_lr_fraction = 0.1\nshape = "linear"\n')


# -- 36: files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ARM + "lr = \n", "3: Invalid value"),
        (ARM + '\n\nquestion = "open\n', "5: Illegal character"),
        (ARM + ARM, "3: Cannot declare ('arms', 'a') twice"),
        (ARM + "lr = 0.1\nlr = 0.2\n", "4: Cannot overwrite a value"),
        (ARM + "lr = 010\n", "3: "),
        (ARM.encode() + b"# gr\xf6\xdfe\n", "3: not UTF-8; save the file as UTF-8"),
        (ARM.encode("utf-16"), "1: not UTF-8"),
        (bytes(50), "1: Invalid statement"),
        (ARM + f"lr = {'[' * 5000}", "lists or tables nested too deep"),
        (ARM + f"epochs = {'9' * 5000}\n", "a number of thousands of digits"),
        ("arms = 1\n", "arms: 1; write it as a table: [arms]"),
        ('[arms]\na = "lr-decay"\n', "arms.a: 'lr-decay'; write it as a table: [arms.a]"),
        ('[[arms]]\nschedule = "lr-decay"\n', "arms: [{'schedule': 'lr-decay'}]; write it as a table"),
        (ARM + "[arms.b]\n", "arms.b.schedule: None; name one"),
        ("run = 3\n" + ARM, "run: 3; write it as a table: [run]"),
        (ARM + '[run]\nmax_runs = "x"\n', "run.max_runs: 'x'; give a whole number from 1"),
        (ARM + '[run]\nyes = "no"\n', "run.yes: 'no'; give true or false"),
        (ARM + '[run]\nname = "b"\n', "run.name: 'b'; write it above the tables"),
        (ARM + "[run]\ntune = false\n", "run.tune: unknown key"),
        (ARM + "[run]\nlr = [0.1, 0.2]\n", "run.lr: a list; several values belong into [grid]"),
        ('demonstration = "no"\n' + ARM, "demonstration: 'no'; give true or false"),
        ("question = 3\n" + ARM, "question: 3; give a text"),
        ("name = 3\n" + ARM, "name: 3; give a text"),
        ('name = ""\n' + ARM, "name: ''; give a text"),
        (ARM + "[run]\nseeds = true\n", "run.seeds: True; give a whole number from 0 to 2147483647"),
        (ARM + "[run]\nseeds = []\n", "run.seeds: []; give seeds such as"),
        (ARM + '[run]\nseeds = "5-2"\n', "run.seeds: '5-2'; a range goes from the smaller to the larger"),
        (ARM + "[tune]\nlr = 0.1\n", "tune.lr: 0.1; give a list of learning rates"),
    ],
)
def test_what_is_no_experiment_is_told_with_line_or_key(content: str | bytes, words: str) -> None:
    assert refused_file(content).startswith(words)


def test_a_folder_and_a_large_file_are_no_experiments() -> None:
    Path("d.toml").mkdir()
    assert refused("sweep", "d.toml") == "bsexp: d.toml: a folder; name a TOML file"
    with Path("big.toml").open("wb") as file:
        file.truncate(100_000_000)
    began = time.monotonic()
    assert refused("plan", "big.toml") == "bsexp: big.toml: 100 MB; an experiment file is a few kB"
    assert time.monotonic() - began < 1, "it was read"
    assert "no such file" in refused("sweep", "nowhere.toml")


# -- 37: grids


def test_cells_are_counted_without_being_built(monkeypatch: pytest.MonkeyPatch) -> None:
    # What sets a value of a cell; the arm itself has none.
    monkeypatch.setattr("bsexp.sweep.cells.put", None)
    values = ", ".join(str(k / 1000) for k in range(1, 216))
    axes = "".join(f"{name} = [{values}]\n" for name in ("lr", "dropout", "weight_decay"))
    began = time.monotonic()
    # 215^3
    assert refused_file(f"{ARM}[grid]\n{axes}").startswith(
        "sweep: 9,938,375 runs are more than --max-runs 500; add --yes"
    )
    many = ", ".join(str(k) for k in range(1, 100_001))
    assert "sweep: 100,000 runs are more" in refused_file(f"{ARM}[grid]\nlr = [{many}]\n")
    assert "sweep: 100,001 runs are more" in refused_file(f"{ARM}[sensitivity]\nlr_factor = [{many}]\n")
    assert time.monotonic() - began < 30, "10^10 comparisons take many minutes"


def test_more_than_max_runs_need_a_yes() -> None:
    # 2 rates x 3 seeds, and 2 rates x 1 seed to tune.
    text = f'{ARM}[run]\nseeds = "0-2"\n[grid]\ndropout = [0.1, 0.2]\n[tune]\nlr = [0.1]\nseeds = "9"\n'
    assert "6 runs and 2 tuning runs" in allowed(text, "--max-runs", "8").out
    Path("e.toml").write_text(text)
    assert "8 runs are more than --max-runs 7" in refused("sweep", "e.toml", "--max-runs", "7")
    assert "6 runs and 2 tuning runs" in allowed(text, "--max-runs", "7", "--yes").out


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("[grid]\nlr = []\n", "grid.lr: []; give a list of values"),
        ("[grid]\nlr = 0.1\n", "grid.lr: 0.1; give a list of values"),
        ("[[grid]]\nlr = [0.1]\n", "grid: [{'lr': [0.1]}]; write it as a table: [grid]"),
        ("[[zip]]\nlr = [0.1, 0.2]\nepochs = [1]\n", "zip[0]: lists of different lengths"),
        ("[zip]\nlr = [0.1]\n", "zip: {'lr': [0.1]}; write it as [[zip]]"),
        ("[grid]\nlr = [0.1]\n[[zip]]\nlr = [0.2]\n", "zip[0]: a second axis of lr; drop one of them"),
        ("[grid]\nbatch_size = [1, true]\n", "grid.batch_size: True; " + COUNT),
        ("[grid]\nbatch_size = [16, 16.0]\n", "grid.batch_size: 16.0; " + COUNT),
        (
            '[arms.b]\nschedule = "hybrid"\n[grid]\ngrow_stages = [1, true]\n',
            "grid.grow_stages: True; give a whole number from 0",
        ),
        ('[[exclude]]\narm = "a"\n', "exclude: leaves no arm"),
        ('[[exclude]]\narm = ["a"]\n', "exclude[0].arm: ['a']; known: a"),
        ('[[exclude]]\nlr = "high"\n', "exclude[0].lr: 'high'; " + RATE),
    ],
)
def test_an_empty_or_contradictory_grid_is_refused(axes: str, words: str) -> None:
    assert refused_file(ARM + axes).startswith(words)


def test_doubled_values_are_merged_with_a_note() -> None:
    found = allowed(ARM + "[run]\nseeds = [3, 4, 3]\n[grid]\nepochs = [1, 2, 1.0, 1]\nmilestones = [[0.5], [0.5]]\n")
    # 2 seeds, 2 lengths, 1 list of milestones.
    assert found.out.startswith("e: 4 runs")
    assert found.err.splitlines() == [
        "note: run.seeds: 1 doubled value merged",
        "note: grid.epochs: 2 doubled values merged",
        "note: grid.milestones: 1 doubled value merged",
    ]
    tuned = allowed(
        ARM + "[[zip]]\nepochs = [1, 1]\ndropout = [0.1, 0.1]\n[tune]\nlr = [0.1, 0.2, 0.1]\nseeds = [8, 8]\n"
    )
    assert tuned.out.startswith("e: 6 runs and 2 tuning runs")
    assert [line.partition(":")[2] for line in tuned.err.splitlines()] == [
        " zip[0]: 1 doubled value merged",
        " tune.lr: 1 doubled value merged",
        " tune.seeds: 1 doubled value merged",
    ]
    options = said("sweep", "--schedule", "lr-decay", "--lr", "0.1,0.2,0.1", "--seeds", "0", "--dry-run")
    assert options.out.startswith("runs: 2 runs")
    assert options.err == "note: --lr: 1 doubled value merged\n"
    nothing = allowed(ARM + "[grid]\nlr = [0.1, 0.2]\n[[exclude]]\nlr = 0.3\n")
    assert nothing.err == "note: exclude[0] leaves nothing out\n"


# -- 38: what the machine lacks

SHORT = ("fixed-small", "--epochs", "0.02", "--evals", "1")
SWEEP = ("sweep", "--schedule", "fixed-small", "--epochs", "0.02", "--evals", "1", "--seeds", "0", "--jobs", "1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_device_that_is_not_there_ends_everything_with_6(device: str) -> None:
    line = f"bsexp: device: {device}: this machine has no CUDA device; use --device cpu"
    assert refused("run", *SHORT, "--device", device, "-q", code=6) == line
    assert refused(*SWEEP, "--device", device, code=6) == line
    Path("e.toml").write_text(f'{ARM}[run]\ndevice = "{device}"\n')
    assert refused("sweep", "e.toml", code=6) == line
    # A plan may be made for another machine.
    assert said("sweep", "e.toml", "--jobs", "0").code == 0


def test_a_wrong_index_names_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for a machine with one GPU.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    line = "bsexp: device: cuda:1: this machine has 1 CUDA device; use --device cpu"
    assert refused(*SWEEP, "--device", "cuda:1", code=6) == line
    assert refused("run", *SHORT, "--device", "cuda:1", "-q", code=6) == line


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CPU"])
def test_a_word_that_is_no_device_is_a_wrong_value(device: str) -> None:
    cure = "give auto, cpu, cuda, cuda:N or mps"
    for command in (("run", *SHORT), SWEEP, ("plan", "fixed-small")):
        assert refused(*command, "--device", device) == f"bsexp: --device: {device!r}; {cure}"
    assert refused_file(f'{ARM}[run]\ndevice = "{device}"\n') == f"run.device: {device!r}; {cure}"


@pytest.mark.skipif(torch.cuda.is_available() or sys.platform == "darwin", reason="this machine may have a GPU")
def test_auto_takes_the_cpu_and_says_so(here: Path) -> None:
    alone = said("run", *SHORT, "--threads", "1")
    assert alone.err.splitlines()[1] == "on cpu (no GPU found), 1 thread"
    named = said("run", *SHORT, "--threads", "1", "--device", "cpu", "--no-resume")
    assert named.err.splitlines()[1] == "on cpu, 1 thread"
    program = finish(here, *SWEEP, "--out", "swept", "--no-report")
    assert program.said().startswith("runs: 1 to make with 1 worker on cpu (no GPU found)\n")


def test_wheels_that_do_not_match_end_what_needs_them_with_6(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in: a package of that name which fails as the real one does beside another torch.
    (here / "torchvision").mkdir()
    (here / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(here))
    for needs in (("--dataset", "mnist"), ("--model", "torchvision:resnet18")):
        monkeypatch.setenv("BSEXP_DATA_DIR", str(here / "data"))
        result = said("run", *SHORT, *needs, "-q")
        assert result.code == 6, result
        assert "operator torchvision::nms does not exist" in result.line
        assert "install matching wheels: pip install --force-reinstall torch torchvision" in result.line
    assert said("run", *SHORT, "-q").code == 0
    doctor = said("doctor", "--json")
    assert doctor.code == 0
    (found,) = [finding for finding in json.loads(doctor.out)["findings"] if finding["what"] == "torchvision"]
    assert "does not exist" in found["found"]
    assert "pip install --force-reinstall torch torchvision" in found["cure"]
