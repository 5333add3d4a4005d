"""What batchers make of a trace: steps, loads that they ask for, and how long forming them takes.

    python benchmarks/residency/batchers.py TRACE [--size 16] [--decode]

``accesses`` are experts asked for, once per step and layer however many tokens chose them: what a system
without a cache loads. ``per token`` divides them by tokens and layers. ``seconds`` is processor time,
compiled code in place.

Then, for batches of 4 to 64 tokens, by how much dividing twice as many tokens by their routes lowers the sum
of unions against the order as stored. ExpertFlow reports 1.03, 1.15 and 1.17 times its throughput at 32, 64
and 128 experts. With ``--decode`` prompts count as if their tokens had been decoded one by one.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np

import moesim as ms
from moesim.policy.batchers import (
    Batches,
    Continuous,
    ExpertQueues,
    TokenByToken,
    UnionMinimising,
    ZigZag,
)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--decode", action="store_true")
    arguments = parser.parse_args()
    trace, size = ms.load_trace(arguments.trace), arguments.size
    if arguments.decode:
        trace = replace(trace, phase=np.ones_like(trace.phase))
    tokens, layers, top_k = trace.topk_ids.shape
    print(f"{tokens} tokens, {layers} layers, top {top_k} of {trace.num_experts}")
    print(f"{'batcher':48}{'steps':>9}{'accesses':>11}{'per token':>11}{'seconds':>9}")
    for batcher in (
        TokenByToken(),
        Batches(size),
        Batches(size, 64),
        Continuous(size),
        Continuous(size, 4 * size),
        ExpertQueues(size, 4 * size),
        ExpertQueues(size),
        ZigZag(size, 4),
        UnionMinimising(size, "stored"),
        UnionMinimising(size, "k-means"),
        UnionMinimising(size, "swap"),
    ):
        name = "TokenByToken()" if isinstance(batcher, TokenByToken) else str(batcher)
        batcher.form(trace)
        started = time.process_time()
        steps = batcher.form(trace)
        seconds = time.process_time() - started
        per_token = steps.accesses / tokens / layers
        print(f"{name:48}{steps.num_steps:9}{steps.accesses:11}{per_token:11.3f}{seconds:9.3f}")
    print("\nsum of unions as stored, over that after dividing by routes")
    print(f"{'tokens':>8}{'k-means':>10}{'swap':>10}")
    for half in (4, 8, 16, 32, 64):
        stored = UnionMinimising(half, "stored").form(trace).accesses
        gains = [
            stored / UnionMinimising(half, method).form(trace).accesses for method in ("k-means", "swap")
        ]
        print(f"{half:8}" + "".join(f"{gain:10.3f}" for gain in gains))


if __name__ == "__main__":
    main()
