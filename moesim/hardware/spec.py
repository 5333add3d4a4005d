"""What a hardware file may say: the schema, version 1.

One file describes one machine and stands alone: device, node, cluster. A number is plain text with a unit
(``"4.8 TB/s"``), or a mapping with ``value``, ``source``, ``status`` and ``note``; a plain number takes the
``source`` and ``status`` of the nearest enclosing mapping that has them.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
)

from moesim.errors import nearest
from moesim.hardware.kernels import FitSpec
from moesim.hardware.quantity import (
    Bytes,
    BytesPerS,
    Count,
    CurveByBytes,
    CurveByFlops,
    FlopsPerS,
    Fraction,
    JoulesPerByte,
    JoulesPerFlop,
    Number,
    Seconds,
    Status,
    UsdPerHour,
    Watts,
)

SCHEMA_VERSION = 1

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=64)]
Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"]
Kind = Literal["gpu", "npu", "tpu", "cpu", "cpu-gpu", "near-data", "wafer", "supernode", "memory", "edge"]
Topology = Literal["switch", "full_mesh", "ring", "tree", "fat_tree", "rail", "planes", "mesh", "torus"]
Scope = Literal["device", "device+phy", "board"]
Backend = Literal["vllm", "sglang", "trtllm"]
#: How tokens travel to their experts, and optionally the serving engine that was measured.
ExchangeKey = Annotated[
    str, StringConstraints(pattern=r"^(low_latency|high_throughput)(\.(vllm|sglang|trtllm))?$")
]
_KINDS = ("gemm", "expert_gemm", "attention_prefill", "attention_decode", "elementwise")
_KEY = re.compile(rf"^(default|({'|'.join(_KINDS)})(\.(fp32|tf32|bf16|fp16|fp8|int8|fp4|mxfp4|int4))?)$")


def _efficiency_key(key: str) -> str:
    if not _KEY.match(key):
        near = nearest(key, ["default", *_KINDS], 1)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(
            f"no kind of operation; allowed: default, {', '.join(_KINDS)}, each also with a data type as in"
            f" gemm.fp8{hint}"
        )
    return key


#: Kind of operation, and optionally its compute data type (``gemm.fp8``) or, where weights alone are
#: packed, their type (``expert_gemm.int4``).
EfficiencyKey = Annotated[
    str, AfterValidator(_efficiency_key), WithJsonSchema({"type": "string", "pattern": _KEY.pattern})
]


class _Part(BaseModel):
    """A part of a description; its numbers take its source unless they name their own."""

    # Parts are compiled once, inside the whole: half the time of a cold start.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    source: str | None = None
    status: Status | None = None
    note: str | None = None


class EfficiencySpec(_Part):
    """How near one kind of operation comes to the roofline."""

    compute: CurveByFlops = ((1.0, 1.0),)
    memory: CurveByBytes = ((1.0, 1.0),)
    floor: Seconds | None = None
    sharpness: Number | None = None


class EfficiencyTable(_Part):
    """Efficiencies of a processor: those of a family, changed or completed kind by kind."""

    like: Name | None = None
    kinds: dict[EfficiencyKey, EfficiencySpec] = {}


def _family(raw: object) -> object:
    return {"like": raw} if isinstance(raw, str) else raw


EfficiencyOrName = Annotated[
    EfficiencyTable, BeforeValidator(_family, json_schema_input_type=str | EfficiencyTable)
]


class EfficiencyFile(EfficiencyTable):
    """A file of the folder ``efficiency``: one family of processors."""

    schema_version: Literal[1]
    name: Name
    title: str
    sources: dict[Name, str] = {}


class KernelTable(_Part):
    """Measured kernels: those of a file of the folder ``kernels``, and the machine's own.

    `measured` says how these came about: whatever `moesim calibrate` notes, for people and for
    `moesim validate reference`.
    """

    like: Name | None = None
    licence: str | None = None
    fits: list[FitSpec] = []
    measured: dict[str, Any] = {}


KernelsOrName = Annotated[KernelTable, BeforeValidator(_family, json_schema_input_type=str | KernelTable)]


class EnergySpec(_Part):
    """Energy of a byte, with what it counts."""

    scope: Scope
    per_byte: JoulesPerByte


class WorkEnergySpec(_Part):
    """Energy of a FLOP by data type, with what it counts."""

    scope: Scope
    per_flop: dict[Dtype, JoulesPerFlop]


class TileSpec(_Part):
    """One configuration of a grouped-GEMM kernel; see `moesim.hardware.tiles.Tile`."""

    name: Name
    rows: Count
    columns: Count
    compute: Fraction
    fill: Seconds
    drain: Seconds
    up_to: Number | None = None


class TilesSpec(_Part):
    """Measured law of grouped GEMMs; see `moesim.hardware.tiles.TileLaw`.

    A configuration is chosen `up_to` a mean number of tokens per expert; the last one has no limit.
    """

    launch: Seconds
    launches: Count
    memory: CurveByBytes = ((1.0, 1.0),)
    moves: CurveByBytes = ((1.0, 1.0),)
    sharpness: Number | None = None
    log_error: tuple[float, float, float] = (0.0, 0.0, 0.0)
    configurations: Annotated[list[TileSpec], Field(min_length=1, max_length=16)]

    @field_validator("configurations")
    @classmethod
    def _rising(cls, made: list[TileSpec]) -> list[TileSpec]:
        limits = [math.inf if tile.up_to is None else tile.up_to.value for tile in made]
        if limits[-1] != math.inf or any(b <= a for a, b in itertools.pairwise(limits)):
            raise ValueError(
                "the limits do not rise; allowed: up_to in rising order, and none for the last configuration"
            )
        return made


class ProcessorSpec(_Part):
    """A compute unit. `bandwidth` is needed only where it differs from the memory's own.

    `kernels` names a file of measured kernels, or holds them: they take the place of efficiencies where there
    are any. `tiles` is a measured law of grouped GEMMs, which goes before either.
    `tile_rows` is 1 for units that multiply a matrix by single vectors; without it, tokens of an expert are
    rounded up to tiles as common grouped-GEMM kernels do.
    """

    cores: Count | None = None
    tile_rows: Count | None = None
    tiles: dict[Dtype, TilesSpec] = {}
    peak: dict[Dtype, FlopsPerS]
    bandwidth: dict[Name, BytesPerS] = {}
    efficiency: EfficiencyOrName | None = None
    kernels: KernelsOrName | None = None
    energy: WorkEnergySpec | None = None
    path_energy: dict[Name, EnergySpec] = {}
    area_mm2: Number | None = None


class MemorySpec(_Part):
    """A memory of a device or host, or storage."""

    capacity: Bytes
    bandwidth: BytesPerS
    latency: Seconds | None = None
    energy: EnergySpec | None = None


class CacheSpec(_Part):
    """The last cache in front of the main memory."""

    capacity: Bytes
    hit: Seconds
    miss: Seconds
    write: Seconds


class PowerSpec(_Part):
    """Power of one device."""

    tdp: Watts | None = None
    idle: Watts | None = None


class PriceSpec(_Part):
    """Price of one device on one day."""

    per_hour: UsdPerHour
    vendor: Annotated[str, StringConstraints(min_length=1)]
    date: dt.date


class DeviceSpec(_Part):
    """One accelerator."""

    title: str
    processors: Annotated[dict[Name, ProcessorSpec], Field(min_length=1)]
    memories: Annotated[dict[Name, MemorySpec], Field(min_length=1)]
    power: PowerSpec | None = None
    price: PriceSpec | None = None
    cache: CacheSpec | None = None


class HostSpec(_Part):
    """CPUs, memory and storage of one node; numbers are of the whole node."""

    title: str
    sockets: Count
    processor: ProcessorSpec
    memory: MemorySpec
    storage: MemorySpec | None = None


class CollectiveSpec(_Part):
    """Fits of one collective: lists of equal length, rising in ranks.

    `share` is bus bandwidth over the link's bandwidth, so that a changed link changes its collectives. Where
    small messages go another way than large ones, `latency` and `small_share` are of the small, and
    `bulk_latency` and `share` of the large.
    """

    ranks: list[Count]
    latency: list[Seconds]
    share: list[Number]
    small_share: list[Number] = []
    bulk_latency: list[Seconds] = []


class CollectivesSpec(_Part):
    """Measured collectives of a link.

    ``all_reduce_custom`` is the median over serving engines of their own all-reduce inside CUDA graphs, and
    ``engines`` has that of each.
    """

    all_reduce: CollectiveSpec | None = None
    all_gather: CollectiveSpec | None = None
    reduce_scatter: CollectiveSpec | None = None
    all_to_all: CollectiveSpec | None = None
    all_reduce_custom: CollectiveSpec | None = None
    engines: dict[Backend, CollectiveSpec] = {}

    def items(self) -> list[tuple[str, CollectiveSpec, str]]:
        """The collectives that are given: name, fit, and path inside this mapping."""
        made = [(name, getattr(self, name), name) for name in _COLLECTIVES]
        made += [(f"all_reduce_custom.{name}", fit, f"engines.{name}") for name, fit in self.engines.items()]
        return [entry for entry in made if entry[1] is not None]


_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "all_reduce_custom")


class LegSpec(_Part):
    """What one kind of link adds to an exchange of tokens; see `moesim.hardware.types.Leg`."""

    latency: Seconds
    share: Fraction
    rate: BytesPerS | None = None
    scan: Seconds | None = None
    spread: Number | None = None


class OneWaySpec(_Part):
    """One way of an exchange: to the experts, or back. `residual` is the median error of the fit."""

    floor: Seconds
    up: LegSpec
    out: LegSpec | None = None
    residual: Fraction | None = None


class ExchangeSpec(_Part):
    """A measured exchange of tokens between expert-parallel ranks.

    `sharpness` is the exponent that joins the floor and the legs; `once` says that a token goes once to a
    rank inside the domain, however many of its experts are there.
    """

    sharpness: Number
    once: bool = False
    dispatch: OneWaySpec
    combine: OneWaySpec


class LinkSpec(_Part):
    """A kind of connection; bandwidth is per device and direction."""

    name: Name
    bandwidth: BytesPerS
    latency: Seconds
    efficiency: Fraction
    topology: Topology
    collectives: CollectivesSpec = CollectivesSpec()
    shape: list[Count] = []
    planes: Count | None = None
    leaf: Count | None = None
    taper: Number | None = None
    hop: Seconds | None = None
    multicast: bool = False
    energy: EnergySpec | None = None


class ScaleUpSpec(LinkSpec):
    """The fast link between accelerators."""

    domain: Count


class NodeSpec(_Part):
    """One node."""

    devices: Count
    scale_up: ScaleUpSpec
    host_link: LinkSpec | None = None
    host: HostSpec | None = None


class ClusterSpec(_Part):
    """Many nodes."""

    network: LinkSpec
    default_nodes: Count | None = None
    max_nodes: Count | None = None


class WireSpec(_Part):
    """One connection of a fabric; bandwidth is per direction."""

    ends: Annotated[list[str], Field(min_length=2, max_length=2)]
    bandwidth: BytesPerS
    latency: Seconds


class FabricSpec(_Part):
    """Connections one by one: devices are ``device:0`` and on; everything else is named in `switches`."""

    topology: Literal["any", "tree"] = "any"
    switches: list[Name] = []
    links: Annotated[list[WireSpec], Field(min_length=1)]


class Spec(_Part):
    """A machine."""

    schema_version: Literal[1]
    name: Name
    title: str
    kind: Kind
    aliases: list[Name] = []
    sources: dict[Name, str] = {}
    devices: Annotated[dict[Name, DeviceSpec], Field(min_length=1, max_length=1)]
    node: NodeSpec
    cluster: ClusterSpec | None = None
    exchanges: dict[ExchangeKey, ExchangeSpec] = {}
    fabric: FabricSpec | None = None


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a hardware file, for editors."""
    schema = Spec.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "moesim hardware file",
    }
