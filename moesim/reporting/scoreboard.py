"""The scoreboard as one page: published figures beside ours, how far apart, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moesim._version import __version__
from moesim.reporting.figures import PAGE, Figure, ScoreRow, ratio_histogram
from moesim.reporting.figures import scoreboard as scoreboard_figure
from moesim.reporting.figures.published import VERDICTS
from moesim.reporting.pages import inside, template, write_page

#: Shapes of the figures' markers, by verdict.
_SHAPES = {"o": "25CF", "s": "25A0", "^": "25B2", "X": "2716"}


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
        verdicts={
            verdict: (_SHAPES[marker], f"var(--s{nth})") for verdict, (marker, nth) in VERDICTS.items()
        },
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
        figures=scoreboard_figures(rows),
        page=PAGE,
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


def scoreboard_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Every system's headline, and how all rows are spread; what has no ratio is left out, and said.

    Parameters
    ----------
    rows
        Of a ``reproduce`` document.
    """
    found = []
    headlines = [_row(row) for row in rows if row["headline"]]
    every = [_row(row) for row in rows]
    if any(_positive(row.ratio) for row in headlines):
        found.append(scoreboard_figure(headlines))
    if any(_positive(row.ratio) for row in every):
        found.append(ratio_histogram(every))
    return found


def _row(row: Mapping[str, Any]) -> ScoreRow:
    swept = row["swept"] if row["published"] else None
    low, high = (end / row["published"] for end in swept) if swept else (None, None)
    return ScoreRow(row["system"], row["ratio"], row["verdict"], low, high)


def _positive(ratio: float | None) -> bool:
    return ratio is not None and ratio > 0
