"""Which of a sweep's tasks is made next, whoever makes them.

The one rule: longest first; one that goes on from another waits until that has come so far; one whose maker died goes
back, ATTEMPTS times in all.
"""

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bsexp.store.runs import record_failure
from bsexp.sweep.tasks import Task

ATTEMPTS = 3


@dataclass(frozen=True)
class Event:
    """What happened to task number `index` (none: -1).

    `content` is the share done, what was made (its summary and the samples trained for it), the reason of a failure, or
    (level, text) of something to tell.
    """

    kind: Literal["started", "progress", "done", "failed", "told"]
    index: int
    content: Any = None


@dataclass(frozen=True)
class Taken:
    """Task number `index`, to be waited for where another process makes it, if `wait`."""

    index: int
    wait: bool


class Queue:
    """The tasks that wait, in their order, and how often each was begun."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        self._waiting = deque(range(len(tasks)))
        places = {task.folder.path: index for index, task in enumerate(tasks)}
        # Who goes on from another run, and from how many samples of it on.
        self._after = {
            places[heir.folder.path]: (index, samples)
            for index, task in enumerate(tasks)
            for samples, heir in task.heirs
        }
        self._tries = [0] * len(tasks)
        self._busy: set[int] = set()

    def take(self) -> Taken | None:
        """The next task that can be made, and isn't waiting any more; None where there is none now."""
        index = next((index for index in self._waiting if index not in self._after), None)
        if index is None:
            return None
        self._waiting.remove(index)
        return Taken(index, index in self._busy)

    def busy(self, index: int) -> None:
        """Another process makes it: it comes last, and is waited for then."""
        self._busy.add(index)
        self._waiting.append(index)

    def release(self, parent: int, samples: float = math.inf) -> bool:
        """Run `parent` has come to `samples`, or its end. Whether one that goes on from there can be made now."""
        free = [index for index, (other, needed) in self._after.items() if other == parent and needed <= samples]
        for index in free:
            del self._after[index]
        return bool(free)

    def lost(self, index: int, how: str) -> Event:
        """Its maker died, `how`: it goes back, or has failed after ATTEMPTS tries."""
        self._tries[index] += 1
        if self._tries[index] < ATTEMPTS:
            self._waiting.append(index)
            text = f"a worker died ({how}): {self.tasks[index].folder.path.name}"
            return Event("told", index, (logging.WARNING, text))
        reason = f"its worker died {ATTEMPTS} times ({how})"
        record_failure(self.tasks[index].folder, reason)
        return Event("failed", index, reason)
