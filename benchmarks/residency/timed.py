"""Accesses per second of the replay with time.

    python benchmarks/residency/timed.py TRACE --model gpt-oss-20b --hardware rtx-4090-workstation

TRACE is a routing trace of that model. A quarter of the experts fit. Seconds are the processor's, of the
compiled replay alone (without forming steps, guesses and costs), the least of three runs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from moesim import load_hardware, load_model, load_trace
from moesim.offload import Box, run
from moesim.policy import Composition, Executor, Residency, Transfer
from moesim.policy.predictors import oracle


def compositions(top_k: int) -> dict[str, Composition]:
    """From loads on demand to everything at once."""
    batch = "token_batch"
    return {
        "LRU per layer, on demand": Composition(),
        "LRU per layer, a cell at a time": Composition(Residency(lookup=batch)),
        "Belady per layer": Composition(Residency("belady", lookup=batch)),
        "LFU, one pool": Composition(Residency("lfu", pool="global", lookup=batch)),
        "LRU, next layer fetched ahead": Composition(
            Residency(lookup=batch), Transfer(width=top_k), predictor=oracle(1)
        ),
        "LRU, per-expert minimum (Fiddler)": Composition(
            Residency(lookup=batch), executor=Executor("cheapest")
        ),
        "LRU, three clocks (HybriMoE)": Composition(
            Residency(lookup=batch), executor=Executor("three-clock")
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("--model", required=True)
    parser.add_argument("--hardware", default="rtx-4090-workstation")
    parser.add_argument("--tokens", type=int, default=50_000)
    arguments = parser.parse_args()
    trace, box = (
        load_trace(arguments.trace),
        Box.of(load_hardware(arguments.hardware), load_model(arguments.model)),
    )
    part = slice(arguments.tokens)
    names = ("topk_ids", "request", "position", "phase", "topk_weights", "token_id")
    trace = replace(trace, **{n: None if (a := getattr(trace, n)) is None else a[part] for n in names})
    slots = trace.topk_ids.shape[1] * trace.num_experts // 4
    print(f"{'replay':36} {'accesses':>12} {'hit ratio':>10} {'TPOT ms':>9} {'M accesses/s':>13}")
    for name, composition in compositions(trace.top_k).items():
        few = replace(trace, **{n: None if (a := getattr(trace, n)) is None else a[:2] for n in names})
        run(composition, few, box, slots=slots)  # compile before the clock runs
        found = min((run(composition, trace, box, slots=slots) for _ in range(3)), key=lambda f: f.wall_s)
        tpot = "-" if found.tpot_s is None else f"{1e3 * found.tpot_s:.2f}"
        speed = found.accesses / found.wall_s / 1e6
        print(f"{name:36} {found.accesses:12,} {found.hit_ratio:10.4f} {tpot:>9} {speed:13.1f}", flush=True)


if __name__ == "__main__":
    main()
