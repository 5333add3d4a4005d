"""What the table of a study says: `moesim plan --grid`."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from moesim.reporting.documents.base import Document, Number, Part, Signed, Text

#: Rows that a page keeps; of more, the best and an even choice of the others.
MOST_ROWS = 2000
#: Settings that a page names.
MOST_SETTINGS = 40

Setting = Text | Signed | bool | None


class StudyRow(Part):
    """One configuration: what was varied, and what came of it."""

    settings: Annotated[dict[Text, Setting], Field(max_length=MOST_SETTINGS)]
    values: Annotated[dict[Text, Signed | None], Field(max_length=50)]


class Reason(Part):
    """Why configurations have no answer."""

    count: Number
    status: Text
    reason: Text


class Varied(Part):
    """What one setting does: the median of a metric over all configurations with each of its values."""

    setting: Text
    values: Annotated[list[Text], Field(max_length=200)]
    medians: Annotated[list[Signed | None], Field(max_length=200)]
    counts: Annotated[list[Number], Field(max_length=200)]

    @model_validator(mode="after")
    def _columns(self) -> Varied:
        if len({len(self.values), len(self.medians), len(self.counts)}) != 1:
            raise ValueError("values, medians and counts have not the same length")
        return self


class StudyDocument(Document):
    """The table of a study, as far as a page shows it."""

    title: ClassVar[str] = "Study"

    kind: Literal["study"] = "study"
    name: Text = ""
    evaluates: Text = ""
    configurations: Number
    statuses: Annotated[dict[Text, Number], Field(max_length=20)]
    reasons: Annotated[list[Reason], Field(max_length=100)] = []
    fixed: Annotated[dict[Text, Setting], Field(max_length=100)] = {}
    metric: Text = "output_throughput"
    varied: Annotated[list[Varied], Field(max_length=MOST_SETTINGS)] = []
    rows: Annotated[list[StudyRow], Field(max_length=MOST_ROWS)] = []

    @property
    def traits(self) -> tuple[str, ...]:
        """Its name and size."""
        return (self.name, f"{self.configurations:,} configurations")

    @property
    def machines(self) -> tuple[str, ...]:
        """Machines it names."""
        found = [self.fixed.get("hardware"), *(row.settings.get("hardware") for row in self.rows)]
        return tuple(dict.fromkeys(name for name in found if isinstance(name, str)))
