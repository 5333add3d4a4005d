"""What `moesim plan` prints."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from moesim.reporting.documents.base import Count, Degree, Document, Number, Part, Share, Signed, Text
from moesim.reporting.documents.simulation import Ends

Metrics = Annotated[dict[Text, Signed | None], Field(max_length=100)]

#: What is promised, as `moesim plan --goodput` names it, with words and scale for readers.
LIMITS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2el_s": "end to end"}


class Slo(Part):
    """A promise."""

    name: Text | None = None
    attainment: Share
    ttft_s: Count | None = None
    tpot_s: Count | None = None
    e2el_s: Count | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Seconds by metric."""
        return {name: limit for name in LIMITS if (limit := getattr(self, name)) is not None}


class Tokens(Part):
    """Lengths of requests."""

    mean: Count
    p99: Count | None = None


class PlannedTraffic(Part):
    """Requests to serve."""

    request_rate: Count
    requests: Number
    source: Text | None = None
    input_tokens: Tokens
    output_tokens: Tokens


class PriceOf(Part):
    """A dated price."""

    hardware: Text
    usd_per_device_hour: Count | None = None
    vendor: Text | None = None
    date: Text | None = None


class Workers(Part):
    """Degrees of one pool, or of a whole replica."""

    workers: Degree = 1
    tp: Degree
    pp: Degree
    dp: Degree
    ep: Degree

    def __str__(self) -> str:
        degrees = {"tp": self.tp, "pp": self.pp, "dp": self.dp, "ep": self.ep}
        return " ".join(f"{name}={n}" for name, n in degrees.items() if n > 1) or "tp=1"


class Apart(Part):
    """A pool that prefills, and one that decodes."""

    prefill: Workers
    decode: Workers

    def __str__(self) -> str:
        return f"{self.prefill.workers} prefill {self.prefill} + {self.decode.workers} decode {self.decode}"


class Assessed(Part):
    """What is known of a candidate."""

    status: Text
    reason: Text | None = None
    model: Text
    hardware: Text
    devices: Degree
    nodes: Degree
    replicas: Degree
    devices_per_replica: Degree
    layout: Workers | Apart
    backend: Text = ""
    dtype: Text = "auto"
    kv_cache_dtype: Text = "auto"
    max_num_batched_tokens: Count | None = None
    max_num_seqs: Count | None = None
    redundant: Number = 0
    usd_per_hour: Count | None = None
    usd_per_million_output_tokens: Count | None = None
    metrics: Metrics = {}
    interval: Annotated[dict[Text, Ends], Field(max_length=100)] = {}

    def __str__(self) -> str:
        parts = [f"{self.replicas} x ({self.layout})"]
        if self.dtype != "auto":
            parts.append(f"{self.dtype} weights")
        if self.kv_cache_dtype != "auto":
            parts.append(f"{self.kv_cache_dtype} cache")
        if self.redundant:
            parts.append(f"{self.redundant} spare experts")
        return ", ".join(parts)

    def first(self, *names: str) -> float | None:
        """The first of some metrics that is known."""
        return next((value for name in names if (value := self.metrics.get(name)) is not None), None)

    def span(self, name: str) -> tuple[float, float] | None:
        """The interval of a metric; None if there is none."""
        low, high = self.interval.get(name, [None, None])
        return None if low is None or high is None else (low, high)


class Chosen(Assessed):
    """The plan, and what the steady state said of it."""

    predicted: Metrics = {}


class Refused(Part):
    """Candidates that fail for one reason."""

    status: Text
    what: Text
    count: Number
    nearest: Assessed | None = None


class Gain(Part):
    """What more of one thing buys; `change` is None for all there is to gain."""

    what: Text
    change: Signed | None = None
    request_rate_per_replica: Count | None = None
    rate_gain: Signed | None = None
    tpot_gain: Signed | None = None
    cost_gain: Signed | None = None
    usd_per_million_output_tokens: Count | None = None
    simulated_gain: Metrics = {}


class Command(Part):
    """A command that starts a part of the plan."""

    role: Text = ""
    node: Number | None = None
    instances: Number | None = None
    text: Annotated[str, Field(max_length=20_000)]


class Launch(Part):
    """How the plan is started."""

    engine: Text
    documented: Text = ""
    commands: Annotated[list[Command], Field(max_length=2000)] = []
    notes: Annotated[list[Text], Field(max_length=100)] = []


class PlanDocument(Document):
    """What `moesim plan --json` prints."""

    title: ClassVar[str] = "Capacity plan"

    kind: Literal["plan"] = "plan"
    feasible: Literal[True]
    slo: Slo
    traffic: PlannedTraffic
    currency: Text = "USD"
    prices: Annotated[list[PriceOf], Field(max_length=200)] = []
    minimised: Text = ""
    plan: Chosen
    pareto: Annotated[list[Assessed], Field(max_length=500)] = []
    confirmed: Annotated[list[Assessed], Field(max_length=500)] = []
    refuted: Annotated[list[Assessed], Field(max_length=500)] = []
    ranked: Annotated[list[Assessed], Field(max_length=1000)] = []
    refused: Annotated[list[Refused], Field(max_length=200)] = []
    searched: Annotated[dict[Text, Number], Field(max_length=50)] = {}
    sensitivities: Annotated[list[Gain], Field(max_length=50)] = []
    launch: Launch | None = None

    @property
    def traits(self) -> tuple[str, ...]:
        """Model, machine, promise, traffic."""
        limits = ", ".join(f"{LIMITS[n]} {limit * 1e3:g} ms" for n, limit in self.slo.limits.items())
        return (
            self.plan.model,
            f"{self.plan.devices}x {self.plan.hardware}",
            str(self.plan),
            limits,
            f"{self.traffic.request_rate:g} requests/s",
        )

    @property
    def machines(self) -> tuple[str, ...]:
        """What is to be rented."""
        return (self.plan.hardware,)
