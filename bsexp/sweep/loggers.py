"""A run's rows for a program that draws them while it trains: TensorBoard.

The one rule: what is drawn elsewhere is never worth a run. Whatever a logger raises becomes one warning, and it is not
called again.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from bsexp.errors import SetupError
from bsexp.records import EvalRow, StepRow

log = logging.getLogger(__name__)

# What a row says about where it stands, not about how it goes.
PLACE = ("step", "samples", "epoch", "train_seconds")


def check_tensorboard() -> None:
    """SetupError where the package is missing."""
    if find_spec("tensorboard") is None:
        raise SetupError(
            "--tensorboard", "the package tensorboard is not installed", "pip install 'bsexp[tensorboard]'"
        )


class TensorBoard:
    """Writes rows as TensorBoard's scalars into `folder`, against samples. Rows behind `samples` are written over."""

    def __init__(self, folder: Path, samples: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=samples + 1 if samples else 0)

    def row(self, record: StepRow | EvalRow) -> None:
        """Write a row of steps.csv as updates/*, one of evals.csv as evaluations/*."""
        group = "updates" if isinstance(record, StepRow) else "evaluations"
        for name, value in asdict(record).items():
            if name not in PLACE and value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, record.samples)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Guarded:
    """A logger whose failures end nothing. `make` opens it; None for none at all."""

    def __init__(self, make: Callable[[], TensorBoard] | None) -> None:
        self._logger: TensorBoard | None = None
        if make is not None:
            self._guard(lambda: setattr(self, "_logger", make()))

    def row(self, record: StepRow | EvalRow) -> None:
        """Hand a row on."""
        if (logger := self._logger) is not None:
            self._guard(lambda: logger.row(record))

    def close(self) -> None:
        """Close it."""
        if (logger := self._logger) is not None:
            self._guard(logger.close)

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a package of somebody else's may raise
            self._logger = None
            text = str(error).partition("\n")[0]
            log.warning("TensorBoard failed, the run goes on without it: %s: %s", type(error).__name__, text)
