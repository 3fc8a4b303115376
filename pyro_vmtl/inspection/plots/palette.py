"""Colours that colour-blind readers can tell apart, and axes to draw on."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["COLOURS", "DIVERGING", "GREY", "LINE_STYLES", "SEQUENTIAL", "axes_of", "style_of"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, without its yellow, which is too pale on white."""

GREY = "#7F7F7F"

LINE_STYLES = ("-", "--", ":", "-.")

SEQUENTIAL = "cividis"
"""Even in lightness, and the same to readers with and without red-green blindness."""

DIVERGING = "RdBu"
"""Red below 0 and blue above, which red-green blindness leaves apart; white is nothing."""


def axes_of(ax: Axes | None, width: float = 6.0, height: float = 4.0) -> Axes:
    """The axes given, or those of a new figure.

    :param width: of the new figure, in inches.
    :param height: of the new figure, in inches.
    """
    if ax is not None:
        return ax
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def style_of(number: int) -> dict[str, Any]:
    """A colour and a line style; no two of the first 28 are alike."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)],
    }
