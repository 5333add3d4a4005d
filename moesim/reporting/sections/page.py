"""The sections of a page, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moesim.reporting import documents as doc
from moesim.reporting.sections import (
    benchmarked,
    kernels,
    offloads,
    placements,
    plans,
    predictions,
    published,
    referenced,
    replays,
    scoreboards,
    served,
    simulations,
    statistics,
    studies,
    trainings,
    validations,
)
from moesim.reporting.sections.labels import labels_of
from moesim.reporting.sections.parts import Section

#: Makes the sections of all results of one kind: of documents, labels, and whether there are other kinds.
Maker = Callable[[Sequence[Any], Sequence[str], bool], list[Section]]

MAKERS: Mapping[type[doc.Document], Maker] = {
    doc.PredictionDocument: predictions.sections_of,
    doc.PlacementDocument: placements.sections_of,
    doc.SimulationDocument: simulations.sections_of,
    doc.PlanDocument: plans.sections_of,
    doc.StudyDocument: studies.sections_of,
    doc.ReplayDocument: replays.sections_of,
    doc.CurveDocument: replays.curve_sections,
    doc.SystemsDocument: offloads.sections_of,
    doc.StatisticsDocument: statistics.sections_of,
    doc.ServingValidation: validations.maker("serving", served.parts),
    doc.RunsValidation: validations.maker("runs", benchmarked.parts),
    doc.KernelsValidation: validations.maker("kernels", kernels.parts),
    doc.PublishedValidation: validations.maker("published", published.parts),
    doc.ReferenceValidation: validations.maker("reference", referenced.parts),
    doc.ScoreboardDocument: validations.maker("scoreboard", scoreboards.parts),
    doc.TrainingDocument: trainings.sections_of,
    doc.TrainingSearch: trainings.search_sections,
}


def sections(report: doc.ReportDocument) -> list[Section]:
    """The sections of a page: results of one kind together, kinds in the order in which they come first."""
    labels = list(report.labels) or labels_of(report.results)
    found: list[Section] = []
    kinds = list(dict.fromkeys(type(result) for result in report.results))
    for kind in kinds:
        own = [(r, label) for r, label in zip(report.results, labels, strict=True) if type(r) is kind]
        found += MAKERS[kind]([r for r, _ in own], [label for _, label in own], len(kinds) > 1)
    return found
