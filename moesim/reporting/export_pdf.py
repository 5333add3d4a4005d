"""A report as a PDF: the answer on the first page, then figures as lines, then tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from moesim.reporting.blocks import Block, Setter
from moesim.reporting.canvas import style
from moesim.reporting.documents import ReportDocument
from moesim.reporting.figures import PRINT
from moesim.reporting.sections import Section
from moesim.reporting.sheets import pages_of, sheet
from moesim.reporting.typeset import wrapped
from moesim.reporting.view import View, view_of

#: A4, in points.
_A4, _MARGIN, _SIZE = (595.28, 841.89), 45.0, 9.0
#: Rows of a table, and sentences of a kind, that are shown.
_MOST_ROWS, _MOST_SENTENCES = 60, 40


def write_pdf(document: ReportDocument, stream: IO[bytes]) -> None:
    """Write a report as pages of A4 whose text can be selected; the same report gives the same bytes."""
    from matplotlib.backends.backend_pdf import PdfPages

    view = view_of(document)
    width, height = (size - 2 * _MARGIN for size in _A4)
    # A figure leaves room for its title and the beginning of its caption.
    setter = Setter(width, _SIZE, PRINT, height - 90)
    pages = list(pages_of(list(_flow(view, setter)), height))
    about = {"Title": view.title, "Creator": "moesim", "Producer": None, "CreationDate": None}
    name = wrapped(view.title, width - 90, 7.0)[0]
    with style(PRINT), PdfPages(stream, metadata=about) as file:
        for nth, blocks in enumerate(pages, 1):
            with sheet(blocks, _A4, _MARGIN, PRINT, f"{name}, page {nth} of {len(pages)}") as drawn:
                file.savefig(drawn)


def _flow(view: View, setter: Setter) -> Iterator[Block]:
    several = len(view.sections) > 1
    yield from setter.text(view.title, scale=1.7, bold=True, keep=True)
    for note in view.notes:
        yield from setter.text(note, gap=0.4)
    for section in view.sections:
        lead = f"{section.title}: {section.answer.lead}" if several else section.answer.lead
        yield from setter.text(lead, scale=1.15, gap=0.7)
        if view.tiled:
            yield from setter.tiles(section.tiles)
    for section in view.sections:
        if several:
            yield from setter.text(section.title, scale=1.35, bold=True, gap=1.6, keep=True)
            if not view.tiled:
                yield from setter.tiles(section.tiles)
        yield from _section(section, view.doubts, setter)
    yield from _provenance(view, setter)


def _section(section: Section, doubts: tuple[str, ...], setter: Setter) -> Iterator[Block]:
    for heading, sentences in section.answer.points:
        yield from setter.text(heading, bold=True, scale=1.1, gap=0.8, keep=True)
        yield from _sentences((*sentences, *(doubts if heading == "Uncertain" else ())), setter)
    first, rest = section.tables[:1], section.tables[1:]
    for table in first:
        yield from setter.table(table, _MOST_ROWS)
    for figure in section.figures:
        yield from setter.figure(figure)
    for text in section.missing:
        yield from setter.text(f"Not shown: {text[:1].lower()}{text[1:]}", dim=True, gap=0.5)
    for table in rest:
        if table.folded:
            yield from setter.text(
                f"{table.title}: {len(table.rows)} rows, in the HTML page of the same data.",
                dim=True,
                gap=0.8,
            )
        else:
            yield from setter.table(table, _MOST_ROWS)
    if section.warnings:
        yield from setter.text("Warnings", bold=True, scale=1.1, gap=1.0, keep=True)
        yield from _sentences(section.warnings, setter)


def _sentences(sentences: tuple[str, ...], setter: Setter) -> Iterator[Block]:
    for sentence in sentences[:_MOST_SENTENCES]:
        yield from setter.text(sentence, gap=0.15)
    if len(sentences) > _MOST_SENTENCES:
        yield from setter.text(f"And {len(sentences) - _MOST_SENTENCES} more.", dim=True)


def _provenance(view: View, setter: Setter) -> Iterator[Block]:
    yield from setter.text("Provenance", scale=1.35, bold=True, gap=1.6, keep=True)
    found = view.provenance
    rows = [
        ["moesim", found.moesim or "not recorded"],
        ["Python", found.python or "not recorded"],
        ["seed", "not recorded" if found.seed is None else str(found.seed)],
        *([name, f"sha256 {digest}"] for name, digest in found.inputs.items()),
    ]
    yield from setter.rows(["", ""], rows, [False, False])
    for machine in view.machines:
        if machine.unsure:
            yield from setter.text(
                f"Assumed or recalled numbers of {machine.name}, not read from a source",
                bold=True, gap=1.0, keep=True,
            )  # fmt: skip
            yield from setter.rows(
                ["number", "known as", "source"],
                [list(row) for row in machine.unsure[:_MOST_ROWS]],
                [False] * 3,
            )
    if view.no_sources:
        yield from setter.text(
            "The data behind this report does not say where the numbers of the hardware come from; "
            "moesim hardware show NAME does.", dim=True, gap=0.5,
        )  # fmt: skip
