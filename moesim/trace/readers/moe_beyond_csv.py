"""CSV of the moe-beyond experiments: ``Layer ID,Batch Number,Token,Activated Expert IDs``.

All tokens of one layer, then all of the next. Tokens are texts, with commas, quotes and newlines in them; the
experts are a list in one field. A batch is a prompt.
"""

from __future__ import annotations

import csv
import io
import re

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.rows import RowTable
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import PREFILL

_HEADER = ["Layer ID", "Batch Number", "Token", "Activated Expert IDs"]
_IDS = re.compile(r"\s*\[?\s*(\d+(?:\s*[,\s]\s*\d+)*)\s*\]?\s*")
_MAX_FIELD = 4096


def _sniff(peek: Peek) -> float:
    head = peek.text_head.removeprefix(b"\xef\xbb\xbf")
    return 1.0 if head.startswith(",".join(_HEADER).encode()) else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:  # noqa: ARG001 - every reader is called alike
    table = RowTable(peek.path)
    seen: dict[tuple[int, int], int] = {}
    try:
        with peek.open_text() as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
            rows = csv.reader(text, strict=True)
            next(rows)
            for row in rows:
                where = f"line {rows.line_num}"
                numbers = _numbers(row, where, peek)
                layer, batch, *ids = numbers
                token = seen.get((layer, batch), 0)
                seen[layer, batch] = token + 1
                table.add(where, batch, token, layer, ids)
    except csv.Error as error:
        raise TraceError(Fault(f"is no CSV: {error}", f"line {rows.line_num}"), peek.path) from None
    _raise_ragged(seen, peek)
    return table.tokens(Origin(peek.path), phase=PREFILL)


def _numbers(row: list[str], where: str, peek: Peek) -> list[int]:
    if len(row) == len(_HEADER):
        layer, batch, _, listed = row
        found = _IDS.fullmatch(listed) if len(listed) <= _MAX_FIELD else None
        whole = all(len(n) <= 9 and n.strip().isdecimal() for n in (layer, batch))
        if found and whole:
            ids = re.split(r"[,\s]+", found[1])
            if all(len(i) <= 9 for i in ids):
                return [int(layer), int(batch), *map(int, ids)]
    fault = Fault("is no row of layer, batch, token, experts", where, [field[:20] for field in row[:5]])
    raise TraceError(fault, peek.path)


def _raise_ragged(seen: dict[tuple[int, int], int], peek: Peek) -> None:
    """Rows carry no index, so that a layer with a row too few cannot be lined up with the others."""
    lengths: dict[int, tuple[int, int]] = {}
    for (layer, batch), tokens in seen.items():
        first_layer, wanted = lengths.setdefault(batch, (layer, tokens))
        if tokens != wanted:
            what = f"batch {batch} has {tokens} tokens in layer {layer}, {wanted} in layer {first_layer}"
            raise TraceError(Fault(what), peek.path)


READER = token_reader("moe-beyond-csv", "CSV of moe-beyond", _sniff, _tokens)
