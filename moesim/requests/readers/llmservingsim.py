"""LLMServingSim's ``requests.jsonl`` of a measured run, and its workload files.

One object per line: ``input_toks``, ``output_toks``, and ``arrival_time`` in seconds (runs) or
``arrival_time_ns`` (workloads).
"""

from __future__ import annotations

from moesim.requests.readers.base import RequestReader
from moesim.requests.rows import Rows
from moesim.requests.source import Source, seconds, whole
from moesim.requests.types import RequestTrace

_UNITS = {"arrival_time": 1.0, "arrival_time_ns": 1e9}


def _sniff(source: Source) -> bool:
    keys = source.first_object().keys()
    return {"input_toks", "output_toks"} <= keys and bool(keys & _UNITS.keys())


def _read(source: Source) -> RequestTrace:
    rows = Rows(source)
    name = next(key for key in _UNITS if key in source.first_object())
    silent = 0
    for number, item in source.objects(rows.faults):
        where = f"line {number}, "
        arrival_s = seconds(item.get(name), where + name, rows.faults, per=_UNITS[name])
        read = whole(item.get("input_toks"), where + "input_toks", rows.faults)
        written = whole(item.get("output_toks"), where + "output_toks", rows.faults)
        if read == 0 or written == 0:
            silent += 1
            continue
        rows.add(arrival_s, read, written)
    if silent:
        rows.notes.append(f"{silent} requests without input or output tokens were left out")
    return rows.finish("llmservingsim", from_first=True)


READER = RequestReader(
    "llmservingsim", 'LLMServingSim JSONL {"input_toks", "output_toks", "arrival_time"}', _sniff, _read
)
