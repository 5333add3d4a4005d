"""Small kernel tables, written as the public ones are, with times that follow a law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PEAK, BANDWIDTH, FLOOR = 989e12, 4.8e12, 4e-6


def write(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def gemm_table(
    root: Path, version: str = "vllm-1.2.3", spike: int | None = None, factor: float = 1.3
) -> Path:
    """Times that are `factor` times the additive roofline of an H200, with one spike."""
    inputs = (512, 1024, 2048, 3072, 4096, 8192, 16384)
    sizes = np.array(
        [(m, n, k) for m in (1, 4, 16, 64, 256, 1024) for n in (512, 2048, 8192) for k in inputs]
    )
    m, n, k = sizes.T.astype(float)
    seconds = factor * (FLOOR + 2 * m * n * k / PEAK + 2 * (n * k + m * k + m * n) / BANDWIDTH)
    if spike is not None:
        seconds[spike] *= 50
    write(
        root / "h200_sxm" / "gemm" / version / "gemm_perf.parquet",
        {
            "gemm_dtype": ["bfloat16"] * len(m),
            "m": sizes[:, 0],
            "n": sizes[:, 1],
            "k": sizes[:, 2],
            "latency": seconds * 1e3,
        },
    )
    return root
