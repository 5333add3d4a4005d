"""Fingerprinting JSON, plain or gzipped: one request of gpt-oss with the experts of every decoded token.

`router_data` is a list of ``{"token_<position>": {"layer_<l>": {"selected_experts", "selected_probs"}}}``.
"""

from __future__ import annotations

import re
from typing import Any

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.json_text import read_json, short
from moesim.trace.limits import MAX_JSON_BYTES
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.rows import RowTable
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import DECODE

_TOKEN, _LAYER = re.compile(r"token_(\d{1,9})"), re.compile(r"layer_(\d{1,4})")
_NOTED = ("dataset", "category", "row_index", "finished_successfully", "has_repetition")


def _sniff(peek: Peek) -> float:
    is_it = peek.text_head.lstrip()[:1] == b"{" and peek.contains(b'"router_data"', MAX_JSON_BYTES)
    return 0.95 if is_it else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:  # noqa: ARG001 - every reader is called alike
    document = read_json(peek)
    steps = document.get("router_data") if isinstance(document, dict) else None
    if not isinstance(steps, list):
        raise TraceError(Fault("is missing, or no list", "router_data"), peek.path)
    table = RowTable(peek.path)
    for i, step in enumerate(steps):
        for name, layers in _named(step, _TOKEN, f"router_data[{i}]", peek):
            for layer, chosen in _named(layers, _LAYER, f"router_data[{i}].token_{name}", peek):
                if not isinstance(chosen, dict):
                    chosen = {}
                where = f"router_data[{i}].token_{name}.layer_{layer}"
                table.add(where, 0, name, layer, chosen.get("selected_experts"), chosen.get("selected_probs"))
    metadata = {name: str(document[name]) for name in _NOTED if isinstance(document.get(name), str | int)}
    return table.tokens(Origin(peek.path, metadata=metadata), phase=DECODE)


def _named(value: object, pattern: re.Pattern[str], where: str, peek: Peek) -> list[tuple[int, Any]]:
    if not isinstance(value, dict):
        raise TraceError(Fault("is no object", where, short(value)), peek.path)
    found = [(pattern.fullmatch(name), inner) for name, inner in value.items()]
    for (match, _), name in zip(found, value, strict=True):
        if match is None:
            raise TraceError(Fault("is no such name", where, short(name), pattern.pattern), peek.path)
    return [(int(match[1]), inner) for match, inner in found if match]


READER = token_reader("fingerprint-json", "fingerprinting JSON of one request, or gzipped", _sniff, _tokens)
