"""`bsexp find-lr`: raise the learning rate until training breaks, and suggest one.

The one rule: everything is refused before anything is trained, and files are written at the end, each in one go.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsexp.commands.given import parameters_of, settings_of, talk_of, values_of
from bsexp.config import RunConfig
from bsexp.console import Meter, Talk
from bsexp.errors import BsexpError, RunsFailed
from bsexp.options import OPTIONS, RUN_FIELDS
from bsexp.records import SCHEMA_VERSION, RampRow
from bsexp.store.files import check_results, plain
from bsexp.store.finders import write_ramp
from bsexp.store.paths import Experiment
from bsexp.sweep.devices import check_device, default_model
from bsexp.sweep.environment import describe_machine
from bsexp.sweep.ramps import UPDATES, ramp_config
from bsexp.sweep.signals import StopSignals

if TYPE_CHECKING:
    from bsexp.analysis.range_test import RangeTest


def main(schedule: str | None, given: dict[str, Any]) -> int:
    """Train along the ramp, judge it, write find_lr.csv and its figure, print what was found."""
    talk = talk_of(given)
    values = values_of(given)
    name = schedule or "fixed-small"
    config = _config(name, values, given.get("set", []))
    device = values.get("device", OPTIONS["device"].default)
    check_device(device)
    out = Path(values.get("out", OPTIONS["out"].default))
    check_results(out)
    place = Experiment(out / values.get("name", "find-lr"))
    rows, settled, total = _climb(config, device, values, talk)

    from bsexp.analysis.range_test import RULE, judge_ramp

    lowest, highest = _range(values)
    found = judge_ramp(rows, total, lowest, highest)
    said = sentence(found, config.batch_size)
    about = {"schedule": name, **settings_of(config, "find-lr"), "updates": round(total / config.batch_size)}
    finding = {**asdict(found), "rule": RULE, "finding": said}
    alt, figures = _draw(rows, found, said, f"{config.model} on {config.dataset}, batch {config.batch_size:,}")
    kept = {"schema_version": SCHEMA_VERSION, **about, **settled, **finding, "figure": alt, **describe_machine()}
    write_ramp(place, rows, kept, figures)
    if values.get("json"):
        files = {"file": str(place.find_lr("csv")), "figure": str(place.find_lr("png")), "alt": alt}
        told = [{key: plain(value) for key, value in asdict(row).items()} for row in rows]
        talk.document({**files, **about, **finding, "rows": told})
        return 0
    talk.result(said)
    talk.result(f"files: {place.find_lr('csv')}, {place.find_lr('png').name}, {place.find_lr('svg').name}")
    return 0


def _config(schedule: str, values: dict[str, Any], settings: list[str]) -> RunConfig:
    options = {name: value for name, value in values.items() if name in RUN_FIELDS}
    options.setdefault("dataset", OPTIONS["dataset"].default)
    options.setdefault("model", default_model(options["dataset"], values.get("device", OPTIONS["device"].default)))
    seed = options.pop("seed", OPTIONS["seed"].default)
    options |= {"schedule": schedule, "parameters": parameters_of(schedule, settings)}
    return ramp_config(options, seed, values.get("updates", UPDATES), *_range(values))


def _range(values: dict[str, Any]) -> tuple[float, float]:
    lowest, highest = (values.get(name, OPTIONS[name].default) for name in ("lowest_lr", "highest_lr"))
    return float(lowest), float(highest)


def _climb(
    config: RunConfig, device: str, values: dict[str, Any], talk: Talk
) -> tuple[list[RampRow], dict[str, Any], int]:
    """The rows of the ramp, what the process settled on, and how many samples the whole ramp has."""
    with StopSignals() as stop:
        from bsexp.analysis.range_test import half_life
        from bsexp.data.sources import load_images
        from bsexp.data.splits import prepare
        from bsexp.engine.device import set_up
        from bsexp.engine.ramp import climb

        stop.check()
        settled = set_up(
            device, values.get("threads"), values.get("deterministic", False), values.get("tune_allocator", True)
        )
        data = prepare(config, load_images(config.dataset, config.image_size))
        total = config.total_samples(len(data.train))
        talk.note(f"{config.model} on {config.dataset}, batch {config.batch_size:,}, on {settled['device']}")
        with Meter(talk, "find-lr", total).shown() as meter:

            def tell(row: RampRow) -> None:
                stop.check()
                meter.move(row.samples, f"lr {row.lr:.2g}")

            try:
                rows = climb(config, tell, half_life=half_life(total), data=data, device=device)
            except BsexpError:
                raise
            except Exception as error:
                cure = "run it with --debug to see where"
                raise RunsFailed("find-lr", f"{type(error).__name__}: {error}", cure) from error
    return rows, settled, total


def sentence(found: "RangeTest", batch_size: int) -> str:
    """What was found, with its numbers: one sentence."""
    if found.suggested_lr is None:
        return f"no learning rate is suggested: {found.reason}"
    fastest = "where the ramp begins" if found.steepest_at is None else f"at {found.steepest_at:.2g}"
    return (
        f"learning rate {found.suggested_lr:.2g} at batch {batch_size:,}: a tenth of {found.diverged_at:.2g}, where "
        f"the loss diverged; it fell fastest {fastest}"
    )


def _draw(rows: Sequence[RampRow], found: "RangeTest", said: str, title: str) -> tuple[str, dict[str, bytes]]:
    """The figure's alternative text, and its files by ending."""
    from bsexp.report.drawing import png_bytes, svg_bytes
    from bsexp.report.ramp import draw_ramp, picture

    figure, alt = draw_ramp(rows, found, title), picture(rows, found, said, "find_lr").alt
    return alt, {"png": png_bytes(figure, alt), "svg": svg_bytes(figure, alt)}
