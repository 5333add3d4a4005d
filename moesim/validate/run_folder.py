"""Folders of a measured run: ``meta.json`` with the engine's options, ``requests.jsonl`` with timestamps.

``requests.jsonl`` has ``input_toks, output_toks, arrival_time, queued_ts, first_token_ts, last_token_ts``.
Arrival is on the wall clock and the others on the engine's, so that TTFT and latency count from ``queued_ts``
unless both are the same clock. vLLM's engine stamps it when it takes the request from its inbox, between two
steps: the rest of the step that runs when a request comes is not in its TTFT, and not in the predicted one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moesim.requests import request_trace
from moesim.validate.cells import Faults
from moesim.validate.distances import Sample
from moesim.validate.documents import Fields, read_document, read_lines
from moesim.validate.runs import PER_TOKEN_MEAN, PICKED, SENT, BenchmarkRun, RunEngine, Spread

META, REQUESTS = "meta.json", "requests.jsonl"
#: Two times of one request that differ by more are of two clocks.
_DAY_S = 86_400.0
_COLUMNS = ("input_toks", "output_toks", "arrival_time", "queued_ts", "first_token_ts", "last_token_ts")


def is_run_folder(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / META).is_file() and (path / REQUESTS).is_file()


def read_run_folder(folder: Path) -> BenchmarkRun:
    """The run of a folder.

    Raises
    ------
    ConfigError
        With every fault of ``meta.json``, else of ``requests.jsonl``.
    """
    model, version, engine = _meta(folder / META)
    path = folder / REQUESTS
    faults = Faults(path)
    table: list[list[float]] = []
    silent = 0
    for number, values in read_lines(path):
        fields = Fields(values, faults, f"line {number}, ")
        row = [fields.number(name, needed=True) for name in _COLUMNS]
        if any(value is None for value in row):
            continue
        if not row[0] or not row[1]:
            silent += 1
            continue
        if not row[3] <= row[4] <= row[5]:  # type: ignore[operator]
            faults.add(f"line {number}", "first and last token do not follow queued_ts in order")
            continue
        table.append(row)  # type: ignore[arg-type]
    if not table and not faults:
        faults.add("", "holds no requests that were served")
    faults.raise_if_any()
    read, written, arrival, queued, first, last = np.array(table, dtype=np.float64).T
    order = np.argsort(arrival, kind="stable")
    read, written, arrival, queued, first, last = (
        column[order] for column in (read, written, arrival, queued, first, last)
    )
    one_clock = bool((np.abs(arrival - queued) < _DAY_S).all())
    began = arrival if one_clock else queued
    many = written > 1
    each = np.where(many, (last - first) / np.maximum(written - 1, 1), np.nan)
    samples = {
        "ttft": Sample(first - began, paired=True),
        "tpot": Sample(each, paired=True),
        "itl": Sample(each, np.maximum(written - 1, 0)),
        "e2el": Sample(last - began, paired=True),
    }
    duration = float(last.max() - began.min())
    notes = [f"{silent} requests without input or output tokens were left out"] if silent else []
    return BenchmarkRun(
        path=str(folder),
        format="llmservingsim",
        model=model,
        backend="vllm",
        version=version,
        engine=engine,
        completed=len(table),
        input_tokens=Spread.of(read),
        output_tokens=Spread.of(written),
        concurrency=None,
        request_rate=(len(table) - 1) / max(float(np.ptp(arrival)), 1e-9) if len(table) > 1 else None,
        requests=request_trace(arrival - arrival.min(), read.astype(np.int64), written.astype(np.int64)),
        measured={name: Spread.of_sample(sample) for name, sample in samples.items()},
        samples=samples,
        counted_from=SENT if one_clock else PICKED,
        itl_of=PER_TOKEN_MEAN,
        duration_s=duration,
        request_throughput=len(table) / duration if duration > 0 else None,
        output_throughput=float(written.sum()) / duration if duration > 0 else None,
        notes=tuple(notes),
    )


def _meta(path: Path) -> tuple[str, str, RunEngine]:
    faults = Faults(path)
    document: Any = read_document(path)
    if not isinstance(document, dict):
        faults.add("", "is no JSON object")
        faults.raise_if_any()
    fields = Fields(document, faults)
    options = fields.part("engine_kwargs")
    tp, dp = options.whole("tensor_parallel_size") or 1, options.whole("data_parallel_size") or 1
    experts = tp * dp if options.values.get("enable_expert_parallel") is True else 1
    engine = RunEngine(
        tp=tp,
        pp=options.whole("pipeline_parallel_size") or 1,
        dp=dp,
        ep=experts,
        dtype=options.text("quantization") or options.text("dtype") or None,
        kv_cache_dtype=options.text("kv_cache_dtype") or None,
        chunk_tokens=options.whole("max_num_batched_tokens"),
        max_sequences=options.whole("max_num_seqs"),
        memory_utilisation=options.number("gpu_memory_utilization"),
    )
    faults.raise_if_any()
    return fields.text("model") or options.text("model"), fields.text("vllm_version"), engine
