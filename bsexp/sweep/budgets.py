"""Budgets that are not given in epochs: samples, updates, or seconds on a measured machine.

The one rule: a budget is turned into samples, exactly, before anything is trained; a run knows samples only.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.config import RunConfig
from bsexp.errors import UsageError, shown
from bsexp.options import LENGTHS
from bsexp.schedules import simulate
from bsexp.schedules.planned import Planned
from bsexp.sweep.configs import build_config, num_trained

if TYPE_CHECKING:
    pass

FORM = re.compile(r"(samples|updates|seconds):([0-9.e+]+)")


def settle(settings: dict[str, Any], place: str, hardware: str | None = None, num_train: int | None = None) -> Any:
    """`settings` with their budget in epochs. `hardware`: a hardware.csv, for seconds; `num_train`: not the data set's.

    UsageError with `place` for a budget that no plan meets.
    """
    given = {key: settings[key] for key in ("updates", "budget") if settings.get(key) is not None}
    if not given:
        return settings
    rest = {key: value for key, value in settings.items() if key not in LENGTHS}
    key, value = next(iter(given.items()))
    where = f"{place}{key}" if place != "--" else f"--{key}"
    kind, amount = ("updates", float(value)) if key == "updates" else _amount(value, where)
    seed = rest.get("seed", 0)
    config = build_config(rest, seed) if num_train is None else RunConfig(**{**rest, "seed": seed})
    train = num_train or num_trained(config)
    total = _solve(config, train, kind, amount, where, hardware)
    return {**rest, "epochs": total / train}


def _amount(text: Any, where: str) -> tuple[str, float]:
    found = FORM.fullmatch(str(text))
    try:
        amount = float(found[2]) if found else 0.0
    except ValueError:
        amount = 0.0
    if not found or not 0 < amount < 1e15 or (found[1] != "seconds" and amount != int(amount)):
        raise UsageError(where, shown(text), "give samples:N, updates:N or seconds:S, above 0")
    return found[1], amount


def _solve(config: RunConfig, num_train: int, kind: str, amount: float, where: str, hardware: str | None) -> int:
    if kind == "samples":
        return int(amount)
    if not isinstance(config.build_schedule(), Planned):
        raise UsageError(where, f"{kind} with {config.schedule}", "its batches are not known beforehand: give epochs")
    cost = _counting(config, num_train) if kind == "updates" else _timing(config, num_train, where, hardware)
    # A warm-up in epochs is there whatever the budget.
    least = 1 + int((config.warmup_epochs or 0.0) * num_train)
    if cost(least) > amount:
        told = "its warm-up alone takes" if config.warmup_epochs else "one sample takes"
        raise UsageError(where, f"{amount:g} {kind}", f"that is less than {told}")
    most = _most(cost, amount, least)
    made = cost(most)
    if kind == "updates" and made != amount:
        raise UsageError(where, f"{amount:.0f} updates", f"this schedule makes {made:.0f} or {cost(most + 1):.0f}")
    return most


def _most(cost: Callable[[int], float], amount: float, least: int) -> int:
    """The most samples, from `least` on, that cost no more than `amount`, by doubling and halving; cost rises."""
    low, high = least, 2 * least
    while cost(high) <= amount:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= amount else (low, middle)
    return low


def _sizes(config: RunConfig, num_train: int, total: int) -> list[int]:
    """The batch sizes of the whole plan for `total` samples."""
    long = RunConfig(**{**config.model_dump(), "epochs": total / num_train})
    schedule = long.build_schedule()
    return [update.batch_size for update in simulate(schedule, total_samples=total, num_train=num_train)]


def _counting(config: RunConfig, num_train: int) -> Callable[[int], float]:
    return lambda total: len(_sizes(config, num_train, total))


def _timing(config: RunConfig, num_train: int, where: str, hardware: str | None) -> Callable[[int], float]:
    if hardware is None:
        raise UsageError(where, "seconds without a machine", "add --hardware FILE (bsexp measure makes one)")
    from bsexp.analysis.hardware import HardwareTable, count_sizes, modelled_seconds
    from bsexp.store.hardware import read_hardware

    table: HardwareTable = HardwareTable.of(read_hardware(Path(hardware)))
    first = _sizes(config, num_train, num_train)[0]
    # What lies below the smallest measured size costs what that does: such updates are the last ones of tiny budgets.
    least = table.sizes[0]

    def seconds(total: int) -> float:
        sizes = _sizes(config, num_train, total)
        counts: Mapping[int, float] = count_sizes([max(size, least) if first >= least else size for size in sizes])
        return modelled_seconds(table, counts, 1).value

    return seconds
