"""Figures as SVG text that is the same for the same data, and lives beside others in one page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Okabe and Ito's colours, told apart with every common colour blindness.
COLOURS = {
    "contiguous": "#d55e00",
    "before": "#d55e00",
    "greedy": "#e69f00",
    "balanced": "#009e73",
    "plan": "#0072b2",
    "after": "#0072b2",
    "bound": "#222222",
}
#: For categories without a colour of their own: Paul Tol's muted scheme.
CATEGORIES = (
    "#332288",
    "#88ccee",
    "#44aa99",
    "#117733",
    "#999933",
    "#ddcc77",
    "#cc6677",
    "#882255",
    "#aa4499",
)
GREY = "#bbbbbb"

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "moesim",
    # Names come from files: a dollar sign in one is a dollar sign.
    "text.parse_math": False,
}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a page.

    Parameters
    ----------
    key
        Short name, unique in the page.
    title
        What it shows.
    caption
        Metric, unit, number of values, seed, how to read it.
    svg
        An ``<svg>`` element.
    """

    key: str
    title: str
    caption: str
    svg: str


def render(key: str, draw: Callable[[Canvas], None], width_in: float, height_in: float, label: str) -> str:
    """Draw on an empty canvas and return its ``<svg>`` element.

    Parameters
    ----------
    key
        Put before every id, so that several figures can share a page.
    draw
        Draws on a `matplotlib.figure.Figure`.
    width_in, height_in
        Inches.
    label
        For those who do not see the figure.
    """
    from matplotlib import style
    from matplotlib.figure import Figure as Canvas

    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # The browser has the glyphs that the measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = Canvas(figsize=(width_in, height_in), layout="constrained")
        draw(canvas)
        stream = io.StringIO()
        canvas.savefig(stream, format="svg", metadata=_NO_METADATA)
    return _inline(stream.getvalue(), key, label)


def shorten(text: str, most: int) -> str:
    """A label that leaves room for the figure.

    >>> shorten("a very long name", 6)
    'a ver…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def _inline(text: str, key: str, label: str) -> str:
    """The bare element: unique ids, no prologue, scaled by the page."""
    from html import escape

    body = text[text.index("<svg") :].strip()
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r"url\(#", f"url(#{key}-", body)
    body = re.sub(r'href="#', f'href="#{key}-', body)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label)}">{rest}'
