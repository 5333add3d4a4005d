"""What `moesim validate published` prints: predictions beside figures that others published."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.reporting.documents.base import Document, Number, Part, Signed, Text


class PublishedRow(Part):
    """A figure that others published, and ours."""

    system: Text = ""
    hardware: Text = ""
    metric: Text = ""
    unit: Text = ""
    published: Signed | None = None
    ours: Signed | None = None
    ratio: Signed | None = None
    grade: Text = ""
    kind: Text = ""
    fitted: bool = False
    status: Text = ""
    reason: Text = ""


class Errors(Part):
    """Errors of published figures, as fractions."""

    n: Number = 0
    median_abs_error: Signed | None = None
    mean_abs_error: Signed | None = None
    p90_abs_error: Signed | None = None
    median_signed_error: Signed | None = None


Table = Annotated[dict[Text, Errors], Field(max_length=500)]


class Unsupported(Part):
    """Figures that moesim cannot predict."""

    n: Number = 0
    n_gate_grade: Number = 0
    reasons: Annotated[dict[Text, Number], Field(max_length=1000)] = {}


class PublishedSummary(Errors):
    """Over all rows of the gate's grade, those judged, and by kind and system."""

    rows: Number = 0
    judged: Errors = Errors()
    fitted: Number = 0
    judged_by_kind: Table = {}
    judged_by_system: Table = {}
    unsupported: Unsupported = Unsupported()


class PublishedValidation(Document):
    """What `moesim validate published --json` prints."""

    title: ClassVar[str] = "Predictions beside published figures"

    kind: Literal["validation-published"] = "validation-published"
    rows: Annotated[list[PublishedRow], Field(max_length=20_000)]
    summary: PublishedSummary

    @property
    def traits(self) -> tuple[str, ...]:
        """How many figures."""
        return (f"{self.summary.rows:,} published figures",)
