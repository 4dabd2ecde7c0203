"""bsexp: the referee for batch-size and learning-rate schedules.

The one rule: importing this package imports nothing heavy; every public name is loaded when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bsexp.config import RunConfig
    from bsexp.engine.loop import Training
    from bsexp.models import build_model
    from bsexp.schedules import SCHEDULES, Hyper, Progress, simulate
    from bsexp.schedules.python import make_schedule
    from bsexp.store.tables import load_results

_HOMES = {
    "RunConfig": "bsexp.config",
    "Training": "bsexp.engine.loop",
    "SCHEDULES": "bsexp.schedules",
    "Progress": "bsexp.schedules",
    "Hyper": "bsexp.schedules",
    "simulate": "bsexp.schedules",
    "make_schedule": "bsexp.schedules.python",
    "build_model": "bsexp.models",
    "load_results": "bsexp.store.tables",
}

__all__ = [
    "SCHEDULES",
    "Hyper",
    "Progress",
    "RunConfig",
    "Training",
    "build_model",
    "load_results",
    "make_schedule",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bsexp' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
