"""Trials of an advice: what each cost, in the metric, so that the larger is the worse; how much repeated ones differ.

The one rule: a training that diverged costs infinitely much; it is never left out.
"""

import math
from collections.abc import Collection, Sequence
from statistics import fmean, variance

from bsexp.records import TrialRow

# Two-sided: a bound on one side holds with 95 %.
LEVEL = 0.9
METRICS = {"val_loss": 1.0, "val_accuracy": -1.0}


def best_rate(rows: Sequence[TrialRow], metric: str, most: float = math.inf) -> float | None:
    """The rate whose runs ended best in the mean over seeds. Rates at which a seed diverged or ended above a validation
    loss of `most` nats are passed over, however well others did; None where all are.
    """
    by_rate: dict[float, list[float]] = {}
    for row in rows:
        useful = row.val_loss is not None and row.val_loss <= most
        by_rate.setdefault(row.lr, []).append(cost(row, metric) if useful else math.inf)
    means = {lr: fmean(costs) for lr, costs in by_rate.items()}
    best = min(means, key=lambda lr: means[lr], default=None)
    return None if best is None or math.isinf(means[best]) else best


def degrees_of_freedom(groups: Collection[Sequence[float]]) -> int:
    """The degrees of freedom within groups."""
    return sum(len(values) - 1 for values in groups)


def deviation(groups: Collection[Sequence[float]]) -> float:
    """The standard deviation within groups (orders of a seed, seeds of an arm), pooled; 0 where nothing tells it."""
    degrees = degrees_of_freedom(groups)
    squares = sum(variance(values) * (len(values) - 1) for values in groups if len(values) > 1)
    return math.sqrt(squares / degrees) if degrees else 0.0


def by_seed(rows: Sequence[TrialRow], metric: str) -> dict[int, list[float]]:
    """The costs of each seed, by rising order."""
    found: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda row: row.order):
        found.setdefault(row.seed, []).append(cost(row, metric))
    return found


def cost(row: TrialRow, metric: str) -> float:
    """The metric, the larger the worse; infinite where the training diverged."""
    value = getattr(row, metric)
    return math.inf if value is None else METRICS.get(metric, 1.0) * float(value)
