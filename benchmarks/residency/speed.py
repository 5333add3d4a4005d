"""Seconds to replay a large trace: 58 layers, a million tokens, 8 of 256 experts, 464 million accesses.

    python benchmarks/residency/speed.py [--tokens N] [--layers N] [--rounds N] [--conditions]

The trace is generated (see skewed.py) and held in memory as it is loaded: one byte per access, 464 MB. Pools
are per layer with a quarter of the experts. Times are CPU time of this process on one core, best of the
rounds; all that `replay` does is in them, with Belady's pass for next uses. With --conditions, what lookup,
pool and reset cost, on a twentieth of the tokens.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import skewed

from moesim.policy import Residency
from moesim.residency import replay

#: Seconds asked for of 464 million accesses.
ASKED = {"lru": 6.0, "fifo": 6.0, "lfu": 10.0, "belady": 7.0}
CONDITIONS = (
    {},
    {"lookup": "token_batch"},
    {"pool": "global"},
    {"pool": "global", "lookup": "token_batch"},
    {"reset": "request"},
)


def seconds(trace, residency: Residency, slots, rounds: int) -> tuple[float, float]:
    best, found = float("inf"), None
    for _ in range(rounds):
        began = time.process_time()
        found = replay(trace, residency, slots)
        best = min(best, time.process_time() - began)
    return best, found.hit_ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=58)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conditions", action="store_true")
    asked = parser.parse_args()
    tokens = asked.tokens // 20 if asked.conditions else asked.tokens
    trace = skewed.trace(tokens, asked.layers, 256, 8)
    small = skewed.trace(100, asked.layers, 256, 8)
    if asked.conditions:
        trace.request[:] = np.arange(tokens) // 500
    accesses = trace.topk_ids.size
    print(f"{accesses / 1e6:.0f} M accesses, {asked.layers} layers, 8 of 256 experts, 64 slots each")
    print(f"{'rule':8}{'conditions':32}{'hit ratio':>10}{'seconds':>9}{'M/s':>7}{'asked':>7}")
    for rule in (*ASKED, "lifo", "static"):
        for conditions in CONDITIONS if asked.conditions else CONDITIONS[:1]:
            residency = Residency(rule, **conditions)
            slots = 64 if residency.pool == "layer" else 64 * asked.layers
            replay(small, residency, slots)
            best, ratio = seconds(trace, residency, slots, asked.rounds)
            named = ", ".join(conditions.values()) or "per layer, sequential, never"
            limit = ASKED.get(rule) if not conditions and accesses == 464_000_000 else None
            print(
                f"{rule:8}{named:32}{ratio:10.4f}{best:9.2f}{accesses / best / 1e6:7.0f}"
                f"{'' if limit is None else f'{limit:7.0f}'}",
                flush=True,
            )
    # Linux counts in KiB.
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
