"""What `moesim predict --json` prints."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.reporting.documents.base import Count, Degree, Document, Part, Positive, Rate, Ratio, Signed, Text


class Layout(Part):
    """Degrees of parallelism."""

    tp: Degree
    pp: Degree
    dp: Degree
    ep: Degree
    world: Degree

    def __str__(self) -> str:
        return f"tp={self.tp} pp={self.pp} dp={self.dp} ep={self.ep}"


class WorkerPool(Part):
    """Equal workers of disaggregated serving."""

    workers: Degree
    layout: Layout

    def __str__(self) -> str:
        return f"{self.workers} x ({self.layout})"


class Pools(Part):
    """Workers that prefill, and workers that decode."""

    prefill: WorkerPool
    decode: WorkerPool


class Interval(Part):
    """Where a measured run is expected."""

    level: Annotated[float, Field(gt=0, lt=1)]
    ttft_s: tuple[Count, Count] = Field(strict=False)
    tpot_s: tuple[Count, Count] = Field(strict=False)
    output_throughput: tuple[Count, Count] | None = Field(None, strict=False)
    basis: Text = ""


class ResourceShare(Part):
    """Part of the time per output token that one resource takes."""

    resource: Text
    share: Signed


class OpTime(Part):
    """One line of a breakdown."""

    op: Text
    seconds: Signed
    bound_by: Text


class RooflinePoint(Part):
    """One operation of a decode step on one rank."""

    op: Text
    flops: Count
    bytes: Count
    seconds: Count
    roof: Text
    bound_by: Text = ""


class Roof(Part):
    """Peaks of a device, for one data type."""

    name: Text
    flops_per_s: Rate
    bytes_per_s: Rate


class Roofline(Part):
    """Operations under the roofs of the device."""

    ops: Annotated[list[RooflinePoint], Field(max_length=500)] = []
    roofs: Annotated[list[Roof], Field(max_length=100)] = []

    @property
    def drawn(self) -> list[RooflinePoint]:
        """Operations that have a place under a roof."""
        names = {roof.name for roof in self.roofs}
        return [p for p in self.ops if p.roof in names and min(p.flops, p.bytes, p.seconds) > 0]


class PredictionDocument(Document):
    """What `moesim predict --json` prints."""

    title: ClassVar[str] = "Prediction"

    kind: Literal["prediction"] = "prediction"
    feasible: Literal[True]
    model: Text
    hardware: Text
    layout: Layout
    pools: Pools | None = None
    devices: Degree | None = None
    input_len: Positive
    output_len: Positive
    concurrency: Positive
    request_rate: Positive | None = None
    running: Positive
    ttft_s: Positive
    tpot_s: Positive
    e2el_s: Positive
    request_throughput: Positive
    output_throughput: Positive
    total_token_throughput: Positive
    output_throughput_per_device: Positive
    memory_bytes: Count
    memory_capacity_bytes: Positive
    load_imbalance: Ratio | None = None
    experts: Annotated[dict[Text, Count | None], Field(max_length=50)] = {}
    bounds: Annotated[dict[Text, Count | None], Field(max_length=50)] = {}
    interval: Interval | None = None
    bottleneck: Annotated[list[ResourceShare], Field(max_length=100)] = []
    breakdown: Annotated[list[OpTime], Field(max_length=500)] = []
    roofline: Roofline | None = None

    @property
    def num_devices(self) -> int:
        """Devices of the whole deployment."""
        return self.devices or self.layout.world

    @property
    def layout_text(self) -> str:
        """The layout in one line."""
        return (
            str(self.layout)
            if self.pools is None
            else f"{self.pools.prefill} prefill, {self.pools.decode} decode"
        )

    @property
    def traffic_text(self) -> str:
        """How many requests, in a few words."""
        if self.request_rate is not None:
            return f"{self.request_rate:,.6g} requests/s"
        return f"{self.concurrency:,.6g} concurrent requests"

    @property
    def traits(self) -> tuple[str, ...]:
        """Model, hardware, layout, lengths, load."""
        return (
            self.model,
            f"{self.num_devices}x {self.hardware}",
            self.layout_text,
            f"{self.input_len:g} in, {self.output_len:g} out",
            f"{self.request_rate:g} requests/s" if self.request_rate else f"{self.concurrency:g} requests",
        )

    @property
    def machines(self) -> tuple[str, ...]:
        """What it was predicted for."""
        return (self.hardware,)
