"""What `moesim simulate` prints, and what the table of its requests holds."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from moesim.reporting.documents.base import Count, Degree, Document, FileName, Part, Share, Signed, Text

#: Levels of one distribution, and spans of time of one run, at most.
MOST_LEVELS, MOST_SPANS = 512, 512

Ends = Annotated[list[Signed | None], Field(min_length=2, max_length=2)]
Means = Annotated[list[Count], Field(max_length=MOST_SPANS)]


class Spread(Part):
    """One latency of many requests, in seconds."""

    mean: Count | None = None
    std: Count | None = None
    min: Count | None = None
    p50: Count | None = None
    p90: Count | None = None
    p95: Count | None = None
    p99: Count | None = None
    max: Count | None = None


class Window(Part):
    """The part of a run that statistics are of."""

    from_s: Signed
    to_s: Signed
    requests: Count
    cut_at_start: Count = 0
    cut_at_end: Count = 0


class SimulatedTraffic(Part):
    """Who was served."""

    source: Text | None = None
    concurrency: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None


class Cache(Part):
    """Blocks of the KV cache."""

    blocks: Count | None = None
    mean: Count | None = None
    max: Count | None = None
    max_is_of_all_steps: bool | None = None


class Energy(Part):
    """Of all devices."""

    busy_joules_per_output_token: Count | None = None
    joules_per_output_token: Count | None = None
    scope: Text = ""


class Cost(Part):
    """Of all devices."""

    usd_per_device_hour: Count | None = None
    source: Text = ""
    usd_per_hour: Count | None = None
    usd_per_million_output_tokens: Count | None = None


class Failures(Part):
    """What failures did."""

    nodes_lost: Count | None = None
    availability: Count | None = None
    sent_again: Count | None = None


class HandOver(Part):
    """Caches that crossed between two pools."""

    handed_s: Spread = Spread()
    bytes: Count | None = None
    link_utilisation: Count | None = None


class Offload(Part):
    """Experts that did not fit."""

    system: Text = ""
    cache_fraction: Count | None = None
    hit_ratio: Share | None = None
    moved_bytes_per_request: Count | None = None


class Replications(Part):
    """How often it was simulated."""

    n: Degree


class Distribution(Part):
    """A latency as quantiles: levels ascend from 0 to 1, values with them."""

    levels: Annotated[list[Share], Field(min_length=1, max_length=MOST_LEVELS)]
    values_s: Annotated[list[Count], Field(min_length=1, max_length=MOST_LEVELS)]
    n: Degree

    @model_validator(mode="after")
    def _ascends(self) -> Distribution:
        if len(self.levels) != len(self.values_s):
            raise ValueError("levels and values_s have not the same length")
        if sorted(self.levels) != self.levels or sorted(self.values_s) != self.values_s:
            raise ValueError("levels and values_s do not ascend")
        return self


class OverTime(Part):
    """Means over equal spans of the time of a run."""

    from_s: Signed
    to_s: Signed
    spans: Annotated[int, Field(ge=1, le=MOST_SPANS)]
    running: Means
    waiting: Means
    kv_share: Annotated[list[Count | None], Field(max_length=MOST_SPANS)] | None = None

    @model_validator(mode="after")
    def _spans(self) -> OverTime:
        lengths = {len(self.running), len(self.waiting), len(self.kv_share or self.running)}
        if lengths != {self.spans}:
            raise ValueError("running, waiting and kv_share have not one value for every span")
        if not self.to_s > self.from_s:
            raise ValueError("to_s is not after from_s")
        return self

    @property
    def edges_s(self) -> list[float]:
        """Ends of the spans."""
        step = (self.to_s - self.from_s) / self.spans
        return [self.from_s + i * step for i in range(self.spans)] + [self.to_s]


class SimulationDocument(Document):
    """What `moesim simulate` says: `--json`, the table of its requests, or both."""

    title: ClassVar[str] = "Simulation"

    kind: Literal["simulation"] = "simulation"
    feasible: Literal[True] = True
    model: Text = ""
    hardware: Text = ""
    layout: Text = ""
    replicas: Degree | None = None
    devices: Degree | None = None
    router: Text = ""
    backend: Text = ""
    traffic: SimulatedTraffic = SimulatedTraffic()
    requests: Count
    completed: Count
    lost: Count = 0
    unfinished: Count = 0
    duration_s: Count
    window: Window | None = None
    latency: Annotated[dict[Text, Spread], Field(max_length=20)]
    request_throughput: Count | None = None
    output_throughput: Count | None = None
    total_token_throughput: Count | None = None
    output_throughput_per_device: Count | None = None
    goodput: Annotated[dict[Text, Count], Field(max_length=10)] | None = None
    request_goodput: Count | None = None
    attainment: Share | None = None
    waiting: Count | None = None
    running: Count | None = None
    utilisation: Count | None = None
    kv_cache: Cache = Cache()
    prefix_hit_ratio: Share | None = None
    preemptions: Count | None = None
    failures: Failures | None = None
    hand_over: HandOver | None = None
    offload: Offload | None = None
    energy: Energy | None = None
    cost: Cost | None = None
    replications: Replications | None = None
    interval: Annotated[dict[Text, Text | Count | Ends], Field(max_length=200)] | None = None
    written: Annotated[list[FileName], Field(max_length=20)] = []
    over_time: OverTime | None = None
    distributions: Annotated[dict[Text, Distribution], Field(max_length=10)] = {}
    met: Annotated[dict[Text, Share], Field(max_length=10)] = {}
    #: The table of requests that all of it, or distributions and what is over time, was read from.
    table: FileName = ""

    @property
    def traits(self) -> tuple[str, ...]:
        """Model, machine, layout, traffic."""
        rate = f"{self.request_throughput:.3g} requests/s" if self.request_throughput else ""
        return (
            self.model,
            f"{self.devices}x {self.hardware}" if self.devices else self.hardware,
            f"{self.replicas} x ({self.layout})" if self.layout else "",
            self.router,
            f"{self.traffic.concurrency:g} at once" if self.traffic.concurrency else rate,
            self.traffic.source or "",
        )

    @property
    def machines(self) -> tuple[str, ...]:
        """What it was simulated on."""
        return (self.hardware,) if self.hardware else ()

    def span(self, name: str) -> tuple[float, float] | None:
        """The interval of a value: ``tpot_s``, ``ttft_s.p99``, ``attainment``; None if there is none."""
        ends = (self.interval or {}).get(name)
        if not isinstance(ends, list) or ends[0] is None or ends[1] is None:
            return None
        return ends[0], ends[1]

    @property
    def level(self) -> float | None:
        """Coverage of the intervals."""
        level = (self.interval or {}).get("level")
        return level if isinstance(level, float) and 0 < level < 1 else None

    @property
    def method(self) -> str:
        """Where the intervals are from."""
        method = (self.interval or {}).get("method")
        return method if isinstance(method, str) else ""
