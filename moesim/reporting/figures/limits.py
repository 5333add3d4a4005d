"""A promise on an axis: a line where there is data near it, else an arrow at the edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from moesim.reporting.figures.theme import Theme

#: Of the axes, beyond the data: a limit further away does not stretch them.
_BEYOND = 0.4
#: What says where a limit is that is not drawn: below or left of the data, above or right of it.
_ARROWS = {
    "x": (" \N{LEFTWARDS ARROW}", " \N{RIGHTWARDS ARROW}"),
    "y": (" \N{DOWNWARDS ARROW}", " \N{UPWARDS ARROW}"),
}


def limit_line(axes: Axes, theme: Theme, which: str, at: float, words: str = "", foot: bool = False) -> bool:
    """Draw a limit across axes that have all their data already.

    Parameters
    ----------
    axes, theme
        Where, and in which colours.
    which
        ``x`` or ``y``: of which axis it is a limit.
    at
        The limit, in what the axis shows.
    words
        What is written beside it; with an arrow where the limit is too far away to be drawn.
    foot
        Whether the words of an upright line stand at its foot.

    Returns
    -------
    bool
        Whether it was drawn.
    """
    upright = which == "x"
    corner = axes.get_xlim()[0], axes.get_ylim()[0]
    logarithmic = (axes.get_xscale() if upright else axes.get_yscale()) == "log"
    place = -np.inf
    if at > 0 or not logarithmic:
        point = (at, corner[1]) if upright else (corner[0], at)
        place = float((axes.transScale + axes.transLimits).transform(point)[0 if upright else 1])
    near = -_BEYOND <= place <= 1 + _BEYOND
    if near:
        (axes.axvline if upright else axes.axhline)(
            at, color=theme.role["limit"], linestyle=(0, (5, 2)), zorder=1.5
        )
    if not words:
        return near
    before, after = _ARROWS[which]
    text = words if near else words + (after if place > 0 else before)
    along = at if near else 1.0 if place > 0 else 0.0
    moving = "data" if near else "axes fraction"
    # Beside an upright line, on top of a level one, and inside of the axes at an edge.
    right = place > 0.7 if upright else True
    top = not foot if upright else not near and place > 0
    edge = 1.0 if top else 0.0
    axes.annotate(
        text,
        (along, edge) if upright else (1.0, along),
        xycoords=(moving, "axes fraction") if upright else ("axes fraction", moving),
        xytext=((-4 if right else 4) if upright else 0, -3 if top else 3),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if top else "bottom",
        bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 1},
        fontsize="small",
        color=theme.ink,
    )
    return near
