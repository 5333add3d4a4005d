"""What `moesim validate kernels` prints: predictions beside tables of measured kernels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.reporting.documents.base import Document, Number, Part, Signed, Text


class KernelError(Part):
    """Modelled beside measured times of one kernel on one device; errors are fractions."""

    device: Text
    kernel: Text
    dtype: Text = ""
    backend: Text = ""
    version: Text = ""
    modelled_by: Text | None = None
    n: Number = 0
    median_abs_error: Signed | None = None
    mean_abs_error: Signed | None = None
    p90_abs_error: Signed | None = None
    median_signed_error: Signed | None = None


class KernelSummary(Part):
    """Over kernels."""

    kernels: Number = 0
    without_surface: Number = 0
    n: Number = 0
    median_of_medians: Signed | None = None
    median_of_p90: Signed | None = None
    worst_median: Signed | None = None


class KernelsValidation(Document):
    """What `moesim validate kernels --json` prints."""

    title: ClassVar[str] = "Modelled kernels beside measured ones"

    kind: Literal["validation-kernels"] = "validation-kernels"
    rows: Annotated[list[KernelError], Field(max_length=10_000)]
    summary: KernelSummary

    @property
    def traits(self) -> tuple[str, ...]:
        """Devices."""
        return (", ".join(dict.fromkeys(row.device for row in self.rows)), f"{self.summary.kernels} kernels")
