"""`moesim report`: a page from the JSON documents of other commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.common import Json, print_json


def report(
    documents: Annotated[
        list[Path], typer.Argument(metavar="IN.json...", help="What predict --json and place --json print.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page to write.")],
    title: Annotated[str, typer.Option(help="Heading of the page; made from the documents if empty.")] = "",
    json: Json = False,
) -> None:
    """Write one HTML page about predictions and placements, predictions side by side."""
    from moesim.errors import ConfigError
    from moesim.files import check_writable
    from moesim.reporting import read_documents, write_page

    faults = check_writable(output, "--output")
    try:
        document = read_documents(documents, title=title)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults]) from None
    if faults:
        raise ConfigError(faults)
    write_page(document, output)
    if json:
        kinds = [result.kind for result in document.results]
        print_json(
            {"report": str(output), "bytes": output.stat().st_size, "results": kinds},
            kind="page",
            inputs=documents,
        )
        return
    typer.echo(f"report: {output} ({len(document.results)} result(s))")
