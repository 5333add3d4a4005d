"""Route logs of vLLM hooks: a line of metadata, then one line for every token and layer.

``{"type": "route", "req_id", "token_idx", "layer", "topk_ids", "topk_weights"}``. `req_id` is commonly the
number of a forward call. Such hooks also log the engine's warm-up, whose tokens are all the same. Files that
moesim wrote hold none, and say so in the line of metadata.
"""

from __future__ import annotations

from typing import Any

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.json_text import is_whole, json_lines, short
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.rows import RowTable, number_or_text
from moesim.trace.schema import MAX_EXPERTS
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens

#: What moesim's writer names itself in the line of metadata.
WRITER = "moesim"
#: The line of metadata may be long.
_LOOK_BYTES = 1 << 20


def _sniff(peek: Peek) -> float:
    words = (b'"route"', b'"topk_ids"')
    return 1.0 if peek.looks_like_json and all(peek.contains(w, _LOOK_BYTES) for w in words) else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:  # noqa: ARG001 - every reader is called alike
    table, meta = RowTable(peek.path), dict[str, Any]()
    for number, row in json_lines(peek):
        if row.get("type") == "route":
            request = number_or_text(row.get("req_id"))
            table.add(
                f"line {number}",
                request,
                row.get("token_idx"),
                row.get("layer"),
                row.get("topk_ids"),
                row.get("topk_weights"),
                row.get("phase"),
            )
        elif not meta:
            meta = row
    experts = meta.get("num_experts")
    if experts is not None and not is_whole(experts, 1, MAX_EXPERTS):
        raise TraceError(Fault("is no number of experts", "num_experts", short(experts)), peek.path)

    def said(name: str) -> str:
        return meta[name] if isinstance(meta.get(name), str) else ""

    own = meta.get("writer") == WRITER
    origin = Origin(
        peek.path,
        model=said("model") if own else "",
        num_experts=experts if own else None,
        source=said("source"),
        licence=said("licence"),
    )
    return table.tokens(origin, drop_dummies=not own)


READER = token_reader("route-jsonl", "JSON lines of routes, as vLLM hooks log them", _sniff, _tokens)
