"""Validated values: what a run is.

The one rule: a RunConfig is complete. Defaults that depend on the data set, the model or the schedule are filled in
here and nowhere else, so two ways of saying the same run give the same hash.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from bsexp import catalog
from bsexp.errors import UsageError, nearest, shown
from bsexp.option import Option
from bsexp.options import OPTIONS, RUN_FIELDS
from bsexp.records import SCHEMA_VERSION
from bsexp.schedules import Schedule, Setting, cycles_momentum, find_strategy, make_schedule
from bsexp.schedules.parameters import settle
from bsexp.schedules.scaling import scaling_rule
from bsexp.schedules.strategies import ALIASES, default_scaling, find_policy

GHOST_FREE = 0


def option_type(option: Option) -> Any:
    """The pydantic type of an option's value: strict, finite, inside its range."""
    bounds: dict[str, Any] = {"strict": True}
    if option.low is not None:
        bounds["gt" if option.open_low else "ge"] = option.low
    if option.high is not None:
        bounds["lt" if option.open_high else "le"] = option.high
    kind: Any
    match option.kind:
        case "integer":
            kind = Annotated[int, Field(**bounds)]
        case "number":
            kind = Annotated[float, Field(allow_inf_nan=False, **bounds)]
        case "flag":
            kind = Annotated[bool, Field(strict=True)]
        case "choice":
            kind = Literal[option.choices]
        case _:
            kind = Annotated[str, Field(strict=True, min_length=1, pattern=option.pattern or None)]
    return kind | Literal[option.word] if option.word else kind


_adapters: dict[str, TypeAdapter[Any]] = {}


def _adapter(option: Option) -> TypeAdapter[Any]:
    if option.name not in _adapters:
        _adapters[option.name] = TypeAdapter(option_type(option))
    return _adapters[option.name]


def _refusal(option: Option, value: Any, place: str) -> UsageError:
    if option.kind == "choice":
        return UsageError(place, shown(value), nearest(shown(value).strip("'"), option.choices))
    return UsageError(place, shown(value), f"give {option.accepts}")


def _may_be_bytes(option: Option) -> bool:
    """Whether a text is the name of a file, which may hold bytes that are no UTF-8: pydantic refuses those."""
    return option.kind == "text" and not option.in_id


def _matching(option: Option, text: str, place: str) -> str:
    if not text or (option.pattern and not re.fullmatch(option.pattern, text)):
        raise _refusal(option, text, place)
    return text


def check_value(option: Option, value: Any, place: str) -> Any:
    """A value as TOML or Python gives it, checked; `place` names it in the UsageError."""
    if isinstance(value, str) and _may_be_bytes(option):
        return _matching(option, value, place)
    try:
        return _adapter(option).validate_python(value)
    except pydantic.ValidationError:
        raise _refusal(option, value, place) from None


def parse_value(option: Option, text: str, place: str) -> Any:
    """The value that a text from the command line or the environment stands for."""
    if _may_be_bytes(option):
        return _matching(option, text.strip(), place)
    try:
        return _adapter(option).validate_strings(text.strip())
    except pydantic.ValidationError:
        raise _refusal(option, text, place) from None


def parse_values(option: Option, text: str, place: str) -> list[Any]:
    """The values of a comma list; whole numbers also as ranges, `0-5` meaning 0 to 5 inclusive."""
    values: list[Any] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if option.kind == "integer" and dash and first:
            start, end = parse_value(option, first, place), parse_value(option, last, place)
            if end < start:
                raise UsageError(place, repr(part), "a range goes from the smaller to the larger number")
            if end - start >= 10**6:
                raise UsageError(place, repr(part), "a range of more than a million values")
            values += range(start, end + 1)
        else:
            values.append(parse_value(option, part, place))
    return values


class _Run(BaseModel):
    """What RunConfig adds to its fields, which come from the options table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @pydantic.model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        return complete(given) if isinstance(given, Mapping) else given

    def identity(self) -> dict[str, Any]:
        """The fields that differ from the options' own defaults: what the run id is made of."""
        values = self.model_dump(mode="json")
        defaults = {name: OPTIONS[name].default for name in RUN_FIELDS} | {"parameters": {}, "data_fingerprint": ""}
        kept = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
        return {**kept, "parameters": self.own_parameters()}

    def own_parameters(self) -> dict[str, Any]:
        """The schedule's parameters that differ from their defaults."""
        if ":" in self.schedule:
            return dict(self.parameters)
        defaults = {
            parameter.name: parameter.default for parameter in find_strategy(self.schedule).parameters(self.parameters)
        }
        return {name: value for name, value in self.parameters.items() if value != _plain(defaults[name])}

    @property
    def hash(self) -> str:
        """The run id: 32 hexadecimal digits of SHA-256 over the canonical JSON of `identity`."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **self.identity()}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def measures_noise(self) -> bool:
        """Whether |G|^2 and tr(Sigma) are measured along the run."""
        return bool(self.measure_noise) or self.steered_by("noise")

    @property
    def closed_loop(self) -> bool:
        """Whether the schedule decides along the run."""
        return find_policy(self.schedule, self.parameters) is not None

    def steered_by(self, signal: str) -> bool:
        """Whether the schedule decides by `signal`, so that it must be measured."""
        policy = find_policy(self.schedule, self.parameters)
        return policy is not None and signal in policy.needs

    def build_schedule(self) -> Schedule:
        """The schedule with this run's values. Raises UsageError."""
        setting = Setting(
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=0.9 if self.momentum is None else self.momentum,
            optimizer=self.optimizer,
            max_batch=self.max_batch,
            reference_batch=self.reference_batch,
            lr_scaling=self.lr_scaling,
            warmup_epochs=self.warmup_epochs,
            allow_unstable=self.allow_unstable,
            noisy_labels=self.label_noise > 0 or self.label_smoothing > 0,
            validated=self.val_fraction > 0,
        )
        return make_schedule(self.schedule, setting, self.parameters)

    def total_samples(self, num_train: int) -> int:
        """The budget in samples: epochs * num_train, rounded. Raises UsageError for less than one sample."""
        total = round(self.epochs * num_train)
        if total < 1:
            raise UsageError("epochs", f"{self.epochs:g}", f"less than one sample of {num_train}")
        return total


def _fields() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in RUN_FIELDS:
        option = OPTIONS[name]
        kind = option_type(option)
        made[name] = (kind | None if option.default is None else kind, option.default)
    return made


if TYPE_CHECKING:

    class RunConfig(_Run):
        """See below: pydantic makes it from the options table, which type checkers can't follow."""

else:
    RunConfig = pydantic.create_model(
        "RunConfig",
        __base__=_Run,
        __doc__="""A run as a value: everything that changes its numbers, and nothing that doesn't. Immutable.

        `RunConfig(schedule="growing-batch", dataset="digits", parameters={"shape": "exponential"})`; the fields are the
        options of `bsexp run` that belong to the run id. Fields left out get the defaults of data set, model and
        schedule.
        Raises UsageError for a wrong value.""",
        schedule=(str, ...),
        parameters=(dict[str, Any], Field(default_factory=dict)),
        data_fingerprint=(str, ""),
        **_fields(),
    )


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` checked, with every default that depends on data set, model or schedule filled in."""
    values = dict(given)
    for name, value in values.items():
        if name in OPTIONS and OPTIONS[name].in_id:
            if value is not None:
                values[name] = check_value(OPTIONS[name], value, name)
        elif name not in ("schedule", "parameters", "data_fingerprint"):
            raise UsageError("configuration", f"unknown key {name!r}", nearest(name, RUN_FIELDS))
    if not isinstance(values.get("schedule"), str):
        raise UsageError("schedule", repr(values.get("schedule")), "name one (bsexp list schedules)")
    values["schedule"] = ALIASES.get(values["schedule"], values["schedule"])
    values["parameters"] = _checked_parameters(values["schedule"], values.get("parameters") or {})
    if values.get("reduce") == "sum" and values.get("virtual_workers", 1) == 1:
        raise UsageError(
            "reduce", "'sum' with 1 worker", "it sums over workers: add --virtual-workers, or leave it out"
        )
    _fill(values)
    return values


def _checked_parameters(schedule: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if ":" in schedule:
        return dict(given)
    strategy = find_strategy(schedule)
    checked = settle(strategy.name, strategy.parameters(given), dict(given))
    return {name: _plain(checked[name]) for name in given if checked[name] is not None}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fill(values: dict[str, Any]) -> None:
    def fill(name: str, value: Any) -> None:
        if values.get(name) is None:
            values[name] = value

    own = ":" in values["schedule"]
    strategy = None if own else find_strategy(values["schedule"])
    large = strategy is not None and strategy.large
    dataset = catalog.find_dataset(values.get("dataset") or OPTIONS["dataset"].default)
    fill("model", dataset.model)
    model = catalog.find_model(values["model"])
    optimizer = values.get("optimizer", OPTIONS["optimizer"].default)
    fill("batch_size", dataset.large_batch if large else dataset.batch_size)
    fill("epochs", float(dataset.epochs))
    fill("lr", 0.001 if optimizer == "adamw" else dataset.lr)
    policy = find_policy(values["schedule"], values["parameters"])
    elsewhere = large or (policy is not None and policy.name == "gain")
    fill("reference_batch", dataset.batch_size if elsewhere else values["batch_size"])
    fill("augment", bool(dataset.crop or dataset.mirror))
    if values.get("micro_batch") == "auto":
        values["micro_batch"] = None
    if values.get("norm") is None and model.norm:
        values["norm"] = model.norm
        fill("ghost_batch", model.ghost_batch)
    fill("ghost_batch", GHOST_FREE)
    if strategy is None:
        fill("momentum", 0.9)
    else:
        fill("lr_scaling", default_scaling(strategy.name, values["parameters"]))
        scaling_rule(values["lr_scaling"], optimizer)
        if cycles_momentum(strategy.name, values["parameters"]):
            if values.get("momentum") is not None:
                raise UsageError(
                    "momentum",
                    f"{values['momentum']:g} with a schedule that moves the momentum",
                    "leave it out, or set cycle_momentum = false",
                )
        else:
            fill("momentum", 0.9)
    _check_order(values)
    if values.get("dataset", "").partition(":")[0] == "folder":
        fill("image_size", 32)
    elif values.get("image_size") is not None:
        raise UsageError("image_size", str(values["image_size"]), "only images of a folder: are resized")


def _check_order(values: Mapping[str, Any]) -> None:
    """UsageError for a beginning in order 0 that no other follows: two names for one run."""
    first = values.get("order_from") or 0
    if first and not values.get("order"):
        raise UsageError("order_from", f"{first} with order 0", "give order = 1 or more, or leave it out")
    if first >= values["epochs"]:
        raise UsageError("order_from", f"{first} of {values['epochs']:g} epochs", "the other order must begin earlier")
