"""Colours, line styles and markers of arms.

The one rule: an arm's looks follow from its place in the experiment, never from which arms happen to be drawn, so that
it looks the same in every figure.

The colours are those of Okabe and Ito (2008), told apart by readers with any common colour blindness. Their yellow is
left out, for it can't be seen on white, and grey stands in its place. From the ninth arm on colours repeat with another
line style.
"""

from dataclasses import dataclass

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
LINES: tuple[tuple[float, tuple[float, ...] | None], ...] = (
    (0, None),
    (0, (5, 2)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
)

INK = "#222222"
FAINT = "#6B6B6B"
ALARM = "#B00020"


@dataclass(frozen=True)
class Look:
    """How an arm is drawn. `text` is its colour dark enough to be read on white; `dashes` a matplotlib line style."""

    color: str
    text: str
    dashes: tuple[float, tuple[float, ...] | None]
    marker: str


def look(place: int, variant: int = 0) -> Look:
    """The looks of the arm at `place` (from 0); `variant` tells settings of one arm apart by line style only.

    >>> look(0).color == look(8).color, look(0).dashes == look(8).dashes
    (True, False)
    """
    color = COLORS[place % len(COLORS)]
    turn = place // len(COLORS)
    return Look(color, readable(color), LINES[(turn + variant) % len(LINES)], MARKERS[(place + turn) % len(MARKERS)])


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def contrast(color: str) -> float:
    """The contrast of #rrggbb with white after WCAG 2, from 1 (white) to 21 (black)."""
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in _channels(color))
    ]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def readable(color: str, least: float = 4.5) -> str:
    """`color` darkened in steps of 4 % until text in it has the contrast `least` with white."""
    while contrast(color) < least:
        color = "#" + "".join(f"{int(channel * 0.96):02X}" for channel in _channels(color))
    return color
