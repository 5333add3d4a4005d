"""`moesim report`: what other commands printed or wrote, as a page, a PDF or an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli.common import Json, print_json

if TYPE_CHECKING:
    from moesim.errors import Fault

#: As many as a page holds.
_MOST = 64


def report(
    documents: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT...",
            help="What commands print with --json, tables that they write, or pages made by this one.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="What to write: .html, .pdf or .png.")],
    title: Annotated[str, typer.Option(help="Heading; made from the results if empty.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="Name of a result; again for each, in their order.")
    ] = None,
    theme: Annotated[
        str | None, typer.Option(help="Of an image: light or dark. Pages follow their reader.")
    ] = None,
    json: Json = False,
) -> None:
    """Write one self-contained report about results; those of a kind side by side."""
    from moesim.errors import ConfigError
    from moesim.files import check_writable
    from moesim.reporting import read_documents, relabelled, write_page

    faults = [*check_writable(output, "--output"), *_asked(documents, output, theme)]
    try:
        document = read_documents(documents[:_MOST], title=title)
        if label:
            document = relabelled(document, label)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults]) from None
    if faults:
        raise ConfigError(faults)
    write_page(document, output, theme or "light")
    if json:
        kinds = [result.kind for result in document.results]
        print_json(
            {"report": str(output), "bytes": output.stat().st_size, "results": kinds},
            kind="page",
            inputs=documents,
        )
        return
    typer.echo(f"report: {output} ({len(document.results)} result(s))")


def _asked(documents: Sequence[Path], output: Path, theme: str | None) -> list[Fault]:
    """What is wrong before anything is read."""
    from moesim.errors import Fault
    from moesim.reporting import FORMATS

    faults = []
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        faults.append(Fault("has a suffix of no report", "--output", str(output), ", ".join(FORMATS)))
    if theme not in (None, "light", "dark"):
        faults.append(Fault("is no theme", "--theme", theme, "light, dark"))
    elif theme is not None and suffix in FORMATS and suffix != ".png":
        faults.append(Fault(f"is of an image, not of {suffix}", "--theme", theme, "with -o of suffix .png"))
    if len(documents) > _MOST:
        faults.append(Fault("too many results", "RESULT", len(documents), f"{_MOST} at most"))
    if output.exists() and any(path.exists() and path.samefile(output) for path in documents):
        faults.append(Fault("is also read", "--output", str(output), "a path of its own"))
    return faults
