"""Schedules: pure functions from progress to batch size, learning rate and momentum. Standard library only."""

from bsexp.schedules.base import Hyper, Progress, Schedule, Update, consult, noise_scale, share, simulate
from bsexp.schedules.planned import Setting
from bsexp.schedules.strategies import SCHEDULES, cycles_momentum, find_strategy, make_schedule

__all__ = [
    "SCHEDULES",
    "Hyper",
    "Progress",
    "Schedule",
    "Setting",
    "Update",
    "consult",
    "cycles_momentum",
    "find_strategy",
    "make_schedule",
    "noise_scale",
    "share",
    "simulate",
]
