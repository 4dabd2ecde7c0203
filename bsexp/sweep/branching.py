"""Branches of trainings: what goes on from points of a trunk, each trunk in a process of its own.

The one rule: a branch is what its trunk would have become as another run; each is handed over as soon as it has ended,
so that none need be made twice.
"""

import math
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing.connection import Connection, wait
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bsexp.config import RunConfig
from bsexp.errors import BsexpError, RunsFailed, UsageError
from bsexp.records import EvalRow
from bsexp.store.trunks import Trunks
from bsexp.sweep.devices import worker_devices
from bsexp.sweep.executors import ctrl_c_blocked, watch_parent
from bsexp.sweep.measuring import Surroundings
from bsexp.sweep.stochasticity import advance

if TYPE_CHECKING:
    from bsexp.data.splits import TrainingData
    from bsexp.engine.gradients import Looking

CONTEXT = multiprocessing.get_context("spawn")
# Several evaluations of a branch lie within this share of its budget, the last one at its end. At a constant rate the
# loss falls towards the end of an epoch: over a twentieth it was higher by .01 of the .06 to .12 that decaying brings.
CLOSING = 0.0125
# What they are the mean of.
MEASURED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_loss_ema", "val_accuracy_ema")


@dataclass(frozen=True)
class Branch:
    """Where a branch begins, as a `share` of its trunk's budget, and the run that it goes on as, to that run's end.

    `order`: that of the samples from there on (see engine.forks.Fork). `mark`: what its maker knows it by.
    `evaluations`: how many its end is the mean of, equally spaced over the last CLOSING of the trunk's budget.
    """

    share: float
    config: RunConfig
    order: int = 0
    mark: tuple[Any, ...] = ()
    evaluations: int = 1


@dataclass(frozen=True)
class Ended:
    """A branch that ended: after how many `samples` of the trunk it began, its own `updates`, and the evaluation at its
    end or the mean of several, None where it diverged. `noise`: |G|^2 and tr(Sigma) of the trunk where it began, where
    they were asked for.
    """

    branch: Branch
    samples: int
    num_train: int
    updates: int
    end: EvalRow | None
    noise: tuple[float, float] | None


@dataclass(frozen=True)
class Work:
    """A trunk with the branches that are to be made of it, by rising share; `which` names it in talk and in errors."""

    which: str
    trunk: RunConfig
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Making:
    """How branches are made: `what` command makes them, where, over how many batches the trunk's noise is measured
    (None: it isn't), and where the trunk's states are kept (None: nowhere).
    """

    what: str
    surroundings: Surroundings
    noise_batches: int | None = None
    trunks: Trunks | None = None


def begins(trunk: RunConfig, share: float, num_train: int) -> int:
    """Samples after which a branch at `share` of the budget of a trunk with a constant batch begins."""
    whole = trunk.total_samples(num_train)
    return min(whole, -(-round(share * whole) // trunk.batch_size) * trunk.batch_size)


def devices_for(device: str, jobs: int | str | None) -> tuple[str, ...]:
    """Where trunks are trained, one at a time on each. UsageError for nowhere: there is no plan to stop at."""
    found = worker_devices(device, jobs)
    if not found:
        raise UsageError("--jobs", "0", "it plans sweeps alone; give 1 or more here")
    return found


def make_branches(
    works: Sequence[Work],
    making: Making,
    devices: Sequence[str],
    keep: Callable[[RunConfig, Ended], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Make all branches, a trunk at a time on each of `devices`; `keep` is called with each as it ends. What the
    processes settled on: device, threads; empty where there was nothing to do.

    Raises what ends a process, RunsFailed where one dies.
    """
    todo, free = deque(work for work in works if work.branches), deque(devices)
    working: dict[Connection, tuple[Any, Work, deque[Branch], str]] = {}
    settled: dict[str, Any] = {}
    try:
        while todo or working:
            while todo and free:
                work, device = todo.popleft(), free.popleft()
                mine, process = _start(work, replace(making, surroundings=replace(making.surroundings, device=device)))
                working[mine] = (process, work, deque(work.branches), device)
            for pipe in wait(list(working)):
                assert isinstance(pipe, Connection)
                process, work, left, device = working[pipe]
                outcome, content = _heard(pipe, process, work, making)
                if outcome == "settled":
                    settled = content
                elif outcome == "ended":
                    keep(work.trunk, content)
                    share = left.popleft().share
                    if not left or left[0].share != share:
                        where = f"at {share:g} of the budget" if share else "from the start"
                        rest = f"{len(left)} branches to go" if left else "done"
                        tell(f"{work.which} {where}: {rest}")
                else:
                    pipe.close()
                    process.join()
                    del working[pipe]
                    free.append(device)
    finally:
        for pipe, (process, *_) in working.items():
            pipe.close()
            process.kill()
            process.join()
    return settled


def _start(work: Work, making: Making) -> tuple[Connection, Any]:
    mine, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(theirs, work, making), daemon=True)
    with ctrl_c_blocked():
        process.start()
    theirs.close()
    return mine, process


def _heard(pipe: Connection, process: Any, work: Work, making: Making) -> tuple[str, Any]:
    try:
        outcome, content = pipe.recv()
    except EOFError:
        process.join()
        which = f"{work.which}: its process died ({process.exitcode})"
        raise RunsFailed(making.what, which, "run the same command again: finished branches are kept") from None
    if outcome == "refused":
        raise content
    if outcome == "failed":
        raise RunsFailed(making.what, f"{work.which}: {content}", "run it with --debug and report it")
    return outcome, content


def _work(pipe: Connection, work: Work, making: Making) -> None:
    threading.Thread(target=watch_parent, daemon=True).start()
    try:
        pipe.send(("settled", making.surroundings.settle()))
        for ended in grow(work, making):
            pipe.send(("ended", ended))
        pipe.send(("done", None))
    except BsexpError as error:
        pipe.send(("refused", error))
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}".splitlines()[0]))
    pipe.close()
    # Python with torch takes seconds to take itself down.
    os._exit(0)


def grow(work: Work, making: Making) -> Iterator[Ended]:
    """Train a trunk as far as its branches need it, and each of them; yields them as they end.

    Raises UsageError where the trunk's noise is asked for and it diverged before they began.
    """
    from bsexp.data.sources import load_images
    from bsexp.data.splits import prepare
    from bsexp.engine.forks import Fork
    from bsexp.engine.gradients import Looking

    trunk, device = work.trunk, making.surroundings.device
    data = prepare(trunk, load_images(trunk.dataset, trunk.image_size))
    looking = Looking(trunk, data=data, device=device)
    if making.noise_batches:
        looking.require_own_gradients()
    for share, branches in groupby(work.branches, key=lambda branch: branch.share):
        looking = _brought_to(share, looking, data, making)
        noise = _noise(looking, work, making.noise_batches)
        state = looking.state()
        for branch in branches:
            whole = looking.total_samples
            last = branch.config.total_samples(looking.num_train)
            apart = CLOSING * whole / branch.evaluations
            points = [last - k * apart for k in reversed(range(branch.evaluations))]
            fork = Fork(branch.config, state, data=data, whole=whole, device=device, order=branch.order, points=points)
            found = fork.evaluations()
            end = None if found is None else _mean(found)
            yield Ended(branch, looking.samples, looking.num_train, fork.step - looking.step, end, noise)


def _mean(found: Sequence[EvalRow]) -> EvalRow:
    """The last of some evaluations, with the means of all."""
    every = {name: [getattr(each, name) for each in found] for name in MEASURED}
    means: dict[str, Any] = {name: fmean(values) for name, values in every.items() if None not in values}
    return replace(found[-1], **means)


def _brought_to(share: float, looking: "Looking", data: "TrainingData", making: Making) -> "Looking":
    """The trunk at `share` of its budget, trained up to it from where it was kept last, and then kept."""
    from bsexp.engine.checkpoint import from_bytes, to_bytes
    from bsexp.engine.gradients import Looking

    target = begins(looking.config, share, looking.num_train)
    if looking.samples >= target:
        return looking
    kept = making.trunks.latest(looking.config.hash, target) if making.trunks else None
    if kept is not None:
        found = Looking(looking.config, from_bytes(kept), data=data, device=making.surroundings.device)
        looking = found if found.samples > looking.samples else looking
    if looking.samples >= target:
        return looking
    advance(looking, target)
    if making.trunks:
        making.trunks.keep(looking.config.hash, target, to_bytes(looking.state()))
    return looking


def _noise(looking: "Looking", work: Work, batches: int | None) -> tuple[float, float] | None:
    if not batches:
        return None
    found = looking.noise(batches)
    sq_norm, var = (math.fsum(values) / len(found) for values in zip(*found, strict=True))
    if not (math.isfinite(sq_norm) and math.isfinite(var)):
        which = f"{work.which} had diverged after {looking.samples:,} samples"
        raise UsageError("measure --critical", which, "use a smaller --lr")
    return sq_norm, var
