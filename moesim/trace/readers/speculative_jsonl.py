"""JSON lines of the speculative-moe experiments: one for every decoded token and layer.

``{"dataset", "problem_id", "layer", "experts": [k], "gating_probs": [k], "token_idx"}``. Some lines are
missing in published files; their tokens are dropped, and counted.
"""

from __future__ import annotations

from moesim.trace.assemble import Origin
from moesim.trace.json_text import json_lines
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.rows import RowTable, keyed
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import DECODE

_KEYS = (b'"experts"', b'"token_idx"', b'"layer"')


def _sniff(peek: Peek) -> float:
    return 0.9 if peek.looks_like_json and all(key in peek.text_head for key in _KEYS) else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:  # noqa: ARG001 - every reader is called alike
    table = RowTable(peek.path)
    for number, row in json_lines(peek):
        request = keyed(row, ("dataset", "problem_id"))
        ids, weights = row.get("experts"), row.get("gating_probs")
        table.add(f"line {number}", request, row.get("token_idx"), row.get("layer"), ids, weights)
    return table.tokens(Origin(peek.path), phase=DECODE)


READER = token_reader("speculative-jsonl", "JSON lines of speculative-moe", _sniff, _tokens)
