"""Names of tasks beside axes: as large as there is room for, and never on top of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

__all__ = ["legend_above", "legend_beside", "name_ticks", "note", "shortened"]

_LARGEST, _SMALLEST = 9.0, 5.0
_LONGEST = 24
_POINTS_PER_INCH = 72


def shortened(name: str, longest: int = _LONGEST) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def name_ticks(
    ax: Axes,
    which: Literal["x", "y"],
    names: Sequence[str],
    positions: Sequence[float] | None = None,
    always: Sequence[int] = (),
) -> None:
    """Label positions 0, 1, ... of an axis with names, leaving some out where they do not fit.

    :param positions: of the names; None, 0, 1, ...
    :param always: names that stay whatever is left out, by number.
    """
    places = np.arange(len(names)) if positions is None else np.asarray(positions)
    box = ax.get_position()
    width, height = ax.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    length = box.width * width if which == "x" else box.height * height
    room = length * _POINTS_PER_INCH / max(len(names), 1)
    size = float(np.clip(0.8 * room, _SMALLEST, _LARGEST))
    step = max(1, int(np.ceil(1.1 * size / room)))
    shown = [i for i in range(len(names)) if i % step == 0 or i in always]
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_ticks(
        [float(places[i]) for i in shown], [shortened(names[i]) for i in shown], fontsize=size
    )
    longest = max((len(shortened(name)) for name in names), default=0)
    if which == "x" and longest * 0.6 * size > room:
        ax.tick_params(axis="x", rotation=90)


def note(ax: Axes, sentence: str) -> Axes:
    """Say in the axes why there is nothing to draw."""
    ax.text(
        0.5, 0.5, sentence, ha="center", va="center", wrap=True, transform=ax.transAxes, fontsize=9
    )
    ax.set_axis_off()
    return ax


def legend_above(ax: Axes) -> None:
    """A legend in one line above axes that rows of a table fill."""
    ax.legend(
        fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0
    )


def legend_beside(ax: Axes) -> None:
    """A legend on the right of axes that curves fill."""
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
