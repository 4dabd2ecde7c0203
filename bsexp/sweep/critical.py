"""The critical batch by branches: trunks, one for each seed, and what goes on from them with other batches and rates.

The one rule: a branch is what its trunk would have become with another batch and rate over so many samples.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import UsageError
from bsexp.planning import plan_run
from bsexp.records import CriticalRow
from bsexp.sweep import branching
from bsexp.sweep.branching import Ended, Making, Work, begins
from bsexp.sweep.configs import build_config, num_trained
from bsexp.sweep.measuring import Surroundings
from bsexp.sweep.stochasticity import checked

WHAT = "measure --critical"
# Shares of the budget at which branches begin, and the share that each of them takes.
SHARES = (0.05, 0.15, 0.4, 0.8)
BRANCH_SHARE = 0.05
MULTIPLIERS = (1, 2, 4, 8, 16, 32)
# Powers of the batch's growth that the rate grows with.
RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
# Orders of samples in which the trunk's own batch goes on beside the trunk's order: what tells its spread.
ORDERS = (1, 2)
# Fewer than `measure` takes at one point: here each seed has its own.
NOISE_BATCHES = 16


@dataclass(frozen=True)
class Branch:
    """Where a branch begins, and with what it goes on."""

    share: float
    multiplier: int
    lr_rule: str
    order: int = 0


def branches() -> list[Branch]:
    """All branches of a trunk, in the order in which they are made."""
    kinds = [(1, "none", order) for order in (0, *ORDERS)]
    kinds += [(multiplier, rule, 0) for multiplier in MULTIPLIERS[1:] for rule in RULES]
    return [Branch(share, *kind) for share in SHARES for kind in kinds]


def trunks(options: dict[str, Any], seeds: Sequence[int]) -> list[RunConfig]:
    """The trunk of each seed, with all of its branches checked. Raises UsageError."""
    found = []
    for seed in seeds:
        trunk = build_config({"averaging": "ema", **options, "schedule": "fixed-small"}, seed)
        if trunk.averaging != "ema":
            raise UsageError("averaging", trunk.averaging, "branches are read on averaged weights: use ema")
        if not trunk.val_fraction:
            raise UsageError("val_fraction", "0", "branches are read on a validation split: leave some for it")
        if (trunk.warmup_epochs or 0.0) > SHARES[0] * trunk.epochs:
            cure = f"it must have ended where the first branches begin, after {SHARES[0] * trunk.epochs:g} epochs"
            raise UsageError("warmup_epochs", f"{trunk.warmup_epochs:g}", cure)
        found.append(checked(trunk))
    num_train = num_trained(found[0])
    for branch in branches():
        plan_run(
            branch_config(found[0], branch, round(branch.share * found[0].total_samples(num_train)), num_train),
            num_train,
        )
    return found


def branch_config(trunk: RunConfig, branch: Branch, samples: int, num_train: int) -> RunConfig:
    """The configuration of a branch that begins after `samples` samples: it ends BRANCH_SHARE of the budget later."""
    end = samples + round(BRANCH_SHARE * trunk.total_samples(num_train))
    batch = trunk.batch_size * branch.multiplier
    changed = {
        "batch_size": batch,
        "reference_batch": batch,
        "lr": trunk.lr * branch.multiplier ** RULES[branch.lr_rule],
        "epochs": end / num_train,
        # One evaluation and one row of the log, at its end.
        "evals": 1,
        "log_samples": end,
    }
    return RunConfig(**{**trunk.model_dump(), **changed})


def make_branches(
    configs: Sequence[RunConfig],
    done: Iterable[CriticalRow],
    surroundings: Surroundings,
    devices: Sequence[str],
    keep: Callable[[CriticalRow], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Make the branches of all trunks that are not `done`, a seed at a time on each of `devices`; `keep` hears of each.

    What the processes settled on, and what is raised: see branching.make_branches.
    """
    made = {(row.seed, row.share, row.batch_size, row.lr_rule, row.order) for row in done}
    works = [_work(config, _missing(config, made)) for config in configs]
    making = Making(WHAT, surroundings, NOISE_BATCHES)
    return branching.make_branches(works, making, devices, lambda trunk, ended: keep(_row(trunk, ended)), tell)


def _missing(config: RunConfig, made: set[tuple[Any, ...]]) -> list[Branch]:
    return [
        each
        for each in branches()
        if (config.seed, each.share, config.batch_size * each.multiplier, each.lr_rule, each.order) not in made
    ]


def grow(trunk: RunConfig, missing: Sequence[Branch], device: str) -> Iterator[CriticalRow]:
    """Train a trunk as far as `missing` branches need it, and each of them, in this process; yields them as they end.

    Raises UsageError where the trunk diverged before they began.
    """
    making = Making(WHAT, Surroundings(device, None, False, False), NOISE_BATCHES)
    for ended in branching.grow(_work(trunk, missing), making):
        yield _row(trunk, ended)


def _work(trunk: RunConfig, missing: Sequence[Branch]) -> Work:
    num_train = num_trained(trunk)
    ordered = sorted(missing, key=lambda branch: branch.share)
    made = [
        branching.Branch(
            branch.share,
            branch_config(trunk, branch, begins(trunk, branch.share, num_train), num_train),
            branch.order,
            (branch.lr_rule,),
        )
        for branch in ordered
    ]
    return Work(f"seed {trunk.seed}", trunk, tuple(made))


def _row(trunk: RunConfig, ended: Ended) -> CriticalRow:
    branch, end = ended.branch, ended.end
    assert ended.noise is not None
    sq_norm, var = ended.noise
    return CriticalRow(
        seed=trunk.seed,
        share=branch.share,
        samples=ended.samples,
        epoch=ended.samples / ended.num_train,
        batch_size=branch.config.batch_size,
        lr_rule=branch.mark[0],
        lr=branch.config.lr,
        order=branch.order,
        updates=ended.updates,
        val_loss=None if end is None else end.val_loss,
        val_loss_ema=None if end is None else end.val_loss_ema,
        grad_sq_norm=sq_norm,
        grad_var=var,
    )
