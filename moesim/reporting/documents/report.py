"""The data behind a page."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.reporting.documents.base import HardwareSources, Part, Provenance, Text, Texts
from moesim.reporting.documents.placement import PlacementDocument
from moesim.reporting.documents.prediction import PredictionDocument

AnyDocument = Annotated[PredictionDocument | PlacementDocument, Field(discriminator="kind")]


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
