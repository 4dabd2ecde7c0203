"""Forks: trainings that go on from another one's state with other values, for a while.

The one rule: where nothing is changed, a fork makes the updates that its trunk would have made, to the same bytes.
"""

import math
from collections.abc import Sequence
from typing import Any

from bsexp.config import RunConfig
from bsexp.data.splits import TrainingData
from bsexp.data.stream import SampleStream
from bsexp.engine.averaging import HALF_LIFE_SHARE
from bsexp.engine.ledger import Ledger
from bsexp.engine.loop import Training
from bsexp.records import EvalRow
from bsexp.seeding import derive


class Fork(Training):
    """A training of `config` that goes on from `state`, what another one's `state()` returned.

    Its budget counts from the trunk's start. `whole`: the trunk's budget, in samples, of which the averaged weights
    keep their half-life. `order` 0 reads on in the trunk's order; any other number in an order of its own, in which
    some samples of the epoch that was begun come twice. `points`: the samples, rising, after which it is evaluated
    instead of where its config has it evaluated; at its end in any case.
    """

    def __init__(
        self,
        config: RunConfig,
        state: dict[str, Any],
        *,
        data: TrainingData,
        whole: int,
        device: str = "auto",
        order: int = 0,
        points: Sequence[float] = (),
    ) -> None:
        self._whole, self._order, self._points = whole, order, list(points)
        super().__init__(config, state, data=data, device=device)

    def evaluations(self) -> list[EvalRow] | None:
        """Train to the end of its budget: all evaluations, the last one there; None where a loss wasn't finite.

        The test split isn't looked at.
        """
        found = []
        for record in self:
            if isinstance(record, EvalRow):
                found.append(record)
                if record.samples == self.total_samples:
                    losses = [loss for each in found for loss in (each.val_loss, each.val_loss_ema)]
                    return found if all(math.isfinite(loss) for loss in losses if loss is not None) else None
        return None

    def _prepare_data(self, data: TrainingData) -> None:
        super()._prepare_data(data)
        if self._order:
            seed = derive(self.config.seed, "fork", self._order)
            self._stream = SampleStream(self.num_train, seed, data.crop, data.mirror, self.device)

    def _ledger(self, config: RunConfig) -> Ledger:
        ledger = super()._ledger(config)
        if ledger.averaged:
            ledger.averaged.half_life = HALF_LIFE_SHARE * self._whole
        if self._points:
            ledger.points = self._points
        return ledger

    def _mask_seed(self) -> int:
        # Masks are noise that comes with the order: another order has others.
        return derive(self.config.seed, "fork", self._order) if self._order else super()._mask_seed()

    def _rehearse_ends(self) -> None:
        """Nothing: nobody takes the time of a fork."""
