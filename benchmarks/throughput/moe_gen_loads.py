"""MoE-Gen with the loads of a trace instead of even ones, which its search supposes.

    python benchmarks/throughput/moe_gen_loads.py TRACE --model deepseek-v2-lite --batch 32 512

For each number of sequences: tokens per second of decode and prefill with even loads and with the trace's,
the experts that a decode step meets, and the busiest expert over the mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from moesim import load_model, load_trace
from moesim.systems.gen_paper import bed_box
from moesim.throughput.gen import HYBRID, plan
from moesim.throughput.gen_step import met
from moesim.throughput.gen_work import ModelWork
from moesim.throughput.result import Workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--model", default="deepseek-v2-lite")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 512, 4096])
    parser.add_argument("--host", type=float, default=512.0, help="GB of host memory")
    arguments = parser.parse_args()
    work = ModelWork.of(load_model(arguments.model))
    loads = np.asarray(load_trace(arguments.trace).load_counts().totals, dtype=np.float64)
    loads = loads[loads.sum(axis=1) > 0]
    shares = loads / loads.sum(axis=1, keepdims=True)
    box = bed_box("C2", host_bytes=arguments.host * 1e9)
    top_k = max(layer.top_k for layer in work.layers)
    print(
        f"busiest expert over the mean {(shares.max(axis=1) * shares.shape[1]).mean():.2f}, mean over layers"
    )
    print(
        f"{'batch':>6} {'decode even':>12} {'real':>8} {'met even':>9} {'real':>6} "
        f"{'prefill even':>13} {'real':>8}"
    )
    for batch in arguments.batch:
        workload = Workload(512, 256, batch)
        even, real = (plan(work, box, workload, HYBRID, shares=given) for given in (None, shares))
        flat = np.full(shares.shape[1], 1 / shares.shape[1])
        experts = np.mean([met(row, top_k, batch).sum() for row in shares])
        print(
            f"{batch:6d} {even.decode_tokens_per_s:12.2f} {real.decode_tokens_per_s:8.2f} "
            f"{met(flat, top_k, batch).sum():9.1f} {experts:6.1f} "
            f"{even.prefill_tokens_per_s:13.0f} {real.prefill_tokens_per_s:8.0f}"
        )


if __name__ == "__main__":
    main()
