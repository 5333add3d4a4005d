"""Balance seconds instead of tokens: is the slowest rank faster?

    python benchmarks/placement/times.py COUNTS [--hardware h200-sxm-8] [--slots 288 256] [--seeds 5]

COUNTS is a load dump of DeepSeek-V3. Batches are drawn from its loads (`moesim.engine.routing.LoadSource`),
other ones to fit and to judge. All plans start from greedy's: ``load`` searches the mean over fitted batches
of max/mean tokens, ``time`` the mean of the slowest rank's seconds (`moesim.placement.costs`), both keeping
replica counts; ``time+`` may change them. Microseconds of the slowest rank's experts per layer, on the judged
batches, by the engine's own cost model, and the difference from ``load`` with its interval over seeds (twice
the standard error). ``even`` is the mean rank of greedy's plan: what perfect balance would take.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

from moesim import load_hardware, load_model, load_trace
from moesim.cost import Choice, ExpertShape, expert_times
from moesim.engine.dispatch import dispatch
from moesim.engine.routing import DECODE, Draw, LoadSource
from moesim.layout import ExpertMap
from moesim.placement.costs import cost_table, layer_seconds, slot_cost
from moesim.placement.solvers.greedy import greedy
from moesim.placement.solvers.steps import MORE_COPIES, search_costs, search_steps

BATCHES, LAYERS = 40, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", type=Path)
    parser.add_argument("--hardware", default="h200-sxm-8")
    parser.add_argument("--slots", type=int, nargs="+", default=[288, 256])
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024], help="per rank")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    ranks, model = arguments.ranks, load_model("deepseek-v3")
    device = load_hardware(arguments.hardware).device
    shape = ExpertShape(model.hidden, model.moe.intermediate, 3, "fp8")
    choice = Choice(block_scaled=True)
    counts = load_trace(arguments.counts).load_counts()
    source = LoadSource.of(counts, model.moe.top_k)
    some = np.linspace(0, source.layers - 1, LAYERS).round().astype(int)
    source = LoadSource(source.inclusion[some], source.top_k)
    experts = source.num_experts

    print(
        f"{'slots':>5} {'tokens/rank':>11} {'even':>8} {'greedy':>8} {'load':>8} {'time':>8} {'time+':>8}"
        "  time vs load, time+ vs load"
    )
    for slots in arguments.slots:
        for tokens in arguments.tokens:
            rows = []
            for seed in range(arguments.seeds):
                rng = np.random.default_rng([seed, tokens])
                drawn = np.stack(
                    [source.draw(tokens * ranks, DECODE, rng).counts for _ in range(2 * BATCHES)]
                )
                fitted, judged = drawn[:BATCHES], drawn[BATCHES:]
                start = greedy(fitted.sum(axis=0), ranks, slots - experts)
                plan = ExpertMap(start, experts, ranks)
                near = np.concatenate([dispatch(Draw(None, step, 0), plan).slot_tokens for step in fitted])
                most = min(ranks, int(plan.replica_counts.max()) + MORE_COPIES)
                cost = cost_table(slot_cost(shape, device, choice, near=near), fitted, most)
                plans = {
                    "greedy": start,
                    "load": search_steps(fitted, ranks, start, seed=seed),
                    "time": search_costs(cost, ranks, start, seed=seed),
                    "time+": search_costs(cost, ranks, start, seed=seed, recount=True),
                }
                even = expert_times(near, shape, device, choice, shared=True).seconds.mean()
                seconds = [
                    layer_seconds(p, ranks, judged, shape, device, choice).mean() for p in plans.values()
                ]
                rows.append([even, *seconds])
            table = 1e6 * np.array(rows)
            change = table[:, [3, 4]] / table[:, [2]] - 1
            half = 2 * change.std(axis=0, ddof=1) / len(change) ** 0.5
            numbers = " ".join(f"{x:8.2f}" for x in table.mean(axis=0))
            text = ", ".join(f"{c:+.2%} ± {h:.2%}" for c, h in zip(change.mean(axis=0), half, strict=True))
            print(f"{slots:5} {tokens:11} {numbers}  {text}", flush=True)


if __name__ == "__main__":
    main()
