"""AIPerf's ``profile_export.jsonl``: one record per request, ``{"metadata", "metrics", "error"}``.

Times are ``request_start_ns``; lengths are the metrics ``input_sequence_length`` and
``output_sequence_length``. Failed and cancelled requests, and those of the warm-up, are left out.
"""

from __future__ import annotations

from moesim.requests.readers.base import RequestReader
from moesim.requests.rows import Rows
from moesim.requests.source import Faults, Source, seconds, whole
from moesim.requests.types import RequestTrace

_START, _INPUT, _OUTPUT = "request_start_ns", "input_sequence_length", "output_sequence_length"


def _sniff(source: Source) -> bool:
    item = source.first_object()
    metadata = item.get("metadata")
    return "metrics" in item and isinstance(metadata, dict) and _START in metadata


def _read(source: Source) -> RequestTrace:
    rows = Rows(source)
    failed = warm_up = 0
    for number, item in source.objects(rows.faults):
        metadata, metrics = item.get("metadata"), item.get("metrics")
        if not isinstance(metadata, dict) or not isinstance(metrics, dict):
            rows.faults.add(f"line {number}", "has no metadata or no metrics")
            continue
        if metadata.get("benchmark_phase", "profiling") != "profiling":
            warm_up += 1
            continue
        if item.get("error") is not None or metadata.get("was_cancelled"):
            failed += 1
            continue
        arrival_s = seconds(metadata.get(_START), f"line {number}, {_START}", rows.faults, per=1e9)
        read, written = (
            _tokens(metrics.get(n), f"line {number}, {n}", rows.faults) for n in (_INPUT, _OUTPUT)
        )
        conversation = metadata.get("x_correlation_id", metadata.get("conversation_id"))
        rows.add(arrival_s, read, written, session=conversation if isinstance(conversation, str) else None)
    if failed:
        rows.notes.append(f"{failed} failed or cancelled requests were left out")
    if warm_up:
        rows.notes.append(f"{warm_up} requests of the warm-up were left out")
    return rows.finish("aiperf", from_first=True)


def _tokens(metric: object, where: str, faults: Faults) -> int | None:
    """A metric ``{"value": n, "unit": "tokens"}``, or the bare number."""
    if isinstance(metric, dict):
        unit = metric.get("unit", "tokens")
        if unit != "tokens":
            faults.add(where, "is in a unit that is not tokens", unit)
            return None
        metric = metric.get("value")
    return whole(metric, where, faults, low=1)


READER = RequestReader("aiperf", "AIPerf profile_export.jsonl", _sniff, _read)
