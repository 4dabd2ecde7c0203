"""An advice in words and as a figure: what is recommended, what it saves, what it rests on.

The one rule: each number comes with its interval and its unit, and what isn't told is said not to be, with why.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from bsexp.analysis.advice import CONSTANT, DECAY, Candidate, Choice, Judgement
from bsexp.analysis.hardware import Modelled
from bsexp.analysis.local_critical import Local
from bsexp.analysis.paired import Estimate
from bsexp.config import RunConfig
from bsexp.report import numbers
from bsexp.report.drawing import set_scale, short, style
from bsexp.report.palette import FAINT, INK, Look, look

# What loses more than so many times what decaying brings is far above all that matters.
FRAME = 1.5
UNNAMED = Look(FAINT, FAINT, (0, None), ".")
UNITS = {"val_loss": (1.0, "nats", 4), "val_accuracy": (100.0, "points", 2)}
QUALITIES = {"val_loss": "validation loss", "val_accuracy": "validation accuracy"}
WORDS = {
    "reference": "the reference",
    "within": "keeps the quality",
    "unclear": "can't be told",
    "beyond": "loses too much",
    "diverged": "diverged",
    "unjudged": "not tried",
}


@dataclass(frozen=True)
class Machine:
    """Where times are told: `label` in tables, and by candidate its seconds and their ratio to decay's."""

    label: str
    knee: int
    seconds: Mapping[str, Modelled]
    ratios: Mapping[str, Modelled]


def described(arm: str, config: RunConfig, largest: int) -> str:
    """What a candidate does, in a few words."""
    first = f"{config.batch_size:,}"
    grown, falls = f"batch {first} to {largest:,}", "rate to zero over the last fifth"
    if arm.startswith("large-"):
        return f"batch {first} from the start, rate {config.lr:.2g} to zero over the last fifth"
    if config.schedule == "custom":
        at = config.parameters["batch"]["milestones"][0]
        start, jump = _jump(config)
        rate = f"rate times {start:g} from the start, " if start != 1 else ""
        rate += f"rate times {jump:.2g} there, " if jump != 1 else ""
        return f"{grown} at {100 * at:g} %, {rate}{falls}"
    return {
        DECAY: f"batch {first}, {falls}",
        CONSTANT: f"batch {first}, constant rate {config.lr:.2g}",
        "growing": f"{grown} over the last fifth, then what is left of the decay",
        "hybrid": f"{grown} over the last fifth, rate by the same factor",
        "late-switch": f"{grown} at 80 %",
        "one-cycle": f"batch {first}, rate up and down once",
    }[arm]


def _jump(config: RunConfig) -> tuple[float, float]:
    """What the rate is multiplied by from the start, and where the batch grows."""
    rate = config.parameters["lr"]
    if "product" not in rate:
        return 1.0, 1.0
    jump = rate["product"][0]
    return float(jump.get("start", 1.0)), float(jump["factor"])


def amount(found: Estimate | None, metric: str) -> str:
    """A loss of quality with its interval: in nats, or in points of accuracy."""
    if found is None:
        return numbers.DASH
    scale, _, digits = UNITS[metric]
    text = f"{scale * found.mean:+.{digits}f}"
    if found.low is not None and found.high is not None and found.low < found.high:
        text += f" [{scale * found.low:+.{digits}f}, {scale * found.high:+.{digits}f}]"
    return text.replace("-", "−") if found.mean or found.low != found.high else "0"


def saving(ratio: Modelled) -> str:
    """Time saved, as percent of decay's, with its interval.

    >>> saving(Modelled(0.75, 0.7, 0.8)), saving(Modelled(1.0, 1.0, 1.0))
    ('25 % [20, 30]', '0 %')
    """
    value, low, high = (100 * (1 - part) for part in (ratio.value, ratio.high, ratio.low))
    if low == high:
        return f"{value:.0f} %".replace("-", "−")
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]".replace("-", "−")


def margin_text(judged: Judgement, tolerance: float, constant_lr: float) -> str:
    """What counts as the same quality, and what that is a share of; `constant_lr`: the best rate without decay."""
    scale, unit, digits = UNITS[judged.metric]
    effect = amount(judged.effect, judged.metric).lstrip("+")
    over = f"over the best constant rate, {constant_lr:.2g}"
    if judged.margin is None:
        return f"decaying the rate brings {effect} {unit} of {QUALITIES[judged.metric]} {over}"
    bound = f"{scale * judged.margin:.{digits}f} {unit}"
    return (
        f"as good: at most {bound} of {QUALITIES[judged.metric]} worse than decaying the rate, {100 * tolerance:g} % "
        f"of the {effect} that decaying brings {over}"
    )


def headline(choice: Choice, judged: Judgement | None, machines: Sequence[Machine], what: Mapping[str, str]) -> str:
    """The recommendation with its numbers, in a sentence."""
    place = f" {at(machines[-1].label)}" if len(machines) > 1 else ""
    if choice.arm is None or judged is None:
        return f"no recommendation{place}: {choice.why}"
    found = next(each for each in judged.candidates if each.arm == choice.arm)
    if choice.arm == DECAY:
        return f"decay the rate{place} ({what[DECAY]}): {choice.why}"
    savings = " and ".join(f"{saving(machine.ratios[choice.arm])} {at(machine.label)}" for machine in machines)
    unit, lost = UNITS[judged.metric][1], found.worse
    assert lost is not None
    better = lost.mean < 0
    size = amount(_mirrored(lost) if better else lost, judged.metric)
    return (
        f"{choice.arm}{place} ({what[choice.arm]}): saves {savings} of the time that decaying the rate takes, and ends "
        f"{size} {unit} {'better' if better else 'worse'} in {QUALITIES[judged.metric]}"
    )


def _mirrored(found: Estimate) -> Estimate:
    low, high = (None if end is None else -end for end in (found.high, found.low))
    return Estimate(-found.mean, low, high, found.num)


def at(label: str) -> str:
    """A machine as the place where something is so."""
    return label if label.startswith("here") else f"on {label}"


def confidence(choice: Choice, judged: Judgement | None) -> str:
    """How sure that is, and what it isn't sure of."""
    if judged is None or judged.margin is None:
        return ""
    parts = []
    if choice.arm not in (None, DECAY):
        tried = sum(each.worse is not None and each.arm not in (DECAY, CONSTANT) for each in judged.candidates)
        chosen = f", and it was chosen among {tried}" if tried > 1 else ""
        parts.append(
            f"taken alone, it loses no more than is tolerated with 95 % confidence over all looks at its seeds{chosen}"
        )
    if choice.unclear:
        parts.append(f"what might save more, and can't be told from noise: {', '.join(choice.unclear)}")
    numbers_ = sorted({each.worse.num for each in judged.candidates if each.worse and each.arm != DECAY})
    seeds = f"{numbers_[0]}" if numbers_[0] == numbers_[-1] else f"{numbers_[0]} to {numbers_[-1]}"
    parts.append(
        f"it rests on {seeds} seeds, decay's learning rate or half of it, and trainings to the end of the budget; "
        "intervals are at 90 %, their spread over seeds steadied by that over orders of the samples"
    )
    return "; ".join(parts)


def critical_text(points: Sequence[Local]) -> str:
    """The critical batch along the training, and the powers of the batch that the rate may grow with."""
    told = []
    for point in points:
        rules = next((size.usable for size in reversed(point.sizes) if size.usable), ())
        names = f", rate {' or '.join(_power(rule) for rule in rules)}" if rules else ""
        told.append(f"{point.critical:,} at {100 * point.share:g} % ({_between(point)}{names})")
    return "; ".join(told)


def _between(point: Local) -> str:
    """What is sure of a critical batch."""
    known, bound = point.low > point.own, math.isfinite(point.high)
    if known and bound:
        return f"from {point.low:,} to below {point.high:,.0f}"
    return f"at least {point.low:,}" if known else f"below {point.high:,.0f}" if bound else "not known"


def _power(rule: str) -> str:
    return {"none": "as it is", "sqrt": "times its root", "linear": "times as much"}[rule]


# -- the figure


def advice_figure(judged: Judgement, machines: Sequence[Machine], choice: Choice) -> Figure:
    """Time over that of decay against quality lost, a panel for each machine; the band is what is tolerated.

    Named is what no other candidate beats in both. What ends far worse than the constant rate is above the frame.
    """
    scale, unit, _ = UNITS[judged.metric]
    known = [each for each in judged.candidates if each.worse is not None]
    shown = [each for each in known if each.worse and each.worse.mean <= FRAME * max(0.0, judged.effect.mean)]
    with style():
        figure = Figure(figsize=(6.4 * len(machines) + 0.6, 5.6))
        panels = figure.subplots(1, len(machines), squeeze=False, sharey=True)[0]
        figure.subplots_adjust(
            left=0.75 / (6.4 * len(machines) + 0.6) + 0.02, right=0.98, top=0.92, bottom=0.2, wspace=0.12
        )
        lows, highs = _reach(shown, scale)
        # An arm has one colour on all machines.
        front = set().union(*(_unbeaten(shown, machine) for machine in machines)) | {DECAY, CONSTANT, choice.arm}
        named = [each.arm for each in shown if each.arm in front]
        for axes, machine in zip(panels, machines, strict=True):
            rates = [machine.ratios[each.arm] for each in shown]
            right = max(rate.high for rate in rates)
            left = min(rate.low for rate in rates)
            room = 0.12 * (right - left) + 0.03
            set_scale(axes, "x", "linear", max(0.0, left - room), right + 2.2 * room)
            set_scale(axes, "y", "linear", lows, highs)
            if judged.margin is not None:
                axes.axhspan(lows, scale * judged.margin, color="#E3ECF3", linewidth=0, zorder=0)
            axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
            axes.axvline(1, color=FAINT, linewidth=0.8, zorder=1)
            mine = _unbeaten(shown, machine) | {DECAY, CONSTANT, choice.arm}
            for each in shown:
                looks = look(named.index(each.arm)) if each.arm in mine else UNNAMED
                _mark(axes, each, machine.ratios[each.arm], scale, looks, each.arm == choice.arm)
            _name(axes, [each for each in shown if each.arm in mine], named, machine, scale)
            axes.set_title(machine.label)
            axes.set_xlabel("time, over that of decaying the rate")
        panels[0].set_ylabel(f"{QUALITIES[judged.metric]} lost ({unit})")
        key = "Bars: 90 % intervals. Shaded: tolerated. Ring: recommended. Left of 1 is faster, below 0 is better."
        key += " Named: what no other beats in both."
        if len(shown) < len(known):
            key += f" Far above the frame: {len(known) - len(shown)}."
        figure.text(0.03, 0.03, key, color=FAINT, fontsize=9)
        return figure


def _unbeaten(shown: Sequence[Candidate], machine: Machine) -> set[str]:
    """Those than which no other is both faster and better."""
    places = [(each.arm, machine.ratios[each.arm].value, each.worse.mean) for each in shown if each.worse]
    return {
        arm
        for arm, time, lost in places
        if not any(t <= time and m <= lost and (t, m) != (time, lost) for _, t, m in places)
    }


def _reach(shown: Sequence[Candidate], scale: float) -> tuple[float, float]:
    """From the lowest interval to the highest mean; bars may leave the frame above."""
    means = [scale * each.worse.mean for each in shown if each.worse]
    lows = [scale * each.worse.low for each in shown if each.worse and each.worse.low is not None]
    low, high = min(0.0, *means, *lows), max(0.0, *means)
    room = 0.15 * (high - low) or 1.0
    return low - room, high + room


def _mark(  # type: ignore[no-untyped-def]
    axes, each: Candidate, ratio: Modelled, scale: float, looks: Look, chosen: bool
) -> None:
    assert each.worse is not None
    height, order = scale * each.worse.mean, 2 if looks is UNNAMED else 4
    line = {"color": looks.text, "linewidth": 1.6, "zorder": order, "alpha": 0.4 if looks is UNNAMED else 1.0}
    if each.worse.low is not None and each.worse.high is not None and each.worse.high > each.worse.low:
        axes.vlines(ratio.value, scale * each.worse.low, scale * each.worse.high, **line)
    axes.hlines(height, ratio.low, ratio.high, **line)
    axes.plot(
        ratio.value, height, looks.marker, color=looks.color, markeredgecolor="white", markersize=9, zorder=order + 1
    )
    if chosen:
        axes.plot(ratio.value, height, "o", markerfacecolor="none", markeredgecolor=INK, markersize=17, zorder=6)


def _name(  # type: ignore[no-untyped-def]
    axes, shown: Sequence[Candidate], named: Sequence[str], machine: Machine, scale: float
) -> None:
    """Names beside their marks, where they cover no other mark and no other name. Limits must be final."""
    renderer = FigureCanvasAgg(axes.get_figure(root=True)).get_renderer()
    places = {each.arm: (machine.ratios[each.arm].value, scale * each.worse.mean) for each in shown if each.worse}
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in map(axes.transData.transform, places.values())]
    for arm, place in sorted(places.items(), key=lambda item: item[1]):
        text = axes.annotate(
            short(arm),
            place,
            xytext=(0, 0),
            textcoords="offset points",
            color=look(named.index(arm)).text,
            fontsize=9.5,
            zorder=7,
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        # Where nothing is free, the first.
        for side, height in (*((side, height) for side in ("left", "right") for height in (7, -15)), ("left", 7)):
            text.set_position((8 if side == "left" else -8, height))
            text.set_horizontalalignment(side)
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
