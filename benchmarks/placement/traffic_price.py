"""What less traffic between nodes is worth in a prediction, and what the balance it costs takes back.

    python benchmarks/placement/traffic_price.py --hardware h100-sxm-8 h200-sxm-8

DeepSeek-V3 with generated routing, expert-parallel over four nodes. Plans are fitted to half of the requests
and priced on these (all plans about even: what is left is traffic) and on the others.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace

import numpy as np

from moesim.hardware import load_hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model import load_model
from moesim.placement.problem import Problem
from moesim.placement.solvers.anneal import search
from moesim.placement.solvers.greedy import greedy
from moesim.placement.solvers.joint import search_traffic
from moesim.placement.traffic import remote_nodes, split_requests
from moesim.prediction import Workload, predict
from moesim.synthesis import generate, load_profile

RANKS, NODES, GROUPS, SPARE = 32, 4, 8, 32
#: Input and output tokens, concurrent requests: decoding for most of the time, and prefill for nearly all.
WORKLOADS = ((4096, 1024, 2048), (8192, 16, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hardware", nargs="*", default=["h100-sxm-8", "h200-sxm-8"])
    parser.add_argument("--tokens", type=int, default=24_000)
    parser.add_argument("--effort", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    model, profile = load_model("deepseek-v3"), load_profile("deepseek-v3")
    trace = generate(profile, arguments.tokens, requests=96, phase="both", seed=arguments.seed)
    parts = [
        replace(
            trace,
            topk_ids=trace.topk_ids[tokens],
            request=trace.request[tokens],
            position=trace.position[tokens],
            phase=trace.phase[tokens],
        )
        for tokens in split_requests(trace, 0.5, arguments.seed)
    ]
    loads = parts[0].load_counts().totals
    problem = Problem(loads, RANKS, SPARE, nodes=NODES, groups=GROUPS, tokens=parts[0])
    flat = greedy(loads, RANKS, SPARE)
    plans = {
        "greedy": flat,
        "hierarchical": greedy(loads, RANKS, SPARE, GROUPS, NODES),
        "balance search": search(loads, RANKS, flat),
        "traffic search": search_traffic(problem, flat, effort=arguments.effort),
    }
    print("| hardware | in / out | priced on | plan | other nodes | max/mean | TTFT s | TPOT ms | tokens/s |")
    print("|---" * 9 + "|")
    for name in arguments.hardware:
        hardware = load_hardware(name, nodes=NODES)
        for entering, leaving, together in WORKLOADS:
            for on, routing in zip(("fitted", "held-out"), parts, strict=True):
                for method, table in plans.items():
                    plan = ExpertMap(table, problem.experts, RANKS)
                    answer = predict(
                        model,
                        hardware,
                        Parallelism(dp=RANKS, ep=RANKS),
                        Workload(entering, leaving, together),
                        trace=routing,
                        plan=plan,
                    )
                    nodes = remote_nodes(plan, routing.topk_ids, NODES).mean()
                    uneven = np.nanmean(plan.load_imbalance(routing.load_counts().totals))
                    print(
                        f"| {name} | {entering} / {leaving} | {on} | {method} | {nodes:.3f} | {uneven:.3f} | "
                        f"{answer.ttft_s:.3f} | {answer.tpot_s * 1e3:.1f} | "
                        f"{answer.total_token_throughput:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
