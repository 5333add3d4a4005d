"""The sections of a page, in their order."""

from __future__ import annotations

from moesim.reporting.documents import PlacementDocument, PredictionDocument, ReportDocument
from moesim.reporting.sections import placements, predictions
from moesim.reporting.sections.labels import labels_of
from moesim.reporting.sections.parts import Section


def sections(report: ReportDocument) -> list[Section]:
    """The sections of a page: predictions together first, then each placement."""
    labels = list(report.labels) or labels_of(report.results)
    pairs = list(zip(report.results, labels, strict=True))
    answers = [(a, label) for a, label in pairs if isinstance(a, PredictionDocument)]
    placed = [(p, label) for p, label in pairs if isinstance(p, PlacementDocument)]
    several = len(placed) + bool(answers) > 1
    found = []
    if answers:
        title = "Predictions" if several else ""
        found.append(predictions.section([a for a, _ in answers], [n for _, n in answers], title))
    for nth, (placement, label) in enumerate(placed):
        found.append(placements.section(placement, label if several else "", f"p{nth + 1}"))
    return found
