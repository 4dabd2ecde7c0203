"""What is handed from a sweep to whoever makes its runs.

The one rule: plain values only, without torch, so that the parent of a sweep stays light.
"""

from dataclasses import dataclass, replace
from typing import Any

from bsexp.store.paths import RunFolder


@dataclass(frozen=True)
class Task:
    """A run to be made: where it belongs and what it is."""

    experiment: str
    folder: RunFolder
    arm: str
    config: dict[str, Any]
    max_batch: int


@dataclass(frozen=True)
class Execution:
    """How runs are made, none of it in their ids. `environment` is recorded; `alone`: no other run on this machine."""

    device: str
    save_model: bool
    environment: dict[str, Any]
    alone: bool = False

    def on(self, device: str, found: dict[str, Any]) -> "Execution":
        """The same on `device`, with what the process settled recorded."""
        return replace(self, device=device, environment={**self.environment, **found})
