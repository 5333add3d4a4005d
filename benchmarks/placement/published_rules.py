"""Rules of FasterMoE and Sem-MoE as placements, on requests they were not fitted to.

    python benchmarks/placement/published_rules.py esft-v2-lite-intent intent.npz --ranks 8

FasterMoE: the hottest experts on every rank, at as many spare slots as greedy replication. Sem-MoE: share of
activations that are local when requests are put next to their experts, knowing all their activations (more
than a predictor can) or those of their first tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import stats

from moesim import load_trace
from moesim.layout import ExpertMap
from moesim.placement.solvers.greedy import greedy
from moesim.placement.solvers.published import (
    activations,
    replicate_hottest,
    schedule,
    semantic_placement,
    shadow,
)
from moesim.placement.traffic import local_activation, split_requests
from moesim.trace.types import count_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("trace", type=Path)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--first", type=int, default=16, help="tokens of a request seen before it is placed")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    trace, ranks = load_trace(arguments.trace), arguments.ranks
    ids, request, experts = trace.topk_ids, trace.request, trace.num_experts
    table: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        fit, judge = split_requests(trace, 0.5, seed)
        loads, others = (count_ids(ids[t], experts).astype(float) for t in (fit, judge))
        for spare in (ranks - 1, 4 * (ranks - 1)):
            redundant = spare + -(experts + spare) % ranks
            for name, plan in (
                ("hottest everywhere", replicate_hottest(loads, ranks, redundant)),
                ("greedy", greedy(loads, ranks, redundant)),
            ):
                uneven = ExpertMap(plan, experts, ranks).load_imbalance(others)
                table.setdefault(f"max/mean held out, {redundant} spare: {name}", []).append(
                    np.nanmean(uneven)
                )
        taken = [len(shadow(row, arguments.hidden).experts) for row in loads]
        table.setdefault("experts FasterMoE would shadow, per layer", []).append(np.mean(taken))
        seen = activations(ids[fit], request[fit], experts)
        sizes = np.bincount(request[fit])[np.unique(request[fit])].astype(float)
        later, number = request[judge], np.unique(request[judge], return_inverse=True)[1]
        start = np.searchsorted(np.sort(number), np.arange(number.max() + 1))
        early = np.arange(len(later)) - start[number] < arguments.first
        amount = np.bincount(number).astype(float)
        every = activations(ids[judge], later, experts)
        begun = activations(ids[judge][early], later[early], experts)
        for name, plan in (
            ("greedy", greedy(loads, ranks)),
            ("Sem-MoE", semantic_placement(seen, sizes, ranks, seed=seed)),
        ):
            built = ExpertMap(plan, experts, ranks)
            table.setdefault(f"max/mean held out: {name}", []).append(built.load_imbalance(others).mean())
            for how, known in (("all known", every), (f"first {arguments.first} tokens known", begun)):
                home = schedule(known, amount, plan, ranks)[number]
                rate = local_activation(built, ids[judge], home).mean()
                table.setdefault(f"local activations: {name}, {how}", []).append(rate)
    print(f"{arguments.name}: {ranks} ranks, {arguments.seeds} seeds")
    wide = stats.t.ppf(0.975, arguments.seeds - 1) / arguments.seeds**0.5
    for name, values in table.items():
        print(f"| {name:60} | {np.mean(values):.3f} ± {np.std(values, ddof=1) * wide:.3f} |")


if __name__ == "__main__":
    main()
