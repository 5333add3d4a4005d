"""AIPerf's ``profile_export_aiperf.json`` (statistics) and ``profile_export.jsonl`` (every request).

AIPerf calls a request's ``(latency - TTFT) / (tokens - 1)`` its inter-token latency: that is TPOT here, and
stands for the inter-token latency too, once per request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moesim.requests import request_trace
from moesim.validate.cells import Faults
from moesim.validate.distances import Sample
from moesim.validate.documents import Fields, read_document, read_lines
from moesim.validate.runs import REQUEST_MEAN, BenchmarkRun, RunEngine, Spread

STATISTICS_FILE, REQUESTS_FILE = "profile_export_aiperf.json", "profile_export.jsonl"
_METRICS = {
    "ttft": "time_to_first_token",
    "tpot": "inter_token_latency",
    "itl": "inter_token_latency",
    "e2el": "request_latency",
}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}


def is_statistics(values: object) -> bool:
    """Whether a JSON value is AIPerf's statistics."""
    return isinstance(values, dict) and isinstance(values.get("request_latency"), dict)


def is_request(values: object) -> bool:
    """Whether a JSON value is one of AIPerf's requests."""
    return isinstance(values, dict) and isinstance(values.get("metadata"), dict) and "metrics" in values


def read_aiperf(statistics: Path | None, requests: Path | None) -> BenchmarkRun:
    """The run of either file, or of both.

    Raises
    ------
    ConfigError
        With every fault.
    """
    run = _statistics(statistics) if statistics is not None else None
    if requests is None:
        assert run is not None
        return run
    return _requests(requests, run)


def _statistics(path: Path) -> BenchmarkRun:
    faults = Faults(path)
    fields = Fields(read_document(path), faults)
    config = fields.part("input_config")
    load, endpoint = config.part("loadgen"), config.part("endpoint")
    models = endpoint.values.get("model_names")
    measured = {metric: _spread(fields.part(name), faults, name) for metric, name in _METRICS.items()}
    lengths = [_spread(fields.part(f"{side}_sequence_length"), faults, side) for side in ("input", "output")]
    completed = fields.part("request_count").whole("avg") or 0
    if not completed:
        faults.add("request_count", "no request was served")
    run = BenchmarkRun(
        path=str(path),
        format="aiperf",
        model=str(models[0])[:300] if isinstance(models, list) and models else "",
        backend="",
        engine=RunEngine(),
        completed=completed,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        concurrency=load.whole("concurrency") or None,
        request_rate=load.number("request_rate") or None,
        requests=None,
        measured=measured,
        itl_of=REQUEST_MEAN,
        duration_s=fields.part("benchmark_duration").number("avg"),
        request_throughput=fields.part("request_throughput").number("avg"),
        output_throughput=fields.part("output_token_throughput").number("avg"),
        notes=("only statistics are recorded: all requests are of mean length",),
    )
    for side, spread in zip(("input", "output"), lengths, strict=True):
        if not spread.mean:
            faults.add(f"{side}_sequence_length.avg", "is missing")
    faults.raise_if_any()
    return run


def _requests(path: Path, run: BenchmarkRun | None) -> BenchmarkRun:
    faults = Faults(path)
    table: list[tuple[float, ...]] = []
    left_out = 0
    for number, values in read_lines(path):
        metadata, metrics = values.get("metadata"), values.get("metrics")
        if not isinstance(metadata, dict) or not isinstance(metrics, dict):
            faults.add(f"line {number}", "has no metadata or no metrics")
            continue
        warm_up = metadata.get("benchmark_phase", "profiling") != "profiling"
        if warm_up or values.get("error") is not None or metadata.get("was_cancelled"):
            left_out += 1
            continue
        table.append(_request(number, metadata, metrics, faults))
    if not table:
        faults.add("", "holds no requests that were served")
    faults.raise_if_any()
    start, read, written, first, each, whole = np.array(table, dtype=np.float64).T
    order = np.argsort(start, kind="stable")
    samples = {
        name: Sample(values[order], paired=name != "itl")
        for name, values in (("ttft", first), ("tpot", each), ("itl", each), ("e2el", whole))
    }
    notes = (f"{left_out} requests of the warm-up, failed or cancelled were left out",) if left_out else ()
    duration = float(((start - start.min()) + whole).max())
    return BenchmarkRun(
        path=str(path),
        format="aiperf",
        model=run.model if run else "",
        backend="",
        engine=RunEngine(),
        completed=len(table),
        input_tokens=Spread.of(read),
        output_tokens=Spread.of(written),
        concurrency=run.concurrency if run else None,
        request_rate=run.request_rate if run else None,
        requests=request_trace(start - start.min(), read.astype(np.int64), written.astype(np.int64)),
        measured={name: Spread.of_sample(sample) for name, sample in samples.items()},
        samples=samples,
        itl_of=REQUEST_MEAN,
        duration_s=duration,
        request_throughput=len(table) / duration if duration > 0 else None,
        output_throughput=float(written.sum()) / duration if duration > 0 else None,
        notes=notes,
    )


def _request(
    number: int, metadata: dict[str, Any], metrics: dict[str, Any], faults: Faults
) -> tuple[float, ...]:
    """Start, tokens in and out, TTFT, TPOT and latency of one request."""
    where = f"line {number}, "
    # Nanoseconds since 1970 are more than what other numbers may be.
    start = metadata.get("request_start_ns")
    if not isinstance(start, int) or not 0 <= start < 2**63:
        faults.add(where + "request_start_ns", "is no time", str(start), "nanoseconds since 1970")
        start = 0
    fields = Fields(metrics, faults, where)
    lengths = [_value(fields, f"{side}_sequence_length", faults, where) for side in ("input", "output")]
    for side, value in zip(("input", "output"), lengths, strict=True):
        if not value >= 1:
            faults.add(f"{where}{side}_sequence_length", "is missing or less than 1")
    times = [
        _value(fields, name, faults, where)
        for name in ("time_to_first_token", "inter_token_latency", "request_latency")
    ]
    return (start / 1e9, *lengths, *times)


def _value(fields: Fields, name: str, faults: Faults, where: str) -> float:
    """A metric ``{"value", "unit"}`` in seconds or tokens; NaN if it is missing."""
    part = fields.part(name)
    value = part.number("value")
    return float("nan") if value is None else value * _unit(part, faults, where + name)


def _spread(part: Fields, faults: Faults, name: str) -> Spread:
    """Statistics ``{"unit", "avg", "p50", "p90", "p99"}`` in seconds or tokens."""
    unit = _unit(part, faults, name)
    found = [part.number(key) for key in ("avg", "p50", "p90", "p99")]
    return Spread(*(None if value is None else value * unit for value in found))


def _unit(part: Fields, faults: Faults, where: str) -> float:
    unit = part.values.get("unit", "tokens")
    if unit == "tokens":
        return 1.0
    if unit not in _SECONDS:
        faults.add(f"{where}.unit", "is no such unit", str(unit), f"tokens, {', '.join(_SECONDS)}")
    return _SECONDS.get(unit, 1.0) if isinstance(unit, str) else 1.0
