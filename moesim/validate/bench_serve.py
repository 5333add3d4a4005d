"""Results of ``vllm bench serve --save-result`` (one JSON document) and SGLang's ``bench_serving`` (JSONL).

Both say ``mean_ttft_ms`` and the like, and with ``--save-detailed`` (vLLM) or ``--output-details`` (SGLang)
hold every request: ``input_lens, output_lens, ttfts, itls``, and in newer versions ``start_times``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moesim.requests import RequestTrace, request_trace
from moesim.validate.cells import Faults
from moesim.validate.distances import Sample
from moesim.validate.documents import Fields, is_number, read_document, read_lines
from moesim.validate.runs import BenchmarkRun, RunEngine, Spread

#: What each tool calls the metrics in its statistics.
_NAMES = {"ttft": ("ttft",), "tpot": ("tpot",), "itl": ("itl",), "e2el": ("e2el", "e2e_latency")}
_MARKS = ("mean_ttft_ms", "median_ttft_ms", "request_throughput")


def is_result(values: object) -> bool:
    """Whether a JSON value is a result of one of the two tools."""
    return isinstance(values, dict) and any(key in values for key in _MARKS)


def read_vllm(path: Path) -> BenchmarkRun:
    """The run of a vLLM result.

    Raises
    ------
    ConfigError
        With every fault.
    """
    return read_result(read_document(path), path, "vllm-bench")


def read_sglang(path: Path) -> list[BenchmarkRun]:
    """Runs of an SGLang result, one per line.

    Raises
    ------
    ConfigError
        With every fault of the first run that has any.
    """
    return [
        read_result(values, path, "sglang-bench", f"line {number}, ") for number, values in read_lines(path)
    ]


def read_result(values: Mapping[str, Any], path: Path, kind: str, where: str = "") -> BenchmarkRun:
    """One run of either tool.

    Parameters
    ----------
    values
        The result.
    path, kind, where
        The file, its kind, and where in it the result stands.
    """
    faults = Faults(path)
    fields = Fields(values, faults, where)
    server = fields.part("server_info")
    detail = _details(fields, values)
    completed = fields.whole("completed") or (len(detail.requests) if detail else 0)
    totals = fields.number("total_input_tokens"), fields.number("total_output_tokens")
    if not completed:
        faults.add(where + "completed", "no request was served")
    if detail is None and (totals[0] is None or totals[1] is None):
        faults.add(where + "total_input_tokens, total_output_tokens", "are missing")
    rate = None if _unlimited(values.get("request_rate")) else fields.number("request_rate")
    concurrency = fields.whole("max_concurrency") or None
    duration, served, tokens = (
        fields.number(name) for name in ("duration", "request_throughput", "output_throughput")
    )
    measured = {metric: _statistics(fields, names) for metric, names in _NAMES.items()}
    engine = _engine(fields, server)
    faults.raise_if_any()
    notes = (
        list(detail.notes) if detail else ["only statistics are recorded: all requests are of mean length"]
    )
    if detail is None:
        lengths = [Spread(mean=(total or 0.0) / completed) for total in totals]
    else:
        lengths = [Spread.of(detail.requests.input_tokens), Spread.of(detail.requests.output_tokens)]
        spreads = {m: Spread.of_sample(sample) for m, sample in detail.samples.items()}
        measured = {m: spreads[m] if m in spreads and spreads[m].mean else measured[m] for m in measured}
    backend = "sglang" if kind.startswith("sglang") else "vllm"
    return BenchmarkRun(
        path=str(path),
        format=kind,
        model=fields.text("model_id", "model") or server.text("model_path"),
        backend=backend,
        engine=engine,
        completed=completed,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        concurrency=concurrency,
        request_rate=rate or None,
        requests=detail.requests if detail else None,
        measured=measured,
        samples=detail.samples if detail else {},
        notes=tuple(notes),
        duration_s=duration,
        request_throughput=served,
        output_throughput=tokens,
    )


class _Details:
    """Every request of a run."""

    def __init__(self, requests: RequestTrace, samples: dict[str, Sample], notes: list[str]) -> None:
        self.requests = requests
        self.samples = samples
        self.notes = notes


def _details(fields: Fields, values: Mapping[str, Any]) -> _Details | None:
    inputs = fields.numbers("input_lens")
    if not inputs:
        return None
    n = len(inputs)
    outputs, starts = fields.numbers("output_lens", n), fields.numbers("start_times", n)
    ttfts, latencies = fields.numbers("ttfts", n), fields.numbers("latencies", n)
    gaps = _gaps(values.get("itls"), n)
    errors = values.get("errors")
    if outputs is None:
        return None
    failed = [bool(e) for e in errors] if isinstance(errors, list) and len(errors) == n else [False] * n
    kept = np.array([o > 0 and i > 0 and not f for i, o, f in zip(inputs, outputs, failed, strict=True)])
    if not kept.any():
        return None
    notes = [f"{n - kept.sum()} failed requests were left out"] if not kept.all() else []
    written = np.array(outputs)[kept]
    first = np.array(ttfts)[kept] if ttfts is not None else None
    spent = np.array([sum(g) for g in gaps])[kept] if gaps is not None else None
    whole = np.array(latencies)[kept] if latencies is not None else None
    if whole is None and first is not None and spent is not None:
        whole = first + spent
    arrival = np.array(starts)[kept] if starts is not None else np.zeros(kept.sum())
    order = np.argsort(arrival, kind="stable")
    samples: dict[str, Sample] = {}
    if first is not None:
        samples["ttft"] = Sample(first[order], paired=True)
    if whole is not None:
        samples["e2el"] = Sample(whole[order], paired=True)
    if whole is not None and first is not None:
        each = np.where(written > 1, (whole - first) / np.maximum(written - 1, 1), np.nan)
        samples["tpot"] = Sample(each[order], paired=True)
    if gaps is not None:
        found = [gap for g, keep in zip(gaps, kept, strict=True) if keep for gap in g]
        samples["itl"] = Sample(np.array(found, dtype=np.float64))
    requests = request_trace(
        arrival - arrival.min(), np.array(inputs)[kept].astype(np.int64), written.astype(np.int64)
    )
    if starts is None:
        notes.append("arrivals are not recorded")
    return _Details(requests, samples, notes)


def _gaps(value: object, n: int) -> list[list[float]] | None:
    good = isinstance(value, list) and len(value) == n
    if not good or not all(isinstance(g, list) and all(map(is_number, g)) for g in value):  # type: ignore[attr-defined]
        return None
    return value  # type: ignore[return-value]


def _statistics(fields: Fields, names: tuple[str, ...]) -> Spread:
    def seconds(statistic: str) -> float | None:
        found = fields.number(*(f"{statistic}_{name}_ms" for name in names))
        return None if found is None else found / 1e3

    return Spread(*(seconds(s) for s in ("mean", "median", "p90", "p99")))


def _engine(fields: Fields, server: Fields) -> RunEngine:
    """What the result says of the engine: SGLang's server_info, or metadata that vLLM's user added."""

    def degree(*keys: str) -> int | None:
        for part in (server, fields):
            value = next((part.values[k] for k in keys if part.values.get(k) is not None), None)
            if isinstance(value, str) and value.isdigit() and len(value) < 8:
                return int(value)
            if value is not None and is_number(value):
                return int(value)
        return None

    quantisation = server.text("quantization")
    return RunEngine(
        tp=degree("tp_size", "tensor_parallel_size", "tp"),
        pp=degree("pp_size", "pipeline_parallel_size", "pp"),
        dp=degree("dp_size", "data_parallel_size", "dp"),
        ep=degree("ep_size", "expert_parallel_size", "ep"),
        dtype=quantisation or None,
        kv_cache_dtype=server.text("kv_cache_dtype") or None,
        chunk_tokens=degree("chunked_prefill_size", "max_num_batched_tokens"),
        max_sequences=degree("max_running_requests", "max_num_seqs"),
    )


def _unlimited(value: object) -> bool:
    """Whether a request rate means "as fast as possible"."""
    return value in ("inf", "Infinity", "trace", float("inf")) or value is None
