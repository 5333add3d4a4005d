"""What depends on pixels is decided when a figure is drawn: then its layout is known, on any sheet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase


def when_drawn(axes: Axes, decide: Callable[[RendererBase], None]) -> None:
    """Call a function each time before the texts and marks of some axes are drawn.

    Parameters
    ----------
    axes
        Where the function may move and hide what is there already.
    decide
        Takes the renderer, which knows how large a text is.
    """
    from matplotlib.artist import Artist

    class Decision(Artist):
        def draw(self, renderer: RendererBase) -> None:
            decide(renderer)

    decision = Decision()
    decision.set_zorder(-1e3)
    decision.set_in_layout(False)
    axes.add_artist(decision)
