"""One of each figure of time and load, from values that are easy to check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.reporting import figures
from moesim.reporting.figures import Figure, Roof, RooflinePoint, Slice

NAMES = ("deepseek-v3, tp=1 dp=32 ep=32", "4x h200, FP8", "before (contiguous)")


def every(names: Sequence[str] = NAMES, rows: int = 2, scale: float = 1.0) -> dict[str, Figure]:
    """Figures of some rows, labelled with the names in turn, of values `scale` times the usual ones."""
    rng = np.random.default_rng(0)
    labels = [names[nth % len(names)] for nth in range(rows)]
    one, other = names[0], names[-1] if len(names) > 1 else f"{names[0]}!"
    ops = [f"{names[nth % len(names)]} {nth}" for nth in range(12)]
    parts = [dict(zip(ops, (scale * rng.gamma(1.0, 0.002, 12)).tolist(), strict=True)) for _ in labels]
    value = {"ttft_s": 0.2 * scale, "tpot_s": 0.02 * scale, "output_throughput": 9e3 / scale}
    bound = {"ttft_s": 0.1 * scale, "tpot_s": 0.001 * scale, "output_throughput": 2e5 / scale}
    span = {"tpot_s": (0.015 * scale, 0.03 * scale)}
    layers = list(range(3, 3 + rows))
    curve = (1 + rng.random(rows)).tolist()
    tpots = {name: (0.01 * scale * (1 + rng.random(rows))).tolist() for name in ("before", other, "after")}
    points = [RooflinePoint(name, 1e12 * scale * (i + 1), 1e10 * scale, 0.01, one, "memory")
              for i, name in enumerate(labels)]  # fmt: skip
    slices = [
        Slice(f"{names[i % len(names)]} {i % 3}", one, 0.001 * scale * i, 0.0009 * scale, f"kind {i % 11}")
        for i in range(20 * rows)
    ]
    loads = rng.gamma(1.0, 100, (rows, 32))
    ranks = rng.gamma(8, 10, 4 * rows), rng.gamma(500, 0.16, 4 * rows)
    return {
        "time_breakdown": figures.time_breakdown(parts, labels),
        "bounds_and_intervals": figures.bounds_and_intervals(
            [value] * rows, labels, bounds=[bound] * rows, intervals=[span] * rows, level=0.9
        ),
        "gain_by_batch": figures.gain_by_batch([4.0**i for i in range(rows)], tpots),
        "expert_load_map": figures.expert_load_map(loads * scale, layers, ranks=8),
        "rank_loads": figures.rank_loads(*(part * scale for part in ranks), 9, names=(one, other)),
        "imbalance_by_layer": figures.imbalance_by_layer(
            {"contiguous": curve, other: curve}, layers, bound=[1.0] * rows, elsewhere={"plan": curve}
        ),
        "roofline": figures.roofline(points, [Roof(one, 2e15 * scale, 4e12 * scale)]),
        "timeline": figures.timeline(slices),
    }
