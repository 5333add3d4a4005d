"""Predictions beside real runs as one page: a scatter plot, errors, and every row."""

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

#: Marker and colour of a kind of case: told apart in black and white too.
_KINDS = {"uniform": ("o", "#0072b2"), "skewed": ("s", "#e69f00"), "trace": ("^", "#009e73")}
_BAND = 0.10


def write_reference(
    document: Mapping[str, Any], path: str | os.PathLike[str], provenance: Mapping[str, Any]
) -> Path:
    """Write the page of a ``validate reference`` document, whole or not at all.

    Parameters
    ----------
    document
        With ``rows``, ``summary``, ``machine``, ``facts`` and ``recordings``, as ``moesim validate reference
        --json`` prints them.
    path
        The page.
    provenance
        Versions, seed, and hashes of what was read.
    """
    return write_page(document, path, provenance, render_reference)


def render_reference(document: Mapping[str, Any], data: str) -> str:
    """The page as text; `data` is the JSON that it carries."""
    from markupsafe import Markup

    summary = document["summary"]
    return template("reference.html.j2").render(
        version=__version__,
        document=document,
        summary=summary,
        rows=document["rows"],
        lines=[
            *([("simulator, paired with the drift", summary["paired"])] if summary["drift"] else []),
            ("simulator, raw", summary["raw"]),
            ("plain roofline", summary["roofline"]),
        ],
        figures=[_scatter(document["rows"]), _errors(document["rows"], summary)],
        machine=_facts(document["machine"]),
        percent=percent,
        seconds=seconds,
        data=inside(data),
        svg=Markup,
    )


def percent(value: float, signed: bool = False) -> str:
    """One digit behind the point.

    >>> percent(0.0312), percent(-0.02, signed=True)
    ('3.1 %', '-2.0 %')
    """
    return f"{value:+.1%}".replace("%", " %") if signed else f"{value:.1%}".replace("%", " %")


def seconds(value: float | None) -> str:
    """Milliseconds from one on, microseconds below.

    >>> seconds(0.0125), seconds(3.2e-5), seconds(None)
    ('12.50 ms', '32.0 us', '-')
    """
    if value is None:
        return "-"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def _kind(row: Mapping[str, Any]) -> str:
    law = row["routing"].partition(":")[0]
    return law if law in _KINDS else "skewed"


def _scatter(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Predicted over measured seconds, with the roofline's beside them."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        ends = [f([row[name] for row in rows]) for f in (min, max) for name in ("measured_s", "predicted_s")]
        low, high = min(ends) * 0.7e3, max(ends) * 1.4e3
        line = [low, high]
        axes.fill_between(
            line, [(1 - _BAND) * x for x in line], [(1 + _BAND) * x for x in line], color="#eeeeee", zorder=0
        )
        axes.plot(line, line, color="#888888", linewidth=0.8, zorder=1)
        axes.plot(
            [row["measured_s"] * 1e3 for row in rows],
            [(1 + row["roofline_error"]) * row["measured_s"] * 1e3 for row in rows],
            "x",
            color=GREY,
            markersize=4,
            label="plain roofline",
            zorder=2,
        )
        for kind, (marker, colour) in _KINDS.items():
            for away in (False, True):
                some = [row for row in rows if _kind(row) == kind and (row["offloaded"] > 0) == away]
                if not some:
                    continue
                x, y = ([row[name] * 1e3 for row in some] for name in ("measured_s", "predicted_s"))
                # Residuals need not lie around nothing: an end may be on the other side of the prediction.
                below = [max(row["predicted_s"] - row["low_s"], 0.0) * 1e3 for row in some]
                above = [max(row["high_s"] - row["predicted_s"], 0.0) * 1e3 for row in some]
                axes.errorbar(
                    x,
                    y,
                    yerr=[below, above],
                    fmt=marker,
                    color=colour,
                    markerfacecolor="white" if away else colour,
                    markersize=5,
                    elinewidth=0.7,
                    label=f"{kind}{', some experts offloaded' if away else ''}",
                    zorder=3,
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_xlabel("measured, ms")
        axes.set_ylabel("predicted, ms")
        axes.legend()

    title = "Predicted and measured seconds of a layer"
    caption = (
        f"n = {len(rows)} held-out layers. On the line, both agree; shaded: within {_BAND:.0%}. Bars: 90 % "
        "interval. Crosses: the plain roofline of the same layers, with the ceilings of this machine."
    )
    return Figure("scatter", title, caption, render("scatter", draw, 6.4, 5.6, title))


def _errors(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Figure:
    """Signed errors by size of batch, and the noise they are to be seen against."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        noise = summary["floor"]["p95"] or 0.0
        axes.axhspan(-100 * noise, 100 * noise, color="#eeeeee", zorder=0)
        axes.axhline(0.0, color="#888888", linewidth=0.8, zorder=1)
        for kind, (marker, colour) in _KINDS.items():
            some = [row for row in rows if _kind(row) == kind]
            if some:
                axes.plot(
                    [row["tokens"] for row in some],
                    [100 * row["error"] for row in some],
                    marker,
                    color=colour,
                    markersize=5,
                    label=kind,
                    zorder=2,
                )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        most = max(max(abs(row["error"]) for row in rows), noise) * 110
        axes.set_ylim(-max(most, 5.0), max(most, 5.0))
        axes.set_xlabel("tokens")
        axes.set_ylabel("error, %")
        axes.legend(ncols=3)

    title = "Signed error by tokens of a batch"
    caption = (
        "Above 0: the prediction is too slow. Shaded: 95 % of the distances between two measurements of the "
        f"same layer on this machine (median {percent(_finite(summary['floor']['median']))})."
    )
    return Figure("errors", title, caption, render("errors", draw, 7.5, 3.2, title))


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


def _facts(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a machine, flat."""
    facts = machine.get("before", machine)
    found: list[tuple[str, str]] = []
    for name, value in facts.items() if isinstance(facts, dict) else ():
        if isinstance(value, dict):
            found += [(f"{name} {inner}", _text(part)) for inner, part in value.items()]
        else:
            found.append((name, _text(value)))
    return [(name.replace("_", " "), text) for name, text in found if text]


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 200 else text[:197] + "..."
