"""Imbalance per iteration without and with a static plan: TensorRT-LLM's published pair, by replay.

    python benchmarks/placement/iterations.py FOLDER [--tokens 128] [--iterations 100] [--seeds 5]

TensorRT-LLM's example of wide expert parallelism (examples/wide_ep/ep_load_balancer/README.md) reports (max -
mean) / mean of tokens per rank for DeepSeek-R1 on one unnamed dataset, per layer and iteration, then
averaged: 1.56 on 32 ranks with experts in order, 0.115 on 36 ranks with 288 slots and a static greedy plan
fitted to 100 iterations of the same run. Its tables show 1024 tokens per rank in both cases, so that an
iteration has 4096 and 4608 tokens: 128 per rank.

Here an iteration is that many tokens, drawn from the loads of one DeepSeek-V3 workload in FOLDER (token by
token, 8 experts each, layers apart), or mixed from the tokens of requests that `moesim.synthesis` generates
(``generated``; other requests are judged than are fitted). Plans are fitted to the sum of 100 iterations and
judged on 100 others of the same traffic, or of another workload (``other``, the mean over the rest of the
files of the phase). ``noise`` is what ranks of equal expected load show when every choice is independent.
Nothing is tuned to the published numbers. The interval is over seeds, twice the standard error.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

from moesim import load_trace
from moesim.engine.routing import DECODE, LoadSource
from moesim.layout import ExpertMap
from moesim.placement.batches import draw_batches
from moesim.placement.solvers import anneal
from moesim.placement.solvers.greedy import greedy
from moesim.placement.solvers.steps import search_steps
from moesim.synthesis import generate, load_profile
from moesim.trace.types import RoutingTrace

EXPERTS, TOP_K, SLOTS = 256, 8, 288


def excess(table: np.ndarray, steps: np.ndarray, ranks: int) -> float:
    """Mean over iterations and layers of (max - mean) / mean."""
    plan = ExpertMap(table, EXPERTS, ranks)
    return float(np.mean([plan.load_imbalance(step) for step in steps]) - 1)


def in_order(layers: int, ranks: int) -> np.ndarray:
    return ExpertMap.contiguous(layers, EXPERTS, ranks).physical_to_logical


def row(draw, others, seed: int) -> list[float]:
    """Excess of experts in order on 32 ranks, and on 36 of greedy, totals and steps; then elsewhere.

    ``draw(ranks, part)`` gives the steps to fit (part 0) and to judge (1).
    """
    alone, fitted, judged = draw(32, 1), draw(36, 0), draw(36, 1)
    total = fitted.sum(axis=0)
    start = greedy(total, 36, SLOTS - EXPERTS)
    plans = [
        start,
        anneal.search(total, 36, start, seed=seed),
        search_steps(fitted, 36, start, seed=seed),
    ]
    found = [excess(in_order(alone.shape[1], 32), alone, 32)]
    found += [excess(plan, judged, 36) for plan in plans]
    found += [
        np.mean([excess(plan, other(36, 1), 36) for other in others]) if others else np.nan
        for plan in plans[::2]
    ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128], help="per rank")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--layers", type=int, default=58)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--loads-only", action="store_true", help="without generated routing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    sources = {
        path.stem: LoadSource.of(load_trace(path).load_counts(), TOP_K)
        for path in sorted(arguments.folder.glob("*.json"))
    }
    some = np.linspace(0, 57, arguments.layers).round().astype(int)
    sources = {name: LoadSource(source.inclusion[some], TOP_K) for name, source in sources.items()}
    number = arguments.iterations

    def from_loads(source: LoadSource, tokens: int, seed: int):
        def draw(ranks: int, part: int) -> np.ndarray:
            rng = np.random.default_rng([seed, ranks, part])
            return np.stack([source.draw(tokens * ranks, DECODE, rng).counts for _ in range(number)])

        return draw

    def generated(tokens: int, seed: int):
        # As many requests as an iteration has tokens, so that mixed tokens are about one of each.
        half = 36 * tokens
        trace = generate(
            load_profile("deepseek-v3"), tokens=20 * half, requests=2 * half, phase="decode", seed=seed
        )
        ids = np.ascontiguousarray(trace.topk_ids[:, some])
        kept = tuple(trace.moe_layer_ids[i] for i in some)
        trace = RoutingTrace(ids, trace.request, EXPERTS, kept, trace.position, trace.phase)

        def draw(ranks: int, part: int) -> np.ndarray:
            chosen = np.arange(part, 2 * half, 2)
            return draw_batches(trace, tokens * ranks, number, requests=chosen, seed=2 * seed + part)

        return draw

    columns = ("in order/32", "greedy/36", "totals/36", "steps/36", "gr. other", "st. other")
    print(f"{'traffic':24} {'tokens':>6} {'noise':>7} " + " ".join(f"{c:>15}" for c in columns))
    for tokens in arguments.tokens:
        rng = np.random.default_rng(0)
        ranks = rng.multinomial(36 * tokens * TOP_K, np.full(36, 1 / 36), size=10_000)
        noise = (ranks.max(axis=1) / ranks.mean(axis=1)).mean() - 1
        jobs = {}
        for name, source in sources.items():
            rest = [s for other, s in sources.items() if other != name and other[:6] == name[:6]]
            jobs[name] = lambda seed, size=tokens, s=source, rest=rest: row(
                from_loads(s, size, seed), [from_loads(o, size, seed) for o in rest], seed
            )
        if not arguments.loads_only:
            jobs["generated decode"] = lambda seed, size=tokens: row(generated(size, seed), [], seed)
        for name, job in jobs.items():
            table = np.array([job(seed) for seed in range(arguments.seeds)])
            half = 2 * table.std(axis=0, ddof=1) / len(table) ** 0.5 if len(table) > 1 else 0 * table[0]
            cells = " ".join(f"{m:7.3f} ± {h:5.3f}" for m, h in zip(table.mean(axis=0), half, strict=True))
            print(f"{name:24} {tokens:6} {noise:7.3f} {cells}", flush=True)


if __name__ == "__main__":
    main()
