"""The sections of a page, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moesim.reporting.documents import Document, PlacementDocument, PredictionDocument, ReportDocument
from moesim.reporting.sections import placements, predictions
from moesim.reporting.sections.labels import labels_of
from moesim.reporting.sections.parts import Section

#: Makes the sections of all results of one kind: of documents, labels, and whether there are other kinds.
Maker = Callable[[Sequence[Any], Sequence[str], bool], list[Section]]

MAKERS: Mapping[type[Document], Maker] = {
    PredictionDocument: predictions.sections_of,
    PlacementDocument: placements.sections_of,
}


def sections(report: ReportDocument) -> list[Section]:
    """The sections of a page: results of one kind together, kinds in the order in which they come first."""
    labels = list(report.labels) or labels_of(report.results)
    found: list[Section] = []
    kinds = list(dict.fromkeys(type(result) for result in report.results))
    for kind in kinds:
        own = [(r, label) for r, label in zip(report.results, labels, strict=True) if type(r) is kind]
        found += MAKERS[kind]([r for r, _ in own], [label for _, label in own], len(kinds) > 1)
    return found
