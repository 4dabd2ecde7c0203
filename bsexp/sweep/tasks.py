"""What is handed from a sweep to whoever makes its runs.

The one rule: plain values only, without torch, so that the parent of a sweep stays light.
"""

from dataclasses import dataclass, replace
from typing import Any

from bsexp.store.paths import RunFolder


@dataclass(frozen=True)
class Task:
    """A run to be made: where it belongs and what it is. `anew`: also where it is finished, and from its start.

    `heirs`: runs that go on from what this one has trained up to so many samples, in that order.
    """

    experiment: str
    folder: RunFolder
    arm: str
    config: dict[str, Any]
    max_batch: int
    anew: bool = False
    heirs: tuple[tuple[int, "Task"], ...] = ()


@dataclass(frozen=True)
class Execution:
    """How runs are made, none of it in their ids.

    `environment` is recorded; `threads` None is torch's choice; `nproc` processes share each batch; `asked` names those
    of device, threads, nproc and compile that the user asked for; `alone`: no other run on this machine.
    """

    device: str
    save_model: bool
    environment: dict[str, Any]
    threads: int | None = None
    nproc: int = 1
    deterministic: bool = False
    compile: bool = False
    keep_memory: bool = True
    checkpoint_seconds: float = 30.0
    allow_changed: bool = False
    tensorboard: bool = False
    asked: frozenset[str] = frozenset()
    alone: bool = False

    def on(self, device: str, found: dict[str, Any]) -> "Execution":
        """The same on `device`, with what the process settled recorded."""
        return replace(self, device=device, environment={**self.environment, **found})
