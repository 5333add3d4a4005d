"""Fit the law of block-scaled fp8 products in Triton, and check it on grouped ones.

    python benchmarks/systems/triton_fp8.py [KERNEL_TABLES]

triton_fp8.csv holds microseconds of SGLang's Triton kernel, 8 rows and more, read off the discussions of
pull requests 3893 (H200, February 2025, Triton 3.1), 5207 and 5820 (April 2025, Triton 3.2) of
sgl-project/sglang. The first timed copies of both operands as well: a constant and their bytes, at what
copies reach, come on top. A quarter of the rows is left out of each fit.

With the folder of kernel tables (``shared/data/kernels``) the new law is asked for DeepSeek-V3's experts on
one of eight H200, as SGLang 0.5.14 ran them: nothing is fitted to these.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import least_squares

from moesim.systems.triton_fp8 import FLOOR_S, TILE_ROWS, TileLaw

TABLE = Path(__file__).with_suffix(".csv")
#: Bytes/s of copies on H200: 0.8 of 4.8 TB/s.
COPY_BYTES_PER_S = 3.84e12
COPIED = "3893"
#: The rows of the kernel tables that the new law is asked for.
DEEPSEEK_V3 = {
    "kernel_source": "sglang_fused_moe_triton",
    "moe_dtype": "fp8_block",
    "hidden_size": 7168,
    "inter_size": 2048,
    "num_experts": 256,
    "topk": 8,
    "moe_tp_size": 8,
    "moe_ep_size": 1,
}


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Pull requests ``[rows]``, and rows, outputs, inputs and seconds ``[4, rows]``."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    names = np.array([line["pull_request"] for line in lines])
    sizes = np.array([[float(line[c]) for c in ("rows", "outputs", "inputs")] for line in lines]).T
    return names, np.vstack([sizes, [float(line["triton_us"]) * 1e-6 for line in lines]])


def fit(data: np.ndarray, copied: bool, seed: int = 0) -> tuple[TileLaw, float, np.ndarray, np.ndarray]:
    """The law, what the harness adds, and errors of the log on rows it has seen and on those left out."""
    m, n, k, seconds = data
    copies = 2.0 * (m * k + n * k) / COPY_BYTES_PER_S if copied else 0.0
    left = np.zeros(len(m), bool)
    left[np.random.default_rng(seed).permutation(len(m))[: len(m) // 4]] = True

    def errors(logs: np.ndarray) -> np.ndarray:
        step, rate, harness = np.exp(logs)
        return np.log((TileLaw(step, rate).seconds(m, n, k) + harness + copies) / seconds)

    found = least_squares(
        lambda logs: errors(logs)[~left], np.log([5e-7, 4e14, 1e-5]), loss="soft_l1", f_scale=0.1
    )
    step, rate, harness = np.exp(found.x)
    every = errors(found.x)
    return TileLaw(float(step), float(rate)), float(harness), every[~left], every[left]


def grouped(tables: Path, law: TileLaw) -> list[tuple[int, float, float, float]]:
    """Tokens, seconds by the law with experts drawn evenly, and the least and most that was measured."""
    table = pq.read_table(
        tables / "h200_sxm/moe/sglang-0.5.14/moe_perf.parquet",
        columns=["num_tokens", "latency"],
        filters=[(column, "==", value) for column, value in DEEPSEEK_V3.items()],
    )
    all_tokens, latency_ms = table["num_tokens"].to_numpy(), table["latency"].to_numpy()
    found = []
    for tokens in np.unique(all_tokens):
        measured = latency_ms[all_tokens == tokens] * 1e-3
        hit = 256.0 * (1.0 - (1.0 - 8.0 / 256.0) ** tokens)
        tiles = hit * max(1.0, 8.0 * tokens / hit / TILE_ROWS + 0.5)
        seconds = 2 * FLOOR_S + (7168 + 256) / 128 * law.step_s
        seconds += tiles * TILE_ROWS * 6.0 * 7168 * 256 / law.flops_per_s
        found.append((int(tokens), float(seconds), float(measured.min()), float(measured.max())))
    return found


def main() -> None:
    """Print both laws with their errors, and the check on grouped products."""
    names, data = rows()
    laws = {}
    for title, chosen in (("OLD", names == COPIED), ("NEW", names != COPIED)):
        law, harness, seen, left = fit(data[:, chosen], title == "OLD")
        laws[title] = law
        print(
            f"{title}: step {law.step_s * 1e6:.3f} us, {law.flops_per_s / 1e12:.0f} TFLOP/s, harness"
            f" {harness * 1e6:.1f} us; median error {np.median(np.abs(seen)):.1%} on {len(seen)} rows,"
            f" {np.median(np.abs(left)):.1%} on {len(left)} left out, worst {np.max(np.abs(left)):.0%}"
        )
    if len(sys.argv) > 1:
        ratios = []
        for tokens, seconds, low, high in grouped(Path(sys.argv[1]), laws["NEW"]):
            ratios.append(seconds / (low * high) ** 0.5)
            print(
                f"{tokens:6d} tokens: {seconds * 1e6:7.1f} us, measured {low * 1e6:7.1f} to {high * 1e6:7.1f}"
            )
        print(f"median of ours over measured {np.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
