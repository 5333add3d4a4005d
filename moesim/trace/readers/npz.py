"""``.npz`` archives: `topk_ids` or `counts`, and whatever else of a trace they hold.

Arrays: `topk_ids` ``[tokens, moe_layers, top_k]`` with optional `topk_weights` of its shape and `request`,
`position`, `phase`, `token_id` ``[tokens]``; or `counts` ``[steps, moe_layers, experts]``. The string
`moesim` is the canonical header (`moesim.trace.schema`); without it, the caller's hints say what the trace
is of.
"""

from __future__ import annotations

import json

from moesim.errors import Fault, TraceError
from moesim.trace.arrays import Array, read_npz, text
from moesim.trace.assemble import Origin, load_counts, routing_trace
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.schema import parse_header
from moesim.trace.shape import Hints
from moesim.trace.types import Routing

_TOKENS = ("request", "position", "phase", "token_id")


def _sniff(peek: Peek) -> float:
    return 1.0 if {"topk_ids.npy", "counts.npy"} & set(peek.zip_names) else 0.0


def _read(peek: Peek, hints: Hints) -> Routing:
    arrays = read_npz(peek.path, ("topk_ids", "topk_weights", "counts", *_TOKENS, "moesim"))
    origin, top_k = _origin(arrays, peek)
    rows = arrays["topk_ids" if "topk_ids" in arrays else "counts"].shape[-2:-1]
    if origin.layer_ids is not None and rows != (len(origin.layer_ids),):
        raise TraceError(
            Fault(
                f"names {len(origin.layer_ids)} layers, the arrays have {list(rows)}", "moesim.moe_layer_ids"
            ),
            peek.path,
        )
    if "topk_ids" not in arrays:
        return load_counts(arrays["counts"], origin, hints, top_k)
    return routing_trace(
        arrays["topk_ids"],
        origin,
        hints,
        request=arrays.get("request"),
        position=arrays.get("position"),
        phase=arrays.get("phase"),
        token_id=arrays.get("token_id"),
        weights=arrays.get("topk_weights"),
    )


def _origin(arrays: dict[str, Array], peek: Peek) -> tuple[Origin, int | None]:
    if "moesim" not in arrays:
        return Origin(peek.path), None
    try:
        fields = json.loads(text(arrays["moesim"]))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise TraceError(Fault("is no JSON object", "moesim.npy"), peek.path)
    header = parse_header({name: json.dumps(value) for name, value in fields.items()}, peek.path)
    return Origin.of(header, peek.path), header.top_k


READER = Reader("npz", ".npz with topk_ids or counts", _sniff, _read)
