"""Results cut into what may be compared: one group per data set and model, and inside it one label per arm.

The one rule: runs share a label only where everything the tables know of them agrees except the seed; a mean is never
taken over different settings. Only finished runs enter means; the others are counted.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from bsexp.report.palette import Look, look

if TYPE_CHECKING:
    from bsexp.store.tables import Results

TELLING = ("schedule", "lr", "batch_size", "max_batch", "epochs")
# Above so many runs their own curves hide the means, and make files that no browser likes.
MOST_LINES = 60
SHORT = {"batch_size": "B", "max_batch": "max B", "schedule": "", "lr": "lr", "epochs": "epochs"}


@dataclass(frozen=True)
class Group:
    """The runs of one data set and model. The frames have the columns of Results and `label`, the arm as shown.

    `settings` and `looks` are keyed by label, in the order of the experiment. `split`: "val", or "test" where no
    validation split was taken and curves speak of the test split. `decisions` is empty where no run decided anything.
    """

    dataset: str
    model: str
    runs: pd.DataFrame
    evals: pd.DataFrame
    steps: pd.DataFrame
    settings: dict[str, dict[str, Any]]
    looks: dict[str, Look]
    split: str
    notes: tuple[str, ...] = ()
    decisions: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def labels(self) -> list[str]:
        """The arms as shown, in the order of the experiment."""
        return list(self.looks)

    @property
    def finished(self) -> pd.DataFrame:
        """The runs that trained to their end and learned; nothing else is averaged."""
        return self.runs[self.runs["status"] == "finished"]

    @property
    def draws_seeds(self) -> bool:
        """Whether each run has a curve of its own beside its arm's mean."""
        return len(self.finished) <= MOST_LINES

    def mishaps(self, label: str) -> str:
        """How many runs of an arm are not in the means, as `2 of 6 diverged`; empty where all finished."""
        status = self.runs.loc[self.runs["label"] == label, "status"]
        total = len(status)
        names = {"collapsed": "collapsed", "diverged": "diverged", "failed": "failed", "oom": "ran out of memory"}
        counts = ((int((status == state).sum()), word) for state, word in names.items())
        return ", ".join(f"{number} of {total} {word}" for number, word in counts if number)

    def has(self, column: str) -> bool:
        """Whether a column of the finished runs' summaries was measured at all."""
        return column in self.runs and bool(self.finished[column].notna().any())


def shown_dataset(name: str) -> str:
    """A data set's name without a machine's path: `folder:/home/me/pets` is `folder:pets`."""
    kind, colon, path = name.partition(":")
    if kind != "folder" or not colon:
        return name
    return "folder:" + path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def without_variants(results: "Results") -> "Results":
    """The results without the runs that [sensitivity] added: those are told with the verdicts that they belong to."""
    variants = results.definition.get("variants", {})
    if not variants:
        return results
    frames = {name: getattr(results, name) for name in ("runs", "evals", "steps", "decisions")}
    kept = {
        name: frame[~frame["arm"].isin(variants)].reset_index(drop=True)
        for name, frame in frames.items()
        if frame is not None
    }
    arms = {arm: settings for arm, settings in results.arms.items() if arm not in variants}
    return replace(results, arms=arms, **kept)


def make_groups(results: "Results") -> list[Group]:
    """The groups of an experiment, in the order in which its runs name them; none without runs."""
    runs = results.runs
    if not len(runs):
        return []
    pairs = list(dict.fromkeys(zip(runs["dataset"], runs["model"], strict=True)))
    return [_group(results, dataset, model, alone=len(pairs) == 1) for dataset, model in pairs]


def _group(results: "Results", dataset: str, model: str, alone: bool) -> Group:
    runs = results.runs[(results.runs["dataset"] == dataset) & (results.runs["model"] == model)]
    labels, order, notes = _label(runs, results, alone)
    runs = runs.assign(label=labels)
    by_hash = dict(zip(runs["config_hash"], runs["label"], strict=True))
    evals, steps = _follow(results.evals, by_hash), _follow(results.steps, by_hash)
    settings = {label: results.arms.get(arm, {}) for label, (arm, _) in order.items()}
    places = {arm: place for place, arm in enumerate(_arms(results))}
    looks = {label: look(places[arm], variant) for label, (arm, variant) in order.items()}
    has_val = "val_loss" in evals and bool(evals["val_loss"].notna().any())
    split = "val" if has_val or "test_loss" not in evals or not evals["test_loss"].notna().any() else "test"
    decisions = pd.DataFrame() if results.decisions is None else _follow(results.decisions, by_hash)
    return Group(shown_dataset(dataset), model, runs, evals, steps, settings, looks, split, tuple(notes), decisions)


def _follow(frame: pd.DataFrame, by_hash: dict[str, str]) -> pd.DataFrame:
    if "config_hash" not in frame:
        return frame.assign(label=pd.Series(dtype=object))
    labels = frame["config_hash"].map(by_hash)
    return frame[labels.notna()].assign(label=labels[labels.notna()])


def _arms(results: "Results") -> list[str]:
    return list(dict.fromkeys([*results.arms, *results.runs["arm"]]))


def _label(
    runs: pd.DataFrame, results: "Results", alone: bool
) -> tuple[pd.Series, dict[str, tuple[str, int]], list[str]]:
    """A label per run; for each label its arm and its number among the arm's labels; notes."""
    labels = runs["arm"].astype(object).copy()
    order: dict[str, tuple[str, int]] = {}
    notes: list[str] = []
    for arm in _arms(results):
        own = runs[runs["arm"] == arm]
        if not len(own):
            if alone:
                order[arm] = (arm, 0)
            continue
        names, note = _variants(arm, own)
        labels.loc[own.index] = names
        for variant, name in enumerate(dict.fromkeys(names)):
            order[name] = (arm, variant)
        notes += [note] if note else []
    return labels, order, notes


def _variants(arm: str, own: pd.DataFrame) -> tuple[list[str], str]:
    varying = [name for name in TELLING if own[name].nunique(dropna=False) > 1]
    if not varying and not own["seed"].duplicated().any():
        return [arm] * len(own), ""
    names = [
        " ".join([arm, *(f"{SHORT[name]} {_plain(value)}".strip() for name, value in zip(varying, row, strict=True))])
        for row in own[varying].itertuples(index=False, name=None)
    ]
    keys = pd.DataFrame({"name": names, "seed": own["seed"].to_numpy()})
    unclear = set(keys.loc[keys.duplicated(keep=False), "name"])
    if not unclear:
        return names, ""
    hashes = [str(value)[:6] for value in own["config_hash"]]
    names = [f"{name} {mark}" if name in unclear else name for name, mark in zip(names, hashes, strict=True)]
    return names, (
        f"{arm}: several runs of one seed differ in settings outside these tables; each run stands alone, "
        "marked by the first digits of its hash."
    )


def _plain(value: Any) -> str:
    return "none" if pd.isna(value) else value if isinstance(value, str) else f"{value:g}"
