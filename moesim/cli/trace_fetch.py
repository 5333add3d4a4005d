"""`moesim trace fetch`: download a public trace."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli.common import Json, print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.trace.fetch import Fetched, PublicTrace


def fetch(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A name that --list shows.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to put it in; else ./NAME.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="List the public traces and their licences.")
    ] = False,
    json: Json = False,
) -> None:
    """Download a public trace, checked by its hash; from the folder MOESIM_MIRROR/NAME, if there is one."""
    from moesim.errors import ConfigError, Fault
    from moesim.trace import fetch as room

    if listing == (name is not None):
        raise ConfigError(Fault("give the name of a public trace, or --list", "NAME"))
    if name is None:
        _list(list(room.registry().values()), json)
        return
    trace = room.find(name)
    folder = output if output is not None else Path(name)
    stderr(f"{trace.title}")
    stderr(f"licence: {trace.licence}; source: {trace.source}")
    stderr(f"{_files(len(trace.files))}, {room.size_text(trace)}; {trace.note}")
    with _bar() as progress:
        files = room.fetch(trace, folder, progress=progress)
    if json:
        print_json(_document(trace, folder, files), kind="trace-fetch", inputs=[])
        return
    unknown = [f for f in files if not f.verified]
    for file in unknown:
        stderr(f"unverified: {file.path}, SHA-256 {file.sha256}")
    if unknown:
        stderr(
            f"{len(unknown)} of {len(files)} hashes are not on record: compare them with a source you trust"
        )
    typer.echo(f"{folder}: {_files(len(files))}, {len(files) - len(unknown)} verified")


def _files(n: int) -> str:
    return f"{n} file" if n == 1 else f"{n} files"


def _list(traces: list[PublicTrace], json: bool) -> None:
    if json:
        print_json({"traces": [_entry(t) for t in traces]}, kind="traces")
        return
    rows = [
        (t.name, t.kind.replace("_", " "), len(t.files), t.licence.split(" (")[0], t.title) for t in traces
    ]
    print_table(("name", "kind", "files", "licence", "what"), rows)


def _entry(t: PublicTrace) -> dict[str, object]:
    return {
        "name": t.name,
        "title": t.title,
        "model": t.model or None,
        "kind": t.kind,
        "format": t.format,
        "licence": t.licence,
        "source": t.source,
        "note": t.note,
        "bytes": t.size_bytes,
        "files": [{"path": f.path, "url": f.url, "bytes": f.size_bytes, "sha256": f.sha256} for f in t.files],
    }


def _document(trace: PublicTrace, folder: Path, files: list[Fetched]) -> dict[str, object]:
    return {
        "name": trace.name,
        "licence": trace.licence,
        "folder": str(folder),
        "files": [
            {"path": str(f.path), "sha256": f.sha256, "verified": f.verified, "origin": f.origin}
            for f in files
        ],
    }


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A progress bar per file on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, int] = {}

        def progress(path: str, there: int, total: int | None) -> None:
            if path not in tasks:
                tasks[path] = bars.add_task(path, total=total)
            bars.update(tasks[path], completed=there, total=total)  # type: ignore[arg-type]

        yield progress
