"""What the machine itself allows: the same plain training loop in one process, and in two at once.

Two "cores" may be two threads of one core, or share a memory bus; what two workers can win is bounded by that.
"""

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from queue import Queue


def two_over_one(seconds: float = 2.0) -> float:
    """How many updates two processes make at once, over those of one alone; 2 on two whole cores."""
    (alone,) = _rates(1, seconds)
    return sum(_rates(2, seconds)) / alone


def _rates(count: int, seconds: float) -> list[float]:
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_train, args=(barrier, rates, seconds)) for _ in range(count)]
    for process in processes:
        process.start()
    found = [rates.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def _train(barrier: Barrier, rates: "Queue[float]", seconds: float) -> None:
    """A network of the size of those on digits, one thread, forward, backward and step."""
    import torch

    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)
    images, labels = torch.randn(32, 64), torch.randint(0, 10, (32,))

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for _ in range(100):
        update()
    barrier.wait()
    began, updates = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        update()
        updates += 1
    rates.put(updates / (time.perf_counter() - began))
