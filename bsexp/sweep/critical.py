"""The critical batch by branches: trunks, one for each seed, and what goes on from them with other batches and rates.

The one rule: a branch is what its trunk would have become with another batch and rate over so many samples; each is
kept as soon as it has ended, and none is made twice.
"""

import math
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from bsexp.config import RunConfig
from bsexp.errors import BsexpError, RunsFailed, UsageError
from bsexp.planning import plan_run
from bsexp.records import CriticalRow
from bsexp.sweep.configs import build_config, num_trained
from bsexp.sweep.executors import ctrl_c_blocked, watch_parent
from bsexp.sweep.measuring import Surroundings
from bsexp.sweep.stochasticity import advance, checked

CONTEXT = multiprocessing.get_context("spawn")
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
    jobs: int,
    keep: Callable[[CriticalRow], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Make the branches of all trunks that are not `done`, `jobs` seeds at a time, each in a process of its own; `keep`
    is called with each as it ends. What the processes settled on: device, threads; empty where nothing was left to do.

    Raises what ends a process, RunsFailed where one dies.
    """
    made = {(row.seed, row.share, row.batch_size, row.lr_rule, row.order) for row in done}
    todo = deque((config, missing) for config in configs if (missing := _missing(config, made)))
    working: dict[Connection, tuple[Any, int, int]] = {}
    settled: dict[str, Any] = {}
    try:
        while todo or working:
            while todo and len(working) < jobs:
                config, missing = todo.popleft()
                working |= _start(config, missing, surroundings)
            for pipe in wait(list(working)):
                assert isinstance(pipe, Connection)
                process, seed, left = working[pipe]
                outcome, content = _heard(pipe, process, seed)
                if outcome == "settled":
                    settled = content
                elif outcome == "row":
                    keep(content)
                    working[pipe] = (process, seed, left - 1)
                    if content.batch_size == configs[0].batch_size and not content.order:
                        tell(f"seed {seed} at {content.share:g} of the budget: {left} branches to go")
                else:
                    pipe.close()
                    process.join()
                    del working[pipe]
    finally:
        for pipe, (process, *_) in working.items():
            pipe.close()
            process.kill()
            process.join()
    return settled


def _missing(config: RunConfig, made: set[tuple[Any, ...]]) -> list[Branch]:
    return [
        each
        for each in branches()
        if (config.seed, each.share, config.batch_size * each.multiplier, each.lr_rule, each.order) not in made
    ]


def _start(
    config: RunConfig, missing: list[Branch], surroundings: Surroundings
) -> dict[Connection, tuple[Any, int, int]]:
    mine, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(theirs, config.model_dump(), missing, surroundings), daemon=True)
    with ctrl_c_blocked():
        process.start()
    theirs.close()
    return {mine: (process, config.seed, len(missing))}


def _heard(pipe: Connection, process: Any, seed: int) -> tuple[str, Any]:
    try:
        outcome, content = pipe.recv()
    except EOFError:
        process.join()
        which = f"seed {seed}: its process died ({process.exitcode})"
        raise RunsFailed(
            "measure --critical", which, "run the same command again: finished branches are kept"
        ) from None
    if outcome == "refused":
        raise content
    if outcome == "failed":
        raise RunsFailed("measure --critical", f"seed {seed}: {content}", "run it with --debug and report it")
    return outcome, content


def _work(pipe: Connection, values: dict[str, Any], missing: list[Branch], surroundings: Surroundings) -> None:
    threading.Thread(target=watch_parent, daemon=True).start()
    try:
        from bsexp.engine.device import set_up

        device = surroundings.device
        settled = set_up(device, surroundings.threads, surroundings.deterministic, surroundings.keep_memory)
        pipe.send(("settled", settled))
        for row in grow(RunConfig(**values), missing, device):
            pipe.send(("row", row))
        pipe.send(("done", None))
    except BsexpError as error:
        pipe.send(("refused", error))
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}".splitlines()[0]))
    pipe.close()
    # Python with torch takes seconds to take itself down.
    os._exit(0)


def grow(trunk: RunConfig, missing: Sequence[Branch], device: str) -> Iterable[CriticalRow]:
    """Train a trunk as far as `missing` branches need it, and each of them; yields them as they end.

    Raises UsageError where the trunk diverged before they began.
    """
    from bsexp.data.sources import load_images
    from bsexp.data.splits import prepare
    from bsexp.engine.forks import Fork
    from bsexp.engine.gradients import Looking

    data = prepare(trunk, load_images(trunk.dataset, trunk.image_size))
    looking = Looking(trunk, data=data, device=device)
    looking.require_own_gradients()
    whole = looking.total_samples
    for share in sorted({branch.share for branch in missing}):
        advance(looking, round(share * whole))
        noise = looking.noise(NOISE_BATCHES)
        sq_norm, var = (math.fsum(values) / len(noise) for values in zip(*noise, strict=True))
        if not (math.isfinite(sq_norm) and math.isfinite(var)):
            which = f"seed {trunk.seed} had diverged after {looking.samples:,} samples"
            raise UsageError("measure --critical", which, "use a smaller --lr")
        state = looking.state()
        for branch in missing:
            if branch.share != share:
                continue
            config = branch_config(trunk, branch, looking.samples, looking.num_train)
            fork = Fork(config, state, data=data, whole=whole, device=device, order=branch.order)
            end = fork.end()
            yield CriticalRow(
                seed=trunk.seed,
                share=share,
                samples=looking.samples,
                epoch=looking.samples / looking.num_train,
                batch_size=config.batch_size,
                lr_rule=branch.lr_rule,
                lr=config.lr,
                order=branch.order,
                updates=fork.step - looking.step,
                val_loss=None if end is None else end.val_loss,
                val_loss_ema=None if end is None else end.val_loss_ema,
                grad_sq_norm=sq_norm,
                grad_var=var,
            )
