"""What `moesim replay` prints: hits by rule, hits of every capacity, and systems with time."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from moesim.reporting.documents.base import (
    MAX_LAYERS,
    Count,
    Document,
    FileName,
    LayerId,
    Number,
    Part,
    Share,
    Signed,
    Text,
    Texts,
)
from moesim.reporting.documents.simulation import Ends

Capacities = Annotated[list[Number], Field(min_length=1, max_length=1_000_000)]
Counts = Annotated[list[Count], Field(max_length=MAX_LAYERS)]


class Conditions(Part):
    """Under which a cache was replayed."""

    pool: Text = ""
    lookup: Text = ""
    cold: Text = ""
    reset: Text = ""
    start: Text = ""

    def __str__(self) -> str:
        names = ("lookup", "cold", "reset", "start")
        said = (f"{name} {value}" for name in names if (value := getattr(self, name)))
        pool = "one pool of all layers" if self.pool == "global" else f"a pool per {self.pool or 'layer'}"
        return ", ".join([pool, *said])


class Hits(Part):
    """One rule."""

    policy: Text
    conditions: Conditions = Conditions()
    slots: Number
    hits: Number
    misses: Number
    cold_misses: Number = 0
    evictions: Number = 0
    accesses: Number
    hit_ratio: Share | None
    hits_per_layer: Counts = []
    accesses_per_layer: Counts = []
    expert_bytes: Count | None = None
    bytes_moved: Count | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Hits:
        if len(self.hits_per_layer) != len(self.accesses_per_layer):
            raise ValueError("hits_per_layer and accesses_per_layer have not the same length")
        return self


class ReplayDocument(Hits, Document):
    """What `moesim replay --json` prints: the first rule's own fields, and those of all rules."""

    title: ClassVar[str] = "Replay of a cache of experts"

    kind: Literal["replay"] = "replay"
    trace: FileName = ""
    concurrency: Number = 1
    moe_layer_ids: Annotated[list[LayerId], Field(max_length=MAX_LAYERS)] = []
    policies: Annotated[list[Hits], Field(max_length=100)] = []

    @property
    def rules(self) -> list[Hits]:
        """All rules."""
        return list(self.policies) or [self]

    @property
    def traits(self) -> tuple[str, ...]:
        """Trace, slots, rule, conditions."""
        several = bool(self.policies)
        return (
            self.trace,
            f"{self.slots:,} slots",
            "" if several else self.policy,
            f"{self.concurrency} at once",
            str(self.conditions),
        )


class CapacityCurve(Part):
    """Hits of one rule at every capacity."""

    policy: Text
    conditions: Conditions = Conditions()
    capacities: Capacities
    hits: Annotated[list[Number], Field(max_length=1_000_000)] = []
    accesses: Number
    hit_ratio: Annotated[list[Share | None], Field(min_length=1, max_length=1_000_000)]

    @model_validator(mode="after")
    def _consistent(self) -> CapacityCurve:
        if len(self.capacities) != len(self.hit_ratio):
            raise ValueError("capacities and hit_ratio have not the same length")
        if any(b <= a for a, b in zip(self.capacities, self.capacities[1:], strict=False)):
            raise ValueError("capacities do not ascend")
        return self


class CurveDocument(Document):
    """What `moesim replay --curve --json` prints."""

    title: ClassVar[str] = "Hits of every capacity"

    kind: Literal["replay-curve"] = "replay-curve"
    trace: FileName = ""
    curves: Annotated[dict[Text, CapacityCurve], Field(min_length=1, max_length=20)]

    @model_validator(mode="after")
    def _alike(self) -> CurveDocument:
        if len({tuple(curve.capacities) for curve in self.curves.values()}) > 1:
            raise ValueError("curves are of different capacities")
        return self

    @property
    def traits(self) -> tuple[str, ...]:
        """Trace, conditions."""
        first = next(iter(self.curves.values()))
        return (self.trace, str(first.conditions), f"{first.accesses:,} accesses")


class AssumedNumber(Part):
    """What a source leaves open, and what that does."""

    name: Text
    value: Signed
    range: Ends = [None, None]
    why: Text = ""
    hit_ratio: Ends | None = None
    tpot_s: Ends | None = None


class SystemRow(Part):
    """One system."""

    system: Text
    variant: Text = ""
    slots: Text = ""
    assumed: Annotated[list[AssumedNumber], Field(max_length=50)] = []
    lacks: Texts = []
    gap: Signed | None = None
    refused: Text | None = None
    ttft_s: Count | None = None
    tpot_s: Count | None = None
    tpot_p50_s: Count | None = None
    tpot_p99_s: Count | None = None
    output_throughput: Count | None = None
    hit_ratio: Share | None = None
    accesses: Number | None = None
    loads: Number | None = None
    prefetched: Number | None = None
    wasted: Number | None = None
    on_cpu: Number | None = None
    slots_held: Number | None = None
    bytes_moved: Annotated[dict[Text, Count], Field(max_length=20)] = {}
    busy: Annotated[dict[Text, Count], Field(max_length=20)] = {}
    stalls: Annotated[dict[Text, Count], Field(max_length=20)] = {}
    bounds: Annotated[dict[Text, Count | None], Field(max_length=20)] = {}
    assumptions: Texts = []

    @property
    def name(self) -> str:
        """System, and its variant where it is not the paper's."""
        return self.system if self.variant in ("", "paper") else f"{self.system} ({self.variant})"


class SystemsDocument(Document):
    """What `moesim replay --system ... --json` prints."""

    title: ClassVar[str] = "Replay of offloading systems"

    kind: Literal["replay-systems"] = "replay-systems"
    trace: FileName = ""
    hardware: Text
    model: Text
    slots: Number
    tokens: Number
    slots_chosen: Texts = []
    learnt_from: FileName | None = None
    learnt_tokens: Number = 0
    rows: Annotated[list[SystemRow], Field(min_length=1, max_length=500)]

    @property
    def traits(self) -> tuple[str, ...]:
        """Trace, model, machine, slots."""
        return (
            self.trace,
            self.model,
            self.hardware,
            f"{self.slots:,} slots",
            f"{self.tokens:,} tokens",
            ", ".join(self.slots_chosen),
        )

    @property
    def machines(self) -> tuple[str, ...]:
        """What it was replayed on."""
        return (self.hardware,)
