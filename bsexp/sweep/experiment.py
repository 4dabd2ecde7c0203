"""Experiment files: from TOML to arms, seeds and a tuning rule.

The one rule: every key is known and every value checked before anything is done; errors name the file and the dotted
key. What the command line or the environment sets stands above the file, but never above what an arm sets.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bsexp.analysis.declared import INSPECTED, OF_TWINS, OF_WEIGHTS, Declared, Design, arms_of, read_claims
from bsexp.config import check_value
from bsexp.errors import BsexpError, UsageError, nearest, shown
from bsexp.options import LENGTHS, OPTIONS, SETTINGS, options_of
from bsexp.store.paths import Experiment as Place
from bsexp.store.tables import read_definition
from bsexp.sweep.axes import read_seeds, table_at, tables_at
from bsexp.sweep.budgets import settle
from bsexp.sweep.cells import cross, read_arm, refuse_lengths
from bsexp.sweep.tuning import Tune, check_measured, read_tune
from bsexp.sweep.variants import Rate, add_rungs, add_sensitivity, inherited_rates, split_inherited

MAX_BYTES = 1_000_000
TOP = (
    *("name", "question", "demonstration", "run", "full", "tune", "arms", "grid", "zip", "exclude"),
    *("target", "budgets", "sensitivity", "claims"),
)
TARGETS = ("val_accuracy", "val_loss", "val_accuracy_ema", "val_loss_ema", "train_accuracy", "train_loss")
# What [run] does not take: it is said elsewhere in the file, or each time on the command line.
ELSEWHERE = ("set", "schedule", "name", "tune", "full", "json", "dry_run", "resume", "quiet", "verbose", "debug")


@dataclass(frozen=True)
class Experiment:
    """An experiment as asked for. `arms`: name -> schedule, parameters and options, grid included, seed apart.

    `execution` are options outside the run id that the file's [run] sets. `notes` are worth telling. `rates`: arms that
    take a multiple of another's tuned rate. `variants`: those of [sensitivity], with the arm and what differs.
    `looks`: numbers of seeds after which the claims are judged; empty: after all. `claims` as written, checked.
    """

    name: str
    question: str
    demonstration: bool
    arms: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    tune: Tune | None
    execution: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rates: dict[str, Rate] = field(default_factory=dict)
    variants: dict[str, tuple[str, str]] = field(default_factory=dict)
    looks: tuple[int, ...] = ()
    target: dict[str, float] = field(default_factory=dict)
    claims: tuple[dict[str, Any], ...] = ()

    @property
    def design(self) -> Design:
        """What claims are about."""
        arms = {arm: settings for arm, settings in self.arms.items() if arm not in self.variants}
        tuning_seeds = self.tune.seeds if self.tune else ()
        rates = {arm: (rate.of, rate.times) for arm, rate in self.rates.items()}
        return Design(arms, self.seeds, tuning_seeds, self.looks, bool(self.target), rates)

    @property
    def inspected(self) -> bool:
        """Whether a claim is about what is measured of finished runs afterwards."""
        return any(claim.get("metric") in INSPECTED for claim in self.claims)

    def declared(self) -> list[Declared]:
        """The claims, read. Raises UsageError."""
        return read_claims(self.claims, self.design)


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML document at `path`; UsageError with file and line for what isn't one."""
    what = str(path)
    try:
        if path.is_dir():
            raise UsageError(what, "a folder", "name a TOML file")
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(what, f"{path.stat().st_size / 1e6:.0f} MB", "an experiment file is a few kB")
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise UsageError(what, "no such file", "bsexp init prints one to start from") from None
    except OSError as error:
        raise UsageError(what, str(error.strerror), "check the path") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}", "not UTF-8", "save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_with_line(path, str(error)), _without_line(str(error)), "correct the syntax") from None
    except ValueError:
        # Python's own limit on the digits of a whole number; the parser doesn't say where.
        raise UsageError(what, "a number of thousands of digits", "write a number that means something") from None
    except RecursionError:
        raise UsageError(what, "lists or tables nested too deep", "write lists of values") from None


def _with_line(path: Path, message: str) -> str:
    import re

    found = re.search(r"at line (\d+)", message)
    lines = path.read_text(encoding="utf-8").count("\n") + 1
    return f"{path}:{found.group(1) if found else lines}"


def _without_line(message: str) -> str:
    return message.partition(" (at ")[0]


def read_experiment(document: Mapping[str, Any], overrides: Mapping[str, Any], what: str, name: str) -> Experiment:
    """The experiment that `document` asks for. `overrides`: options from the command line and the environment.

    `what` names the file in errors, `name` is used where the document has none. Raises UsageError.
    """
    try:
        return _read(document, overrides, name)
    except BsexpError as error:
        raise error.within(what) if what else error from None


def _read(document: Mapping[str, Any], overrides: Mapping[str, Any], name: str) -> Experiment:
    for key in document:
        if key not in TOP:
            raise UsageError(key, "unknown key", nearest(key, TOP))
    notes: list[str] = []
    if "full" in document:
        at_full_size(document, name)  # What is wrong with it is told before it is asked for.
    run = run_options(document)
    refuse_lengths(run, "run.")
    refuse_lengths(overrides, "--")
    if any(key in overrides for key in LENGTHS):
        run = {key: value for key, value in run.items() if key not in LENGTHS}
    run |= {key: value for key, value in overrides.items() if key != "name"}
    seeds, looks = _seeds_and_looks(run.pop("seeds", OPTIONS["seeds"].default), notes)
    if "seed" in run:
        raise UsageError("run.seed", str(run["seed"]), 'a sweep has seeds: seeds = "0-5"')
    base = {key: value for key, value in run.items() if key in SETTINGS}
    execution = {key: value for key, value in run.items() if key not in SETTINGS}
    tables, inherited = split_inherited(table_at(document.get("arms", {}), "arms"))
    if not tables:
        raise UsageError("arms", "none", "add at least one [arms.NAME] with a schedule")
    arms = {}
    for arm, table in tables.items():
        arms[arm] = read_arm(table_at(table, f"arms.{arm}"), f"arms.{arm}", base, overrides)
    cells = cross(arms, document, overrides, notes)
    settled = {arm: settle(settings, f"arms.{arm}.", execution.get("hardware")) for arm, settings in cells.items()}
    arms = add_rungs(settled, document)
    tune = read_tune(document["tune"], base, notes) if "tune" in document else None
    if tune:
        check_measured(tune, arms)
    if tune and set(tune.seeds) & set(seeds):
        raise UsageError("tune.seeds", _listed(tune.seeds), "they must differ from the reported seeds")
    asked = Experiment(
        name=check_value(OPTIONS["name"], overrides.get("name") or document.get("name", name), "name"),
        question=_given(document, "question", str, "a text", ""),
        demonstration=_given(document, "demonstration", bool, "true or false", False),
        arms=arms,
        seeds=seeds,
        tune=tune,
        execution=execution,
        notes=tuple(notes),
        rates=inherited_rates(arms, inherited, tune is not None),
        looks=looks,
        target=_target(document),
        claims=tuple(tables_at(document.get("claims", []), "claims")),
    )
    _check_claims(asked, base)
    claimed = _claimed(asked) if asked.claims else set(arms)
    wanted = [arm for arm in arms if arm in claimed]
    variants = add_sensitivity(arms, document, wanted, asked.rates, tune is not None)
    arms |= {arm: settle(arms[arm], f"arms.{arm}.", execution.get("hardware")) for arm in variants}
    return replace(asked, variants=variants)


def _seeds_and_looks(value: Any, notes: list[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds, and where they are written as "auto:8,16,32" the looks."""
    if isinstance(value, str) and value.strip().startswith("auto"):
        from bsexp.analysis.looks import parse_looks

        try:
            looks = parse_looks(value)
        except UsageError as error:
            raise UsageError("run.seeds", error.which, error.cure) from None
        return tuple(range(looks[-1])), looks
    return read_seeds(value, "run.seeds", notes), ()


def _target(document: Mapping[str, Any]) -> dict[str, float]:
    """The one target of [target]: an outcome that is evaluated along the run, and its value."""
    table = table_at(document.get("target", {}), "target")
    for key, value in table.items():
        if key not in TARGETS:
            raise UsageError(f"target.{key}", "unknown key", nearest(key, TARGETS))
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UsageError(f"target.{key}", shown(value), "give a number above 0")
        if "accuracy" in key and value > 1:
            raise UsageError(f"target.{key}", shown(value), "accuracies are shares: at most 1")
    if len(table) > 1:
        raise UsageError("target", f"{len(table)} targets", "give one")
    return {key: float(value) for key, value in table.items()}


def _check_claims(asked: Experiment, base: Mapping[str, Any]) -> None:
    """UsageError for claims that can't be judged in this experiment."""
    if not asked.claims:
        if asked.looks:
            raise UsageError("run.seeds", "looks without claims", "add [[claims]], or give seeds such as 0-11")
        return
    if base.get("val_fraction") == 0:
        raise UsageError("claims", "without a validation split", "set val_fraction above 0 or remove [[claims]]")
    for number, each in enumerate(asked.declared()):
        if each.claim.outcome in OF_WEIGHTS and not asked.execution.get("save_model"):
            place = f"claims[{number}].metric"
            raise UsageError(place, f"{each.claim.outcome} without kept weights", "add save_model = true to [run]")


def _claimed(asked: Experiment) -> set[str]:
    """The arms that claims compare, with the twins that they are measured against."""
    found: set[str] = set()
    design = asked.design
    for each in asked.declared():
        arms = arms_of(each.claim)
        found |= set(arms)
        if each.claim.outcome in OF_TWINS:
            found |= {design.twin_of(arm) for arm in arms}
    return found


def _given(document: Mapping[str, Any], key: str, kind: type, accepts: str, default: Any) -> Any:
    """A value beside the tables, of its type."""
    value = document.get(key, default)
    if not isinstance(value, kind):
        raise UsageError(key, shown(value), f"give {accepts}")
    return value


def stored_experiment(place: Place) -> Experiment | None:
    """The experiment kept beside results, as `worker` makes it; None where there is none."""
    stored = read_definition(place)
    if not stored:
        return None
    tune = stored.get("tune")
    return Experiment(
        name=place.name,
        question=stored.get("question", ""),
        demonstration=stored.get("demonstration", False),
        arms=stored["arms"],
        seeds=tuple(stored["seeds"]),
        tune=Tune.of(tune) if tune else None,
        rates={arm: Rate(**rate) for arm, rate in stored.get("rates", {}).items()},
        variants={arm: (where["of"], where["what"]) for arm, where in stored.get("variants", {}).items()},
        looks=tuple(stored.get("looks", ())),
        target=stored.get("target", {}),
        claims=tuple(stored.get("claims", ())),
    )


def at_full_size(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The document with its [full] table laid over [run], and [full.arms.NAME] over that arm; its name ends in -full.

    `name` is used where the document has none. Raises UsageError.
    """
    if "full" not in document:
        raise UsageError("--full", "the file has no [full] table", "write what is larger there: dataset, model, epochs")
    table = dict(table_at(document["full"], "full"))
    own = table_at(table.pop("arms", {}), "full.arms")
    arms = dict(table_at(document.get("arms", {}), "arms"))
    for arm, settings in own.items():
        if arm not in arms:
            raise UsageError(f"full.arms.{arm}", "no such arm", nearest(arm, arms))
        arms[arm] = _laid_over(table_at(arms[arm], f"arms.{arm}"), table_at(settings, f"full.arms.{arm}"), "full.arms.")
    over = run_options({"full": table}, "full")
    run = _laid_over(table_at(document.get("run", {}), "run"), over, "full.")
    rest = {key: value for key, value in document.items() if key != "full"}
    return {**rest, "name": f"{document.get('name', name)}-full", "run": run, "arms": arms}


def _laid_over(settings: Mapping[str, Any], over: Mapping[str, Any], place: str) -> dict[str, Any]:
    refuse_lengths(over, place)
    longer = any(key in over for key in LENGTHS)
    return {**{key: value for key, value in settings.items() if not (longer and key in LENGTHS)}, **over}


def run_options(document: Mapping[str, Any], table: str = "run") -> dict[str, Any]:
    """The options of [run], or of another `table`, checked; keys as in the table of options. Raises UsageError."""
    options = (*options_of("run"), *options_of("sweep"))
    known = {option.name: option for option in options if option.name not in ELSEWHERE}
    checked = {}
    for key, value in table_at(document.get(table, {}), table).items():
        place = f"{table}.{key}"
        if key == "name":
            raise UsageError(place, shown(value), "write it above the tables: name = ...")
        if key not in known:
            raise UsageError(place, "unknown key", nearest(key, known))
        if isinstance(value, list) and key != "seeds":
            raise UsageError(place, "a list", "several values belong into [grid]")
        checked[key] = value if key == "seeds" else check_value(known[key], value, place)
    return checked


def _listed(seeds: tuple[int, ...]) -> str:
    return ",".join(str(seed) for seed in seeds)
