"""What `moesim place` writes: where it may, and how an engine is started with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from moesim.errors import Fault
    from moesim.placement import EmittedFile

P = ParamSpec("P")
T = TypeVar("T")


def output_faults(emit: Sequence[str], report: str | None, reads: Sequence[str | None]) -> list[Fault]:
    """What keeps a report from being written beside the plans, and any of them from sparing what is read.

    Parameters
    ----------
    emit
        Plans, as ``format:path``; what else is wrong with them `moesim.placement.place` says.
    report
        The report.
    reads
        Files that are read.
    """
    from moesim.errors import Fault
    from moesim.files import check_writable
    from moesim.placement.files import record_path

    found = [] if report is None else check_writable(report, "--report")
    plans = [Path(path) for _, _, path in (spec.partition(":") for spec in emit) if path]
    beside = [record_path(path) for path in plans if path.name]
    if report is not None and _real(report) in map(_real, (*plans, *beside)):
        found.append(Fault("would be written over a plan", "--report", report, "a file of its own"))
    read = {_real(path) for path in reads if path}
    written = [("--emit", path) for path in (*plans, *beside)] + ([("--report", report)] if report else [])
    for option, path in written:
        if _real(path) in read:
            found.append(Fault("would be written over what is read", option, str(path), "another file"))
    return found


def _real(path: str | os.PathLike[str]) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a null character, which the check of writing names
        return os.fspath(path)


def attempt(faults: list[Fault], read: Callable[P, T], *args: P.args, **named: P.kwargs) -> T | None:
    """What `read` returns; or None, with what is wrong among `faults`."""
    from moesim.errors import ConfigError, Fault

    try:
        return read(*args, **named)
    except ConfigError as error:
        source = f"{error.source}: " if error.source else ""
        faults += [Fault(f"{source}{fault}") for fault in error.faults]
        return None


def number_of(text: str) -> int | str:
    """A whole number, or the text that is none."""
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and digits.isascii() and len(digits) < 10 else text


def served_as(asked: str, name: str) -> str:
    """How an engine is told of a model: as the user did, if that was a folder or a Hugging Face id."""
    path = Path(asked)
    if path.name == "config.json":
        return str(path.parent)
    return asked if "/" in asked or path.is_dir() else name


def show_files(files: Sequence[EmittedFile]) -> None:
    """Print what was written, and the lines that start engines with it."""
    for file in files:
        typer.echo(f"{file.format}: {file.path} ({file.rows} rows), {file.provenance}")
        for row in file.command.splitlines():
            typer.echo(f"  {row}")
        for note in file.notes:
            typer.echo(f"  ({note})")
