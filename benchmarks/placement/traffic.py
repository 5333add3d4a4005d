"""Traffic of placements on requests they were not fitted to: nodes per token, hops between layers, balance.

    python benchmarks/placement/traffic.py gpt-oss TRACE.npz --ranks 8 --nodes 4
    python benchmarks/placement/traffic.py deepseek-v3 --ranks 32 --nodes 4 --redundant 32

Half of the requests fit the plans, the others judge them; each seed splits anew. Without a trace, one is
generated per seed from the profile of that name. Numbers are means over seeds with a 95 % interval (Student);
balance is max/mean over ranks on the held-out requests, as the rule of picking replicas has it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from moesim import load_trace
from moesim.layout import ExpertMap
from moesim.placement.bound_traffic import least_leaving, least_remote
from moesim.placement.problem import Problem, hierarchy_faults
from moesim.placement.solvers.anneal import search
from moesim.placement.solvers.chain import chain_lap
from moesim.placement.solvers.greedy import greedy
from moesim.placement.solvers.joint import imbalance, search_traffic
from moesim.placement.traffic import (
    leaving,
    remote_nodes,
    split_requests,
    transitions,
)
from moesim.synthesis import generate, load_profile
from moesim.trace.types import RoutingTrace


def part(trace: RoutingTrace, tokens: np.ndarray) -> RoutingTrace:
    return replace(
        trace,
        topk_ids=trace.topk_ids[tokens],
        request=trace.request[tokens],
        position=trace.position[tokens],
        phase=trace.phase[tokens],
        topk_weights=None,
        token_id=None,
    )


def plans(problem: Problem, seed: int, caps: list[float], effort: float):
    """Name, plan, whether near replicas are taken, processor seconds."""
    loads, ranks, redundant = problem.totals, problem.ranks, problem.redundant
    first = greedy(loads, ranks, redundant)
    yield "contiguous", ExpertMap.contiguous(*loads.shape, ranks, redundant).physical_to_logical, False, 0.0
    yield "greedy", first, False, 0.0
    if problem.groups % problem.nodes == 0 and not hierarchy_faults(problem):
        yield "hierarchical", greedy(loads, ranks, redundant, problem.groups, problem.nodes), False, 0.0
    began = time.process_time()
    pairs = transitions(problem.tokens.topk_ids, problem.experts)
    balanced = search(loads, ranks, first, seed=seed)
    two = chain_lap(pairs, balanced, problem.nodes if problem.nodes > 1 else ranks)
    yield "balance, then chain", two, False, time.process_time() - began
    for cap in caps:
        for objective, near in (("remote_nodes", False), ("remote_nodes", True), ("transitions", False)):
            if near and not redundant:
                continue
            began = time.process_time()
            table = search_traffic(
                problem, first, objective=objective, cap=cap, seed=seed, effort=effort, near=near
            )
            name = f"{objective}{' near' if near else ''} {cap:g}"
            yield name, table, near, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of a profile; or of the trace, for the table")
    parser.add_argument("trace", type=Path, nargs="?")
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--redundant", type=int, default=0)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24_000, help="to generate")
    parser.add_argument("--layers", type=int, help="take so many, spread over the model")
    parser.add_argument("--cap", type=float, nargs="*", default=[1.02])
    parser.add_argument("--effort", type=float, default=1.0)
    arguments = parser.parse_args()
    table: dict[str, list[list[float]]] = {}
    for seed in range(arguments.seeds):
        if arguments.trace:
            trace = load_trace(arguments.trace)
        else:
            trace = generate(
                load_profile(arguments.name), arguments.tokens, requests=96, phase="prefill", seed=seed
            )
        chosen = np.arange(len(trace.moe_layer_ids))
        if arguments.layers:
            chosen = chosen[np.linspace(0, len(chosen) - 1, arguments.layers).round().astype(int)]
            ids = tuple(trace.moe_layer_ids[i] for i in chosen)
            trace = replace(trace, topk_ids=trace.topk_ids[:, chosen], moe_layer_ids=ids, topk_weights=None)
        fit, judge = (part(trace, tokens) for tokens in split_requests(trace, 0.5, seed))
        nodes = arguments.nodes if arguments.nodes < arguments.ranks else 1
        problem, other = (
            Problem(
                t.load_counts().totals,
                arguments.ranks,
                arguments.redundant,
                nodes=nodes,
                groups=arguments.groups,
                tokens=t,
            )
            for t in (fit, judge)
        )
        pairs = transitions(judge.topk_ids, judge.num_experts)
        for name, plan, near, seconds in plans(problem, seed, arguments.cap, arguments.effort):
            built = ExpertMap(plan, problem.experts, problem.ranks)
            rule = "nearest" if near else "even"
            balance = imbalance(other, plan, near)
            table.setdefault(name, []).append(
                [
                    remote_nodes(built, judge.topk_ids, arguments.nodes, rule).mean(),
                    leaving(built, pairs, arguments.nodes).mean() * 100,
                    np.nanmean(balance),
                    np.nanmax(balance),
                    np.nanmean(imbalance(problem, plan, near)),
                    seconds,
                ]
            )
        if not arguments.redundant:
            bounds = [
                least_remote(judge.topk_ids, judge.num_experts, arguments.nodes).mean(),
                least_leaving(pairs, arguments.nodes).mean() * 100,
            ]
            table.setdefault("no plan is below", []).append([*bounds, *[np.nan] * 4])
    shape = f"{arguments.ranks} ranks, {arguments.nodes} nodes, {arguments.redundant} spare"
    print(f"{arguments.name}: {shape}, {arguments.seeds} seeds")
    columns = ("other nodes", "leaving %", "held-out", "its worst", "fitted", "cpu s")
    print(f"| {'plan':24} | " + " | ".join(f"{c:>15}" for c in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    wide = stats.t.ppf(0.975, arguments.seeds - 1) / arguments.seeds**0.5 if arguments.seeds > 1 else np.nan
    for name, rows in table.items():
        mean, half = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) * wide
        cells = [f"{m:.3f} ± {h:.3f}" if np.isfinite(m) else "" for m, h in zip(mean, half, strict=True)]
        print(f"| {name:24} | " + " | ".join(f"{c:>15}" for c in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
