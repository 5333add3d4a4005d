"""What commands share: tables, one JSON document, provenance."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from moesim.provenance import SCHEMA_VERSION as SCHEMA_VERSION
from moesim.provenance import clean, provenance

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]


def stderr(text: str) -> None:
    """Print a line of progress, warning or error."""
    typer.echo(text, err=True)


def print_json(
    document: Mapping[str, Any],
    *,
    kind: str,
    inputs: Iterable[str | Path] = (),
    seed: int | None = None,
) -> None:
    """Print one JSON document with schema version and provenance; NaN and infinity become null.

    Parameters
    ----------
    document
        The command's own fields.
    kind
        What the document is of, so that whoever reads it need not guess. A document's own ``kind`` stays.
    inputs
        Files that were read; their SHA-256 goes into the provenance.
    seed
        The seed, if anything was random.
    """
    whole = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        **document,
        "provenance": provenance(inputs, seed),
    }
    typer.echo(json.dumps(clean(whole), indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table: drawn by rich on a terminal, aligned plain text elsewhere.

    Columns whose cells are all numbers are right-aligned.
    """
    cells = [["-" if c is None else str(c) for c in row] for row in rows]
    right = [bool(cells) and all(_numeric(row[i]) for row in cells) for i in range(len(columns))]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title or None, title_justify="left")
        for name, numeric in zip(columns, right, strict=True):
            table.add_column(name, justify="right" if numeric else "left")
        for row in cells:
            table.add_row(*row)
        Console().print(table)
        return
    if title:
        typer.echo(title)
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        parts = [
            text.rjust(w) if numeric else text.ljust(w)
            for text, w, numeric in zip(line, widths, right, strict=True)
        ]
        typer.echo("  ".join(parts).rstrip())


def _numeric(text: str) -> bool:
    return text == "-" or text.lstrip("+-")[:1].isdigit()
