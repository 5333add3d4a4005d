"""What a report shows, before it is known whether as a page, a PDF or an image."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.reporting.documents import (
    HardwareSources,
    Provenance,
    ReportDocument,
)
from moesim.reporting.sections import Section, sections, sources, title_of

#: Sections whose tiles stand on the first screen; of more, only the sentences.
MOST_TILED = 3


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the numbers of a machine come from.

    Parameters
    ----------
    unsure, rows
        ``(number, how it is known, source)``: those that were not read from a source, and all.
    """

    name: str
    title: str
    unsure: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class View:
    """Everything of a report in the order it is shown.

    Parameters
    ----------
    doubts
        How much of the machines is not from a source.
    no_sources
        Whether a machine is behind the numbers, and nothing says where its numbers are from.
    """

    title: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    doubts: tuple[str, ...]
    machines: tuple[Machine, ...]
    no_sources: bool
    provenance: Provenance

    @property
    def tiled(self) -> bool:
        """Whether all tiles stand on the first screen."""
        return len(self.sections) <= MOST_TILED


def view_of(document: ReportDocument) -> View:
    """What a report shows."""
    return View(
        title=document.title or title_of(document.results),
        notes=tuple(document.notes),
        sections=tuple(sections(document)),
        doubts=tuple(sources.of_hardware(document.hardware)),
        machines=tuple(map(_machine, document.hardware)),
        no_sources=not document.hardware and any(r.machines for r in document.results),
        provenance=document.provenance,
    )


def _machine(machine: HardwareSources) -> Machine:
    rows = tuple((path, sources.status(source), source) for path, source in machine.sources.items())
    return Machine(machine.name, machine.title, tuple(row for row in rows if row[1] in sources.UNSURE), rows)
