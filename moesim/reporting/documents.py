"""What a page is made of: the JSON documents of commands, with every value checked."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from moesim.errors import ConfigError, Fault

#: What no XML or HTML document may hold.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_MAX_LAYERS, _MAX_EXPERTS, _MAX_SLOTS = 2048, 8192, 65536

#: Placements in the order they are shown.
PLACEMENTS = ("contiguous", "greedy", "plan")
#: Priced placements in the order they are shown, with their titles.
PRICED = {
    "before": "before (contiguous)",
    "greedy": "greedy",
    "balanced": "best without redundancy",
    "after": "after (the plan)",
}

Text = Annotated[str, Field(max_length=2000), AfterValidator(lambda text: _UNPRINTABLE.sub("\ufffd", text))]
Positive = Annotated[float, Field(ge=1e-12, le=1e15)]
Count = Annotated[float, Field(ge=0, le=1e18)]
Signed = Annotated[float, Field(ge=-1e15, le=1e15)]
#: Largest over mean: one is even, and the sum may round to a little less.
Ratio = Annotated[float, Field(ge=0.999, le=_MAX_SLOTS)]
Degree = Annotated[int, Field(ge=1, le=1_000_000)]
LayerId = Annotated[int, Field(ge=0, le=100_000)]
PerLayer = Annotated[list[Ratio | None], Field(max_length=_MAX_LAYERS)]
Texts = Annotated[list[Text], Field(max_length=200)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Layout(_Document):
    """Degrees of parallelism."""

    tp: Degree
    pp: Degree
    dp: Degree
    ep: Degree
    world: Degree

    def __str__(self) -> str:
        return f"tp={self.tp} pp={self.pp} dp={self.dp} ep={self.ep}"


class WorkerPool(_Document):
    """Equal workers of disaggregated serving."""

    workers: Degree
    layout: Layout

    def __str__(self) -> str:
        return f"{self.workers} x ({self.layout})"


class Pools(_Document):
    """Workers that prefill, and workers that decode."""

    prefill: WorkerPool
    decode: WorkerPool


class Interval(_Document):
    """Where a measured run is expected."""

    level: Annotated[float, Field(gt=0, lt=1)]
    ttft_s: tuple[Count, Count] = Field(strict=False)
    tpot_s: tuple[Count, Count] = Field(strict=False)
    output_throughput: tuple[Count, Count] | None = Field(None, strict=False)
    basis: Text = ""


class Share(_Document):
    """Part of the time per output token that one resource takes."""

    resource: Text
    share: Signed


class OpTime(_Document):
    """One line of a breakdown."""

    op: Text
    seconds: Signed
    bound_by: Text


class Provenance(_Document):
    """What it takes to get the same answer again."""

    moesim: Text = ""
    python: Text = ""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    inputs: Annotated[dict[Text, Text], Field(max_length=200)] = {}


class PredictionDocument(_Document):
    """What `moesim predict --json` prints."""

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
    bottleneck: Annotated[list[Share], Field(max_length=100)] = []
    breakdown: Annotated[list[OpTime], Field(max_length=500)] = []
    warnings: Texts = []
    provenance: Provenance = Provenance()

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


class Imbalance(_Document):
    """Largest over mean rank load; None where there is no load."""

    mean: Ratio | None
    worst: Ratio | None
    per_layer: PerLayer


class Judged(_Document):
    """Imbalance on the loads a plan was fitted to, and on others."""

    fitted: Imbalance
    evaluated: Imbalance | None = None


class LowerBound(_Document):
    """What no placement goes below."""

    mean: Ratio | None
    per_layer: PerLayer


class Gap(_Document):
    """How much better any other placement could be, as fractions."""

    mean: Count | None
    worst: Count | None


class Price(_Document):
    """What one placement costs."""

    ttft_s: Positive
    tpot_s: Positive
    output_throughput: Positive
    concurrency: Positive
    load_imbalance: Ratio | None = None


class PricePoint(_Document):
    """Time per output token at one batch size."""

    tokens_per_rank: Positive
    before_tpot_s: Positive | None
    balanced_tpot_s: Positive | None
    after_tpot_s: Positive | None


class CopiesTried(_Document):
    """One number of redundant experts per layer, and what it would serve."""

    redundant: Annotated[int, Field(ge=0, le=_MAX_SLOTS)]
    output_throughput: Positive | None
    tpot_s: Positive | None
    weights_bytes: Count | None
    cache_tokens: Count | None
    load_imbalance: Ratio | None


class Redundancy(_Document):
    """Numbers of redundant experts beside each other."""

    choices: Annotated[list[CopiesTried], Field(max_length=1000)]
    best: Annotated[int, Field(ge=0, le=_MAX_SLOTS)]


class Objective(_Document):
    """What was minimised, in words."""

    terms: Text


class Emitted(_Document):
    """A plan that was written."""

    path: Text
    format: Text
    rows: Annotated[int, Field(ge=0, le=1_000_000)]


class RankLoads(_Document):
    """Load of every rank in the layer that was worst before."""

    layer_id: LayerId
    contiguous: Annotated[list[Count], Field(max_length=_MAX_SLOTS)]
    plan: Annotated[list[Count], Field(max_length=_MAX_SLOTS)]


class Details(_Document):
    """What a page shows beyond the command's own document."""

    loads: Annotated[
        list[Annotated[list[Count], Field(max_length=_MAX_EXPERTS)]], Field(max_length=_MAX_LAYERS)
    ] = []
    rank_loads: RankLoads | None = None
    predicted: Annotated[dict[Text, PredictionDocument], Field(max_length=10)] = {}


class PlacementDocument(_Document):
    """What `moesim place --json` prints, and details when the page comes from the result itself."""

    kind: Literal["placement"] = "placement"
    model: Text = ""
    load_imbalance: Annotated[dict[Text, Judged], Field(max_length=10)]
    lower_bound: LowerBound
    gap: Gap
    predicted: Annotated[dict[Text, Price], Field(max_length=10)] = {}
    predicted_elsewhere: Annotated[dict[Text, Price], Field(max_length=10)] = {}
    prices: Annotated[list[PricePoint], Field(max_length=200)] = []
    redundancy: Redundancy | None = None
    verdict: Texts = []
    objective: Objective = Objective(terms="max-load")
    dispatch: Text = "even"
    ranks: Annotated[int, Field(ge=1, le=_MAX_SLOTS)]
    slots: Annotated[int, Field(ge=1, le=_MAX_SLOTS)]
    redundant: Annotated[int, Field(ge=0, le=_MAX_SLOTS)]
    moe_layer_ids: Annotated[list[LayerId], Field(min_length=1, max_length=_MAX_LAYERS)]
    emitted: Annotated[list[Emitted], Field(max_length=50)] = []
    warnings: Texts = []
    details: Details | None = None
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _consistent(self) -> PlacementDocument:
        layers = len(self.moe_layer_ids)
        if "plan" not in self.load_imbalance:
            raise ValueError("load_imbalance has no 'plan'")
        for name in ("predicted", "predicted_elsewhere"):
            if (found := getattr(self, name)) and "after" not in found:
                raise ValueError(f"{name} has no 'after'")
        lengths = {"lower_bound": self.lower_bound.per_layer} | {
            f"load_imbalance.{name}.{load}": found.per_layer
            for name, judged in self.load_imbalance.items()
            for load, found in (("fitted", judged.fitted), ("evaluated", judged.evaluated))
            if found is not None
        }
        wrong = [f"{name}.per_layer has {len(v)}" for name, v in lengths.items() if len(v) != layers]
        details = self.details or Details()
        if details.loads and (len(details.loads) != layers or len({len(row) for row in details.loads}) != 1):
            wrong.append("details.loads is no table of that many rows")
        ranks = details.rank_loads
        if ranks is not None and {len(ranks.contiguous), len(ranks.plan)} != {self.ranks}:
            raise ValueError(f"details.rank_loads does not hold {self.ranks} ranks")
        if ranks is not None and not (sum(ranks.contiguous) > 0 and sum(ranks.plan) > 0):
            raise ValueError("details.rank_loads is of a layer without load")
        if wrong:
            raise ValueError(f"moe_layer_ids has {layers} layers, but {', '.join(wrong)}")
        return self


class HardwareSources(_Document):
    """Where the numbers of a machine come from."""

    name: Text
    title: Text
    sources: Annotated[dict[Text, Text], Field(max_length=2000)]


AnyDocument = Annotated[PredictionDocument | PlacementDocument, Field(discriminator="kind")]


class ReportDocument(_Document):
    """The data behind a page: what it embeds, and what `moesim report` reads again."""

    schema_version: Literal[1] = 1
    kind: Literal["report"] = "report"
    title: Text = ""
    notes: Texts = []
    results: Annotated[list[AnyDocument], Field(min_length=1, max_length=64)]
    labels: Texts = []
    hardware: Annotated[list[HardwareSources], Field(max_length=64)] = []
    provenance: Provenance = Provenance()


D = TypeVar("D", bound=BaseModel)


def checked(kind: type[D], raw: object, source: object = "") -> D:
    """Read plain JSON values as a document.

    Raises
    ------
    ConfigError
        With every fault: path inside the document, value, what is allowed.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(e) for e in error.errors(include_url=False)]
        more = [Fault(f"{len(faults) - 20} more faults")] if len(faults) > 20 else []
        raise ConfigError(faults[:20] + more, source) from None


def _fault(error: Any) -> Fault:  # noqa: ANN401 - pydantic's own dictionary
    value = error.get("input")
    shown: object = value if isinstance(value, int | float | bool) else None
    if isinstance(value, str):
        shown = value if len(value) <= 40 else value[:37] + "..."
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return Fault("is missing", where)
    return Fault(message[:1].lower() + message[1:], where, shown)
