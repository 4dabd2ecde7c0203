"""`bsexp list`: what there is to choose from."""

from collections.abc import Callable
from typing import Any

from bsexp.catalog import DATASETS, MODELS, OWN_DATASET
from bsexp.commands.given import talk_of
from bsexp.errors import UsageError, nearest
from bsexp.schedules import SCHEDULES
from bsexp.schedules.parameters import Parameter
from bsexp.schedules.policies import BATCH_POLICIES, LR_POLICIES
from bsexp.schedules.shapes import BATCH_SHAPES, LR_SHAPES
from bsexp.schedules.strategies import ALIASES


def main(kind: str, given: dict[str, Any]) -> int:
    """List one kind of thing: names, parameters with defaults, one line each, sources."""
    talk = talk_of(given)
    if kind not in KINDS:
        raise UsageError("list", f"unknown kind {kind!r}", nearest(kind, KINDS))
    items = KINDS[kind]()
    if given.get("json"):
        talk.document({"items": items})
        return 0
    for item in items:
        talk.result(f"  {item['summary']}", heading=item["name"])
        for parameter in item["parameters"]:
            default = "" if parameter["default"] is None else f" ({_shown(parameter['default'])})"
            talk.result(f"    {parameter['name']}{default}: {parameter['help']}; {parameter['accepts']}")
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(_shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parameter(parameter: Parameter) -> dict[str, Any]:
    default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    return {"name": parameter.name, "default": default, "help": parameter.help, "accepts": parameter.accepts}


def _schedules() -> list[dict[str, Any]]:
    alias = {name: other for other, name in ALIASES.items()}
    return [
        {
            "name": strategy.name,
            "summary": f"batch: {strategy.batch}; lr: {strategy.lr}. {strategy.source}"
            + (f" (also called {alias[strategy.name]})" if strategy.name in alias else ""),
            "parameters": [_parameter(parameter) for parameter in strategy.parameters({})],
        }
        for strategy in SCHEDULES.values()
    ]


def _shapes() -> list[dict[str, Any]]:
    return [
        {
            "name": f"{what}: {shape.name}",
            "summary": shape.formula,
            "parameters": [_parameter(p) for p in shape.parameters],
        }
        for what, table in (("lr", LR_SHAPES), ("batch", BATCH_SHAPES))
        for shape in table.values()
    ]


def _policies() -> list[dict[str, Any]]:
    return [
        {
            "name": f"{schedule}: {policy.name}",
            "summary": f"{policy.rule}; lr scaling: {policy.lr_scaling}. {policy.source}",
            "parameters": [_parameter(parameter) for parameter in policy.parameters],
        }
        for schedule, table in (("adaptive-batch", BATCH_POLICIES), ("adaptive-lr", LR_POLICIES))
        for policy in table.values()
    ]


def _datasets() -> list[dict[str, Any]]:
    return [
        {
            "name": dataset.name,
            "summary": dataset.summary
            + (f", {dataset.num_train:,} + {dataset.num_test:,} images" if dataset.num_test else "")
            + f"; starts from {dataset.model}, batch {dataset.batch_size}, lr {dataset.lr:g}, "
            + f"{dataset.epochs:g} epochs. {dataset.source}",
            "parameters": [],
        }
        for dataset in (*DATASETS.values(), OWN_DATASET)
    ]


def _models() -> list[dict[str, Any]]:
    return [
        {
            "name": model.name,
            "summary": f"{model.summary}; normalisation: {model.norm}"
            + (f" (ghost batches of {model.ghost_batch})" if model.ghost_batch else "")
            + (f". {model.source}" if model.source else ""),
            "parameters": [],
        }
        for model in MODELS.values()
    ]


KINDS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "schedules": _schedules,
    "shapes": _shapes,
    "policies": _policies,
    "datasets": _datasets,
    "models": _models,
}
