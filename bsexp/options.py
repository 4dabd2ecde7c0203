"""One table of all options: name, type, range, default, help, which commands take it, whether it is in the run id.

The one rule: command line, environment variables, TOML keys, RunConfig and the README's table are made from this table
and from nothing else. A field of RunConfig is an option with `in_id`.
"""

from dataclasses import replace

from bsexp.option import TRAINING, Option
from bsexp.option import choice as _choice
from bsexp.option import count as _count
from bsexp.option import share as _share

MAKING = ("run", "sweep", "worker")
# What an update costs depends on these.
COSTING = (*TRAINING, "measure", "find-lr", "find-batch")
# What a training does at a given rate depends on these.
LEARNING = (*TRAINING, "find-lr")
MEASURING = ("measure", "find-lr", "find-batch")


_DATA = "the data set's"

_STUDY = (
    Option("dataset", "text", "digits", "data set: a name, folder:PATH or module:factory", commands=COSTING),
    Option(
        "model",
        "text",
        None,
        "network: a name, torchvision:NAME or module:factory",
        commands=COSTING,
        default_text=_DATA,
    ),
    Option(
        "epochs", "number", None, "budget, in passes over the training split", low=0, open_low=True, default_text=_DATA
    ),
    Option(
        "updates",
        "integer",
        None,
        "budget, in updates instead: samples are solved for",
        low=1,
        commands=LEARNING,
        in_id=False,
        default_text="from epochs; find-lr: 1,000",
    ),
    Option(
        "budget",
        "text",
        None,
        "budget, as samples:N, updates:N or seconds:S (with --hardware) instead",
        pattern=r"(samples|updates|seconds):[0-9.e+]+",
        pattern_text="samples:N, updates:N or seconds:S",
        in_id=False,
        default_text="from epochs",
    ),
    _count(
        "batch_size",
        None,
        "samples per update (the first one, where it grows)",
        commands=LEARNING,
        default_text=_DATA,
    ),
    _count("max_batch", None, "cap on a growing batch", default_text="max(batch_size, num_train // 10)"),
    Option(
        "lr",
        "number",
        None,
        "learning rate at the reference batch",
        low=0,
        open_low=True,
        default_text=f"{_DATA}; adamw .001",
    ),
    Option("lr_scaling", "text", None, "none, linear, sqrt, auto or a power", default_text="the schedule's"),
    _count(
        "reference_batch",
        None,
        "the batch size that --lr speaks of",
        commands=LEARNING,
        default_text="batch_size; fixed-large: the data set's",
    ),
    Option("warmup_epochs", "number", None, "linear warm-up of the rate", low=0, default_text="the schedule's"),
    _share("momentum", None, "momentum (adamw: beta 1)", commands=LEARNING, default_text=".9"),
    Option("nesterov", "flag", False, "Nesterov momentum", LEARNING),
    Option("weight_decay", "number", 5e-4, "on tensors of two or more dimensions", LEARNING, low=0),
    _choice("weight_decay_clock", ("update", "samples"), "update", "what the decay is counted in", commands=LEARNING),
    _choice("optimizer", ("sgd", "adamw"), "sgd", "optimizer", commands=COSTING),
    Option(
        "clip_norm",
        "number",
        None,
        "largest norm of the gradient",
        low=0,
        open_low=True,
        commands=COSTING,
        default_text="none",
    ),
    _share("dropout", 0.0, "share of activations dropped before the last layer", commands=COSTING),
    _choice("norm", ("group", "batch", "none"), None, "normalisation", commands=COSTING, default_text="the model's"),
    _count(
        "ghost_batch",
        None,
        "samples per batch statistic; 0: the micro-batch",
        low=0,
        commands=COSTING,
        default_text="the model's",
    ),
    _choice(
        "averaging",
        ("ema", "none"),
        "ema",
        "averaged weights, evaluated beside the last",
        commands=(*TRAINING, "measure", "find-batch"),
    ),
    _share("label_smoothing", 0.0, "share of the label spread over all classes", commands=LEARNING),
    _share("label_noise", 0.0, "share of the training labels drawn anew", commands=LEARNING),
    Option("augment", "flag", None, "random crop and mirror", commands=COSTING, default_text=_DATA),
    _count(
        "train_size",
        None,
        "size of a stratified subset, drawn per seed",
        low=2,
        commands=(*LEARNING, "find-batch"),
        default_text="all",
    ),
    Option("fixed_subset", "flag", False, "the same subset for every seed", LEARNING),
    _share("val_fraction", 0.1, "share of the training file kept for validation", commands=(*LEARNING, "find-batch")),
    _count(
        "image_size", None, "side that images of a folder are brought to", low=4, commands=COSTING, default_text="32"
    ),
    Option(
        "seed", "integer", 0, "seed of everything random", low=0, high=2**31 - 1, commands=("run", "plan", "find-lr")
    ),
    _count("order", 0, "which order of the seed's samples; weights, subset and labels stay", low=0, high=2**31 - 1),
    _count("order_from", 0, "whole epochs in order 0 before the other order begins", low=0),
    _count("evals", None, "number of equally spaced evaluations", default_text="40, denser at first"),
    _count(
        "log_samples", None, "samples between rows of steps.csv; 0: every update", low=0, default_text="budget / 200"
    ),
    Option(
        "measure_noise",
        "flag",
        False,
        "fill grad_sq_norm, grad_var and b_simple of steps.csv, at 400 points; numbers stay the same",
    ),
    Option(
        "micro_batch",
        "integer",
        None,
        "samples run at once",
        low=1,
        word="auto",
        commands=(*LEARNING, "measure"),
        default_text="auto",
    ),
    _count(
        "virtual_workers",
        1,
        "simulated workers that each batch is divided over, on one device",
        high=1024,
        commands=COSTING,
    ),
    _choice(
        "reduce",
        ("mean", "sum"),
        "mean",
        "the gradient: mean over the batch's samples, or sum over workers of each one's own mean",
    ),
    _choice("precision", ("fp32", "bf16", "fp16", "fp64"), "fp32", "arithmetic", commands=COSTING),
    Option("allow_unstable", "flag", False, "run combinations known to be unstable", LEARNING),
)

_EXECUTION = (
    Option(
        "device",
        "text",
        "auto",
        "auto, cpu, cuda, cuda:N or mps",
        commands=("run", "sweep", "plan", "worker", *MEASURING, "inspect"),
        in_id=False,
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,4})?|mps)$",
        pattern_text="auto, cpu, cuda, cuda:N or mps",
    ),
    # More than any machine has cores; a hundred thousand threads end torch in a crash.
    _count(
        "threads",
        None,
        "CPU threads",
        high=1024,
        in_id=False,
        commands=(*MAKING, *MEASURING, "inspect"),
        default_text="sweep, worker: 1; else all",
    ),
    _count(
        "nproc",
        1,
        "processes that share each batch, on one machine; also by torchrun",
        high=1024,
        in_id=False,
        commands=("run",),
    ),
    Option("deterministic", "flag", False, "only deterministic kernels", in_id=False, commands=(*MAKING, *MEASURING)),
    Option(
        "compile",
        "flag",
        False,
        "compile the network for its most frequent batch sizes; numbers differ in rounding",
        in_id=False,
        commands=MAKING,
    ),
    Option("tune_allocator", "flag", True, "glibc: keep freed memory", in_id=False, commands=(*MAKING, *MEASURING)),
    Option(
        "checkpoint_seconds",
        "number",
        30.0,
        "seconds of training between checkpoints; 0: after every update",
        low=0,
        in_id=False,
        commands=MAKING,
    ),
    Option(
        "allow_changed",
        "flag",
        False,
        "go on with another device, code, torch, number of threads or processes, or compiled or not",
        in_id=False,
        commands=MAKING,
        no_form=None,
    ),
    Option(
        "tensorboard",
        "flag",
        False,
        "also write each run's rows for TensorBoard, into its folder (extra: tensorboard)",
        in_id=False,
        commands=MAKING,
        no_form=None,
    ),
    Option("out", "text", "results", "folder of all results", in_id=False, commands=(*TRAINING, *MEASURING)),
    Option(
        "name",
        "text",
        None,
        "folder below it",
        in_id=False,
        commands=(*TRAINING, *MEASURING),
        pattern=r"^[^./\\\x00][^/\\\x00]*$",
        pattern_text="a text that can name a folder: without slashes, not beginning with a dot",
        default_text="runs, or the file's; measure: hardware or critical; find-*: the command's",
    ),
    Option("resume", "flag", True, "use what is finished", in_id=False, commands=("run",)),
    Option("save_model", "flag", False, "keep the final weights", in_id=False, commands=MAKING),
    Option(
        "dry_run",
        "flag",
        False,
        "say what would be done, write nothing",
        in_id=False,
        commands=("run", "sweep"),
        no_form=None,
    ),
    Option(
        "set",
        "settings",
        None,
        "a parameter of the schedule, KEY=VALUE (repeatable)",
        LEARNING,
        in_id=False,
        default_text="none",
    ),
    Option(
        "schedule",
        "text",
        None,
        "schedules, separated by commas",
        in_id=False,
        commands=("sweep",),
        default_text="the quickstart's",
    ),
    Option(
        "seeds",
        "text",
        "0-5",
        "seeds: 0-5 or 0,2,4",
        in_id=False,
        commands=("sweep", "plan", "measure"),
        default_text="0-5; measure --critical: 0-11",
    ),
    Option(
        "jobs",
        "integer",
        None,
        "runs at a time; 0 plans and stops",
        low=0,
        high=1024,
        word="auto",
        in_id=False,
        commands=("sweep", "measure"),
        default_text="auto: one per core or GPU",
    ),
    _count(
        "per_gpu",
        None,
        "runs at a time on each GPU",
        in_id=False,
        commands=("sweep", "worker", "plan"),
        default_text="1",
    ),
    _choice(
        "engine",
        ("local", "ray", "slurm"),
        "local",
        "where runs are made: processes here, tasks of a Ray cluster (extra: ray), --jobs jobs of Slurm (extra: slurm)",
        in_id=False,
        commands=("sweep",),
    ),
    Option(
        "ray_address",
        "text",
        None,
        "the Ray cluster: auto, HOST:PORT or ray://HOST:PORT",
        in_id=False,
        commands=("sweep",),
        default_text="one of this machine's own",
    ),
    Option(
        "slurm",
        "text",
        None,
        "parameters of submitit for the jobs, KEY=VALUE,...: timeout_min=240,slurm_partition=gpu",
        in_id=False,
        commands=("sweep",),
        pattern=r"^[a-z_]+=[^,=]+(,[a-z_]+=[^,=]+)*$",
        pattern_text="KEY=VALUE, separated by commas",
        default_text="none",
    ),
    _choice(
        "retry",
        ("failed", "diverged", "all"),
        None,
        "make these again",
        in_id=False,
        commands=("sweep", "worker"),
        default_text="none",
    ),
    Option(
        "fail_fast",
        "flag",
        False,
        "the first failed run ends the sweep",
        in_id=False,
        commands=("sweep", "worker"),
        no_form=None,
    ),
    Option(
        "share_prefix",
        "flag",
        None,
        "train once what several runs begin with",
        in_id=False,
        commands=("sweep", "worker", "plan"),
        default_text="where it is exact: on a CPU, or with --deterministic, without --compile",
    ),
    _count("max_runs", 500, "larger sweeps need --yes", in_id=False, commands=("sweep", "plan")),
    Option("yes", "flag", False, "go on without asking", in_id=False, commands=("sweep",), no_form=None, short="-y"),
    Option("tune", "flag", True, "choose what [tune] lists, on validation", in_id=False, commands=("sweep", "plan")),
    Option(
        "full",
        "flag",
        False,
        "the file's larger variant: what its [full] table says in place of [run]",
        in_id=False,
        commands=("sweep", "plan"),
        no_form=None,
    ),
    Option(
        "extend_grid",
        "flag",
        False,
        "tune beyond the grid's ends until the best rate has neighbours",
        in_id=False,
        commands=("sweep", "worker", "plan"),
        no_form=None,
    ),
    Option(
        "underpowered",
        "flag",
        False,
        "go on with claims that so few seeds can hardly settle",
        in_id=False,
        commands=("sweep", "plan"),
        no_form=None,
    ),
    Option("report", "flag", True, "write the report at the end", in_id=False, commands=("sweep",)),
    Option(
        "num_train",
        "integer",
        None,
        "plan without data: samples trained on",
        low=2,
        in_id=False,
        commands=("plan",),
        default_text="the data set's",
    ),
    _count("rows", None, "rows to print", low=2, in_id=False, commands=("plan",), default_text="table 20, --json all"),
    Option("figure", "text", None, "draw the plan to this file", in_id=False, commands=("plan",), default_text="none"),
    Option(
        "batch_sizes",
        "text",
        None,
        "batch sizes to measure, separated by commas",
        in_id=False,
        commands=("measure", "find-batch"),
        pattern=r"^[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*$",
        pattern_text="whole numbers from 1, separated by commas",
        default_text="powers of 2 to 2048, as far as the data allow",
    ),
    _count(
        "repeats",
        9,
        "timings of each batch size",
        low=3,
        high=999,
        in_id=False,
        commands=("measure", "find-batch"),
        default_text="measure: 9; find-batch: 3",
    ),
    Option(
        "memory",
        "text",
        None,
        "memory that a batch must fit into, as bytes: 512M, 8G",
        in_id=False,
        commands=("find-batch",),
        pattern=r"^[1-9][0-9]{0,14}(\.[0-9]{1,6})?[KMGT]?$",
        pattern_text="bytes from 1, with K, M, G or T behind the number for 10^3, 10^6, 10^9 or 10^12 of them",
        default_text="CPU: nine tenths of what is free; GPU: its own",
    ),
    Option(
        "lowest_lr",
        "number",
        1e-5,
        "where the ramp of the learning rate begins",
        low=0,
        open_low=True,
        in_id=False,
        commands=("find-lr",),
    ),
    Option(
        "highest_lr",
        "number",
        10.0,
        "where the ramp of the learning rate ends",
        low=0,
        open_low=True,
        in_id=False,
        commands=("find-lr",),
    ),
    _choice(
        "only",
        ("gradient", "hardware"),
        None,
        "measure this alone",
        in_id=False,
        commands=("measure",),
        default_text="both",
    ),
    Option(
        "at",
        "text",
        "0",
        "epochs of training after which gradients are measured, separated by commas",
        in_id=False,
        commands=("measure",),
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?(,[0-9]{1,6}(\.[0-9]{1,6})?)*$",
        pattern_text="numbers from 0, separated by commas",
    ),
    Option(
        "checkpoint",
        "text",
        None,
        "measure gradients at these weights: a checkpoint-N.pt or model.pt in a run's folder",
        in_id=False,
        commands=("measure",),
        default_text="none",
    ),
    Option(
        "critical",
        "flag",
        False,
        "the critical batch instead, by branches from a training, over --seeds",
        in_id=False,
        commands=("measure",),
        no_form=None,
    ),
    Option(
        "hardware",
        "text",
        None,
        "a hardware.csv (bsexp measure): tell times, and solve --budget seconds, on that machine",
        in_id=False,
        commands=("report", "run", "sweep", "plan"),
        default_text="report (sweep's too), plan: the one beside the results, if any",
    ),
    Option(
        "workers",
        "text",
        None,
        "workers that share each update, comma list: tell their times too",
        in_id=False,
        commands=("report", "plan"),
        pattern=r"^[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*$",
        pattern_text="whole numbers from 1, separated by commas",
        default_text="1",
    ),
    Option(
        "all_reduce",
        "text",
        None,
        "what workers' talking costs: seconds per message, bytes per second, as 5e-5,1.25e9",
        in_id=False,
        commands=("report", "plan"),
        pattern=r"^[0-9]*\.?[0-9]+(e[+-]?[0-9]{1,2})?,[0-9]*\.?[0-9]+(e[+-]?[0-9]{1,2})?$",
        pattern_text="SECONDS,BYTES_PER_SECOND, as 5e-5,1.25e9",
        default_text="nothing",
    ),
    Option(
        "pack",
        "flag",
        False,
        "keep what a repository should: CSVs instead of run folders",
        in_id=False,
        commands=("report",),
        no_form=None,
    ),
    Option(
        "minutes",
        "number",
        30.0,
        "time that it may take, over all calls; refused where two seeds take longer",
        low=0,
        open_low=True,
        in_id=False,
        commands=("advise",),
    ),
    _choice(
        "metric",
        ("val_loss", "val_accuracy"),
        "val_loss",
        "what quality is",
        in_id=False,
        commands=("advise",),
    ),
    Option(
        "tolerance",
        "number",
        0.25,
        "quality that may be lost, as a share of what decaying the rate brings over the best constant one",
        low=0,
        high=1,
        open_low=True,
        in_id=False,
        commands=("advise",),
    ),
    Option("skip_bad", "flag", False, "leave damaged files out", in_id=False, commands=("report",), no_form=None),
    Option(
        "json",
        "flag",
        False,
        "one JSON document on stdout",
        in_id=False,
        commands=("run", "sweep", "worker", "plan", *MEASURING, "inspect", "report", "status", "list", "doctor"),
        no_form=None,
    ),
)

EVERYWHERE = (*MAKING, "report", "plan", "export", *MEASURING, "inspect", "status", "list", "init", "doctor")

_TALK = (
    Option("quiet", "flag", False, "only results and errors", EVERYWHERE, in_id=False, no_form=None, short="-q"),
    Option("verbose", "flag", False, "more talk", EVERYWHERE, in_id=False, no_form=None, short="-v"),
    Option("debug", "flag", False, "tracebacks of errors", EVERYWHERE, in_id=False, no_form=None),
)

# What batch sizes, rates and the length of a run depend on: `export` takes these of the options of `plan`.
_SHAPING = {
    *("dataset", "train_size", "val_fraction", "num_train", "epochs", "updates", "budget", "hardware"),
    *("batch_size", "max_batch", "lr", "lr_scaling", "reference_batch", "warmup_epochs", "momentum", "optimizer"),
    *("set", "allow_unstable"),
}
# What the cost of an update depends on.
COST_FIELDS: tuple[str, ...] = tuple(option.name for option in _STUDY if "measure" in option.commands)
# What a training that is measured along its way depends on besides.
_MEASURED = {
    *("epochs", "batch_size", "lr", "warmup_epochs", "momentum", "nesterov", "weight_decay", "weight_decay_clock"),
    *("label_smoothing", "label_noise", "train_size", "fixed_subset", "val_fraction", "seed"),
}


# What a run may be told that a schedule is advised for; schedule, rate and batch after the first are the advice's.
_ADVISED = {
    *(set(COST_FIELDS) | _MEASURED) - {"seed", "averaging", "virtual_workers"},
    *(
        "max_batch",
        "device",
        "threads",
        "deterministic",
        "tune_allocator",
        "jobs",
        "out",
        "name",
        "hardware",
        "workers",
    ),
    *("json", "quiet", "verbose", "debug"),
}


def _with_commands(option: Option) -> Option:
    given = (("measure", _MEASURED), ("export", _SHAPING), ("advise", _ADVISED))
    more = [name for name, which in given if option.name in which]
    return replace(option, commands=(*option.commands, *more)) if more else option


OPTIONS: dict[str, Option] = {option.name: _with_commands(option) for option in (*_STUDY, *_EXECUTION, *_TALK)}
RUN_FIELDS: tuple[str, ...] = tuple(option.name for option in OPTIONS.values() if option.in_id)
# The ways to say how long a run is, of which the first is part of it and the others are turned into it.
LENGTHS = ("epochs", "updates", "budget")
# What an arm may set.
SETTINGS = (*RUN_FIELDS, *LENGTHS[1:])


def options_of(command: str) -> list[Option]:
    """The options that `command` takes, in the table's order."""
    return [option for option in OPTIONS.values() if command in option.commands]


def readme_table() -> str:
    """The README's table of options, in Markdown."""
    lines = ["| option | default | what it is | commands |", "|---|---|---|---|"]
    for option in OPTIONS.values():
        flag = f"`{option.flag}`"
        meaning = option.help + (f" ({', '.join(option.choices)})" if option.choices else "")
        lines.append(f"| {flag} | {option.shown_default} | {meaning} | {', '.join(option.commands)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(readme_table())
