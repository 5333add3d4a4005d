"""Fit the kernels of the RTX PRO 6000 (SM120), and write ``hardware/kernels/rtx-pro-6000.json``.

    python benchmarks/rtx_pro_6000_kernels.py

``kernels/rtx_pro_6000.csv`` is a part of what casys-kaist/LLMServingSim (MIT) published of its profile of
vLLM 0.28.0's kernels on that GPU, ``profiler/perf/RTXPRO6000``, in microseconds:

=========  ==========================================  ======================================================
kernel     a, b, c, d                                  from
=========  ==========================================  ======================================================
gemm       outputs, inputs, rows                       ``dense.csv`` and ``per_sequence.csv`` of Qwen3-32B
                                                       (tp2), Llama-3.1-8B (tp1), Qwen3-30B-A3B (tp1)
decode     heads, kv heads, sequences, context         ``attention.csv`` of Qwen3-32B (tp2) and Llama-3.1-8B
mixed      the same                                    the same, beside a prompt of 16 tokens
experts    ranks, tokens of all ranks, experts hit     ``moe.csv`` of Qwen3-30B-A3B (2048 x 768, top-8)
=========  ==========================================  ======================================================

Rows whose weights stay in the 128 MB of L2 between runs are left out: in a step they come from memory. What
was not measured there (8-bit and 4-bit types, prefill, latent attention) stays what ``l40s.json`` says.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.calibrate.experts import TILES
from moesim.calibrate.kernel_file import _entry, text_of
from moesim.calibrate.rows import Rows
from moesim.calibrate.surfaces import fit_surface
from moesim.calibrate.tables import rows_of
from moesim.cost.expert_gemm import ExpertShape
from moesim.hardware import load_hardware
from moesim.ops.attention import MIXED_ROWS, decode_work
from moesim.ops.primitives import gemm
from moesim.ops.shapes import decode_shape, expert_shape, mixed_shape

ROOT = Path(__file__).resolve().parent.parent
VERSION = "0.28.0"
SOURCE = (
    "bf16 GEMM, experts, attention of decoding: casys-kaist/LLMServingSim profiler/perf/RTXPRO6000 (MIT); "
    "others: ai-dynamo/aiconfigurator@095f58a systems/data, L40S (Apache-2.0)"
)
DIM, HIDDEN, WIDTH, TOP_K = 128, 2048, 768, 8


def main() -> None:
    table = pd.read_csv(ROOT / "benchmarks/kernels/rtx_pro_6000.csv")
    device = load_hardware("rtx-pro-6000-8").device
    made = [_gemm(table), _decode(table), _mixed(table), _experts(table)]
    entries = []
    for rows in made:
        fitted = fit_surface(rows, device)
        entries.append(_entry(fitted))
        print(rows.kernel, fitted.rows, "rows, left out:", fitted.left_out.to_dict())
    known = json.loads((ROOT / "hardware/kernels/l40s.json").read_text())
    # Ranks that share experts were timed with the pairs they hold, and are among the rows of experts.
    own = {(entry["kernel"], entry["dtype"]) for entry in entries} | {("experts_ep", "bf16")}
    document = {
        "schema_version": 1,
        "name": "rtx-pro-6000",
        "source": SOURCE,
        "licence": "MIT and Apache-2.0",
        "fits": entries + [fit for fit in known["fits"] if (fit["kernel"], fit["dtype"]) not in own],
    }
    (ROOT / "hardware/kernels/rtx-pro-6000.json").write_text(text_of(document))


def _columns(table: pd.DataFrame, kernel: str) -> list[np.ndarray]:
    part = table[table.kernel == kernel]
    return [part[name].to_numpy(np.float64) for name in ("a", "b", "c", "d", "us")]


def _gemm(table: pd.DataFrame) -> Rows:
    outputs, inputs, rows, _, us = _columns(table, "gemm")
    op = gemm("gemm", rows, inputs, outputs, "bf16")
    return rows_of(op.shape, "bf16", "vllm", VERSION, "bf16", "gemm", op.flops, op.bytes, us * 1e-6)


def _decode(table: pd.DataFrame) -> Rows:
    heads, kv_heads, sequences, context, us = _columns(table, "decode")
    shape = decode_shape(sequences, context, heads, kv_heads, float(DIM))
    flops, cache, moved = decode_work(sequences, context, heads, kv_heads, 2.0 * DIM, 2.0)
    kind = "attention_decode"
    return rows_of(shape, "bf16", "vllm", VERSION, "bf16", kind, flops, cache + moved, us * 1e-6)


def _mixed(table: pd.DataFrame) -> Rows:
    heads, kv_heads, sequences, context, us = _columns(table, "mixed")
    shape = mixed_shape(sequences, context, heads, kv_heads, float(DIM))
    flops, cache, moved = decode_work(sequences, context, heads, kv_heads, 2.0 * DIM, 2.0)
    kind = "attention_prefill"
    return rows_of(shape, "bf16", "vllm", VERSION, "bf16", kind, MIXED_ROWS * flops, cache + moved, us * 1e-6)


def _experts(table: pd.DataFrame) -> Rows:
    ranks, tokens, hit, _, us = _columns(table, "experts")
    one = ExpertShape(HIDDEN, float(WIDTH), 3, "bf16")
    pairs = tokens * TOP_K / ranks
    each = pairs / hit
    rows = rows_of(
        expert_shape(pairs, hit, float(WIDTH)),
        "bf16",
        "vllm",
        VERSION,
        "bf16",
        "gemm",
        pairs * one.flops_per_pair,
        hit * one.weight_bytes + pairs * one.bytes_per_pair,
        us * 1e-6,
    )
    tiled = {size: np.ceil(each / size) * size * hit * one.flops_per_pair for size in TILES}
    return replace(rows, tiled=tiled)


if __name__ == "__main__":
    main()
