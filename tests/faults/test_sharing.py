"""Cases 2, 3, 11, 12 and 13: several processes at one folder, and processes that stand still or are gone."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsexp.errors import SetupError
from bsexp.store.definition import merge_definition
from bsexp.store.lease import Observer, Owner, claim, lease_text, leases, locked
from bsexp.store.paths import Experiment
from bsexp.store.tables import read_definition
from bsexp.sweep import executors
from bsexp.sweep.tasks import Execution
from tests.faults.programs import SLEEPING, Program, alive, children, contents, finish, wait_until, workers

FILE = """
[run]
epochs = 0.5
train_size = 200
evals = 2
label_noise = 0.2
seeds = "0-9"
[arms.steady]
schedule = "fixed-small"
dropout = 0.2
[arms.grow]
schedule = "growing-batch"
"""
# Who trains a beginning that several have in common depends on who comes first.
ALONE = ("--no-report", "--no-share-prefix")
MORE = '[arms.decay]\nschedule = "lr-decay"\n'


def sweep(*options: str) -> tuple[str, ...]:
    return ("sweep", "e.toml", "--jobs", "1", "--no-report", "--json", *options)


def check_shared(place: Path, number: int, runs: int, samples: int) -> None:
    """`number` sweeps at once, half of them with an arm more: each run is trained once, with the bytes of one alone."""
    (place / "more").mkdir()
    (place / "more" / "e.toml").write_text((place / "e.toml").read_text() + MORE)
    programs = []
    for k in range(number):
        file = "more/e.toml" if k % 2 else "e.toml"
        words = ("sweep", file, *ALONE, "--jobs", "1", "--json", "--out", "shared", "--name", "e")
        programs.append(Program(place, *words, name=f"sweep{k}"))
    for program in programs:
        assert program.wait(500) == 0, program.said()
    assert sum(program.document()["samples_trained"] for program in programs) == samples
    assert len(list((place / "shared/e/runs").glob("*/summary.json"))) == runs
    assert not list((place / "shared").rglob("lease-*"))
    assert not list((place / "shared").rglob("attempt-*"))
    finish(place, "sweep", "more/e.toml", *ALONE, "--out", "alone", "--name", "e")
    assert contents(place / "shared/e/runs") == contents(place / "alone/e/runs")


def test_four_sweeps_at_one_folder_make_each_run_once(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(FILE)
    # Three arms with ten seeds, 100 samples each.
    check_shared(tmp_path, 4, 30, 3000)


@pytest.mark.hand
def test_eight_sweeps_and_two_hundred_runs(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(FILE.replace("0-9", "0-66"))
    check_shared(tmp_path, 8, 201, 20_100)


TUNED = FILE.replace('seeds = "0-9"', 'seeds = "0-1"') + '[tune]\nlr = [0.02, 0.05]\nseeds = "7"\n'


def test_workers_make_a_planned_sweep_tuning_included(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(TUNED)
    finish(tmp_path, "sweep", "e.toml", "--jobs", "0", "--no-report", "--out", "planned")
    workers = [Program(tmp_path, "worker", "planned/e", "--json", name=f"worker{k}") for k in range(2)]
    for worker in workers:
        assert worker.wait() == 0, worker.said()
    # Two arms: at two rates on one seed, then two seeds at the chosen one.
    assert sum(worker.document()["samples_trained"] for worker in workers) == 800
    finish(tmp_path, *sweep("--out", "alone"))
    assert contents(tmp_path / "planned/e/runs") == contents(tmp_path / "alone/e/runs")
    assert (tmp_path / "planned/e/tune.csv").exists()
    again = finish(tmp_path, "worker", "planned/e", "--json").document()
    assert (again["samples_trained"], again["finished"] + again["collapsed"]) == (0, 4)


def test_a_killed_sweep_leaves_no_workers_and_is_completed(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(FILE.replace("epochs = 0.5", "epochs = 100").replace("0-9", "0-1"))
    program = Program(tmp_path, "sweep", "e.toml", "--jobs", "2", "--no-report", "--checkpoint-seconds", "0.2")
    runs = tmp_path / "results/e/runs"
    wait_until(lambda: list(runs.glob("*/summary.json")), "a finished run")
    # A run that only now gets its first checkpoint is far from its end; one that is at work already may be close to it.
    before = {path.parents[1] for path in runs.glob("*/attempt-1/checkpoint-*.pt")}
    wait_until(
        lambda: {path.parents[1] for path in runs.glob("*/attempt-1/checkpoint-*.pt")} - before,
        "the first checkpoint of another",
    )
    at_work = workers(program.pid)
    assert len(at_work) == 2
    started = [*children(program.pid), *at_work]
    program.kill()
    wait_until(lambda: not any(alive(pid) for pid in started), "the workers' end", seconds=5)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/e/runs/*/summary.json")}
    assert len(done) < 4
    again = finish(tmp_path, "sweep", "e.toml", "--jobs", "2", "--no-report", "--json").document()
    assert again["finished"] == 4
    assert {path: path.stat().st_mtime_ns for path in done} == done
    # What was trained anew is less than all that was missing: unfinished runs went on from their checkpoints.
    assert again["samples_trained"] < (4 - len(done)) * 20_000
    finish(tmp_path, "sweep", "e.toml", "--no-report", "--out", "alone")
    assert contents(tmp_path / "results/e/runs") == contents(tmp_path / "alone/e/runs")


def test_a_worker_in_a_long_update_ends_with_its_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SLEEPING)
    words = ("--schedule", "fixed-small", "--model", "own:net", "--seeds", "0", "--epochs", "1", "--no-report")
    program = Program(tmp_path, "sweep", *words)
    wait_until((tmp_path / "asleep").exists, "the update")
    (worker,) = workers(program.pid)
    program.kill()
    wait_until(lambda: not alive(worker), "the worker's end", seconds=5)


DEADLY = """
import os, torch
from pathlib import Path

def deadly(image_shape, num_classes):
    Path(f"death-{os.getpid()}").touch()
    os.kill(os.getpid(), 9)
"""


def test_a_run_that_kills_its_workers_has_failed_after_three_and_waits_for_retry(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(DEADLY)
    arms = '[arms.bad]\nschedule = "fixed-small"\nmodel = "own:deadly"\n[arms.good]\nschedule = "fixed-small"\n'
    (tmp_path / "e.toml").write_text(f'[run]\nepochs = 0.1\nseeds = "0"\n{arms}')
    first = finish(tmp_path, *sweep(), expected=3)
    assert (first.document()["finished"], first.document()["failed"]) == (1, 1)
    assert "its worker died 3 times (signal 9)" in first.said()
    assert len(list(tmp_path.glob("death-*"))) == 3
    second = finish(tmp_path, *sweep(), expected=3)
    assert "1 runs failed before and were left: --retry failed" in second.said()
    assert second.document()["samples_trained"] == 0
    mended = "return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))"
    (tmp_path / "own.py").write_text(DEADLY.replace("os.kill(os.getpid(), 9)", mended))
    third = finish(tmp_path, *sweep("--retry", "failed"))
    assert third.document()["finished"] == 2
    assert not list(tmp_path.rglob("failure.json"))


def test_a_worker_killed_between_two_runs_is_replaced(tmp_path: Path) -> None:
    """The parent stands still until its worker has finished a run, asked for the next one, and been killed."""
    program = Program(tmp_path, "sweep", "--schedule", "fixed-small", "--seeds", "0-1", *FEW)
    wait_until(lambda: list(tmp_path.glob("results/runs/runs/*/attempt-1/evals.csv")), "a run that has begun")
    program.signal(signal.SIGSTOP)
    (worker,) = workers(program.pid)
    wait_until(lambda: list(tmp_path.glob("results/runs/runs/*/summary.json")), "a finished run")
    wait_until(lambda: not list(tmp_path.glob("results/runs/runs/*/lease-*")), "its claim given up")
    time.sleep(0.3)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not alive(worker), "its end")
    program.signal(signal.SIGCONT)
    assert program.wait() == 0, program.said()
    assert "a worker died (signal 9)" in program.said()
    assert program.document()["finished"] == 2


def test_a_killed_server_of_workers_costs_nothing(tmp_path: Path) -> None:
    program = Program(
        tmp_path, "sweep", "--schedule", "fixed-small", "--seeds", "0-3", *FEW[:2], "--epochs", "60", *FEW[4:]
    )
    wait_until(lambda: list(tmp_path.glob("results/runs/runs/*/attempt-1/evals.csv")), "a run that has begun")
    (worker,) = workers(program.pid)
    for pid in [*children(program.pid), worker]:
        os.kill(pid, signal.SIGKILL)
    assert program.wait() == 0, program.said()
    assert "a worker died" in program.said()
    assert program.document()["finished"] == 4


def test_a_server_that_dies_while_it_starts_a_worker_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a moment can't be hit at will: what the system then says is said by a stand-in."""
    plain, left = executors.CONTEXT.Process.start, [ConnectionRefusedError(111, "Connection refused"), EOFError()]

    def start(process: Any) -> None:
        if left:
            raise left.pop(0)
        plain(process)

    monkeypatch.setattr(executors.CONTEXT.Process, "start", start)
    execution = Execution("cpu", False, {})
    worker = executors._start("cpu", execution)
    worker.pipe.close()
    worker.process.join(60)
    assert worker.process.exitcode == 0
    left += [EOFError()] * executors.STARTS
    with pytest.raises(SetupError, match="workers: can't be started \\(EOFError\\)"):
        executors._start("cpu", execution)


FEW = ("--jobs", "1", "--epochs", "3", "--train-size", "200", "--no-report", "--json")


def test_failing_alike_and_fail_fast_end_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def net(image_shape, num_classes):\n    import torch\n    return Net()\n" + FAILING
    )
    (tmp_path / "e.toml").write_text(FILE.replace("dropout = 0.2", 'model = "own:net"'))
    alike = finish(tmp_path, *sweep(), expected=3)
    assert "the first 3 runs all failed alike: ValueError: no luck" in alike.said()
    assert len(list(tmp_path.glob("results/e/runs/*/failure.json"))) == 3
    fast = finish(tmp_path, *sweep("--fail-fast"), expected=3)
    assert "a run failed: ValueError: no luck" in fast.said()
    assert len(list(tmp_path.glob("results/e/runs/*/failure.json"))) == 4


FAILING = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
    def forward(self, x):
        if self.training:
            raise ValueError("no luck")
        return self.layer(x.flatten(1))
"""


def test_retry_diverged_makes_those_again_and_only_those(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(
        '[run]\nepochs = 0.5\ntrain_size = 200\nseeds = "0"\n[arms.wild]\nschedule = "fixed-small"\nlr = 1e6\n'
        '[arms.tame]\nschedule = "fixed-small"\n'
    )
    finish(tmp_path, *sweep())
    (tame,) = tmp_path.glob("results/e/runs/tame-*/summary.json")
    before = tame.stat().st_mtime_ns
    again = finish(tmp_path, *sweep("--retry", "diverged")).document()
    assert again["diverged"] == 1
    assert 0 < again["samples_trained"] < 100
    assert tame.stat().st_mtime_ns == before


RUN = ("run", "growing-batch", "--epochs", "60", "--threads", "1", "--quiet", "--evals", "5")
LOUD = tuple(word for word in RUN if word != "--quiet")


@pytest.mark.long
def test_a_process_that_stood_still_for_too_long_has_lost_its_run_and_mixes_nothing(tmp_path: Path) -> None:
    first = Program(tmp_path, *RUN, "--checkpoint-seconds", "0.05", "--out", "shared", name="first")
    wait_until(lambda: list(tmp_path.rglob("checkpoint-*.pt")), "a checkpoint")
    first.signal(signal.SIGSTOP)
    second = Program(tmp_path, *LOUD, "--out", "shared", name="second")
    assert second.wait(200) == 0
    assert "taking over" in second.said()
    finish(tmp_path, *RUN, "--out", "whole")
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")
    first.signal(signal.SIGCONT)
    assert first.wait() == 0
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")
    assert not list((tmp_path / "shared").rglob("attempt-*")) + list((tmp_path / "shared").rglob("lease-*"))


def test_while_another_process_makes_the_run_this_one_waits_and_reads_its_result(tmp_path: Path) -> None:
    first = Program(tmp_path, *RUN, "--out", "shared", name="first")
    wait_until(lambda: list(tmp_path.rglob("lease-1")), "a claim")
    second = Program(tmp_path, *LOUD, "--out", "shared", "--json", name="second")
    assert first.wait() == 0
    assert second.wait() == 0
    assert f"process {first.pid} makes this run: waiting for it" in second.said()
    assert second.document()["summary"]["status"] == "finished"
    (environment,) = tmp_path.glob("shared/runs/runs/*/environment.json")
    assert json.loads(environment.read_text())["attempts"] == 1


def write_lease(folder: Path, number: int, owner: Owner) -> Path:
    path = folder / f"lease-{number}"
    path.write_text(lease_text(owner))
    return path


def test_a_recycled_process_number_is_not_the_owner(tmp_path: Path) -> None:
    me = Owner.me()
    assert not me.dead()
    write_lease(tmp_path, 3, Owner(me.boot, me.namespace, me.pid, "12"))
    lease = claim(tmp_path, Observer())
    assert lease is not None
    assert lease.number == 4


def test_a_stale_claim_is_taken_over_with_a_warning(tmp_path: Path) -> None:
    killed = Program(tmp_path, *RUN, "--checkpoint-seconds", "0.05")
    wait_until(lambda: list(tmp_path.rglob("checkpoint-*.pt")), "a checkpoint")
    killed.kill()
    again = finish(tmp_path, *RUN)
    assert "warning: taking over from a process that is gone" in again.said()


def test_a_claim_given_up_and_made_again_meanwhile_by_the_same_process_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is asleep between looking and creating wakes when the same holder holds the same number again."""
    write_lease(tmp_path, 1, Owner.me())
    plain = Observer.dead

    def slept(observer: Observer, lease: Path) -> bool:
        lease.unlink()
        dead = plain(observer, lease)
        write_lease(tmp_path, 1, Owner.me())
        return dead

    monkeypatch.setattr(Observer, "dead", slept)
    assert claim(tmp_path, Observer()) is None
    assert list(leases(tmp_path)) == [1]


def test_a_claim_from_elsewhere_counts_until_its_counter_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second machine can't be had here: its clock is ours, turned by hand."""
    me = Owner.me()
    path = write_lease(tmp_path, 1, Owner("another-boot", me.namespace, me.pid, me.start))
    now = [0.0]
    monkeypatch.setattr("bsexp.store.lease.time.monotonic", lambda: now[0])
    observer = Observer()
    for step in range(5):
        assert claim(tmp_path, observer) is None
        now[0] += 50
        with open(path, "a") as file:
            file.write(".")
        assert claim(tmp_path, observer) is None, step
    now[0] += 59
    assert claim(tmp_path, observer) is None
    now[0] += 2
    assert claim(tmp_path, observer) is not None


def test_a_lost_claim_is_noticed(tmp_path: Path) -> None:
    lease = claim(tmp_path, Observer())
    assert lease is not None
    assert lease.held()
    write_lease(tmp_path, 2, Owner.me())
    assert not lease.held()
    lease.release()
    assert list(leases(tmp_path)) == [2]


def add_arms(folder: str, number: int) -> None:
    place = Experiment(Path(folder) / "e")
    for k in range(10):
        asked = {"question": "", "demonstration": False, "seeds": [number], "arms": {f"arm-{number}-{k}": {"lr": 0.1}}}
        merge_definition(place, asked)


def test_arms_that_several_sweeps_add_at_once_are_all_kept(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    in_processes(add_arms, tmp_path, 6)
    stored = read_definition(Experiment(tmp_path / "e"))
    assert sorted(stored["arms"]) == sorted(f"arm-{number}-{k}" for number in range(6) for k in range(10))
    assert stored["seeds"] == list(range(6))
    assert not list(tmp_path.rglob("lease-*"))


def in_processes(work: Callable[[str, int], None], folder: Path, number: int) -> None:
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=work, args=(str(folder), k)) for k in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0


def count_up(folder: str, number: int) -> None:
    """Add one to a number in a file, again and again, each time while holding the folder; keep one's own tally."""
    place = Path(folder)
    mine = place / f"tally-{number}"
    for _ in range(25):
        with locked(place):
            value = int((place / "number").read_text())
            time.sleep(0.001)
            # In one go: whoever is killed while he writes leaves no half of a number.
            (place / f"next-{number}").write_text(str(value + 1))
            os.replace(place / f"next-{number}", place / "number")
            with open(mine, "a") as file:
                file.write(".")


def test_a_folder_is_held_by_one_at_a_time_also_while_holders_are_killed(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=count_up, args=(str(tmp_path), k)) for k in range(6)]
    for process in processes:
        process.start()
    kills = 0
    for victim in processes[:2]:
        wait_until(lambda: list(tmp_path.glob("tally-*")), "a start")
        time.sleep(0.15)
        if victim.is_alive() and victim.pid:
            os.kill(victim.pid, signal.SIGKILL)
            kills += 1
    for process in processes:
        process.join(100)
        assert process.exitcode in (0, -signal.SIGKILL)
    counted = sum(path.stat().st_size for path in tmp_path.glob("tally-*"))
    # A process killed between its two writes has counted without keeping tally, at most once each.
    assert counted <= int((tmp_path / "number").read_text()) <= counted + kills
    assert counted >= 100
