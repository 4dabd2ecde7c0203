"""The learning rate of an advice: a range test, short runs around what it suggests, whole runs around their best.

The one rule: each step only narrows what the next one tries; what is chosen was trained to the end of the budget.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bsexp.errors import UsageError
from bsexp.sweep.advising import FIRST, RATE, WHOLE, Question, Trial, key_of
from bsexp.sweep.measuring import Surroundings
from bsexp.sweep.ramps import ramp_config

if TYPE_CHECKING:
    from bsexp.commands.trying import Job

# A range test takes this share of the budget, within a range of updates.
RAMP_SHARE, RAMP_UPDATES, LOWEST, HIGHEST = 0.05, (100, 1000), 1e-5, 10.0
# Rates around the one that the range test suggests, and how often the grid is made longer where the best is at its end.
FACTORS, EXTENSIONS, STEP = (0.5, 1.0, 2.0, 4.0), 3, 2.0
# How many halvings of the rate that suits a decay are tried without one, before it is known whether more are needed.
SMALLER = 3
# In trials.json: the loss, in nats, above which a network has learned nothing.
NOTHING_LEARNED = "nothing_learned"
# Whole runs at the best of them and its neighbours.
AROUND = (1 / STEP, 1.0, STEP)


def fewest_trials(question: Question, lr: float) -> list[Trial]:
    """As many trials as finding a rate takes at least, for what they cost; all of them at `lr`."""
    return [*question.rates([lr] * len(FACTORS)), *question.wholes([lr] * len(AROUND))]


def find_rate(job: "Job") -> float:
    """The learning rate for the first batch: short runs at rates around what a range test suggests, then whole ones
    around the best of these, for what suits a tenth of the budget needn't suit all of it.
    """
    middle = job.stored().get("first_rate")
    if middle is None:
        middle, nothing = _climb(job)
        job.begin(first_rate=middle, **{NOTHING_LEARNED: nothing})
    short, _ = _best_of(job, RATE, job.question.rates, [_rounded(middle * factor) for factor in FACTORS])
    best, rates = _best_of(job, WHOLE, job.question.wholes, [_rounded(short * factor) for factor in AROUND])
    job.talk.note(f"learning rate {best:g}, of {', '.join(f'{rate:g}' for rate in rates)}")
    return best


def constant_rates(lr: float) -> list[float]:
    """The rates without decay that are tried at first for one that suits a decay: it and smaller ones."""
    return [lr, *(_rounded(lr / STEP**halvings) for halvings in range(1, SMALLER + 1))]


def find_constant(job: "Job", lr: float) -> None:
    """The rate at which training without decay ends best, of `lr` and smaller ones: a rate that suits a decay is too
    large for it, and what decaying brings would look like more than it is.
    """
    from bsexp.analysis.trials import best_rate

    rates = constant_rates(lr)
    for _ in range(EXTENSIONS + 1):
        trials = job.question.constants(rates)
        job.make(lr, trials, FIRST)
        wanted = {trial.key(seed) for trial in trials for seed in FIRST}
        best = best_rate([row for row in job.kept.rows if key_of(row) in wanted], job.metric)
        tried, rates = rates, [*rates, _rounded(rates[-1] / STEP)]
        if best not in (None, tried[-1]):
            break
    else:
        told = "all diverged" if best is None else f"{best:g} ended best, smaller ones weren't tried"
        job.talk.warn(f"constant rates of {tried[-1]:g} to {lr:g}: {told}")
    if best is not None:
        job.begin(constant_rates={**job.stored().get("constant_rates", {}), f"{lr:g}": best})
        job.talk.note(f"constant rate {best:g}, of {', '.join(f'{rate:g}' for rate in reversed(tried))}")


def _best_of(
    job: "Job", stage: str, trials: Callable[[Sequence[float]], list[Trial]], rates: list[float]
) -> tuple[float, list[float]]:
    """The rate of the best trials, and all that were tried: more where the best lies at the end of `rates`."""
    from bsexp.analysis.trials import best_rate

    # Written down by the range test; without a word of it nothing is passed over but what diverged.
    most = job.stored().get(NOTHING_LEARNED, math.inf)
    for _ in range(EXTENSIONS + 1):
        job.make(rates[0], trials(rates), FIRST)
        rows = [row for row in job.kept.rows if row.stage == stage and row.lr in rates]
        best = best_rate(rows, job.metric, most)
        if best is None or best == min(rates):
            rates = [_rounded(min(rates) / STEP), *rates]
        elif best == max(rates):
            rates = [*rates, _rounded(best * STEP)]
        else:
            return best, rates
    rates = [rate for rate in rates if any(row.lr == rate for row in rows)]
    tried = f"{min(rates):g} to {max(rates):g}"
    if best is not None:
        job.talk.warn(f"the best rate, {best:g}, lies at the end of those tried ({tried})")
        return best, rates
    # Too short for any rate: the least loss says little, but more than nothing.
    best = best_rate(rows, job.metric)
    if best is None:
        raise UsageError("learning rate", f"all runs at {tried} diverged", "give a smaller one: --lr")
    job.talk.warn(f"at each rate of {tried} the run of some seed learned nothing; {best:g} ended best")
    return best, rates


def _climb(job: "Job") -> tuple[float, float]:
    """Where a range test says that the rate might be, the data set's own where it says nothing; and the loss above
    which nothing has been learned.
    """
    from bsexp.analysis.range_test import judge_ramp
    from bsexp.sweep.apart import in_a_process

    question = job.question
    low, high = RAMP_UPDATES
    updates = min(high, max(low, round(RAMP_SHARE * question.total_samples / question.batch_size)))
    options = {**question.options, "schedule": "fixed-small", "parameters": {}}
    # The ramp has none, and this one's budget may be shorter than it.
    options.pop("warmup_epochs", None)
    config = ramp_config({**options, "epochs": None}, 0, updates, LOWEST, HIGHEST)
    job.talk.note(f"range test of the learning rate, {updates:,} updates")
    with job.spending():
        rows, nothing = in_a_process(_ramp, config.model_dump(), job.surroundings, which="range test", cure="give --lr")
    total = config.total_samples(question.num_train)
    return judge_ramp(rows, total, LOWEST, HIGHEST).suggested_lr or question.default_lr, nothing


def _rounded(rate: float) -> float:
    """Two digits: a rate isn't known better, and shall be the same when it is read again."""
    return float(f"{rate:.2g}")


def _ramp(config: dict[str, Any], surroundings: Surroundings) -> tuple[list[Any], float]:
    from bsexp.analysis.range_test import half_life
    from bsexp.config import RunConfig
    from bsexp.data.sources import load_images
    from bsexp.data.splits import prepare
    from bsexp.engine.loop import COLLAPSED
    from bsexp.engine.ramp import climb

    surroundings.settle()
    run = RunConfig(**config)
    data = prepare(run, load_images(run.dataset, run.image_size))
    total = run.total_samples(len(data.train))
    rows = climb(run, half_life=half_life(total), data=data, device=surroundings.device)
    return rows, COLLAPSED * math.log(data.num_classes)
