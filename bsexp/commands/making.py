"""What the commands that make runs share: how runs are made, what is shown meanwhile, how it ended.

The one rule: one meaning of the execution options, whichever command takes them.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsexp.console import Meter, Talk, duration
from bsexp.options import OPTIONS
from bsexp.sweep.conduct import Means, Tally
from bsexp.sweep.devices import check_device, describe_workers, shares_exactly, worker_devices
from bsexp.sweep.environment import describe_machine, python_arguments
from bsexp.sweep.executors import run_local
from bsexp.sweep.loggers import check_tensorboard
from bsexp.sweep.queue import Event
from bsexp.sweep.signals import StopSignals
from bsexp.sweep.tasks import Execution, Task


def execution_of(options: dict[str, Any], threads: int | None) -> Execution:
    """How runs are made, from the options given; `threads` is the command's default, None for torch's choice."""
    if options.get("tensorboard", False):
        check_tensorboard()
    return Execution(
        device=options.get("device", OPTIONS["device"].default),
        save_model=options.get("save_model", False),
        environment={**describe_machine(), "arguments": python_arguments()},
        threads=options.get("threads", threads),
        nproc=options.get("nproc", 1),
        deterministic=options.get("deterministic", False),
        compile=options.get("compile", False),
        keep_memory=options.get("tune_allocator", True),
        checkpoint_seconds=options.get("checkpoint_seconds", OPTIONS["checkpoint_seconds"].default),
        allow_changed=options.get("allow_changed", False),
        tensorboard=options.get("tensorboard", False),
        asked=frozenset(
            name for name in ("device", "threads", "nproc", "compile") if options.get(name) not in (None, "auto")
        ),
    )


@dataclass(frozen=True)
class Engine:
    """Who makes the runs of a sweep: `number` at a time (0: nobody, it is only planned), `described` in a clause.

    `exact`: the same bytes each time, whoever makes a run. `run` makes tasks and yields what happens.
    """

    number: int
    described: str
    exact: bool
    run: Callable[[Sequence[Task], Execution, StopSignals], Generator[Event, None, None]]


def local_engine(options: dict[str, Any]) -> Engine:
    """Processes on this machine. Raises UsageError, and SetupError for a device that isn't there."""
    device = options.get("device", "auto")
    devices = worker_devices(device, options.get("jobs"), options.get("per_gpu"))
    if devices:
        # A sweep that is only planned here may be made where that device is.
        check_device(device)
    exact = shares_exactly(devices, options.get("deterministic", False), options.get("compile", False))

    def run(tasks: Sequence[Task], execution: Execution, stop: StopSignals) -> Generator[Event, None, None]:
        return run_local(tasks, devices, execution, stop)

    return Engine(len(devices), describe_workers(devices), exact, run)


def watched(
    talk: Talk, options: dict[str, Any], make: Callable[[Means, "Watch"], Tally], engine: Engine | None = None
) -> Tally:
    """What `make` does with an engine (None: the local one) and a display, both ended in any case."""
    used = engine or local_engine(options)
    execution = execution_of(options, threads=1)
    execution.environment["jobs"] = used.number
    watch = Watch(talk, used.described)
    with StopSignals() as stop:
        means = Means(
            (lambda tasks: used.run(tasks, execution, stop)) if used.number else None,
            options.get("retry"),
            options.get("fail_fast", False),
            options.get("share_prefix", used.exact),
            options.get("extend_grid", False),
        )
        try:
            return make(means, watch)
        finally:
            watch.close()


class Watch:
    """Shows a sweep's progress: a bar over the estimated work, a line per finished run where there is no terminal."""

    def __init__(self, talk: Talk, workers: str) -> None:
        self.talk, self.workers = talk, workers
        self.tasks: Sequence[Task] = ()
        self.costs: list[float] = []
        self.parts: dict[int, float] = {}
        self.done = 0
        self._meter: Meter | None = None
        self._shown: Any = None

    def __call__(self, phase: str, tasks: Sequence[Task], costs: Sequence[float], event: Event | None) -> None:
        if event is None:
            self.close()
            self.tasks, self.costs, self.parts, self.done = tasks, list(costs), {}, 0
            if tasks:
                self.talk.note(f"{phase}: {len(tasks)} to make{self.workers}")
                self._meter = Meter(self.talk, phase, sum(costs))
                self._shown = self._meter.shown()
                self._shown.__enter__()
            return
        meter = self._meter
        assert meter is not None, "events come within a phase"
        if event.kind == "told":
            level, text = event.content
            meter.line(text if level < logging.WARNING else f"bsexp: warning: {text}")
            return
        if event.kind == "started":
            self.parts[event.index] = 0.0
        elif event.kind == "progress":
            self.parts[event.index] = self.costs[event.index] * event.content
        elif event.kind in ("done", "failed"):
            self.parts[event.index] = self.costs[event.index]
            self.done += 1
            self._end(event, meter)
        running = sum(part < self.costs[index] for index, part in self.parts.items())
        meter.move(sum(self.parts.values()), f"{self.done} of {len(self.tasks)} runs, {running} running")

    def _end(self, event: Event, meter: Meter) -> None:
        name = self.tasks[event.index].folder.path.name
        if event.kind == "failed":
            meter.line(f"failed: {name}: {event.content}")
            return
        summary = event.content.summary
        if summary["status"] != "finished":
            meter.line(f"{summary['status']}: {name}: {summary['reason']}")
        elif not self.talk.live:
            accuracy = f"test {summary['test_accuracy']:.2%}"
            how = f"{summary['wall_seconds']:.1f} s" if event.content.samples else "made elsewhere"
            left = meter.time_left(sum(self.parts.values()))
            self.talk.note(f"{self.done}/{len(self.tasks)}  {name}  {accuracy}  {how}  {left}")

    def close(self) -> None:
        """End the display."""
        if self._shown is not None:
            self._shown.__exit__(None, None, None)
            self._shown = None


def tell_end(tally: Tally, folder: Path, options: dict[str, Any], talk: Talk, seconds: float) -> int:
    """Say how it ended, as a document on stdout where that is asked for, and in words; the exit code."""
    name = folder.name
    if options.get("json"):
        counts = ("planned", "finished", "failed", "diverged", "collapsed", "samples_trained", "samples_total")
        document = {count: getattr(tally, count) for count in counts}
        talk.document({"experiment": name, **document, "seconds": round(seconds, 3)})
    if options.get("jobs") == 0:
        missing = tally.planned - tally.finished - tally.diverged - tally.collapsed
        talk.note(f"{name}: {missing} of {tally.planned} runs wait; bsexp worker {folder} makes them")
        return 0
    made = f"{tally.made} made now" if tally.made else "nothing to make"
    parts = [f"{tally.finished} of {tally.planned} runs finished"]
    parts += [f"{count} {state}" for state in ("diverged", "collapsed", "failed") if (count := getattr(tally, state))]
    talk.note(f"{name}: {', '.join(parts)}; {made} in {duration(seconds)}")
    if tally.changed_claims:
        talk.warn(f"claims are not those declared before the data: {'; '.join(tally.changed_claims)}")
    if tally.left:
        talk.warn(f"{tally.left} runs failed before and were left: --retry failed makes them again")
    if tally.diverged or tally.collapsed:
        talk.warn("diverged and collapsed runs are results: the report counts them and averages over none of them")
    return 3 if tally.failed else 0
