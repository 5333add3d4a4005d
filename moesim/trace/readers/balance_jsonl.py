"""JSON lines of moe-balance: the experts of a batch of tokens in one layer.

``{"layer", "batch_id", "origin_rows": [T], "topk_experts": [T][k]}``, with optional `topk_weights` of that
shape, `request_id` and `source_file`. A token is a row of its origin, which is the request (or the source
file, or the batch, where no request is named).
"""

from __future__ import annotations

from typing import Any

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.json_text import json_lines
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.rows import RowTable, keyed
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens

_ORIGINS = ("source_file", "request_id")


def _sniff(peek: Peek) -> float:
    # The list of rows may fill the head, so that nothing else of the line is in it.
    keys = (b'"topk_experts"', b'"origin_rows"')
    return 0.9 if peek.looks_like_json and any(key in peek.text_head for key in keys) else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:  # noqa: ARG001 - every reader is called alike
    table = RowTable(peek.path)
    for number, batch in json_lines(peek):
        names = [name for name in _ORIGINS if batch.get(name) is not None] or ["batch_id"]
        request = (*names, keyed(batch, names))
        rows, experts, weights = (
            _lists(batch, name) for name in ("origin_rows", "topk_experts", "topk_weights")
        )
        if rows is None or experts is None or not len(rows) == len(experts) == len(weights or rows):
            allowed = "as many lists of experts (and weights) as rows"
            raise TraceError(Fault("is no batch of tokens", f"line {number}", allowed=allowed), peek.path)
        for i, (row, ids) in enumerate(zip(rows, experts, strict=True)):
            given = weights[i] if weights else None
            table.add(f"line {number}, row {i}", request, row, batch.get("layer"), ids, given)
    return table.tokens(Origin(peek.path))


def _lists(batch: dict[str, Any], name: str) -> list[Any] | None:
    value = batch.get(name)
    return value if isinstance(value, list) else None


READER = token_reader("balance-jsonl", "JSON lines of moe-balance", _sniff, _tokens)
