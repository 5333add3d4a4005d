"""The canonical schema: names of columns, and the header that every canonical file carries.

The header's fields are stored as JSON, each under ``moesim.<field>`` in the key-value metadata of Parquet,
and together in the string array ``moesim`` of an ``.npz``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from moesim.errors import Fault, TraceError
from moesim.trace.types import DECODE, PREFILL, Routing, RoutingTrace

SCHEMA_VERSION = 1
ROUTING, LOADS = "routing_trace", "load_counts"
PREFIX = "moesim."
#: Columns every routing trace has, besides one per layer.
SCALARS, TOKEN_ID = ("request", "position", "phase"), "token_id"
PHASES = (PREFILL, DECODE)
#: The most of each that a file may claim; far beyond any model.
MAX_EXPERTS, MAX_LAYERS, MAX_TOP_K = 65535, 10_000, 1024


@dataclass(frozen=True, slots=True)
class Header:
    """What a canonical file says of itself.

    Parameters
    ----------
    kind
        ``routing_trace`` or ``load_counts``.
    num_experts
        Routed experts per layer.
    moe_layer_ids
        Decoder index of each MoE layer, rising.
    top_k
        Experts per token; None only for load counts.
    model, source, licence, warnings, metadata
        As in `moesim.trace.types.RoutingTrace`.
    id_space
        Always ``logical``: ids name experts of the model, not places in a deployment.
    schema_version
        Version of this schema.
    """

    kind: str
    num_experts: int
    moe_layer_ids: tuple[int, ...]
    top_k: int | None
    model: str = ""
    source: str = ""
    licence: str = ""
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    id_space: str = "logical"
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, trace: Routing) -> Header:
        """The header of a trace held in memory."""
        return cls(
            kind=ROUTING if isinstance(trace, RoutingTrace) else LOADS,
            num_experts=trace.num_experts,
            moe_layer_ids=tuple(int(i) for i in trace.moe_layer_ids),
            top_k=trace.top_k,
            model=trace.model,
            source=trace.source,
            licence=trace.licence,
            warnings=tuple(trace.warnings),
            metadata=dict(trace.metadata),
        )

    def fields(self) -> dict[str, str]:
        """Each field as JSON text."""
        return {name: json.dumps(value, sort_keys=True) for name, value in asdict(self).items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the id columns, one per MoE layer."""
        return tuple(id_column(layer) for layer in self.moe_layer_ids)


def id_column(layer: int) -> str:
    """Column of the expert ids of a decoder layer.

    >>> id_column(3)
    'L003'
    """
    return f"L{layer:03d}"


def weight_column(layer: int) -> str:
    """Column of the router weights of a decoder layer."""
    return f"W{layer:03d}"


def parse_header(fields: Mapping[str, str], path: object) -> Header:
    """Read a header back.

    Raises
    ------
    TraceError
        Naming every field that is missing or wrong.
    """
    values: dict[str, Any] = {}
    faults = []
    for name in Header.__dataclass_fields__:
        if name in fields:
            try:
                values[name] = json.loads(fields[name])
            except (ValueError, RecursionError):
                faults.append(Fault("is no JSON", f"{PREFIX}{name}", fields[name][:40]))
    for name, (is_good, allowed) in _RULES.items():
        if name in values and not is_good(values[name]):
            faults.append(Fault("is not what it should be", f"{PREFIX}{name}", values[name], allowed))
        elif name not in fields and name in _NEEDED:
            faults.append(Fault("is missing from the file's metadata", f"{PREFIX}{name}", allowed=allowed))
    if faults:
        raise TraceError(faults, path)
    values["moe_layer_ids"] = tuple(values["moe_layer_ids"])
    values["warnings"] = tuple(values.get("warnings", ()))
    header = Header(**{"top_k": None, **values})
    if header.kind == ROUTING and header.top_k is None:
        raise TraceError(Fault("is missing from the file's metadata", f"{PREFIX}top_k"), path)
    return header


def _whole(low: int, high: int) -> Any:  # noqa: ANN401 - a predicate
    return lambda v: type(v) is int and low <= v <= high


def _layer_ids(value: object) -> bool:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_LAYERS:
        return False
    whole = all(type(v) is int and 0 <= v < MAX_LAYERS for v in value)
    return whole and all(a < b for a, b in pairwise(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_NEEDED = ("schema_version", "kind", "num_experts", "moe_layer_ids")
_RULES: dict[str, tuple[Any, str]] = {
    "schema_version": (lambda v: v == SCHEMA_VERSION, str(SCHEMA_VERSION)),
    "kind": (lambda v: v in (ROUTING, LOADS), f"{ROUTING}, {LOADS}"),
    "num_experts": (_whole(1, MAX_EXPERTS), f"1 to {MAX_EXPERTS}"),
    "moe_layer_ids": (_layer_ids, f"a rising list of 0 to {MAX_LAYERS - 1}"),
    "top_k": (lambda v: v is None or _whole(1, MAX_TOP_K)(v), f"1 to {MAX_TOP_K}"),
    "id_space": (lambda v: v == "logical", "logical"),
    "model": (_is_text, "text"),
    "source": (_is_text, "text"),
    "licence": (_is_text, "text"),
    "warnings": (lambda v: isinstance(v, list) and all(map(_is_text, v)), "a list of texts"),
    "metadata": (
        lambda v: isinstance(v, dict) and all(map(_is_text, v.values())),
        "texts by name",
    ),
}
