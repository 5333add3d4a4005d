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
from moesim.trace.schema import Header, parse_header
from moesim.trace.shape import Hints
from moesim.trace.types import Routing

_TOKENS = ("request", "position", "phase", "token_id")


def _sniff(peek: Peek) -> float:
    return 1.0 if {"topk_ids.npy", "counts.npy"} & set(peek.zip_names) else 0.0


def _read(peek: Peek, hints: Hints) -> Routing:
    arrays = read_npz(peek.path, ("topk_ids", "topk_weights", "counts", *_TOKENS, "moesim"))
    header = _header(arrays, peek)
    origin = Origin(peek.path) if header is None else Origin.of(header, peek.path)
    if "topk_ids" not in arrays:
        return load_counts(arrays["counts"], origin, hints, header.top_k if header else None)
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


def _header(arrays: dict[str, Array], peek: Peek) -> Header | None:
    """The canonical header, if there is one, checked against the arrays."""
    if "moesim" not in arrays:
        return None
    try:
        fields = json.loads(text(arrays["moesim"]))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise TraceError(Fault("is no JSON object", "moesim.npy"), peek.path)
    header = parse_header({name: json.dumps(value) for name, value in fields.items()}, peek.path)
    name, width = ("topk_ids", header.top_k) if "topk_ids" in arrays else ("counts", header.num_experts)
    wanted = (len(header.moe_layer_ids), width)
    if arrays[name].shape[-2:] != wanted:
        what = f"is {list(arrays[name].shape)}, the header says [..., {wanted[0]}, {wanted[1]}]"
        raise TraceError(Fault(what, name), peek.path)
    return header


READER = Reader("npz", ".npz with topk_ids or counts", _sniff, _read)
