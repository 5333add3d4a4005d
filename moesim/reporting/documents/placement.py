"""What `moesim place --json` prints."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from moesim.reporting.documents.base import (
    MAX_EXPERTS,
    MAX_LAYERS,
    MAX_SLOTS,
    Count,
    Document,
    FileName,
    LayerId,
    Part,
    Positive,
    Ratio,
    Text,
    Texts,
)
from moesim.reporting.documents.prediction import PredictionDocument

#: Placements in the order they are shown.
PLACEMENTS = ("contiguous", "greedy", "plan")
#: Priced placements in the order they are shown, with their titles.
PRICED = {
    "before": "before (contiguous)",
    "greedy": "greedy",
    "balanced": "best without redundancy",
    "after": "after (the plan)",
}

PerLayer = Annotated[list[Ratio | None], Field(max_length=MAX_LAYERS)]


class Imbalance(Part):
    """Largest over mean rank load; None where there is no load."""

    mean: Ratio | None
    worst: Ratio | None
    per_layer: PerLayer


class Judged(Part):
    """Imbalance on the loads a plan was fitted to, and on others."""

    fitted: Imbalance
    evaluated: Imbalance | None = None


class LowerBound(Part):
    """What no placement goes below."""

    mean: Ratio | None
    per_layer: PerLayer


class Gap(Part):
    """How much better any other placement could be, as fractions."""

    mean: Count | None
    worst: Count | None


class Price(Part):
    """What one placement costs."""

    ttft_s: Positive
    tpot_s: Positive
    output_throughput: Positive
    concurrency: Positive
    load_imbalance: Ratio | None = None


class PricePoint(Part):
    """Time per output token at one batch size."""

    tokens_per_rank: Positive
    before_tpot_s: Positive | None
    balanced_tpot_s: Positive | None
    after_tpot_s: Positive | None


class CopiesTried(Part):
    """One number of redundant experts per layer, and what it would serve."""

    redundant: Annotated[int, Field(ge=0, le=MAX_SLOTS)]
    output_throughput: Positive | None
    tpot_s: Positive | None
    weights_bytes: Count | None
    cache_tokens: Count | None
    load_imbalance: Ratio | None


class Redundancy(Part):
    """Numbers of redundant experts beside each other."""

    choices: Annotated[list[CopiesTried], Field(max_length=1000)]
    best: Annotated[int, Field(ge=0, le=MAX_SLOTS)]


class Objective(Part):
    """What was minimised, in words."""

    terms: Text


class Emitted(Part):
    """A plan that was written."""

    path: FileName
    format: Text
    rows: Annotated[int, Field(ge=0, le=1_000_000)]


class RankLoads(Part):
    """Load of every rank in the layer that was worst before."""

    layer_id: LayerId
    contiguous: Annotated[list[Count], Field(max_length=MAX_SLOTS)]
    plan: Annotated[list[Count], Field(max_length=MAX_SLOTS)]


class Details(Part):
    """What a page shows beyond the command's own document."""

    loads: Annotated[
        list[Annotated[list[Count], Field(max_length=MAX_EXPERTS)]], Field(max_length=MAX_LAYERS)
    ] = []
    rank_loads: RankLoads | None = None
    predicted: Annotated[dict[Text, PredictionDocument], Field(max_length=10)] = {}


class PlacementDocument(Document):
    """What `moesim place --json` prints, and details when the page comes from the result itself."""

    title: ClassVar[str] = "Expert placement"

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
    ranks: Annotated[int, Field(ge=1, le=MAX_SLOTS)]
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)]
    redundant: Annotated[int, Field(ge=0, le=MAX_SLOTS)]
    moe_layer_ids: Annotated[list[LayerId], Field(min_length=1, max_length=MAX_LAYERS)]
    emitted: Annotated[list[Emitted], Field(max_length=50)] = []
    details: Details | None = None

    @property
    def traits(self) -> tuple[str, ...]:
        """Model, ranks, copies."""
        return (self.model, f"placement on {self.ranks} ranks", f"{self.redundant} redundant")

    @property
    def machines(self) -> tuple[str, ...]:
        """What it was priced on; empty words where the data does not name it."""
        priced = self.details.predicted if self.details else {}
        named = dict.fromkeys(answer.hardware for answer in priced.values())
        return tuple(named) or (("",) if self.predicted else ())

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
