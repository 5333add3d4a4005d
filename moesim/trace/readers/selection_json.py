"""The "expert selection trace" of one request: a JSON list with an entry for the prompt and one per token.

An entry maps the decoder index of each layer, as text, to null (a dense layer) or to the experts of each
token: the first entry holds the whole prompt, every other one decoded token.
"""

from __future__ import annotations

import re
from array import array
from typing import Any

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.json_text import Faults, is_whole, read_json, short, shown
from moesim.trace.limits import MAX_JSON_BYTES
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.schema import MAX_EXPERTS, MAX_LAYERS
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import DECODE, PREFILL

_HEAD = re.compile(rb'\s*\[\s*\{\s*"\d{1,4}"\s*:\s*(null|\[)')


def _sniff(peek: Peek) -> float:
    return 0.9 if _HEAD.match(peek.text_head.removeprefix(b"\xef\xbb\xbf")) else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:  # noqa: ARG001 - every reader is called alike
    entries = read_json(peek)
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise TraceError(Fault("is no list of entries, one per step"), peek.path)
    layers, k = _layers(entries, peek)
    quick = None if _has_booleans(peek) else _quick(entries, layers, k)
    cells, lengths = quick or _careful(entries, layers, k, peek)
    tokens = sum(lengths)
    ids = np.empty((tokens, len(layers), k), np.int32)
    for i, layer in enumerate(layers):
        ids[:, i] = np.frombuffer(cells.pop(layer), np.int32).reshape(tokens, k)
    phase = np.full(tokens, DECODE, np.int8)
    phase[: lengths[0]] = PREFILL
    request = np.zeros(tokens, np.int32)
    return Tokens(ids, Origin(peek.path, layer_ids=tuple(layers)), request=request, phase=phase)


_Rows = tuple[dict[int, "array[int]"], list[int]]


def _has_booleans(peek: Peek) -> bool:
    """Whether the text may hold true or false, which Python takes for numbers."""
    return any(peek.contains(word, MAX_JSON_BYTES) for word in (b"true", b"false"))


def _quick(entries: list[dict[str, Any]], layers: list[int], k: int) -> _Rows | None:
    """Ids of each layer and tokens of each entry, or None if anything is wrong, whatever it is."""
    names = [str(layer) for layer in layers]
    cells = [array("i") for _ in layers]
    lengths = []
    try:
        for entry in entries:
            count = len(entry[names[0]])
            for name, cell in zip(names, cells, strict=True):
                value = entry[name]
                if type(value) is not list or len(value) != count:
                    return None
                for row in value:
                    if type(row) is not list or len(row) != k:
                        return None
                    cell.extend(row)
            lengths.append(count)
    except (TypeError, KeyError, OverflowError):
        return None
    for cell in cells:
        ids = np.frombuffer(cell, np.int32)
        if ids.size and not (ids.min() >= 0 and ids.max() < MAX_EXPERTS):
            return None
    return dict(zip(layers, cells, strict=True)), lengths


def _careful(entries: list[dict[str, Any]], layers: list[int], k: int, peek: Peek) -> _Rows:
    """The same, naming what is wrong."""
    cells = {layer: array("i") for layer in layers}
    lengths: list[int] = []
    faults = Faults()
    for e, entry in enumerate(entries):
        rows = {layer: entry.get(str(layer)) for layer in layers}
        wrong = [f for layer, value in rows.items() if (f := _fault(value, k, f"[{e}].{layer}"))]
        counts = {len(value) for value in rows.values() if isinstance(value, list)}
        if not wrong and len(counts) > 1:
            wrong = [Fault(f"has {min(counts)} to {max(counts)} tokens, depending on the layer", f"[{e}]")]
        faults.extend(wrong)
        if wrong:
            continue
        lengths.append(counts.pop())
        for layer, value in rows.items():
            for row in value or ():
                cells[layer].extend(row)
    if faults:
        raise TraceError(shown(faults), peek.path)
    return cells, lengths


def _layers(entries: list[dict[str, Any]], peek: Peek) -> tuple[list[int], int]:
    """The MoE layers, those that some entry has experts for, and top-k."""
    found: dict[int, int] = {}
    for e, entry in enumerate(entries):
        for key, value in entry.items():
            if not (key.isdecimal() and key.isascii() and len(key) < 5 and int(key) < MAX_LAYERS):
                raise TraceError(Fault("is no layer", f"[{e}]", short(key)), peek.path)
            if isinstance(value, list) and value and int(key) not in found:
                row = value[0]
                found[int(key)] = len(row) if isinstance(row, list) else 0
    if not found or not next(iter(found.values())):
        raise TraceError(Fault("holds no list of experts"), peek.path)
    return sorted(found), next(iter(found.values()))


def _fault(value: object, k: int, where: str) -> Fault | None:
    if not isinstance(value, list):
        return Fault("has no experts in an MoE layer", where, short(value), "a list of rows")
    for t, row in enumerate(value):
        if not isinstance(row, list) or len(row) != k:
            return Fault("is no row of experts", f"{where}[{t}]", short(row), f"{k} expert ids")
        if not all(is_whole(i, 0, MAX_EXPERTS - 1) for i in row):
            return Fault("is no row of expert ids", f"{where}[{t}]", short(row), f"0 to {MAX_EXPERTS - 1}")
    return None


READER = token_reader("selection-json", "JSON expert selection trace of one request", _sniff, _tokens)
