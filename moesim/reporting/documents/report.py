"""The data behind a page."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.reporting.documents.base import HardwareSources, Part, Provenance, Text, Texts
from moesim.reporting.documents.placement import PlacementDocument
from moesim.reporting.documents.plan import PlanDocument
from moesim.reporting.documents.prediction import PredictionDocument
from moesim.reporting.documents.replay import CurveDocument, ReplayDocument, SystemsDocument
from moesim.reporting.documents.scoreboard import ScoreboardDocument
from moesim.reporting.documents.simulation import SimulationDocument
from moesim.reporting.documents.statistics import StatisticsDocument
from moesim.reporting.documents.study import StudyDocument
from moesim.reporting.documents.training import TrainingDocument, TrainingSearch
from moesim.reporting.documents.validation_kernels import KernelsValidation
from moesim.reporting.documents.validation_published import PublishedValidation
from moesim.reporting.documents.validation_reference import ReferenceValidation
from moesim.reporting.documents.validation_runs import RunsValidation
from moesim.reporting.documents.validation_serving import ServingValidation

AnyDocument = Annotated[
    PredictionDocument
    | PlacementDocument
    | SimulationDocument
    | PlanDocument
    | StudyDocument
    | ReplayDocument
    | CurveDocument
    | SystemsDocument
    | StatisticsDocument
    | ServingValidation
    | RunsValidation
    | KernelsValidation
    | PublishedValidation
    | ReferenceValidation
    | ScoreboardDocument
    | TrainingDocument
    | TrainingSearch,
    Field(discriminator="kind"),
]


class ReportDocument(Part):
    """The data behind a page: what it embeds, and what `moesim report` reads again."""

    schema_version: Literal[1] = 1
    kind: Literal["report"] = "report"
    title: Text = ""
    notes: Texts = []
    results: Annotated[list[AnyDocument], Field(min_length=1, max_length=64)]
    labels: Texts = []
    hardware: Annotated[list[HardwareSources], Field(max_length=64)] = []
    provenance: Provenance = Provenance()
