"""Does the law of tiles and waves hold on a real GPU? On published timings, beside the fitted surface.

    python benchmarks/reference/waves_on_tables.py ../shared/data/kernels/h200_sxm h200-sxm-8 --backend vllm

The tables (ai-dynamo/aiconfigurator) time the whole fused MoE block of a serving engine in bf16 on one rank.
Which tiles its kernels had is not recorded: rows of a tile are taken as the power of two above the mean
number of tokens per expert, 16 to 128, and columns as 128. Both were chosen before any comparison.
Both laws are fitted to the same measurements: all but one row in five drawn at random, then all but some
model shapes.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moesim.calibrate import read_tables
from moesim.calibrate.experts import FEWEST, KEYS, OTHER_WIDTHS, OTHERS, grouped_routing
from moesim.calibrate.histograms import rank_tokens
from moesim.calibrate.reference.cuda_waves import Machine, Products, fit_waves, modelled_s
from moesim.calibrate.surfaces import Error, fit_surface
from moesim.calibrate.tables import fastest, newest
from moesim.cost.expert_gemm import ExpertShape
from moesim.cost.waves import product_bytes, products
from moesim.hardware import load_hardware
from moesim.hardware.tiles import Tile
from moesim.hardware.types import Device

#: Configurations that are assumed: up to a mean of as many tokens as they have rows.
ROWS = (16, 32, 64, 128)
TILES = tuple(Tile(f"{n}x128", n, 128, 0.5, 0.0, 0.0, float(n) if n < ROWS[-1] else np.inf) for n in ROWS)
#: One row in so many is left out.
LEAVE = 5


@functools.lru_cache(maxsize=100_000)
def histogram(distribution: str, tokens: int, experts: int, top_k: int) -> tuple[float, ...]:
    """Pairs, experts hit, and rows of tiles of each configuration: means over draws."""
    counts = rank_tokens(distribution, tokens, experts, top_k, 1)
    rows = (float(np.ceil(counts / tile.rows).sum(axis=1).mean()) for tile in TILES)
    return float(counts.sum(axis=1).mean()), float((counts > 0).sum(axis=1).mean()), *rows


def measured(folder: Path, backend: str) -> dict[str, Any]:
    """Columns of the rows in bf16 of gated experts that one rank has all of."""
    path = newest(folder / "moe", backend, "moe_perf")
    assert path is not None
    table = pq.read_table(path)
    hidden, inner = (table[name].to_numpy() for name in ("hidden_size", "inter_size"))
    usable = np.array([not any(o in str(s) for o in OTHERS) for s in table["kernel_source"].to_pylist()])
    for widths in OTHER_WIDTHS:
        usable &= ~((hidden == widths[0]) & (inner == widths[1]))
    usable &= np.array([str(s) == "bfloat16" for s in table["moe_dtype"].to_pylist()])
    columns = fastest(table.filter(pa.array(usable)), KEYS, "num_tokens")
    keep = (columns["moe_ep_size"] == 1) & ~grouped_routing(columns, backend)
    return {name: column[keep] for name, column in columns.items() if name != "spikes"}


def rows_of(t: dict[str, Any], device: Device) -> Products:
    """The same in the terms of the law; a third product, without waves, is the activation and the sum."""
    processor = device.processor
    cores, peak = processor.cores or 1, processor.peak_flops_per_s["bf16"]
    names = ("distribution", "num_tokens", "num_experts", "topk")
    made = [histogram(str(d), int(n), int(e), int(k)) for d, n, e, k in zip(*map(t.get, names), strict=True)]
    pairs, hit, *row_tiles = np.array(made).T
    tile = np.searchsorted([x.most for x in TILES[:-1]], t["num_tokens"] * t["topk"] / t["num_experts"])
    rows = np.choose(tile, row_tiles)
    width = t["inter_size"] / t["moe_tp_size"]
    one = ExpertShape(t["hidden_size"], width, 3, "bf16")
    waves, inputs, data = [], [], []
    for k, n, stored in products(one):
        waves.append(np.ceil(rows * np.ceil(n / 128) / cores))
        inputs.append(k)
        data.append(product_bytes(pairs, hit, k, n, stored, "bf16"))
    rest = 2.0 * (3 * pairs * width + (pairs + t["num_tokens"]) * t["hidden_size"])
    zero = np.zeros(len(pairs))
    roof = np.maximum(pairs * one.flops_per_pair / peak, sum(data) / device.memory.bandwidth_bytes_per_s)
    shapes = np.stack([t[name] for name in ("hidden_size", "inter_size", "num_experts", "topk")], axis=1)
    found = Products(
        tile.astype(np.int64),
        np.stack([*waves, zero], axis=1),
        np.stack([*inputs, zero], axis=1),
        np.stack([*data, rest], axis=1),
        zero,
        roof,
        t["seconds"],
        np.unique(shapes, axis=0, return_inverse=True)[1].ravel().astype(np.int64),
    )
    return found.pick(pairs > 0)  # the tables' own draw of a power law leaves some without a pair


def main() -> int:
    """Fit, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device")
    parser.add_argument("--backend", default="vllm")
    asked = parser.parse_args()
    device = load_hardware(asked.device).device
    processor = device.processor
    peak = processor.peak_flops_per_s["bf16"] / (processor.cores or 1)
    machine = Machine(peak, device.memory.bandwidth_bytes_per_s)
    rows = rows_of(measured(asked.folder, asked.backend), device)
    tables = read_tables(asked.folder, [asked.backend])
    surface = fit_surface(next(r for r in tables if (r.kernel, r.dtype) == ("experts", "bf16")), device)
    assert len(rows) == surface.rows >= FEWEST
    out = np.random.default_rng(len(rows)).permutation(len(rows)) % LEAVE == 0
    trained = fit_waves(rows.pick(~out), TILES, machine)
    by_shape = fit_waves(rows, TILES, machine)
    law, shapes = by_shape.law, surface.shapes_left_out
    assert shapes is not None
    print(f"{asked.device}, {asked.backend}: {len(rows)} rows, {len(np.unique(rows.group))} model shapes")
    for name, error in (
        (
            "waves, one row in five left out",
            Error.of(modelled_s(rows.pick(out), trained.law, machine), rows.seconds[out]),
        ),
        ("surface, one row in five left out", surface.left_out),
        ("waves, model shapes left out", by_shape.left_out),
        ("surface, model shapes left out", shapes),
        ("bare roofline", Error.of(rows.roof_s, rows.seconds)),
    ):
        print(f"{name:34s} median {error.median:.1%} p90 {error.p90:.1%} bias {error.bias:+.1%}")
    for i, tile in enumerate(law.tiles):
        error = Error.of(np.exp(-by_shape.log_ratio[rows.tile == i]), np.ones((rows.tile == i).sum()))
        print(
            f"tiles of {tile.rows:3d} rows: {tile.compute:.2f} of the peak, fill {tile.fill_s * 1e6:.1f} us,"
            f" drain {tile.drain_s * 1e6:.1f} us; median error {error.median:.1%} of {error.n}"
        )
    shares = ", ".join(f"{size / 1e6:g} MB {share:.2f}" for size, share in law.memory)
    print(f"between kernels {law.launch_s * 1e6:.1f} us, sharpness {law.sharpness:.1f}, bandwidth {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
