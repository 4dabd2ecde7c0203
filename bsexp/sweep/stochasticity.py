"""How far batches' gradients are from the exact one, along a training: from points of it to the rows of gradient.csv.

The one rule: the training between two points is an ordinary one, with a constant batch and rate.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bsexp.analysis.ratios import Ratio, ratio_of_means
from bsexp.config import RunConfig
from bsexp.errors import UsageError
from bsexp.planning import plan_run
from bsexp.records import GradientRow
from bsexp.store.weights import Kept
from bsexp.sweep.configs import build_config, num_trained

if TYPE_CHECKING:
    from torch import Tensor

    from bsexp.engine.gradients import Looking

NARROW = ("bf16", "fp16")


def looked_at(options: dict[str, Any], points: Sequence[float]) -> RunConfig:
    """The training whose gradients are measured at `points`, in epochs. Raises UsageError."""
    settings = {name: value for name, value in options.items() if name not in ("seed", "epochs")}
    if max(points) > 0:
        settings["epochs"] = max(points)
    config = build_config({"schedule": "fixed-small", **settings}, options.get("seed", 0))
    return checked(config)


def checked(config: RunConfig) -> RunConfig:
    """`config`, where gradients can be measured with it; UsageError else."""
    if config.norm == "batch":
        cure = "use --norm group or none, or leave gradients out (--only hardware)"
        raise UsageError("gradient", "norm batch: a sample has no gradient of its own", cure)
    if config.precision in NARROW:
        cure = "leave --precision out, or leave gradients out (--only hardware)"
        raise UsageError("gradient", f"precision {config.precision}: too coarse for differences of gradients", cure)
    plan_run(config, num_trained(config))
    return config


def measure_gradients(
    config: RunConfig,
    sizes: Sequence[int],
    points: Sequence[float],
    kept: Kept | None,
    device: str,
    tell: Callable[[str], None],
) -> tuple[list[GradientRow], int]:
    """The rows for batches of `sizes` at each of `points` (epochs), or with the weights `kept`; and the number of
    samples in the exact gradient.

    Raises UsageError for a network without gradients of single samples, or a training that diverged.
    """
    from bsexp.data.sources import load_images
    from bsexp.data.splits import prepare
    from bsexp.engine.checkpoint import from_bytes
    from bsexp.engine.gradients import Looking

    looking = Looking(config, data=prepare(config, load_images(config.dataset, config.image_size)), device=device)
    looking.require_own_gradients()
    if kept is not None:
        state = from_bytes(kept.payload)
        looking.load(state["model"] if kept.whole else state, kept.samples)
        points = [kept.samples / looking.num_train]
    rows = []
    for point in sorted(set(points)):
        if kept is None:
            advance(looking, round(point * looking.num_train))
        tell(f"gradients after {looking.samples:,} samples ({looking.samples / looking.num_train:.3g} epochs)")
        rows += _at_point(looking, sizes, tell)
    return rows, looking.num_train


def advance(looking: "Looking", samples: int) -> None:
    """Train until `samples` samples have been seen, or more by less than a batch."""
    while looking.samples < samples:
        next(looking)


def _at_point(looking: "Looking", sizes: Sequence[int], tell: Callable[[str], None]) -> list[GradientRow]:
    from bsexp.engine.gradients import NotPossible

    exact = looking.exact()
    grad_var = None
    try:
        grad_var = looking.exact_noise().grad_var
    except NotPossible as error:
        tell(f"without an exact tr(Sigma): {error}")
    sq_norm = float(exact.square().sum())
    noise = looking.noise()
    ratio = ratio_of_means([each.grad_var for each in noise], [each.grad_sq_norm for each in noise])
    told = {"exactly": None if grad_var is None else grad_var / sq_norm, "by micro-batches": _finite(ratio.value)}
    tell("b_simple " + ", ".join(f"{value:,.4g} {how}" for how, value in told.items() if value is not None))
    rows = []
    for size in sizes:
        for replacement in (False, True):
            rows.append(_row(looking, exact, size, replacement, sq_norm, grad_var, ratio))
        tell(f"batch {size:>6,}  |g_B - g|^2 {rows[-2].gradient_error:.4g}, cosine {rows[-2].cosine:.4f}")
    return rows


def _row(
    looking: "Looking",
    exact: "Tensor",
    size: int,
    replacement: bool,
    sq_norm: float,
    grad_var: float | None,
    ratio: Ratio,
) -> GradientRow:
    drawn = looking.drawn(exact, size, replacement)
    number = len(drawn.errors)
    return GradientRow(
        samples=looking.samples,
        epoch=looking.samples / looking.num_train,
        batch_size=size,
        replacement=replacement,
        draws=number,
        gradient_error=float(drawn.errors.mean()),
        error_spread=float(drawn.errors.std()) / math.sqrt(number),
        cosine=float(drawn.cosines.mean()),
        cosine_spread=float(drawn.cosines.std()) / math.sqrt(number),
        grad_sq_norm=sq_norm,
        grad_var=grad_var,
        b_simple_exact=None if grad_var is None else grad_var / sq_norm,
        b_simple=_finite(ratio.value),
        b_simple_low=_finite(ratio.low),
        b_simple_high=_finite(ratio.high),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
