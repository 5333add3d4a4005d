"""One self-contained page: words, figures, tables, provenance, and the data behind them."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, cast

from moesim._version import __version__
from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.hardware.types import Hardware
from moesim.model.types import Model
from moesim.placement import Placed
from moesim.reporting import documents as doc
from moesim.reporting.documents.base import Part, Texts
from moesim.reporting.figures import DARK, PRINT
from moesim.reporting.gather import documents_of, machine_of, placement_document
from moesim.trace.types import LoadCounts, RoutingTrace


class _Labels(Part):
    """Names, checked as all text is."""

    labels: Texts


#: Of an image.
THEMES = {"light": PRINT, "dark": DARK}
#: What a report can be, by suffix.
FORMATS = (".html", ".pdf", ".png")


def report(
    results: Any,  # noqa: ANN401 - any result that has a page, or several
    path: str | os.PathLike[str],
    *,
    title: str = "",
    labels: Sequence[str] = (),
    notes: Sequence[str] = (),
    routing: RoutingTrace | LoadCounts | None = None,
    seed: int | None = None,
    inputs: Iterable[str | os.PathLike[str]] = (),
    theme: str = "light",
) -> Path:
    """Write one self-contained report: a page, a PDF, or an image of the first screen.

    Results of a kind are compared side by side. The same results give the same bytes.

    Parameters
    ----------
    results
        What to show: one or several of what `predict`, `place`, `simulate`, `plan` and `statistics` return,
        and replays of caches.
    path
        What to write: ``.html``, ``.pdf`` or ``.png``.
    title
        Its heading; made from the results if not given.
    labels
        A name for each result; made from what differs between them if not given.
    notes
        Sentences to show beside the answer: what a reader must know about the inputs.
    routing
        What a placement was fitted to: with it the page shows expert and rank loads.
    seed
        The seed that was used, for the provenance.
    inputs
        Files that were read; their SHA-256 goes into the provenance.
    theme
        Of an image: ``light`` or ``dark``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ConfigError
        If there are no results, one is of a type without a page, there are labels of another number, or the
        page cannot be written.

    Examples
    --------
    >>> import moesim as ms
    >>> answer = ms.predict(
    ...     ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8"), ms.Parallelism(dp=8, ep=8),
    ...     ms.Workload(input_len=1024, output_len=1024, concurrency=256),
    ... )
    >>> folder = getfixture("tmp_path")
    >>> report([answer], folder / "out.html").name
    'out.html'
    """
    listed = list(results) if isinstance(results, Sequence) else [results]
    found = documents_of(listed, routing)
    if labels and len(labels) != len(listed):
        raise ConfigError(Fault(f"{len(labels)} labels for {len(listed)} results", "labels"))
    machines = {m.name: m for result in listed if (m := machine_of(result)) is not None}
    provenance = _provenance(inputs, seed, routing)
    shown = [_with_provenance(document, provenance) for document in found]
    return write_page(
        doc.ReportDocument(
            title=title,
            notes=list(notes),
            results=shown,
            labels=list(labels),
            hardware=[sources_of(machine) for machine in machines.values()],
            provenance=provenance,
        ),
        path,
        theme,
    )


def write_placement_report(
    placed: Placed,
    routing: RoutingTrace | LoadCounts,
    model: Model,
    hardware: Hardware | None,
    path: str | os.PathLike[str],
    *,
    seed: int | None = None,
    notes: Sequence[str] = (),
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> Path:
    """Write the page of a placement and the routing it was fitted to.

    Parameters
    ----------
    hardware
        None if nothing was priced.
    seed, notes, inputs
        As in `report`; the files of model and hardware are added to the inputs.
    """
    files = [model.path, hardware.path if hardware is not None else "", *inputs]
    provenance = _provenance([f for f in files if f], seed, routing)
    document = _with_provenance(placement_document(placed, routing, model.name), provenance)
    machines = [sources_of(hardware)] if hardware is not None else []
    return write_page(
        doc.ReportDocument(notes=list(notes), results=[document], hardware=machines, provenance=provenance),
        path,
    )


def write_page(document: doc.ReportDocument, path: str | os.PathLike[str], theme: str = "light") -> Path:
    """Write a report whole or not at all, as what the suffix says.

    Parameters
    ----------
    path
        ``.html``, ``.pdf`` or ``.png``: one of `FORMATS`.
    theme
        Of an image: ``light`` or ``dark``. Pages follow their reader, and PDFs are for print.

    Raises
    ------
    ConfigError
        If the suffix is of no format, or there is too much for a page.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(Fault("has a suffix of no report", "path", str(path), ", ".join(FORMATS)))
    if theme not in THEMES:
        raise ConfigError(Fault("is no theme", "theme", theme, ", ".join(THEMES)))
    if suffix == ".html":
        from moesim.reporting.export_html import render_page

        page = render_page(document)
        with atomic_write(path) as stream:
            cast("IO[str]", stream).write(page)
        return Path(path)
    with atomic_write(path, "wb") as stream:
        if suffix == ".pdf":
            from moesim.reporting.export_pdf import write_pdf

            write_pdf(document, cast("IO[bytes]", stream))
        else:
            from moesim.reporting.export_png import write_png

            write_png(document, cast("IO[bytes]", stream), THEMES[theme])
    return Path(path)


def relabelled(document: doc.ReportDocument, labels: Sequence[str]) -> doc.ReportDocument:
    """A report whose results have other names.

    Raises
    ------
    ConfigError
        If there are not as many as results, or one is empty, too long, or there twice.
    """
    wrong = []
    if len(labels) != len(document.results):
        wrong.append(Fault(f"{len(labels)} for {len(document.results)} results", "labels"))
    if len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
        wrong.append(Fault("are not all different and not empty", "labels", ", ".join(labels)[:80]))
    if wrong:
        raise ConfigError(wrong)
    return document.model_copy(update={"labels": doc.checked(_Labels, {"labels": list(labels)}).labels})


def sources_of(hardware: Hardware) -> doc.HardwareSources:
    """Where the numbers of a machine come from."""
    return doc.HardwareSources(
        name=hardware.name,
        title=hardware.title,
        sources={str(k): str(v) for k, v in hardware.sources.items()},
    )


def _with_provenance(document: Any, provenance: doc.Provenance) -> Any:  # noqa: ANN401 - any document
    seed = document.provenance.seed if provenance.seed is None else provenance.seed
    return document.model_copy(update={"provenance": provenance.model_copy(update={"seed": seed})})


def _provenance(
    inputs: Iterable[str | os.PathLike[str]], seed: int | None, routing: RoutingTrace | LoadCounts | None
) -> doc.Provenance:
    """Versions, seed, and hashes by file name; of routing held in memory, the hash of its expert loads."""
    hashes = {}
    for name in inputs:
        path = Path(name)
        if path.is_file():
            with path.open("rb") as stream:
                hashes[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    if routing is not None:
        loads = routing.load_counts().totals
        hashes["expert loads, float64 " + "x".join(map(str, loads.shape))] = hashlib.sha256(
            loads.astype("<f8").tobytes()
        ).hexdigest()
    return doc.Provenance(moesim=__version__, python=platform.python_version(), seed=seed, inputs=hashes)
