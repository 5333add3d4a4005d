"""Predictions beside real runs as one page: a scatter plot, errors, and every row."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moesim._version import __version__
from moesim.reporting.figures import PAGE, Figure, predicted_against_measured, signed_errors
from moesim.reporting.figures.labels import count
from moesim.reporting.pages import inside, template, write_page


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
        figures=reference_figures(document["rows"], summary, document["facts"].get("seed")),
        page=PAGE,
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


def reference_figures(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], seed: int | None = None
) -> list[Figure]:
    """Predicted over measured seconds beside the plain roofline's, and errors by size of batch.

    Parameters
    ----------
    rows, summary
        Of a ``validate reference`` document.
    seed
        Of the runs.
    """

    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    kinds = [_kind(row) for row in rows]
    scatter = predicted_against_measured(
        column("predicted_s"),
        column("measured_s"),
        low=column("low_s"),
        high=column("high_s"),
        groups=[
            f"{kind}, some experts offloaded" if row["offloaded"] > 0 else kind
            for kind, row in zip(kinds, rows, strict=True)
        ],
        metric="time of a MoE layer",
        unit="ms",
        level=summary["interval_level"],
        others={"plain roofline": [(1 + row["roofline_error"]) * row["measured_s"] for row in rows]},
        n=count(len(rows), "held-out layer"),
        seed=seed,
    )
    noise = summary["floor"]["p95"]
    errors = signed_errors(
        column("tokens"),
        column("error"),
        groups=kinds,
        noise=noise if noise is not None and math.isfinite(noise) else None,
        n=count(len(rows), "held-out layer"),
        seed=seed,
    )
    return [scatter, errors]


def _kind(row: Mapping[str, Any]) -> str:
    law: str = row["routing"].partition(":")[0]
    return law if law in ("uniform", "trace") else "skewed"


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
