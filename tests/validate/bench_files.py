"""Outputs of serving benchmarks in their public formats, with numbers made up for tests."""

from __future__ import annotations

import json
from pathlib import Path

#: Three requests: lengths, start, TTFT and gaps between tokens, in seconds. The last one failed.
INPUTS, OUTPUTS = [100, 200, 50], [4, 3, 0]
STARTS = [10.0, 10.5, 11.0]
TTFTS = [0.2, 0.4, 0.0]
GAPS = [[0.01, 0.02, 0.03], [0.04, 0.06], []]


def vllm_result(**changes: object) -> dict[str, object]:
    """A result of ``vllm bench serve --save-result --save-detailed``."""
    return {
        "date": "20260501-120000",
        "endpoint_type": "openai",
        "model_id": "openai/gpt-oss-20b",
        "num_prompts": 3,
        "request_rate": 2.0,
        "burstiness": 1.0,
        "max_concurrency": None,
        "duration": 4.0,
        "completed": 2,
        "total_input_tokens": 300,
        "total_output_tokens": 7,
        "request_throughput": 0.5,
        "output_throughput": 1.75,
        "total_token_throughput": 76.75,
        "input_lens": INPUTS,
        "output_lens": OUTPUTS,
        "ttfts": TTFTS,
        "itls": GAPS,
        "start_times": STARTS,
        "generated_texts": ["a", "b", ""],
        "errors": ["", "", "timed out"],
        "mean_ttft_ms": 300.0,
        "median_ttft_ms": 300.0,
        "p99_ttft_ms": 398.0,
        "mean_tpot_ms": 35.0,
        "median_tpot_ms": 35.0,
        "p99_tpot_ms": 49.7,
        "mean_itl_ms": 32.0,
        "median_itl_ms": 30.0,
        "p99_itl_ms": 59.2,
        **changes,
    }


DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")


def without_details(result: dict[str, object]) -> dict[str, object]:
    """The same without its requests: what ``--save-result`` alone keeps."""
    return {key: value for key, value in result.items() if key not in DETAILS}


def sglang_result(**changes: object) -> dict[str, object]:
    """One line of SGLang's ``bench_serving``."""
    return {
        "backend": "sglang",
        "dataset_name": "random",
        "request_rate": float("inf"),
        "max_concurrency": 16,
        "random_input_len": 1024,
        "random_output_len": 256,
        "random_range_ratio": 1.0,
        "server_info": {
            "model_path": "openai/gpt-oss-20b",
            "tp_size": 2,
            "dp_size": 1,
            "ep_size": 1,
            "chunked_prefill_size": 4096,
            "max_running_requests": 128,
            "quantization": None,
            "kv_cache_dtype": "auto",
        },
        "duration": 20.0,
        "completed": 64,
        "total_input_tokens": 65536,
        "total_output_tokens": 16384,
        "request_throughput": 3.2,
        "output_throughput": 819.2,
        "mean_e2e_latency_ms": 5000.0,
        "median_e2e_latency_ms": 4900.0,
        "p99_e2e_latency_ms": 6000.0,
        "mean_ttft_ms": 150.0,
        "median_ttft_ms": 100.0,
        "p99_ttft_ms": 600.0,
        "mean_tpot_ms": 19.0,
        "median_tpot_ms": 18.9,
        "p90_tpot_ms": 20.0,
        "p99_tpot_ms": 22.0,
        "mean_itl_ms": 19.1,
        "median_itl_ms": 15.0,
        "p99_itl_ms": 90.0,
        **changes,
    }


def aiperf_statistics(**changes: object) -> dict[str, object]:
    """AIPerf's ``profile_export_aiperf.json``."""

    def spread(unit: str, scale: float) -> dict[str, object]:
        shape = {
            "avg": 1.0,
            "min": 0.5,
            "p50": 0.9,
            "p90": 1.5,
            "p95": 1.7,
            "p99": 2.0,
            "max": 2.5,
            "std": 0.3,
        }
        return {"unit": unit} | {key: value * scale for key, value in shape.items()}

    return {
        "request_throughput": {"unit": "requests/sec", "avg": 8.0},
        "request_latency": spread("ms", 2500.0),
        "request_count": {"unit": "requests", "avg": 80.0},
        "time_to_first_token": spread("ms", 120.0),
        "inter_token_latency": spread("ms", 18.0),
        "output_token_throughput": {"unit": "tokens/sec", "avg": 1024.0},
        "output_sequence_length": spread("tokens", 128.0),
        "input_sequence_length": spread("tokens", 550.0),
        "benchmark_duration": {"unit": "sec", "avg": 10.0},
        "input_config": {
            "endpoint": {"model_names": ["openai/gpt-oss-20b"], "type": "chat", "streaming": True},
            "loadgen": {"concurrency": 20, "request_rate_mode": "concurrency_burst"},
        },
        "was_cancelled": False,
        **changes,
    }


def aiperf_request(number: int, **metrics: object) -> dict[str, object]:
    """One line of AIPerf's ``profile_export.jsonl``."""
    return {
        "metadata": {
            "session_num": number,
            "request_start_ns": 1_759_813_207_532_900_363 + number * 250_000_000,
            "benchmark_phase": "profiling",
            "was_cancelled": False,
        },
        "metrics": {
            "input_sequence_length": {"value": 550, "unit": "tokens"},
            "output_sequence_length": {"value": 11, "unit": "tokens"},
            "time_to_first_token": {"value": 100.0 + number, "unit": "ms"},
            "inter_token_latency": {"value": 20.0, "unit": "ms"},
            "request_latency": {"value": 300.0 + number, "unit": "ms"},
            **metrics,
        },
        "error": None,
    }


def run_folder(folder: Path, rows: list[dict[str, float]], **options: object) -> Path:
    """A folder of ``meta.json`` and ``requests.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {
        "schema_version": 1,
        "model": "openai/gpt-oss-20b",
        "engine_kwargs": {
            "tensor_parallel_size": 2,
            "data_parallel_size": 1,
            "enable_expert_parallel": True,
            "max_num_seqs": 64,
            "max_num_batched_tokens": 2048,
            "dtype": "bfloat16",
            "kv_cache_dtype": "auto",
            **options,
        },
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    write_lines(folder / "requests.jsonl", rows)
    return folder


def folder_rows(count: int = 4) -> list[dict[str, float]]:
    """Requests of such a folder, a second apart, on two clocks."""
    return [
        {
            "request_id": f"bench-{i}",
            "input_toks": 100 + i,
            "output_toks": 11,
            "arrival_time": 1_777_142_984.0 + i,
            "queued_ts": 5000.0 + i,
            "scheduled_ts": 5000.1 + i,
            "first_token_ts": 5000.5 + i,
            "last_token_ts": 5001.5 + i,
        }
        for i in range(count)
    ]


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    """JSON, one object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
