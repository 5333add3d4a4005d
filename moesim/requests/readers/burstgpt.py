"""BurstGPT: ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``, in seconds.

A second variant has ``Session ID`` and ``Elapsed time`` besides. Requests with 0 response tokens failed.
"""

from __future__ import annotations

import re

from moesim.requests.comma import CommaFile
from moesim.requests.readers.base import RequestReader
from moesim.requests.rows import Rows
from moesim.requests.source import Source, seconds, whole
from moesim.requests.types import RequestTrace

_TIME, _INPUT, _OUTPUT, _SESSION = "timestamp", "request tokens", "response tokens", "session id"


def _spell(cell: str) -> str:
    """A column's name in lower case, without its unit in brackets."""
    return re.sub(r"\([^)]*\)\s*$", "", cell).strip().lower()


def _sniff(source: Source) -> bool:
    return {_TIME, _INPUT, _OUTPUT} <= {_spell(cell) for cell in source.first_line.split(",")}


def _read(source: Source) -> RequestTrace:
    rows = Rows(source)
    table = CommaFile(source, rows.faults, _spell)
    at_time, at_input, at_output = table.places(_TIME, _INPUT, _OUTPUT)
    at_session = table.places(_SESSION)[0] if _SESSION in table.names else None
    failed = 0
    for number, cells in table.rows():
        arrival_s = seconds(cells[at_time].strip(), f"line {number}, {_TIME}", rows.faults)
        read = whole(cells[at_input], f"line {number}, {_INPUT}", rows.faults)
        written = whole(cells[at_output], f"line {number}, {_OUTPUT}", rows.faults)
        if read == 0 or written == 0:
            failed += 1
            continue
        session = cells[at_session].strip() or None if at_session is not None else None
        rows.add(arrival_s, read, written, session=session)
    if failed:
        rows.notes.append(f"{failed} failed requests (no tokens in or out) were left out")
    return rows.finish("burstgpt")


READER = RequestReader("burstgpt", "BurstGPT CSV Timestamp,...,Request tokens,Response tokens", _sniff, _read)
