"""What a report says in sentences: facts, notes, descriptions of figures, and how to read it.

The one rule: nothing here says that an arm wins. Estimates are described; a comparison in words needs a declared claim.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bsexp import catalog
from bsexp.report import numbers
from bsexp.report.courses import Course, asked, asking, course, deciding, policies, unusable
from bsexp.report.frames import STATES, batch_range, outcome
from bsexp.report.groups import Group
from bsexp.report.tables import setting, shared_settings

if TYPE_CHECKING:
    from bsexp.store.tables import Results

READING = (
    "Every arm of a seed starts from the same weights and reads the same samples in the same order. Arms are therefore "
    "compared within seeds, and the interval of a difference is usually narrower than those of the two arms suggest.",
    "A seed draws the initial weights, the order of the samples, the training subset and the label noise, where there "
    "are any. Intervals are 95 % t-intervals over seeds: they speak of new seeds on this test set, not of new test "
    "images, other data sets or other models.",
    "All arms see the same number of samples. The number of updates and the time follow from the schedule.",
    "Where learning rates were tuned, each arm got the same rule, by validation loss on seeds of their own; else each "
    "arm ran untuned, and a difference may be one of learning rates. Validation selects; test reports, once, "
    "at the end of a run.",
    "Runs that diverged (non-finite), collapsed (did not learn) or failed are counted and never averaged, so that the "
    "mean of such an arm speaks of its lucky runs only.",
)


@dataclass(frozen=True)
class Picture:
    """A figure in the document: the name of its files without ending, title, alternative text and caption."""

    stem: str
    title: str
    alt: str
    caption: str


def facts(results: "Results", group: Group) -> list[tuple[str, str]]:
    """What was run, as pairs of a name and what it was."""
    done = group.runs
    seeds = sorted(int(seed) for seed in done["seed"].dropna().unique())
    found = [
        ("Data set", _dataset(group)),
        ("Model", _model(group)),
        ("Budget", _budget(group)),
        ("Seeds", f"{len(seeds)} ({_ranges(seeds)})"),
        ("Runs", _counts(results, group)),
        ("Learning rates", _tuned(results)),
    ]
    told = ("epochs", "evals")
    same = {key: value for key, value in shared_settings(group).items() if key not in told}
    if same:
        text = ", ".join(f"{key.replace('_', ' ')} {setting(value)}" for key, value in same.items())
        found.append(("Same in all arms", text))
    return found


def _dataset(group: Group) -> str:
    known = catalog.DATASETS.get(group.dataset)
    sizes = _train_sizes(group)
    parts = [f"{sizes} training samples"] if sizes else []
    parts += [f"{known.num_test:,} test images", f"{known.num_classes} classes"] if known and known.num_test else []
    return group.dataset + (f": {', '.join(parts)}" if parts else "")


def _train_sizes(group: Group) -> str:
    rows = group.evals[group.evals["epoch"] > 0] if len(group.evals) else group.evals
    return numbers.span((rows["samples"] / rows["epoch"]).round().to_list()) if len(rows) else ""


def _model(group: Group) -> str:
    sizes = numbers.span(group.runs["num_parameters"].to_list())
    return group.model + (f": {sizes} parameters" if sizes != numbers.DASH else "")


def _budget(group: Group) -> str:
    epochs = numbers.span(group.runs["epochs"].to_list(), numbers.number)
    samples = numbers.span(group.finished["samples"].to_list())
    return f"{epochs} epochs" + (f", {samples} samples per run" if samples != numbers.DASH else "")


def _counts(results: "Results", group: Group) -> str:
    status = group.runs["status"]
    counts = [f"{int((status == state).sum())} {state}" for state in STATES if (status == state).any()]
    counts = [text.replace("oom", "out of memory") for text in counts]
    variants = int(results.runs["arm"].isin(results.definition.get("variants", {})).sum())
    more = f"; {variants} more at other settings, for sensitivity" if variants else ""
    whole = f" of {results.planned} planned" if _single(results) and not variants else ""
    return f"{len(group.runs)}{whole}: {', '.join(counts)}{more}"


def _single(results: "Results") -> bool:
    return len(results.runs[["dataset", "model"]].drop_duplicates()) == 1


def _tuned(results: "Results") -> str:
    if results.tuning is None or not len(results.tuning):
        return "untuned: as given"
    tried = results.tuning.groupby("arm")["lr"].nunique()
    return f"tuned per arm by validation loss, {numbers.span(tried.to_list())} values tried for each"


def _ranges(seeds: list[int]) -> str:
    """Seeds as ranges: 0-5, 8."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(f"{part[0]}–{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def notes_of(results: "Results") -> list[str]:
    """What holds for the whole report: missing runs, nothing finished, tuning at the edge."""
    notes = []
    present, planned = len(results.runs), results.planned
    if not present:
        notes.append(
            f"No run has finished yet: 0 of {planned} planned runs are here. There is nothing to report."
            if planned
            else "There are no runs here. There is nothing to report."
        )
    elif not (results.runs["status"] == "finished").any():
        notes.append(f"{_none_finished(results.runs['status'].to_list())} There is no outcome to compare.")
    if present and planned > present:
        missing = planned - present
        verb = "is" if missing == 1 else "are"
        notes.append(f"Unfinished: {missing} of {planned} planned runs {verb} missing. Estimates will change.")
    notes += [f"Damaged and left out: {which}." for which in results.left_out]
    return notes + _tuning_notes(results)


def _none_finished(status: list[Any]) -> str:
    kinds = set(status)
    word = {"oom": "ran out of memory"}
    if len(kinds) == 1:
        kind = str(kinds.pop())
        return f"All {len(status)} runs {word.get(kind, kind)}." if len(status) > 1 else f"The only run {kind}."
    counts = ", ".join(f"{status.count(kind)} {word.get(kind, kind)}" for kind in STATES if kind in kinds)
    return f"None of {len(status)} runs finished: {counts}."


def _tuning_notes(results: "Results") -> list[str]:
    if results.tuning is None:
        return []
    notes = []
    for row in results.tuning.to_dict("records"):
        place, _, size = str(row["place"]).partition(" of ")
        if not row["chosen"] or not (place.isdigit() and size.isdigit()):
            continue
        lr = numbers.number(row["lr"])
        if size == "1":
            notes.append(f"{row['arm']}: a single learning rate, {lr}, was tried; nothing was tuned.")
        elif place in ("1", size):
            notes.append(
                f"{row['arm']}: the chosen learning rate {lr} lies at the edge of its grid ({row['place']}); "
                "one beyond it may do more."
            )
    return notes


def group_notes(group: Group) -> list[str]:
    """What holds for one data set and model: runs outside the means, one seed, no validation split."""
    notes = list(group.notes)
    for label in group.labels:
        mishap = group.mishaps(label)
        if mishap:
            notes.append(f"{label}: {mishap}; not in its means.")
        elif not (group.runs["label"] == label).any():
            notes.append(f"{label}: no run has finished yet.")
    counts = group.finished.groupby("label").size()
    if len(counts) and counts.max() == 1:
        notes.append("One finished run per arm: no intervals. Chance alone may explain any difference.")
    elif len(counts) and counts.min() == 1:
        notes.append("Arms with one finished run have no interval.")
    if group.split == "test":
        notes.append("No validation split was taken: curves show the test split, and nothing could be tuned on them.")
    return notes


def picture(group: Group, name: str, stem: str) -> Picture:
    """The words for a figure: `name` as `figures.draw` gives it, `stem` the name of its files."""
    split = "validation" if group.split == "val" else "test"
    if name == "final":
        return Picture(
            stem,
            "Outcome at the end",
            "Final test accuracy and loss per arm. " + _listed(group, "test_accuracy", "test_loss"),
            "Each dot is a seed. Arms share seeds: compare them by the paired differences below, not by the overlap "
            "of these intervals.",
        )
    if name == "budgets":
        return Picture(
            stem,
            "Outcome against budget",
            "Test loss and accuracy at the end against the budget. " + _listed(group, "test_accuracy", "test_loss"),
            "Each point is the mean of whole runs with a schedule of that length, with its 95 % t-interval over seeds; "
            "a line joins an arm's budgets and is no learning curve.",
        )
    if name == "schedules":
        return Picture(
            stem,
            "What the schedules do",
            "Batch size, learning rate and noise scale along the budget. " + _batches(group),
            "As trained, from the log of one seed per arm. A line on top of others is drawn thinner.",
        )
    if name in ("decisions", "shadow"):
        return _decided(group, name, stem)
    averaged = name == "curves-averaged"
    ending = "_ema" if averaged else ""
    last = _listed(group, f"{group.split}_accuracy{ending}", f"{group.split}_loss{ending}")
    what = "loss and accuracy" + (" of averaged weights" if averaged else "")
    lines = "Thin lines are seeds, bold lines means" if group.draws_seeds else "Lines are means over seeds"
    against = "samples" if averaged else "samples, updates and training time"
    clocks = "" if averaged else " Updates and seconds are on a logarithmic axis where arms differ much."
    return Picture(
        stem,
        "Learning curves" + (", averaged weights" if averaged else ""),
        f"{split.capitalize()} {what} against {against}. At the end: {last}",
        f"{split.capitalize()} split. {lines}, bands 95 % t-intervals at each point. The steep beginning lies outside "
        f"the panels.{clocks}",
    )


def _decided(group: Group, name: str, stem: str) -> Picture:
    if name == "decisions":
        parts = [
            f"{label} batch {numbers.count(found.values[0, 0])} at first, {_ends(found)} at the end"
            for label in deciding(group)
            for found in (course(group, label, policies(group, label)[0]),)
        ]
        return Picture(
            stem,
            "What was decided along the run",
            f"The batch size that each closed loop decided for, against samples. {'; '.join(parts)}.",
            "Bold: median over seeds of what was decided; thin: seeds. Other arms as trained, from the log of one "
            "seed. Decisions follow each percent of the budget (decisions.csv has what was seen, and why).",
        )
    parts = [
        f"{policy} {_ends(course(group, label, policy))}" for label in asking(group) for policy in asked(group, label)
    ]
    refused = sorted({policy for label in asking(group) for policy in unusable(group, label)})
    return Picture(
        stem,
        "What each policy would have chosen",
        f"Batch sizes that policies would have had along a run that follows its schedule; at the end: "
        f"{'; '.join(parts) or '0 policies'}.",
        "Each policy saw the same run, which followed its schedule (grey), and moved a batch size of its own from its "
        "earlier decisions: what it would have seen in a run that it steers may differ. Bold: median over seeds; thin: "
        "seeds." + (f" Can't be used in this setting: {', '.join(refused)}." if refused else ""),
    )


def _ends(found: Course) -> str:
    return numbers.span(sorted(found.values[:, -1].tolist()))


def _listed(group: Group, accuracy: str, loss: str) -> str:
    parts = []
    for label in group.labels:
        done = group.finished[group.finished["label"] == label]
        share, nats = outcome(done, accuracy), outcome(done, loss)
        told = [numbers.percent(share.mean)] if share else []
        told += [f"loss {numbers.loss(nats.mean)}"] if nats else []
        parts.append(f"{label} {', '.join(told) or ('not measured' if len(done) else 'no finished run')}")
    return "; ".join(parts) + "."


def _batches(group: Group) -> str:
    parts = []
    for label in group.labels:
        first, last = batch_range(group, label)
        if first is not None:
            grown = "" if last in (None, first) else f" to {numbers.count(last)}"
            parts.append(f"{label} batch {numbers.count(first)}{grown}")
    return "; ".join(parts) + "."
