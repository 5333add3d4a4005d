"""Serving rows and files for tests; no real measurement is among them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from moesim.layout import Parallelism
from moesim.validate import ServingRow
from moesim.validate.serving_csv import OPTIONAL, REQUIRED

COLUMNS = (*REQUIRED, *OPTIONAL)

CELLS = {
    "id": "r1",
    "silicon_data_source": "lab/2026-05-02; config_id=7; silicon_concurrency=64; measured=2026-05-01T08:00Z",
    "backend": "vllm",
    "backend_version": "0.19.0",
    "model_path": "openai/gpt-oss-120b",
    "system": "h100_sxm",
    "precision": "fp4",
    "mode": "agg",
    "isl": "1024",
    "osl": "512",
    "batch_size": "64.0",
    "tp_size": "2.0",
    "pp_size": "1.0",
    "attention_dp_size": "1.0",
    "moe_tp_size": "2.0",
    "moe_ep_size": "1.0",
    "silicon_ttft_ms": "150.5",
    "silicon_tpot_ms": "12.25",
}

POOLS = {
    "mode": "disagg",
    "model_path": "deepseek-ai/DeepSeek-V3",
    "system": "gb200",
    "precision": "fp8",
    **dict.fromkeys(("batch_size", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size"), ""),
    "prefill_num_workers": "2",
    "prefill_batch_size": "1",
    "prefill_tp_size": "1",
    "prefill_attention_dp_size": "8",
    "prefill_moe_tp_size": "1",
    "prefill_moe_ep_size": "8",
    "decode_num_workers": "1",
    "decode_batch_size": "16",
    "decode_tp_size": "1",
    "decode_attention_dp_size": "32",
    "decode_moe_tp_size": "1",
    "decode_moe_ep_size": "32",
}


def write_csv(path: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
    """A file with one line per row; each says what differs from `CELLS`."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(CELLS | row for row in rows)
    return path


ROW = ServingRow(
    line=2,
    id="a",
    source="lab",
    backend="vllm",
    version="0.19.0",
    model_path="openai/gpt-oss-120b",
    model="gpt-oss-120b",
    system="h100_sxm",
    hardware="h100-sxm-8",
    nodes=None,
    precision="fp4",
    dtype="auto",
    mode="agg",
    isl=1024.0,
    osl=1024.0,
    concurrency=64.0,
    layout=Parallelism(tp=2),
    prefill=None,
    decode=None,
    measured="",
    config_id="",
    campaign="lab",
    repairs=(),
    doubtful="",
    ttft_ms=100.0,
    tpot_ms=10.0,
)


def sweep(*points: tuple[float, float, float], **fields: object) -> list[ServingRow]:
    """Rows of one configuration at ``(concurrency, ttft_ms, tpot_ms)``."""
    return [
        replace(ROW, id=f"c{c:g}", concurrency=c, ttft_ms=ttft, tpot_ms=tpot, **fields)
        for c, ttft, tpot in points
    ]
