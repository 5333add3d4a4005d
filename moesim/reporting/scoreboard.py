"""The scoreboard as one page: published figures beside ours, how far apart, and why."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim._version import __version__
from moesim.reporting.pages import inside, template, write_page
from moesim.reporting.svg import GREY, Figure, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Verdicts in their order, each with a colour that does not need red and green told apart.
VERDICTS = {
    "reproduced": "#009e73",
    "assumption-bound": "#0072b2",
    "direction": "#e69f00",
    "not reproduced": "#d55e00",
}
#: What is shown of a ratio: beyond, it is drawn at the edge.
_REACH = 10.0
_TOLERANCE = 0.15


def write_scoreboard(
    document: Mapping[str, Any], path: str | os.PathLike[str], provenance: Mapping[str, Any]
) -> Path:
    """Write the page of a ``reproduce`` document, whole or not at all.

    Parameters
    ----------
    document
        With ``rows`` and ``summary``, as ``moesim reproduce --json`` prints them.
    path
        The page.
    provenance
        Versions and seed.
    """
    return write_page(document, path, provenance, render_scoreboard)


def render_scoreboard(document: Mapping[str, Any], data: str) -> str:
    """The page as text; `data` is the JSON that it carries."""
    from markupsafe import Markup

    rows, summary = document["rows"], document["summary"]
    headlines = [row for row in rows if row["headline"]]
    systems: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        systems.setdefault(row["system"], []).append(row)
    return template("scoreboard.html.j2").render(
        version=__version__,
        provenance=document["provenance"],
        verdicts=VERDICTS,
        parts=[
            (name, part)
            for name, part in (
                ("headlines", summary["headlines"]),
                ("claims of abstracts", summary["claims"]),
                ("all rows", summary),
            )
            if part["n"]
        ],
        kinds=summary["kinds"],
        count=summary["systems"],
        figures=[_headlines(headlines), _all(rows)] if headlines else [_all(rows)],
        headlines=headlines,
        systems=systems,
        number=number,
        data=inside(data),
        svg=Markup,
    )


def number(value: float | None) -> str:
    """Four digits, or a dash.

    >>> number(1.23456), number(None)
    ('1.235', '-')
    """
    return "-" if value is None else f"{value:.4g}"


def _known(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["ratio"] is not None and row["ratio"] > 0]


def _place(ratio: float) -> float:
    return min(max(ratio, 1 / _REACH), _REACH)


def _headlines(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Ours over published of every system, nearest first."""
    known = sorted(_known(rows), key=lambda row: abs(math.log(row["ratio"])), reverse=True)

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        axes.axvspan(1 - _TOLERANCE, 1 + _TOLERANCE, color="#eeeeee", zorder=0)
        axes.axvline(1.0, color="#888888", linewidth=0.8)
        for at, row in enumerate(known):
            if row["swept"]:
                low, high = (
                    _place(end / row["published"]) if end > 0 else 1 / _REACH for end in row["swept"]
                )
                axes.plot([low, high], [at, at], color=GREY, linewidth=2.5, zorder=1)
            axes.plot(_place(row["ratio"]), at, "o", color=VERDICTS[row["verdict"]], markersize=5, zorder=2)
        _axis(axes)
        axes.set_yticks(range(len(known)), [row["system"] for row in known])
        axes.set_ylim(-0.8, len(known) - 0.2)
        axes.set_xlabel("ours / published")

    title = "Headlines: ours over published"
    caption = (
        "One figure of each system. Shaded: within 15 %. Bars: over the plausible values of what its source "
        f"leaves open. Colours are verdicts. Not drawn: {len(rows) - len(known)} headlines without a ratio."
    )
    return Figure("headlines", title, caption, render("headlines", draw, 7.5, 1.0 + 0.17 * len(known), title))


def _all(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How the ratios of all rows are spread."""
    known = _known(rows)

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        steps = 40
        edges = [_REACH ** (2 * i / steps - 1) for i in range(steps + 1)]
        groups = [[_place(r["ratio"]) for r in known if r["verdict"] == verdict] for verdict in VERDICTS]
        axes.axvspan(1 - _TOLERANCE, 1 + _TOLERANCE, color="#eeeeee", zorder=0)
        axes.hist(groups, bins=edges, stacked=True, color=list(VERDICTS.values()), label=list(VERDICTS))
        _axis(axes)
        axes.set_xlabel("ours / published")
        axes.set_ylabel("rows")
        axes.legend()

    title = "All rows: ours over published"
    caption = (
        f"n = {len(known)} rows with a ratio; shaded: within 15 %. Ratios beyond 10 are drawn at the edge."
    )
    return Figure("all", title, caption, render("all", draw, 7.5, 3.0, title))


def _axis(axes: Any) -> None:  # noqa: ANN401 - matplotlib's, imported late
    axes.set_xscale("log")
    axes.set_xlim(0.9 / _REACH, _REACH * 1.1)
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
