"""What all figures share: typography, labels at line ends that don't overlap, and files that are the same every time.

The one rule: figures are made with matplotlib's objects, inside `style()`, and no global state survives it. The same
input gives the same bytes, so a report can be committed and compared.
"""

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.style import context
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import blended_transform_factory
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bsexp.report.palette import FAINT, INK, Look

DPI = 100
LABEL_SIZE = 9.5
LONGEST = 28

LOOKS = {
    "svg.hashsalt": "bsexp",
    "svg.fonttype": "path",
    # User text may hold a dollar sign, and a file must not depend on whether it does.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "path.simplify_threshold": 0.3,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The report's typography, whatever the user's own matplotlib settings are."""
    with context(["default", LOOKS]), warnings.catch_warnings():
        # A name in a script that the font lacks shows boxes; the tables have it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def png_bytes(figure: Figure, alt: str = "") -> bytes:
    """The figure as PNG at 100 dpi, without date or program version; `alt` is its description, for who can't see it."""
    with style():
        canvas = FigureCanvasAgg(figure)
        figure.set_dpi(DPI)
        canvas.draw()
    # 112 colours show lines and text as well, and take a third of the bytes.
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture = picture.quantize(112, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    about = PngInfo()
    if alt:
        about.add_text("Description", alt)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, pnginfo=about, dpi=(DPI, DPI))
    return buffer.getvalue()


def svg_bytes(figure: Figure, alt: str = "") -> bytes:
    """The figure as SVG with text as outlines, without date or program version; `alt` is its title."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None, **({"Title": alt} if alt else {})}
    with style():
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", dpi=DPI, metadata=metadata)
    # Hundredths of a point are enough for any screen, and halve the file.
    return re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path[0]), buffer.getvalue())


def short(name: str) -> str:
    """A name short enough for a label in a figure; the tables have it in full."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart inside [low, high], as close to `wanted` as possible in least squares.

    With p_i = q_i + i * gap in the order of `wanted`, q must not fall: isotonic regression by pooling neighbours. Where
    they can't all fit, they are spaced evenly over [low, high].

    >>> spread([0.0, 0.0, 10.0], gap=2.0, low=-5.0, high=20.0)
    [-1.0, 1.0, 10.0]
    """
    order = sorted(range(len(wanted)), key=lambda place: (wanted[place], place))
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    pools: list[tuple[float, int]] = []
    for rank, place in enumerate(order):
        mean, size = wanted[place] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            before, number = pools.pop()
            mean, size = (before * number + mean * size) / (number + size), number + size
        pools.append((mean, size))
    free = [mean for mean, size in pools for _ in range(size)]
    top = high - (len(wanted) - 1) * gap
    positions = [0.0] * len(wanted)
    for rank, place in enumerate(order):
        positions[place] = min(max(free[rank], low), top) + rank * gap
    return positions


@dataclass(frozen=True)
class End:
    """The end of a line in data coordinates, and what to write there."""

    x: float
    y: float
    text: str
    look: Look


def set_scale(axes: Axes, which: str, kind: str, low: float, high: float) -> None:
    """Limits and plain-number ticks of an axis ("x" or "y"); `kind`: "linear", "log" (base 10) or "log2"."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if kind == "linear":
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
        return
    base = 2 if kind == "log2" else 10
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=base)
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_minor_locator(NullLocator())
    narrow = kind == "log" and high / low < 10**2.7
    axis.set_major_locator(LogLocator(base, subs=(1, 2, 5) if narrow else (1,), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))


def labelled_line(axes: Axes, x: np.ndarray, y: np.ndarray, name: str, looks: Look, width: float) -> End:
    """Draw a line; its end, for `label_ends`."""
    axes.plot(x, y, color=looks.color, linestyle=looks.dashes, linewidth=width, zorder=2)
    return End(float(x[-1]), float(y[-1]), name, looks)


def label_ends(axes: Axes, ends: Sequence[End], names: Iterable[str] = ()) -> None:
    """Write each line's name at its end, in its colour; names are pushed apart where they would overlap.

    Widens the x axis so that the names stand inside the axes, right of the last end, and ends the axis line, its ticks
    and grid where the data end. Limits and size of the axes must be final. `names`: those of all panels on this axis,
    for which room is made in each, so that the panels stay aligned.
    """
    if not ends:
        return
    renderer = FigureCanvasAgg(axes.get_figure(root=True)).get_renderer()
    texts = [
        axes.text(end.x, end.y, short(end.text), color=end.look.text, fontsize=LABEL_SIZE, va="center", zorder=6)
        for end in ends
    ]
    sizes = [text.get_window_extent(renderer) for text in texts]
    scale = renderer.points_to_pixels(1.0)
    # A leader shows the dashes that tell apart arms of one colour.
    reach = (16 if all(end.look.dashes[1] is None for end in ends) else 30) * scale
    needs = [(end.x, size.width + reach) for end, size in zip(ends, sizes, strict=True)]
    for name in set(names).difference(end.text for end in ends):
        absent = axes.text(0, 0, short(name), fontsize=LABEL_SIZE)
        needs.append((max(end.x for end in ends), absent.get_window_extent(renderer).width + reach))
        absent.remove()
    _make_room(axes, needs, scale)
    spots = axes.transData.transform([(end.x, end.y) for end in ends])
    box = axes.bbox
    gap = max(size.height for size in sizes) * 1.02
    for members in _clusters([spot[0] for spot in spots], [size.width for size in sizes], reach):
        heights = [min(max(spots[place][1], box.y0), box.y1) for place in members]
        placed = spread(heights, gap, box.y0 + gap / 2, box.y1)
        start = max(spots[place][0] for place in members) + reach
        for place, height in zip(members, placed, strict=True):
            # Names of one cluster stand in one column, so that they read as a list.
            _write(axes, texts[place], ends[place], spots[place], (start, height), scale)


def _write(axes: Axes, text, end: End, spot, place: tuple[float, float], scale: float) -> None:  # type: ignore[no-untyped-def]
    back = axes.transData.inverted()
    text.set_position(back.transform(place))
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    elbow = [(spot[0] + 2 * scale, min(max(spot[1], axes.bbox.y0), axes.bbox.y1)), (place[0] - 3 * scale, place[1])]
    xs, ys = back.transform(elbow).T
    width = 0.8 if end.look.dashes[1] is None else 1.4
    axes.plot(
        xs,
        ys,
        color=end.look.color,
        linestyle=end.look.dashes,
        linewidth=width,
        alpha=0.75,
        zorder=5,
        clip_on=False,
        solid_capstyle="round",
    )


def _clusters(spots: Sequence[float], widths: Sequence[float], reach: float) -> list[list[int]]:
    """Labels grouped from the right: a name joins the group on its right where it would run into its column."""
    groups: list[list[int]] = []
    starts: list[float] = []
    for place in sorted(range(len(spots)), key=lambda place: -spots[place]):
        start = spots[place] + reach
        if not groups or start + widths[place] > starts[-1] - reach / 2:
            groups, starts = groups or [[]], starts or [start]
            groups[-1].append(place)
        else:
            groups.append([place])
            starts.append(start)
        while len(groups) > 1 and starts[-1] + max(widths[member] for member in groups[-1]) > starts[-2]:
            moved = groups.pop()
            starts.pop()
            groups[-1] += moved
    return groups


def _make_room(axes: Axes, needs: Sequence[tuple[float, float]], scale: float) -> None:
    low, high = axes.get_xlim()
    log = axes.get_xscale() == "log"
    to, back = (math.log, math.exp) if log else (float, float)
    start, length, width = to(low), to(high) - to(low), axes.bbox.width
    share = 1 - min(0.6, max(need for _, need in needs) / width)
    ticks = [tick for tick in axes.get_xticks() if low * (1 - 1e-9) - 1e-12 <= tick <= high * (1 + 1e-9)]
    if log:
        ticks = _apart(ticks, length, share * width / scale)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.set_xlim(low, back(start + length / share))
    axes.spines["bottom"].set_bounds(low, high)
    axes.xaxis.label.set_x(share / 2)
    for side in ("x", "y"):
        axes.grid(False, axis=side)
    _grid(axes, ticks, share)


def _apart(ticks: list[float], length: float, points: float) -> list[float]:
    """Ticks of a logarithmic axis whose numbers don't touch: all, else the powers of ten, else every other."""
    for kept in (ticks, [tick for tick in ticks if round(math.log10(tick), 6).is_integer()], ticks[::2]):
        steps = np.diff(np.log(kept)) / length * points
        if len(kept) > 1 and steps.min() >= 26:
            return kept
    return ticks[:1] + ticks[-1:] if len(ticks) > 1 else ticks


def _grid(axes: Axes, ticks: Sequence[float], share: float) -> None:
    """Grid lines that end where the data end, so that they don't run through the names."""
    looks = {
        "color": matplotlib.rcParams["grid.color"],
        "linewidth": matplotlib.rcParams["grid.linewidth"],
        "zorder": 0,
    }
    low, high = sorted(axes.get_ylim())
    across = blended_transform_factory(axes.transAxes, axes.transData)
    down = blended_transform_factory(axes.transData, axes.transAxes)
    heights = [tick for tick in axes.get_yticks() if low <= tick <= high]
    axes.hlines(heights, 0, share, transform=across, **looks)
    axes.vlines(np.asarray(ticks), 0, 1, transform=down, **looks)
    axes.set_ylim(low, high)
