"""A training that nobody writes down: it makes its updates, and nothing else.

The one rule: weights, averaged weights and all that the updates depend on are those of any other training; only rows
and evaluations are left out.
"""

from bsexp.config import RunConfig
from bsexp.engine.device import synchronizer
from bsexp.engine.ledger import Ledger, Made
from bsexp.engine.loop import Training


class Unwatched(Training):
    """A training that is never evaluated and never logged. A loss that isn't finite is nobody's business either."""

    def _ledger(self, config: RunConfig) -> Ledger:
        whole = super()._ledger(config)
        return _Silent(config, whole.total_samples, whole.sight, synchronizer(self.device))

    @property
    def part(self) -> int:
        """The largest part of a batch that went through at once."""
        return self._updater.largest

    @property
    def cut(self) -> bool:
        """Whether memory ran out, so that batches are run in smaller parts than by rule."""
        return self._updater.limit is not None


class _Silent(Ledger):
    """Averages the weights, as that is part of an update's cost, and writes nothing down."""

    def due(self, made: Made) -> bool:
        return False

    def follow(self, made: Made) -> None:
        """Without the losses, which nobody would ever take out again."""
        if self.averaged:
            self.averaged.follow(made.batch_size)

    def evaluate(self, step: int, samples: int, train_seconds: float) -> None:
        """Nothing: evaluation is no part of an update."""
