"""What `moesim validate serving RUN` prints: predictions beside benchmark runs, request by request."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.reporting.documents.base import (
    Count,
    Document,
    FileName,
    Number,
    Part,
    Signed,
    Text,
    Texts,
)


class Statistics(Part):
    """Of one latency of one run."""

    mean: Signed | None = None
    median: Signed | None = None
    p90: Signed | None = None
    p99: Signed | None = None


class RunError(Part):
    """Signed errors of one latency, and how far whole distributions are apart, as fractions."""

    mean_error: Signed | None = None
    median_error: Signed | None = None
    p90_error: Signed | None = None
    p99_error: Signed | None = None
    wasserstein: Signed | None = None
    ks: Signed | None = None
    request_error: Signed | None = None
    correlation: Signed | None = None


Sides = Annotated[dict[Text, Statistics | Count | None], Field(max_length=20)]
RunErrors = Annotated[dict[Text, RunError], Field(max_length=20)]


class MeasuredRun(Part):
    """A benchmark run and its prediction."""

    path: FileName = ""
    model: Text = ""
    hardware: Text = ""
    backend: Text = ""
    layout: Text = ""
    requests: Number = 0
    concurrency: Count | None = None
    request_rate: Count | None = None
    measured: Sides
    predicted: Sides
    errors: RunErrors
    assumed: Texts = []
    notes: Texts = []

    @property
    def name(self) -> str:
        """Its folder or file."""
        return f"{self.model or self.path} on {self.hardware}"

    def pair(self, metric: str, statistic: str) -> tuple[float, float] | None:
        """Measured and predicted seconds; None where one is missing."""
        sides = []
        for side in (self.measured, self.predicted):
            found = side.get(metric)
            sides.append(getattr(found, statistic) if isinstance(found, Statistics) else None)
        one, other = sides
        return None if one is None or other is None else (one, other)


class RunsValidation(Document):
    """What `moesim validate serving RUN --json` prints."""

    title: ClassVar[str] = "Predictions beside benchmark runs"

    kind: Literal["validation-runs"] = "validation-runs"
    rows: Annotated[list[MeasuredRun], Field(min_length=1, max_length=1000)]
    summary: RunErrors = {}

    @property
    def traits(self) -> tuple[str, ...]:
        """The run, or how many."""
        return (self.rows[0].name if len(self.rows) == 1 else f"{len(self.rows)} runs",)
