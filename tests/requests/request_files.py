"""Small files of every format, each with the same three requests where the format can say so."""

from __future__ import annotations

import json

import numpy as np

from moesim.requests import request_trace, write_requests

ARRIVAL_S = [0.0, 0.25, 2.5]
INPUT, OUTPUT = [600, 40, 1500], [10, 20, 7]
HASHES = [[1, 2], [9], [1, 2, 5]]
EPOCH_S = 1_777_142_838

SHAREGPT = [
    {
        "id": "a",
        "conversations": [
            {"from": "human", "value": "x" * 40},
            {"from": "gpt", "value": "y" * 9},
            {"from": "human", "value": "x" * 20},
            {"from": "gpt", "value": "é" * 10},
        ],
    },
    {"id": "b", "conversations": [{"from": "gpt", "value": "unasked"}]},
]


def small_trace(**changes):
    parts = {
        "session": [4, 5, 4],
        "prefix_hashes": [h for hashes in HASHES for h in hashes],
        "prefix_ptr": [0, 2, 3, 6],
        "prefix_block_tokens": 512,
        "source": "made up",
        "licence": "CC0",
        "warnings": ("a warning",),
        "metadata": {"note": "é"},
    } | changes
    return request_trace(ARRIVAL_S, INPUT, OUTPUT, **parts)


def _azure(clock, end="\r\n"):
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    lines += [f"{clock(t)},{i},{o}" for t, i, o in zip(ARRIVAL_S, INPUT, OUTPUT, strict=True)]
    return end.join(lines)


def _azure_2023():
    # Across midnight, and seven decimals.
    days = ["2023-11-16 23:59:59.9799601", "2023-11-17 00:00:00.2299601", "2023-11-17 00:00:02.4799601"]
    return _azure(dict(zip(ARRIVAL_S, days, strict=True)).__getitem__)


def _azure_2024():
    days = ["2024-05-10 00:00:00.5+00:00", "2024-05-10 00:00:00.750000+00:00", "2024-05-10 01:00:03+01:00"]
    return _azure(dict(zip(ARRIVAL_S, days, strict=True)).__getitem__, "\n") + "\n"


def _burstgpt(session):
    head = ["Timestamp", *(["Session ID", "Elapsed time"] if session else []), "Model", "Request tokens"]
    lines = [",".join([*head, "Response tokens", "Total tokens", "Log Type"])]
    rows = [*zip(ARRIVAL_S, INPUT, OUTPUT, "aba", strict=True), (3.0, 50, 0, "c")]
    for t, i, o, name in rows:
        lines.append(
            ",".join(map(str, [t, *([name, 1.5] if session else []), "GPT-4", i, o, i + o, "API log"]))
        )
    return "\n".join(lines) + "\n"


def _jsonl(items):
    return "".join(json.dumps(item) + "\n" for item in items)


def _mooncake():
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    rows = zip([0, 250, 2500], INPUT, OUTPUT, HASHES, strict=True)
    return _jsonl(dict(zip(names, row, strict=True)) for row in rows)


def _bench(**more):
    return {
        "date": "20260101-000000",
        "request_rate": "inf",
        "request_throughput": 1.0,
        "input_lens": [*INPUT, 33],
        "output_lens": [*OUTPUT, 0],
        "ttfts": [0.1] * 4,
        "errors": ["", "", "", "timed out"],
        **more,
    }


def _aiperf():
    def metric(n):
        return {"value": n, "unit": "tokens"}

    items = []
    for t, i, o, name in zip(ARRIVAL_S, INPUT, OUTPUT, "aba", strict=True):
        metadata = {
            "x_correlation_id": name,
            "request_start_ns": EPOCH_S * 10**9 + int(t * 1e9),
            "benchmark_phase": "profiling",
            "was_cancelled": False,
        }
        metrics = {"input_sequence_length": metric(i), "output_sequence_length": metric(o)}
        items.append({"metadata": metadata, "metrics": metrics, "error": None})
    items.append(
        {
            "metadata": items[0]["metadata"] | {"was_cancelled": True},
            "metrics": {"error_isl": metric(550)},
            "error": {"code": 499},
        }
    )
    items.append(items[0] | {"metadata": items[0]["metadata"] | {"benchmark_phase": "warmup"}})
    return _jsonl(items)


def _llmservingsim(key, unit):
    rows = zip(ARRIVAL_S, INPUT, OUTPUT, strict=True)
    return _jsonl({"input_toks": i, "output_toks": o, key: (EPOCH_S + t) * unit} for t, i, o in rows)


STARTS = [100.0 + t for t in ARRIVAL_S]
#: file name -> (format, content)
TEXTS = {
    "azure-2023.csv": ("azure", _azure_2023()),
    "azure-2024.csv": ("azure", _azure_2024()),
    "burstgpt-1.csv": ("burstgpt", _burstgpt(session=False)),
    "burstgpt-3.csv": ("burstgpt", _burstgpt(session=True)),
    "mooncake.jsonl": ("mooncake", _mooncake()),
    "llmservingsim.jsonl": ("llmservingsim", _llmservingsim("arrival_time", 1.0)),
    "workload.jsonl": ("llmservingsim", _llmservingsim("arrival_time_ns", 1e9)),
    "aiperf.jsonl": ("aiperf", _aiperf()),
    "vllm.json": ("vllm-bench", json.dumps(_bench(start_times=[*STARTS, 103.0]), indent=1)),
    "sglang.jsonl": (
        "sglang-bench",
        _jsonl([_bench(mean_e2e_latency_ms=1.0, input_lens=[1]), _bench(mean_e2e_latency_ms=1.0)]),
    ),
}


def write_all(folder):
    """Every file in a folder; names of the files."""
    for name, (_, text) in TEXTS.items():
        (folder / name).write_bytes(text.encode())
    (folder / "sharegpt.json").write_text(json.dumps(SHAREGPT))
    write_requests(small_trace(), folder / "canonical.parquet")
    return [*TEXTS, "sharegpt.json", "canonical.parquet"]


def assert_same(a, b):
    for name in a.__dataclass_fields__:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, name
            np.testing.assert_array_equal(x, y, err_msg=name)
        else:
            assert x == y, name
