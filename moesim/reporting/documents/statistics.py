"""What `moesim trace stats` prints."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from moesim.reporting.documents.base import (
    MAX_EXPERTS,
    MAX_LAYERS,
    Count,
    Degree,
    Document,
    FileName,
    LayerId,
    Number,
    Part,
    Signed,
    Text,
)
from moesim.reporting.documents.simulation import Ends

Nested = Annotated[dict[Text, Signed | None], Field(max_length=50)]
Values = Annotated[dict[Text, Signed | Nested | None], Field(max_length=200)]
Loads = Annotated[list[Count], Field(max_length=MAX_EXPERTS)]
NestedEnds = Annotated[dict[Text, Ends], Field(max_length=50)]

#: Experts, or blocks of experts, whose pairs are shown.
MOST_PAIRED = 512

Ids = Annotated[list[Number], Field(max_length=MOST_PAIRED)]


class Affinity(Part):
    """How often experts of two layers serve the same token, over what independence would give."""

    layers: Annotated[list[LayerId], Field(min_length=2, max_length=2)]
    before: Ids
    after: Ids
    over_independence: Annotated[
        list[Annotated[list[Count | None], Field(max_length=MOST_PAIRED)]], Field(max_length=MOST_PAIRED)
    ]
    pairs: Number

    @model_validator(mode="after")
    def _square(self) -> Affinity:
        rows, columns = len(self.before), len(self.after)
        if len(self.over_independence) != rows or any(len(row) != columns for row in self.over_independence):
            raise ValueError("over_independence has not one value for every pair of before and after")
        return self


class StatisticsDocument(Document):
    """What `moesim trace stats --json` prints."""

    title: ClassVar[str] = "Routing statistics"

    kind: Literal["trace-statistics"] = "trace-statistics"
    path: FileName = ""
    model: Text | None = None
    num_experts: Degree
    top_k: Degree | None = None
    tokens: Number | None = None
    overall: Values
    layers: Annotated[list[Values], Field(max_length=MAX_LAYERS)]
    reasons: Annotated[dict[Text, Text], Field(max_length=200)] = {}
    interval: Annotated[dict[Text, Signed | Ends | NestedEnds | None], Field(max_length=200)] | None = None
    loads: Annotated[list[Loads], Field(max_length=MAX_LAYERS)] = []
    affinity: Affinity | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StatisticsDocument:
        if self.loads and (len(self.loads) != len(self.layers) or len({len(row) for row in self.loads}) != 1):
            raise ValueError("loads is no table with one row for each layer")
        ids = [layer.get("layer_id") for layer in self.layers]
        if any(not isinstance(i, float | int) or isinstance(i, bool) or i != int(i) or i < 0 for i in ids):
            raise ValueError("a layer has no layer_id")
        return self

    @property
    def layer_ids(self) -> list[int]:
        """Decoder indices."""
        return [int(layer["layer_id"]) for layer in self.layers]  # type: ignore[arg-type]

    @property
    def traits(self) -> tuple[str, ...]:
        """File, model, tokens."""
        size = "load counts" if self.tokens is None else f"{self.tokens:,} tokens"
        return (self.path, self.model or "", size)

    def value(self, name: str, key: str = "") -> float | None:
        """A statistic of the whole, or one of its named parts; None where the trace does not say."""
        found = self.overall.get(name)
        if key:
            return found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, int | float) else None

    def span(self, name: str, key: str = "") -> tuple[float, float] | None:
        """Its interval; None if there is none."""
        found = (self.interval or {}).get(name)
        ends = found.get(key) if isinstance(found, dict) else found
        if not isinstance(ends, list) or ends[0] is None or ends[1] is None:
            return None
        return ends[0], ends[1]

    def by_layer(self, name: str, key: str = "") -> list[float | None]:
        """A statistic of every layer."""
        found = [layer.get(name) for layer in self.layers]
        if key:
            return [value.get(key) if isinstance(value, dict) else None for value in found]
        return [value if isinstance(value, int | float) else None for value in found]
