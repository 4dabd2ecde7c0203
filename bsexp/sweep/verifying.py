"""The experiment that would settle an advice: verify.toml, with claims, seeds and what they can come to.

The one rule: it declares what the advice says, on seeds that the advice hasn't seen, and its arms are the advice's own
candidates.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsexp.analysis.advice import CONSTANT, DECAY, Judgement
from bsexp.analysis.judging import ALPHA
from bsexp.analysis.outlook import POWER_WANTED
from bsexp.analysis.power import power_with_control, seeds_needed
from bsexp.config import RunConfig
from bsexp.options import RUN_FIELDS

# The first seed that neither trials nor tuning have seen.
FIRST_SEED = 1000
MOST_SEEDS, FEWEST_SEEDS = 48, 8
TESTED = {"val_loss": "test_loss", "val_accuracy": "test_accuracy"}


def num_seeds(judged: Judgement, tolerance: float, claims: int) -> int | None:
    """Seeds with which a candidate that is like decay is found to be so in four of five experiments, within `tolerance`
    of the effect; None where MOST_SEEDS are too few.
    """

    sd, effect = _rounded(judged.sd), _rounded(judged.effect.mean)
    if not sd:
        return FEWEST_SEEDS

    def power(num: int) -> float:
        # As a sweep of the experiment will ask: in units of the spread that it states, with the same draws.
        draw = np.random.default_rng(0)
        return power_with_control(num, tolerance, 1.0, effect / sd, 1.0, draw, alpha=ALPHA / claims)

    first = max(FEWEST_SEEDS, seeds_needed(power, most=MOST_SEEDS) or MOST_SEEDS + 1)
    return next((num for num in range(first, MOST_SEEDS + 1) if power(num) >= POWER_WANTED), None)


def verification(
    name: str, options: Mapping[str, Any], configs: Mapping[str, RunConfig], judged: Judgement, tolerance: float
) -> tuple[dict[str, Any], bool]:
    """The experiment called `name` as a document of TOML, and whether its seeds are enough for a power of .8.

    `options` are those of all runs, `configs` the candidates by name, decay and constant among them; each of the others
    is claimed to be not worse than decay, by a margin of `tolerance` times what decay brings over constant.
    """
    claimed = [arm for arm in configs if arm not in (DECAY, CONSTANT)]
    seeds = num_seeds(judged, tolerance, len(claimed))
    last = FIRST_SEED + (seeds or MOST_SEEDS) - 1
    document: dict[str, Any] = {
        "name": name,
        "question": f"Does {_either(claimed)} keep the quality of decaying the learning rate?",
        "run": {**_plain(options), "lr": configs[DECAY].lr, "seeds": f"{FIRST_SEED}-{last}"},
        "arms": {arm: _arm(config, configs[DECAY]) for arm, config in configs.items()},
    }
    metric = TESTED[judged.metric]
    document["claims"] = [
        {
            "text": f"{arm} is not worse than decaying the rate",
            "compare": [arm, DECAY],
            "metric": metric,
            "expect": "not-worse",
            "control": CONSTANT,
            "margin": tolerance,
            **({"sd": _rounded(judged.sd), "effect": _rounded(judged.effect.mean)} if judged.sd else {}),
        }
        for arm in claimed
    ]
    return document, seeds is not None


def _either(arms: Sequence[str]) -> str:
    return arms[0] if len(arms) == 1 else f"{', '.join(arms[:-1])} or {arms[-1]}"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for and belongs to a run, without what isn't given."""
    return {name: value for name, value in options.items() if name in RUN_FIELDS and value is not None}


def _arm(config: RunConfig, decay: RunConfig) -> dict[str, Any]:
    """An arm's table: its schedule and what differs from decay's."""
    settings: dict[str, Any] = {"schedule": config.schedule}
    if config.lr != decay.lr:
        settings["lr"] = config.lr
    if config.batch_size != decay.batch_size:
        settings["batch_size"] = config.batch_size
    if config.max_batch != decay.max_batch:
        settings["max_batch"] = config.max_batch
    return settings | {name: value for name, value in config.parameters.items() if value is not None}


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
