"""Detailed results of the serving benchmarks of vLLM (one JSON document) and SGLang (JSONL, a run per line).

Both hold the arrays ``input_lens`` and ``output_lens``; newer versions also ``start_times`` in seconds.
Where these are missing, arrivals are unknown: all requests stand at 0.
"""

from __future__ import annotations

from typing import Any

from moesim.requests.readers.base import RequestReader
from moesim.requests.rows import Rows
from moesim.requests.source import MAX_JSON_BYTES, Source, seconds, whole
from moesim.requests.types import RequestTrace

_LENGTHS = ("input_lens", "output_lens")
#: What only SGLang writes.
_SGLANG = (b'"mean_e2e_latency_ms"', b'"server_info"', b'"total_output_tokens_retokenized"')


def _sniff_vllm(source: Source) -> bool:
    return _is_bench(source) and not _is_sglang(source)


def _sniff_sglang(source: Source) -> bool:
    return _is_bench(source) and _is_sglang(source)


def _is_bench(source: Source) -> bool:
    # The scalars come first in the file, so that the arrays may lie beyond its head.
    head = source.head
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and (
        b'"input_lens"' in head or b'"request_throughput"' in head
    )


def _is_sglang(source: Source) -> bool:
    return any(key in source.head for key in _SGLANG)


def _read_vllm(source: Source) -> RequestTrace:
    rows = Rows(source)
    document = source.document(rows.faults)
    rows.faults.raise_if_any(source.path)
    return _run(rows, document, "vllm-bench", "")


def _read_sglang(source: Source) -> RequestTrace:
    rows = Rows(source)
    runs = [(number, item) for number, item in source.objects(rows.faults, MAX_JSON_BYTES)]
    rows.faults.raise_if_any(source.path)
    if len(runs) > 1:
        rows.notes.append(f"the file holds {len(runs)} runs: the last was taken")
    number, item = runs[-1] if runs else (1, {})
    return _run(rows, item, "sglang-bench", f"line {number}, ")


def _run(rows: Rows, run: Any, name: str, where: str) -> RequestTrace:  # noqa: ANN401 - any JSON tree
    faults = rows.faults
    if not isinstance(run, dict):
        faults.add(where.rstrip(", "), "is no JSON object")
        faults.raise_if_any(rows.source.path)
    for key in _LENGTHS:
        if not isinstance(run.get(key), list):
            hint = "save the run with --save-detailed (vLLM) or --output-details (SGLang)"
            faults.add(where + key, "is missing", allowed=f"a list, one number per request; {hint}")
    faults.raise_if_any(rows.source.path)
    inputs, outputs = run["input_lens"], run["output_lens"]
    starts, errors = run.get("start_times"), run.get("errors")
    for key, column in (("output_lens", outputs), ("start_times", starts), ("errors", errors)):
        if column is not None and (not isinstance(column, list) or len(column) != len(inputs)):
            faults.add(where + key, "is no list as long as input_lens")
    faults.raise_if_any(rows.source.path)
    failed = 0
    for i, (read, written) in enumerate(zip(inputs, outputs, strict=True)):
        if written == 0 or (errors is not None and errors[i]):
            failed += 1
            continue
        rows.add(
            seconds(starts[i], f"{where}start_times[{i}]", faults) if starts is not None else 0.0,
            whole(read, f"{where}input_lens[{i}]", faults, low=1),
            whole(written, f"{where}output_lens[{i}]", faults, low=1),
        )
    if failed:
        rows.notes.append(f"{failed} failed requests were left out")
    if starts is None:
        rows.notes.append("the run does not say when requests arrived: all stand at 0")
    metadata = {
        key: str(run[key])[:200]
        for key in ("request_rate", "max_concurrency", "model_id", "backend", "dataset_name", "date")
        if isinstance(run.get(key), str | int | float)
    }
    return rows.finish(name, from_first=True, metadata=metadata)


READERS = (
    RequestReader("sglang-bench", "SGLang bench_serving JSONL", _sniff_sglang, _read_sglang),
    RequestReader("vllm-bench", "vLLM bench serve --save-detailed JSON", _sniff_vllm, _read_vllm),
)
