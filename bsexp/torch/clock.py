"""The clock of a training loop: which update starts at which sample, and which one is next.

The one rule: the budget is cut into updates once, by the same function that plans bsexp's own runs, before anything is
trained. From there on a position is a number of updates, and everything else follows from it.
"""

import hashlib
from array import array
from bisect import bisect_left
from typing import Any

from bsexp.errors import UsageError, shown
from bsexp.planning import MOST_UPDATES
from bsexp.schedules import Hyper, Progress, consult, simulate
from bsexp.torch.asked import Asked


class Clock:
    """The plan of a schedule, and how many of its updates have been made: `step`.

    `moves_momentum`: whether the momentum changes along the budget. Raises UsageError where the schedule gives values
    that no update could use, at any place of the budget.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.step = 0
        self.moves_momentum = False
        self._starts = array("q")
        self._loaded: tuple[str, int] | None = None
        first: float | None = None
        for update in simulate(asked.schedule, total_samples=asked.total_samples, num_train=asked.num_train):
            if update.step >= MOST_UPDATES:
                raise UsageError("budget", f"more than {MOST_UPDATES:,} updates", "give fewer epochs or samples")
            self._starts.append(update.samples)
            first = update.momentum if first is None else first
            self.moves_momentum = self.moves_momentum or update.momentum != first
        self.updates = len(self._starts)
        self._starts.append(asked.total_samples)
        self.fingerprint = hashlib.sha256(self._starts.tobytes()).hexdigest()[:16]

    @property
    def samples(self) -> int:
        """Samples trained on so far: where the next update starts."""
        return self._starts[self.step]

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.step == self.updates

    def start(self, step: int) -> int:
        """The samples before update `step`."""
        return self._starts[step]

    def size(self, step: int) -> int:
        """The samples in update `step`."""
        return self._starts[step + 1] - self._starts[step]

    def hyper(self) -> Hyper:
        """The values of the next update, `batch_size` being what the schedule asks for before the budget's end."""
        asked = self.asked
        return consult(asked.schedule, Progress(self.step, self.samples, asked.total_samples, asked.num_train))

    def epoch_of(self, step: int) -> range:
        """The updates that start in the same epoch as update `step`; none behind the last one."""
        if step == self.updates:
            return range(step, step)
        epoch = self._starts[step] // self.asked.num_train
        ends = (bisect_left(self._starts, k * self.asked.num_train, hi=self.updates) for k in (epoch, epoch + 1))
        return range(*ends)

    def advance(self, samples: int) -> None:
        """One update with `samples` samples was made. UsageError where the next one has another size."""
        if self.finished:
            raise self.spent("rates.step")
        size = self.size(self.step)
        if type(samples) is not int or samples != size:
            cure = "train on each batch as the sampler gave it, in order, and tell its number of samples"
            raise UsageError("rates.step", f"{shown(samples)} samples where the batch has {size} ({self.place})", cure)
        self.step += 1
        self._loaded = None

    @property
    def place(self) -> str:
        """Where the clock stands, in words."""
        return f"at sample {self.samples:,}"

    def spent(self, what: str) -> UsageError:
        """The error for going on when nothing is left."""
        cure = "end the loop there: while not sampler.finished"
        return UsageError(what, f"after the budget of {self.samples:,} samples", cure)

    def state(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        asked = self.asked
        return {
            "step": self.step,
            "samples": self.samples,
            "num_train": asked.num_train,
            "total_samples": asked.total_samples,
            "batch_sizes": self.fingerprint,
        }

    def load(self, state: dict[str, Any], owner: str) -> None:
        """Go to where `state` was taken. UsageError for the state of another plan, or two states that differ."""
        for name, mine in self.state().items():
            if name not in ("step", "samples") and state.get(name) != mine:
                cure = "give the data, budget and schedule that it was saved with"
                raise UsageError("load_state_dict", f"{name} {shown(state.get(name))}, here {shown(mine)}", cure)
        step = state.get("step")
        if type(step) is not int or not 0 <= step <= self.updates or self._starts[step] != state.get("samples"):
            raise UsageError("load_state_dict", f"step {shown(step)}", "the state is damaged")
        other = self._loaded if self._loaded and self._loaded[0] != owner else None
        if other and other[1] != step:
            which = f"{other[0]} at update {other[1]:,}, {owner} at {step:,}"
            raise UsageError("load_state_dict", which, "load states that were saved together")
        self.step, self._loaded = step, None if other else (owner, step)
