"""Does the law of tiles and waves hold on a real GPU? On published timings of grouped GEMMs, beside the surface.

    python benchmarks/reference/waves_on_tables.py ../shared/data/kernels/h200_sxm h200-sxm-8 --backend vllm

The tables (ai-dynamo/aiconfigurator) time a whole fused MoE block of a serving engine in bf16 on one rank. Which
tiles its kernels had is not recorded: rows of a tile are taken as the power of two above the mean number of
tokens per expert, 16 to 128, and columns as 128, both chosen before any comparison. Both laws are fitted to the
same rows and tested on the same rows left out: one row in five at random, then every model shape in turn.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import numpy as np

from moesim.calibrate import read_tables
from moesim.calibrate.experts import DTYPES, KEYS, OTHER_WIDTHS, OTHERS
from moesim.calibrate.histograms import rank_tokens
from moesim.calibrate.reference.cuda_waves import Machine, Products, fit_waves, modelled_s
from moesim.calibrate.surfaces import Error, _form, _left_out, fit_surface, modelled, predicted_apart
from moesim.calibrate.tables import fastest, newest
from moesim.hardware import load_hardware
from moesim.hardware.tiles import Tile

#: Configurations that are assumed: up to a mean of as many tokens as they have rows.
TILES = tuple(
    Tile(f"{rows}x128", rows, 128, 0.5, 0.0, 0.0, float(rows) if rows < 128 else np.inf)
    for rows in (16, 32, 64, 128)
)


@functools.lru_cache(maxsize=100_000)
def _histogram(distribution: str, tokens: int, experts: int, top_k: int) -> tuple[np.ndarray, ...]:
    """Pairs, experts hit, and rows of tiles of each configuration, means over draws."""
    counts = rank_tokens(distribution, tokens, experts, top_k, 1)
    rows = [np.ceil(counts / tile.rows).sum(axis=1).mean() for tile in TILES]
    return counts.sum(axis=1).mean(), (counts > 0).sum(axis=1).mean(), *rows


def rows_of(folder: Path, backend: str, cores: int, peak: float, bandwidth: float) -> tuple[Products, dict]:
    """Measured bf16 rows of one rank without expert parallelism, in the terms of the law."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(newest(folder / "moe", backend, "moe_perf"))
    hidden, inner = (table[name].to_numpy() for name in ("hidden_size", "inter_size"))
    usable = np.array([not any(o in str(s) for o in OTHERS) for s in table["kernel_source"].to_pylist()])
    for widths in OTHER_WIDTHS:
        usable &= ~((hidden == widths[0]) & (inner == widths[1]))
    usable &= np.array([str(s) == "bfloat16" for s in table["moe_dtype"].to_pylist()])
    usable &= table["moe_ep_size"].to_numpy() == 1
    t = fastest(table.filter(pa.array(usable)), KEYS, "num_tokens")
    keep = ~((t["hidden_size"] == 7168) & (t["num_experts"] == 256) & (t["topk"] == 8))
    t = {name: column[keep] for name, column in t.items() if name != "spikes"}
    names = ("distribution", "num_tokens", "num_experts", "topk")
    made = [
        _histogram(str(d), int(n), int(e), int(k)) for d, n, e, k in zip(*(t[name] for name in names), strict=True)
    ]
    features = np.array(made)
    pairs, hit = features[:, 0], features[:, 1]
    h, w = t["hidden_size"], t["inter_size"] / t["moe_tp_size"]
    mean = t["num_tokens"] * t["topk"] / t["num_experts"]
    tile = np.searchsorted([x.most for x in TILES[:-1]], mean)
    row_tiles = features[np.arange(len(tile)), 2 + tile]
    waves = [np.ceil(row_tiles * np.ceil(n / 128) / cores) for n in (2 * w, h)]
    data = [hit * h * 2 * w * 2 + pairs * (h + 2 * w) * 2, hit * h * w * 2 + pairs * (w + h) * 2]
    rest = pairs * 3 * w * 2 + (pairs + t["num_tokens"]) * h * 2  # activation, and the sum over experts
    flops = pairs * 6 * h * w
    roof = np.maximum(flops / peak, (hit * h * 3 * w * 2 + pairs * 4 * h) / bandwidth)
    shapes = np.stack([t[name] for name in ("hidden_size", "inter_size", "num_experts", "topk")], axis=1)
    _, group = np.unique(shapes, axis=0, return_inverse=True)
    zero = np.zeros(len(pairs))
    products = Products(
        tile.astype(np.int64),
        np.stack([*waves, zero], axis=1),
        np.stack([h, w, zero], axis=1),
        np.stack([*data, rest], axis=1),
        zero,
        roof,
        t["seconds"],
        group.ravel().astype(np.int64),
    )
    return products, t


def main() -> int:
    """Fit, test, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device")
    parser.add_argument("--backend", default="vllm")
    asked = parser.parse_args()
    device = load_hardware(asked.device).device
    processor = device.processor
    assert "bfloat16" in DTYPES
    assert processor.cores
    peak, bandwidth = processor.peak_flops_per_s["bf16"], device.memory.bandwidth_bytes_per_s
    machine = Machine(peak / processor.cores, bandwidth)
    rows, _ = rows_of(asked.folder, asked.backend, processor.cores, peak, bandwidth)
    surfaces = next(
        r for r in read_tables(asked.folder, [asked.backend]) if (r.kernel, r.dtype) == ("experts", "bf16")
    )
    print(f"{len(rows)} rows for the waves, {len(surfaces)} for the surface, {len(np.unique(rows.group))} shapes")
    out = _left_out(len(rows))
    trained = fit_waves(rows.pick(~out), TILES, machine)
    by_shape = fit_waves(rows, TILES, machine)
    surface = fit_surface(surfaces, device)
    at_random = Error.of(modelled_s(rows.pick(out), trained.law, machine), rows.seconds[out])
    roof = Error.of(rows.roof_s, rows.seconds)
    shapes_out = surface.shapes_left_out
    for name, error in (
        ("waves, one row in five left out", at_random),
        ("waves, shapes left out in five parts", by_shape.left_out),
        ("surface, one row in five left out", surface.left_out),
        ("surface, every shape left out", shapes_out),
        ("bare roofline", roof),
    ):
        print(f"{name:38s} {error.to_dict() if error else '-'}")
    for tile in by_shape.law.tiles:
        print(f"{tile.name:8s} compute {tile.compute:.3f} fill {tile.fill_s * 1e6:.2f} us drain {tile.drain_s * 1e6:.2f} us")
    law = by_shape.law
    print(f"between kernels {law.launch_s * 1e6:.2f} us, sharpness {law.sharpness:.2f}, share of bandwidth {law.memory}")
    mean = np.array([t.rows for t in TILES])[rows.tile]
    for size in np.unique(mean):
        print(f"tiles of {size:3d} rows: median |ln| {np.median(np.abs(by_shape.log_ratio[mean == size])):.3f}, n {(mean == size).sum()}")
    _ = (_form, modelled, predicted_apart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
