"""An arm's settings as a RunConfig, and how many samples it trains on; no data is read for either.

The one rule: a data set is counted and fingerprinted once a process.
"""

from collections.abc import Callable, Collection
from typing import Any

from bsexp import catalog, plugins
from bsexp.config import RunConfig
from bsexp.data import sources

MODEL_SOURCE = "model_source"


def build_config(settings: dict[str, Any], seed: int, **changes: Any) -> RunConfig:
    """The RunConfig of an arm's settings and a seed, with the data set's fingerprint."""
    dataset = settings.get("dataset") or "digits"
    return RunConfig(**{**settings, **changes, "seed": seed, "data_fingerprint": _fingerprints(dataset)})


def kept_settings(config: RunConfig, apart: Collection[str]) -> dict[str, Any]:
    """The settings of a configuration but `apart`, to be kept beside what was made with them; no paths of a machine.

    With the fingerprint of the source of a network of the user's: edited, it is another network.
    """
    settings = {name: value for name, value in config.model_dump().items() if name not in apart}
    settings["dataset"] = catalog.told_name(config.dataset)
    if catalog.is_factory(config.model):
        settings[MODEL_SOURCE] = plugins.source_fingerprint("model", config.model)
    return settings


def num_trained(config: RunConfig) -> int:
    """Samples that a run trains on; catalogue data sets and folders are not read for it."""
    return catalog.num_trained(_counts(config.dataset), config.val_fraction, config.train_size)


def _remember(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """Data sets are counted and fingerprinted once a process."""
    known: dict[str, Any] = {}

    def remembered(name: str) -> Any:
        if name not in known:
            known[name] = function(name)
        return known[name]

    return remembered


_fingerprints = _remember(sources.fingerprint)
_counts = _remember(sources.count_train)
