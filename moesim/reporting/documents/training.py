"""What `moesim train` prints: one iteration, or the best layouts for it."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.reporting.documents.base import Count, Degree, Document, Number, Part, Share, Text, Texts
from moesim.reporting.documents.prediction import OpTime


class TrainLayout(Part):
    """Degrees of parallelism."""

    tp: Degree
    cp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    ep: Degree = 1
    etp: Degree = 1
    vpp: Degree = 1

    def __str__(self) -> str:
        degrees = {name: getattr(self, name) for name in ("tp", "cp", "pp", "vpp", "dp", "ep", "etp")}
        return " ".join(f"{name}={n}" for name, n in degrees.items() if n > 1) or "tp=1"


class Iterated(Part):
    """One iteration with one layout."""

    model: Text
    hardware: Text
    nodes: Degree = 1
    layout: TrainLayout
    micro_batch: Degree = 1
    recompute: Text = "none"
    schedule: Text = ""
    zero: Number = 0
    imbalance: Count = 1.0
    step_s: Count
    tokens_per_s: Count
    tokens_per_s_per_device: Count | None = None
    mfu: Count
    devices: Degree
    micro_batches: Number = 1
    memory_bytes: Count
    memory: Annotated[dict[Text, Count], Field(max_length=30)] = {}
    memory_capacity_bytes: Count
    communication_share: Share | None = None
    bubble: Count | None = None
    bound_by: Text = ""
    breakdown: Annotated[list[OpTime], Field(max_length=500)] = []

    def __str__(self) -> str:
        recompute = "no" if self.recompute == "none" else self.recompute
        settings = f"zero {self.zero}, {recompute} recomputation, {self.schedule}"
        return f"{self.layout}, micro-batch {self.micro_batch}, {settings}"


class TrainingDocument(Iterated, Document):
    """What `moesim train --json` prints."""

    title: ClassVar[str] = "Training iteration"

    kind: Literal["training"] = "training"
    feasible: Literal[True] = True

    @property
    def traits(self) -> tuple[str, ...]:
        """Model, machine, layout, settings."""
        return (
            self.model,
            f"{self.devices}x {self.hardware}",
            str(self.layout),
            f"micro-batch {self.micro_batch}",
            f"zero {self.zero}",
            f"{'no' if self.recompute == 'none' else self.recompute} recomputation",
            self.schedule,
        )

    @property
    def machines(self) -> tuple[str, ...]:
        """What it was predicted for."""
        return (self.hardware,)


class TrainingSearch(Document):
    """What `moesim train --search --json` prints."""

    title: ClassVar[str] = "Search of training layouts"

    kind: Literal["training-search"] = "training-search"
    feasible: Literal[True] = True
    model: Text
    hardware: Text
    nodes: Degree = 1
    tried: Number
    fitting: Number
    rejected: Annotated[dict[Text, Number], Field(max_length=100)] = {}
    layouts: Annotated[list[Iterated], Field(max_length=1000)]
    efficient: Annotated[list[Iterated], Field(max_length=1000)] = []
    notes: Texts = []

    @property
    def traits(self) -> tuple[str, ...]:
        """Model and machine."""
        return (self.model, f"{self.nodes} nodes of {self.hardware}")

    @property
    def machines(self) -> tuple[str, ...]:
        """What it was predicted for."""
        return (self.hardware,)
