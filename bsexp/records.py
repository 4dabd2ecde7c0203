"""What a run writes down: the records that training yields and the columns of the CSV files, with types and units.

The one rule: a column exists because a field here has its name; nothing else in the program spells column names out in
order. Counts are exact; times are seconds; empty means "not measured".
"""

from dataclasses import dataclass, fields
from typing import Any

SCHEMA_VERSION = 1
# A machine's load before something is measured on it, above which somebody else has a good part of a core.
QUIET_LOAD = 0.3

TIME_COLUMNS = ("train_seconds", "eval_seconds", "wall_seconds", "peak_memory_bytes")
STATUSES = ("finished", "collapsed", "diverged", "failed", "oom")


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One update. `samples` is the count after it; `loss` its mean training loss, still on the device."""

    step: int
    samples: int
    batch_size: int
    lr: float
    momentum: float
    loss: Any


@dataclass(frozen=True, slots=True)
class StepRow:
    """A row of steps.csv: the updates since the row before, up to and including `step`; `samples` after it.

    `grad_sq_norm` and `grad_var` are the means of what was measured since the row before, unbiased, of one sample:
    |G|^2, which may be negative, and tr(Sigma). `b_simple`, in samples, is the ratio of the two after smoothing.
    """

    step: int
    samples: int
    epoch: float
    batch_size: int
    micro_batch_size: int
    lr: float
    momentum: float
    noise_scale: float | None
    train_loss: float
    grad_sq_norm: float | None
    grad_var: float | None
    b_simple: float | None
    train_seconds: float


@dataclass(frozen=True, slots=True)
class EvalRow:
    """A row of evals.csv: losses are mean cross-entropies in nats, accuracies shares in [0, 1].

    `step` counts the updates done so far. train_* are measured in evaluation mode on a fixed subset of the training
    split. Without a validation split, test_* take the place of val_*.
    """

    step: int
    samples: int
    epoch: float
    train_seconds: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_loss_ema: float | None
    val_accuracy_ema: float | None


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A row of decisions.csv: what a policy made of what it saw after `step`, and why (`reason`).

    `batch_size` and `lr_factor` hold from the next update on; `wanted` is what the rule asked for before limits: a
    batch size in samples, or a factor on the rate; None where it held. `loss`, `grad_sq_norm` and `grad_var` are
    smoothed, `b_simple` is the ratio of the two and `cosine` the one that it lets expect between the gradients of the
    batch's halves. `val_loss` is that of the last evaluation since the decision before.
    """

    step: int
    samples: int
    epoch: float
    policy: str
    wanted: float | None
    batch_size: int
    lr_factor: float
    loss: float | None
    grad_sq_norm: float | None
    grad_var: float | None
    b_simple: float | None
    cosine: float | None
    val_loss: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class HardwareRow:
    """A row of hardware.csv: what an update of `batch_size` samples costs on `device`.

    `seconds_per_update` is a median over repeats and `spread` its standard error, both in seconds;
    `samples_per_second` is batch_size / seconds_per_update. `peak_memory_bytes`: of the GPU's tensors on CUDA,
    elsewhere of a process that trains nothing else; None where the system doesn't say.
    """

    device: str
    batch_size: int
    micro_batch_size: int
    seconds_per_update: float
    spread: float
    samples_per_second: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class InspectedRow:
    """A row of inspected.csv: what is measured of a finished run's kept weights and test predictions.

    `calibration_error` of the test predictions (signals.calibration), in [0, 1]. `sharpness` is lambda_max of the
    Hessian of the training loss, `lr` the rate of the last update and `lr_sharpness` their product. `barrier` is the
    loss barrier to the run of the same seed of the arm `twin` (empty: none), in nats. None: not to be measured, for
    want of weights perhaps.
    """

    arm: str
    seed: int
    config_hash: str
    calibration_error: float | None
    lr: float
    sharpness: float | None
    lr_sharpness: float | None
    twin: str
    barrier: float | None


@dataclass(frozen=True, slots=True)
class GradientRow:
    """A row of gradient.csv: how far the gradients of batches are from the exact one, at one point of training.

    `samples`, `epoch`: how far training had come. `replacement`: whether a batch's samples were drawn with it; `draws`
    batches were. `gradient_error` is the mean of |g_B - g|^2 and `cosine` that of the cosine of the two, each with its
    standard error. The others are the same in all rows of a point, of the training set as it is: `grad_sq_norm`, |G|^2,
    exactly; `grad_var`, tr(Sigma), and `b_simple_exact` from the gradient of each sample, None where that can't be had;
    `b_simple` from micro-batches with its 95 % interval, None where it has no value or end.
    """

    samples: int
    epoch: float
    batch_size: int
    replacement: bool
    draws: int
    gradient_error: float
    error_spread: float
    cosine: float
    cosine_spread: float
    grad_sq_norm: float
    grad_var: float | None
    b_simple_exact: float | None
    b_simple: float | None
    b_simple_low: float | None
    b_simple_high: float | None


@dataclass(frozen=True, slots=True)
class CriticalRow:
    """A row of critical.csv: a branch that went on from a trunk with another batch size and rate, and where it ended.

    `share` of the budget at which it began, after `samples`. `lr_rule`: the power of the batch's growth that the rate
    grew with, none, sqrt or linear. `order`: 0 read on in the trunk's order, others in one of their own. `val_loss` and
    `val_loss_ema` (averaged weights) at its end, in nats, None where it diverged. `grad_sq_norm`, `grad_var`: |G|^2 and
    tr(Sigma) of the trunk where the branch began.
    """

    seed: int
    share: float
    samples: int
    epoch: float
    batch_size: int
    lr_rule: str
    lr: float
    order: int
    updates: int
    val_loss: float | None
    val_loss_ema: float | None
    grad_sq_norm: float
    grad_var: float


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A row of trials.csv: a training, or the rest of one, that `advise` made, and where it ended.

    `stage`: rate (a short run at `lr`), whole (a run of the budget at `lr`), branch (a while with another batch and
    rate) or ending (`arm` to the budget's end). It began at `share` of the trunk's budget, after `samples`, and made
    `updates` of `batch_size` (its first) at `lr`. `lr_rule` and `order` as in CriticalRow. Losses in nats and
    accuracies as shares at its end, `_ema` of averaged weights; None where it diverged. An ending at a constant rate
    has the means of five evaluations over the last eightieth of the budget, of fewer where there are as few updates.
    """

    stage: str
    arm: str
    seed: int
    share: float
    order: int
    batch_size: int
    lr_rule: str
    lr: float
    samples: int
    updates: int
    val_loss: float | None
    val_accuracy: float | None
    val_loss_ema: float | None
    val_accuracy_ema: float | None


@dataclass(frozen=True, slots=True)
class RampRow:
    """A row of find_lr.csv: an update at `lr`, the loss of its batch in nats, and that smoothed; `samples` after it.

    `smoothed_loss` is None as long as nothing has been averaged, and where it isn't finite.
    """

    step: int
    samples: int
    lr: float
    loss: float
    smoothed_loss: float | None


@dataclass(frozen=True, slots=True)
class FitRow:
    """A row of find_batch.csv: a batch size that was timed, that was tried as one part, or both.

    Timings as in HardwareRow, None where it was only tried. `fits`: whether memory held it; `reason`: what happened
    where it didn't. `micro_batch_size`: what was run at once.
    """

    device: str
    batch_size: int
    micro_batch_size: int
    seconds_per_update: float | None
    spread: float | None
    samples_per_second: float | None
    peak_memory_bytes: int | None
    fits: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the measured part of summary.json. None: not measured, or not reached.

    `memorised`: share of the training labels changed by label noise that the network reproduces. `total_shrink`: sum of
    lr * weight decay over the updates. `generalization_gap`: train less test accuracy.
    """

    status: str
    updates: int
    samples: int
    train_seconds: float
    eval_seconds: float
    val_accuracy: float | None = None
    val_loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    val_accuracy_ema: float | None = None
    val_loss_ema: float | None = None
    test_accuracy_ema: float | None = None
    test_loss_ema: float | None = None
    train_accuracy: float | None = None
    train_loss: float | None = None
    memorised: float | None = None
    generalization_gap: float | None = None
    total_shrink: float | None = None
    best_val_accuracy: float | None = None
    peak_memory_bytes: int | None = None
    num_parameters: int | None = None
    device: str = ""
    reason: str = ""


def columns(row: type) -> tuple[str, ...]:
    """The column names of a row type, in order."""
    return tuple(field.name for field in fields(row))


def eval_columns(val_fraction: float) -> tuple[str, ...]:
    """The columns of evals.csv; without a validation split they are named after the test split."""
    names = columns(EvalRow)
    return names if val_fraction else tuple(name.replace("val_", "test_") for name in names)


SUMMARY_COLUMNS: tuple[str, ...] = (
    *("experiment", "arm", "schedule", "dataset", "model", "seed", "lr", "batch_size", "max_batch", "epochs"),
    *("status", "updates", "samples", "train_seconds", "eval_seconds", "wall_seconds"),
    *(
        name
        for name in columns(Outcome)
        if name not in ("status", "updates", "samples", "train_seconds", "eval_seconds")
    ),
)
SUMMARY_COLUMNS = (*(name for name in SUMMARY_COLUMNS if name != "reason"), "config_hash", "reason")
