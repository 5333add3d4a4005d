"""Read results from files: JSON of commands, tables, pages. Nothing in them is trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.reporting import requests_file
from moesim.reporting.documents import (
    KINDS,
    READ,
    Document,
    HardwareSources,
    Provenance,
    ReportDocument,
    SimulationDocument,
    StudyDocument,
    checked,
    fault_of,
    kind_of,
    last_part,
)
from moesim.reporting.embedded import data_in_page, is_page
from moesim.reporting.sections import labels_of
from moesim.reporting.study_file import is_study, study_of

MAX_BYTES = 32_000_000
_PARQUET = ".parquet"


def read_documents(paths: Sequence[str | os.PathLike[str]], *, title: str = "") -> ReportDocument:
    """One report from several files.

    A simulation's document and the table of its requests are one result: the table whose name the document
    says it wrote, or that differs from it in the suffix alone.

    Parameters
    ----------
    paths
        What commands print with ``--json``, tables of requests and of studies, pages, or their data.
    title
        Heading of the page.

    Raises
    ------
    ConfigError
        With every fault of every file.
    """
    faults: list[Fault] = []
    results: list[Document] = []
    names: list[str] = []
    named = False
    notes: list[str] = []
    machines: dict[str, HardwareSources] = {}
    listed = list(map(Path, paths))
    for path, found in _found(listed, faults):
        if isinstance(found, ReportDocument):
            results += found.results
            names += found.labels or labels_of(found.results)
            named = named or bool(found.labels)
            notes += [note for note in found.notes if note not in notes]
            machines.update({machine.name: machine for machine in found.hardware})
            title = title or (found.title if len(listed) == 1 else "")
        else:
            results.append(found)
            names.append(path.stem)
    if faults:
        raise ConfigError(faults)
    # One result needs no name; but a page of one may have been given one.
    labels = names if len(set(names)) == len(names) and (len(names) > 1 or named) else []
    raw = {
        "title": title,
        "notes": notes,
        "results": [result.model_dump() for result in results],
        "labels": labels,
        "hardware": [machine.model_dump() for machine in machines.values()],
        "provenance": merged([result.provenance for result in results]).model_dump(),
    }
    return checked(ReportDocument, raw, "report")


def _found(paths: list[Path], faults: list[Fault]) -> list[tuple[Path, Document | ReportDocument]]:
    """What files hold, in their order; what is wrong with them is added to `faults`."""
    is_table = [path.suffix.lower() in requests_file.SUFFIXES for path in paths]
    tables = [path for path, table in zip(paths, is_table, strict=True) if table]
    joined: set[Path] = set()
    found: dict[int, Document | ReportDocument] = {}
    # Documents first: they say which tables are theirs.
    for i in sorted(range(len(paths)), key=lambda i: is_table[i]):
        if paths[i] in joined:
            continue
        try:
            one = _read(paths[i], tables, joined)
        except ConfigError as error:
            faults += [Fault(f"{error.source}: {fault}") for fault in error.faults]
            continue
        if one is not None:
            found[i] = one
    return [(paths[i], found[i]) for i in sorted(found)]


def read_document(path: Path) -> Document | ReportDocument:
    """The document of one file.

    Raises
    ------
    ConfigError
        With every fault: unreadable, too big, no JSON, of another kind, infeasible, wrong inside.
    """
    found = _read(path, [], set())
    assert found is not None
    return found


def _read(path: Path, tables: list[Path], joined: set[Path]) -> Document | ReportDocument | None:
    """The document of a file with the table that belongs to it; None if it only names another file."""
    if path.suffix.lower() in requests_file.SUFFIXES:
        return _table(path)
    raw = load(path)
    if raw.get("kind") == "report":
        return checked(ReportDocument, raw, path)
    if raw.get("feasible") is False:
        reason = str(raw.get("reason", ""))[:200]
        raise ConfigError(Fault(f"says that the configuration is infeasible ({reason})", "feasible"), path)
    kind = kind_of(raw)
    named = last_part(str(raw.get("table", "")))
    if kind == "study" and "rows" not in raw and named in {table.name for table in tables}:
        return None
    if not kind or (kind == "study" and "rows" not in raw):
        raise ConfigError(fault_of(raw), path)
    found = checked(KINDS[kind], raw, path)
    if isinstance(found, SimulationDocument) and (table := _own(found, path, tables)) is not None:
        joined.add(table)
        return _joined(found, path, table)
    return found


def _table(path: Path) -> Document:
    """A table of requests or of a study."""
    if not path.is_file():
        raise ConfigError(Fault("cannot be read: no such file", allowed=READ), path)
    if path.suffix.lower() == _PARQUET and is_study(_columns(path)):
        return checked(StudyDocument, study_of(path), path)
    fields = requests_file.fields_of(requests_file.read_requests(path))
    return checked(SimulationDocument, {**fields, "table": path.name}, path)


def _columns(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(Fault(f"is no Parquet file: {' '.join(str(error).split())[:200]}"), path) from None


def _own(document: SimulationDocument, path: Path, tables: list[Path]) -> Path | None:
    """The table of a document's requests, if it is among the files."""
    written = set(document.written)
    near = [table for table in tables if table.parent == path.parent and table.stem == path.stem]
    return next(iter([table for table in tables if table.name in written] or near), None)


def _joined(document: SimulationDocument, path: Path, table: Path) -> SimulationDocument:
    """A document with what the table of its requests says of single ones."""
    requests = requests_file.read_requests(table)
    several = document.replications is not None and document.replications.n > 1
    if not several and len(requests) != document.requests:
        why = f"has {len(requests):,} requests, and {path.name} is of {document.requests:,.0f}"
        raise ConfigError(Fault(f"is of another run: {why}"), table)
    plain = document.model_dump()
    return checked(
        SimulationDocument, plain | requests_file.fields_of(requests, plain) | {"table": table.name}, path
    )


def load(path: Path) -> dict[str, Any]:
    """The JSON object of a file, or inside a page.

    Raises
    ------
    ConfigError
        If there is none.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ConfigError(Fault("is no file", allowed=READ), path)
        if size > MAX_BYTES:
            raise ConfigError(Fault("is too big", value=f"{size:,} bytes", allowed=f"{MAX_BYTES:,}"), path)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(Fault(f"cannot be read: {reason}", allowed=READ), path) from None
    except UnicodeDecodeError:
        raise ConfigError(Fault("is no UTF-8 text", allowed=READ), path) from None
    try:
        raw = json.loads(
            data_in_page(text) if is_page(text) else text,
            parse_constant=_not_finite,
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise ConfigError(Fault("is nested too deeply", allowed=READ), path) from None
    except ValueError as error:
        what = "page of moesim" if is_page(text) else "JSON"
        raise ConfigError(Fault(f"is no {what}: {error}", allowed=READ), path) from None
    if not isinstance(raw, dict):
        raise ConfigError(Fault("is no JSON object", allowed=READ), path)
    version = raw.get("schema_version", 1)
    if version != 1:
        raise ConfigError(Fault("is of another version", "schema_version", version, "1"), path)
    return raw


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has key {twice[:80]!r} twice")
    return found


def merged(found: Sequence[Provenance]) -> Provenance:
    """Versions that all share, and all inputs; only the last part of a path is of use elsewhere."""
    inputs = {name: digest for one in found for name, digest in one.inputs.items()}
    seeds = {one.seed for one in found}
    return Provenance(
        moesim=", ".join(sorted({one.moesim for one in found if one.moesim})),
        python=", ".join(sorted({one.python for one in found if one.python})),
        seed=seeds.pop() if len(seeds) == 1 else None,
        inputs=inputs,
    )
