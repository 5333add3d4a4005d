"""Rows of grouped-GEMM tables: time against the histogram of tokens over the rank's experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moesim.calibrate.histograms import rank_tokens
from moesim.calibrate.rows import Array, Rows
from moesim.cost.expert_gemm import ExpertShape
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.ops.shapes import expert_shape

#: Data types in the tables, by preference: the name here, and the weights' type they are counted as.
DTYPES = {
    "bfloat16": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8_block", "fp8"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "int4_wo": ("int4", "int4"),
    "w4a16_mxfp4": ("mxfp4", "mxfp4"),
    "w4a8_mxfp4_mxfp8": ("mxfp4", "mxfp4"),
}
#: Activations that go with mxfp4 weights where more than one was measured: 8 bits, which engines are served
#: with on Blackwell (vLLM by ``VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8=1``, as in its recipe for gpt-oss and in
#: benchmarks/gptoss_fp4_b200.sh of SemiAnalysisAI/InferenceX).
MXFP4 = "w4a8_mxfp4_mxfp8"
#: Fewest rows of a data type that are worth a fit.
FEWEST = 200
#: Kernels of other blocks than gated experts, and the hidden and inner widths of such blocks where the kernel
#: does not tell (Nemotron's experts have two matrices, those of width 3072 another activation).
OTHERS = ("nongated", "situ_as_silu")
OTHER_WIDTHS = ((2048, 5120), (2688, 1856), (8192, 5120), (3584, 3072))
#: Rows of a tile that are tried.
TILES = (1.0, 16.0, 64.0, 128.0)
KEYS = ("hidden_size", "inter_size", "num_experts", "topk", "moe_tp_size", "moe_ep_size", "distribution")


def expert_rows(table: pa.Table, backend: str, version: str) -> Iterator[Rows]:
    """Rows of one table, by data type and by whether experts are shared between ranks.

    Engines change to other kernels where experts are shared between ranks, and ranks then hold tokens whose
    experts are elsewhere: ``experts`` are the rows of one rank, ``experts_ep`` those of several.
    """
    from moesim.calibrate.tables import fastest

    sources = np.array([str(s) for s in table["kernel_source"].to_pylist()])
    usable = np.array([not any(other in s for other in OTHERS) for s in sources], dtype=bool)
    hidden, inner = (table[name].to_numpy() for name in ("hidden_size", "inter_size"))
    for widths in OTHER_WIDTHS:
        usable &= ~((hidden == widths[0]) & (inner == widths[1]))
    names = np.array([str(s) for s in table["moe_dtype"].to_pylist()])
    counts = {name: int((usable & (names == name)).sum()) for name in DTYPES}
    for name, (dtype, weights) in DTYPES.items():
        if counts[name] < FEWEST or (dtype == "mxfp4" and name != MXFP4 and counts[MXFP4] >= FEWEST):
            continue
        part = table.filter(pa.array(usable & (names == name)))
        t = fastest(part, KEYS, "num_tokens")
        rows = _rows(t, dtype, weights, backend, version)
        shared = t["moe_ep_size"] > 1
        odd = grouped_routing(t, backend)
        for kernel, chosen in (("experts", ~shared), ("experts_ep", shared)):
            picked = rows.pick(chosen & ~odd & (rows.flops > 0))
            if len(picked) >= FEWEST:
                yield replace(picked, kernel=kernel)


def grouped_routing(t: dict[str, npt.NDArray[np.float64]], backend: str) -> npt.NDArray[np.bool_]:
    """Rows whose tokens went elsewhere than their distribution says.

    vLLM and SGLang route DeepSeek-R1's shape through its choice of 4 of 8 groups of experts. The tokens of
    the tables have one expert in each group, so that half of their pairs are lost, and fall back to the first
    experts: on 64 ranks the ``balanced`` rank then has 33 times its fair share, which the times show.
    """
    if backend == "trtllm":
        return np.zeros(len(t["topk"]), dtype=bool)
    odd = (t["hidden_size"] == 7168) & (t["num_experts"] == 256) & (t["topk"] == 8)
    return np.asarray(odd, dtype=bool)


def _rows(t: dict[str, Array], dtype: str, weights: str, backend: str, version: str) -> Rows:
    features = _features(t)
    pairs, hit = features[:, 0], features[:, 1]
    width = t["inter_size"] / t["moe_tp_size"]
    per_pair, data = np.empty(len(pairs)), np.empty(len(pairs))
    for hidden, inner in np.unique(np.stack([t["hidden_size"], width], axis=1), axis=0):
        chosen = (t["hidden_size"] == hidden) & (width == inner)
        one = ExpertShape(int(hidden), float(inner), 3, weights)
        per_pair[chosen] = one.flops_per_pair
        data[chosen] = hit[chosen] * one.weight_bytes + pairs[chosen] * one.bytes_per_pair
    shape = expert_shape(pairs, hit, width)
    names = np.stack([t[key] for key in ("hidden_size", "inter_size", "num_experts", "topk")], axis=1)
    _, group = np.unique(names, axis=0, return_inverse=True)
    return Rows(
        "experts",
        dtype,
        backend,
        version,
        weights,
        "gemm",
        np.stack([np.asarray(s) for s in shape.sizes], axis=1),
        pairs * per_pair,
        data,
        t["seconds"],
        group.ravel().astype(np.int64),
        {rows: features[:, 2 + i] * per_pair for i, rows in enumerate(TILES)},
        t["num_tokens"] * t["topk"] * t["hidden_size"] * ACTIVATION_BYTES,
    )


def _features(t: dict[str, Array]) -> Array:
    """Pairs, experts hit, and pairs in whole tiles of each of `TILES`: means over draws, one column each."""
    known: dict[tuple[str, int, int, int, int], list[float]] = {}
    made = []
    for name, tokens, experts, top_k, ranks in zip(
        t["distribution"], t["num_tokens"], t["num_experts"], t["topk"], t["moe_ep_size"], strict=True
    ):
        key = (str(name), int(tokens), int(experts), int(top_k), int(ranks))
        if key not in known:
            counts = rank_tokens(*key)
            hit = np.maximum((counts > 0).sum(axis=1).mean(), 1e-3)
            tiles = [float((np.ceil(counts / rows) * rows).sum(axis=1).mean()) for rows in TILES]
            known[key] = [float(counts.sum(axis=1).mean()), float(hit), *tiles]
        made.append(known[key])
    return np.array(made).reshape(-1, 2 + len(TILES))
