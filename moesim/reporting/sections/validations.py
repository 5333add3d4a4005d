"""What sections of predictions beside measurements share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moesim.reporting.documents import Document
from moesim.reporting.figures import Figure
from moesim.reporting.sections.parts import Answer, Section, Table, brief, unique
from moesim.reporting.tiles import Number, Tile

METRICS = {"tpot": "TPOT", "ttft": "TTFT"}
STATISTICS = ("mean", "median", "p90", "p99")
MOST_ROWS = 60

#: Of one document: answer, figures, tables, what is missing, tiles.
Parts = tuple[Answer, Sequence[Figure], Sequence[Table], Sequence[str], Sequence[Tile]]


def maker(key: str, parts: Callable[[Any], Parts]) -> Callable[..., list[Section]]:
    """What makes a section of each document of one kind."""

    def sections_of(found: Sequence[Document], labels: Sequence[str], several: bool) -> list[Section]:
        """A section for each."""
        made = []
        for nth, (one, label) in enumerate(zip(found, labels, strict=True)):
            answer, shown, tables, missing, numbers = parts(one)
            title = label if several or len(found) > 1 else ""
            kept = tuple(table for table in tables if table.rows)
            made.append(
                Section(
                    f"{key}{nth + 1}",
                    title,
                    answer,
                    tuple(shown),
                    kept,
                    tuple(missing),
                    unique(one.warnings),
                    tuple(numbers),
                )
            )
        return made

    return sections_of


def share(value: float | None, signed: bool = False) -> str:
    """An error in a cell, in percent.

    >>> share(0.0123), share(-0.5, signed=True), share(None)
    ('1.23', '-50.00', '-')
    """
    return "-" if value is None else f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def said(value: float | None) -> str:
    """An error in a sentence."""
    return "an unknown share" if value is None else f"{brief(100 * value)} %"


def tile(title: str, value: float | None, note: str = "") -> Tile:
    """An error, large."""
    return Tile(
        title, "%", (Number("-" if value is None else brief(100 * value), value, note=note),), (), "less"
    )
