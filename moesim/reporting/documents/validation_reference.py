"""What `moesim validate reference` prints: predictions beside MoE layers run on this machine."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.reporting.documents.base import Count, Document, Number, Part, Share, Signed, Text


class ReferenceRow(Part):
    """One held-out MoE layer that was run."""

    name: Text = ""
    layer: Text = ""
    tokens: Number
    routing: Text = ""
    offloaded: Share = 0.0
    dtype: Text = ""
    predicted_s: Count
    low_s: Count
    high_s: Count
    measured_s: Count
    error: Signed
    roofline_error: Signed | None = None
    inside: bool = False


class Floor(Part):
    """What two equal measurements differ by."""

    median: Signed | None = None
    p95: Signed | None = None


class AbsoluteErrors(Part):
    """Errors of real runs, as fractions."""

    median_abs_error: Signed | None = None
    p90_abs_error: Signed | None = None
    p95_abs_error: Signed | None = None
    max_abs_error: Signed | None = None
    median_signed_error: Signed | None = None


class ReferenceSummary(AbsoluteErrors):
    """Over all layers."""

    device: Text = ""
    n: Number
    rounds: Number | None = None
    verdict: Text = ""
    coverage: Share | None = None
    interval_level: Share | None = None
    raw: AbsoluteErrors | None = None
    roofline: AbsoluteErrors | None = None
    floor: Floor = Floor()


class ReferenceValidation(Document):
    """What `moesim validate reference --json` prints."""

    title: ClassVar[str] = "Predictions beside real runs of this machine"

    kind: Literal["validation-reference"] = "validation-reference"
    device: Text = ""
    rows: Annotated[list[ReferenceRow], Field(min_length=1, max_length=10_000)]
    summary: ReferenceSummary

    @property
    def traits(self) -> tuple[str, ...]:
        """Device and layers."""
        return (self.device or self.summary.device, f"{self.summary.n} layers")
