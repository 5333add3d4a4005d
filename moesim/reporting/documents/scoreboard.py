"""What `moesim reproduce` prints."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.reporting.documents.base import Document, Number, Part, Signed, Text
from moesim.reporting.documents.replay import AssumedNumber
from moesim.reporting.documents.simulation import Ends

Verdict = Literal["reproduced", "assumption-bound", "direction", "not reproduced"]


class ScoreboardRow(Part):
    """A published figure and ours."""

    system: Text
    row: Text = ""
    headline: bool = False
    variant: Text = ""
    kind: Text = ""
    metric: Text = ""
    unit: Text = ""
    published: Signed
    published_high: Signed | None = None
    ours: Signed | None = None
    ratio: Signed | None = None
    swept: Ends | None = None
    verdict: Verdict
    steady: bool = False
    grade: Text = ""
    source: Text = ""
    locator: Text = ""
    hardware: Text = ""
    assumed: Annotated[list[AssumedNumber], Field(max_length=100)] = []
    reason: Text = ""
    cause: Text = ""

    @property
    def name(self) -> str:
        """System and row, with the variant where it is not the paper's."""
        return f"{self.system}, {self.row}" + (" (code)" if self.variant == "code" else "")


class Tally(Part):
    """Rows by verdict."""

    n: Number
    verdicts: Annotated[dict[Text, Number], Field(max_length=20)] = {}
    steady: Number = 0
    causes: Annotated[dict[Text, Number], Field(max_length=20)] = {}
    median_abs_log_ratio: Signed | None = None


class ScoreboardSummary(Tally):
    """Of all rows, of headlines, of claims of abstracts."""

    systems: Number = 0
    headlines: Tally = Tally(n=0)
    claims: Tally = Tally(n=0)


class ScoreboardDocument(Document):
    """What `moesim reproduce --json` prints."""

    title: ClassVar[str] = "Published systems"

    kind: Literal["scoreboard"] = "scoreboard"
    rows: Annotated[list[ScoreboardRow], Field(min_length=1, max_length=5000)]
    summary: ScoreboardSummary

    @property
    def traits(self) -> tuple[str, ...]:
        """How much was compared."""
        return (f"{self.summary.systems} systems, {self.summary.n} rows",)
