"""What an engine's choice among replicas does to a plan, and what a search that knows it gets.

    python benchmarks/placement/dispatch.py FOLDER [--slots 288 --ranks 32 --nodes 4] [--price]

FOLDER holds load counts of DeepSeek-V3, one workload per file, such as those attached to
github.com/sgl-project/sglang/issues/6017. Every plan is fitted to one load and judged under the rule:
``mean`` and ``worst`` are max/mean over layers, ``even`` is what the mean would be if replicas shared alike,
``elsewhere`` the mean over the loads that it was not fitted to. Means over files, ``worst`` the largest. Of
``lp`` the dispatch-aware plan is fitted to all loads but one, as steps, and ``elsewhere`` is that one.
``seconds`` is processor time of one core, compiled code in place. SGLang's map has DeepSeek-V3's three dense
rows before those of the MoE layers, and draws for them too.

With ``--several``, plans for the mean over all loads but one, judged on that one.

With ``--price``, TPOT of H200 nodes at 64 requests per rank, each plan under its rule.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import moesim as ms
from moesim.layout import ExpertMap
from moesim.layout.sharing import draws
from moesim.placement import Problem, evaluate, greedy, solve
from moesim.placement.solvers.anneal import search
from moesim.placement.solvers.under import search_under

GROUPS = 8
ROWS = tuple(range(3, 61))
RULES = ("even", "sglang-static", "sglang-dynamic", "vllm-ascend", "lp")
COLUMNS = ("mean", "worst", "even", "elsewhere", "seconds")


def plans_of(problem: Problem, seed: int) -> dict[str, tuple[np.ndarray, float]]:
    """Tables of every method, and the processor time each took."""
    loads, ranks, redundant = problem.totals, problem.ranks, problem.redundant
    flat = greedy(loads, ranks, redundant)
    found = {
        "greedy": lambda: flat,
        "greedy-hierarchical": lambda: greedy(loads, ranks, redundant, GROUPS, problem.nodes),
        "search, even": lambda: search(loads, ranks, flat, seed=seed, threads=1),
        "search, rule": lambda: search_under(problem, flat, seed=seed, rows=ROWS, threads=1),
    }
    if GROUPS % problem.nodes:
        del found["greedy-hierarchical"]
    timed = {}
    for name, make in found.items():
        started = time.process_time()
        timed[name] = (make(), time.process_time() - started)
    return timed


def several(loads: np.ndarray, names: list[str], rule: str, arguments: argparse.Namespace) -> None:
    """Leave out one load after the other."""
    redundant = arguments.slots - loads.shape[2]
    print(f"{rule}, fitted to all loads but one")
    print(f"{'left out':24} {'greedy':>9} {'search':>9}")
    for n, name in enumerate(names):
        others = np.delete(loads, n, axis=0)
        shares = others / others.sum(axis=2, keepdims=True)
        problem = Problem(
            shares, arguments.ranks, redundant, nodes=arguments.nodes, dispatch=rule, rows=tuple(ROWS)
        )
        plans = [solve(problem, method, "expected-max").expert_map for method in ("greedy", "search")]
        judged = [evaluate(plan, loads[n], rule, arguments.nodes, rows=ROWS).mean for plan in plans]
        print(f"{name:24} {judged[0]:9.4f} {judged[1]:9.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slots", type=int, default=288)
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rules", nargs="+", default=RULES)
    parser.add_argument("--files", type=int, default=None, help="fit to the first of them only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--price", action="store_true")
    parser.add_argument("--several", action="store_true")
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.json"))
    traces = [ms.load_trace(path).load_counts() for path in paths]
    loads = np.array([trace.totals for trace in traces])
    experts, ranks, nodes = loads.shape[2], arguments.ranks, arguments.nodes
    fitted = range(len(loads) if arguments.files is None else arguments.files)
    redundant = arguments.slots - experts

    if arguments.several:
        for rule in arguments.rules:
            several(loads, [path.stem for path in paths], rule, arguments)
        return
    print(f"{arguments.slots} slots on {ranks} ranks of {nodes} nodes, {len(fitted)} fitted loads")
    print(f"{'rule':15} {'plan':20} " + " ".join(f"{name:>9}" for name in COLUMNS) + "  draws/layer")
    for rule in arguments.rules:
        rows: dict[str, list[tuple[float, ...]]] = {}
        prices: dict[str, list[float]] = {}
        # Compile before the clock runs.
        tiny = Problem(loads[:2, :1, : 2 * ranks], ranks, ranks, nodes=nodes, dispatch=rule)
        search_under(tiny, greedy(tiny.totals, ranks, ranks), effort=0.01)
        for n in fitted:
            others = [i for i in range(len(loads)) if i != n]
            for_steps = rule == "lp"
            own = loads[others] if for_steps else loads[n]
            problem = Problem(own, ranks, redundant, nodes=nodes, dispatch=rule)
            for name, (table, seconds) in plans_of(problem, arguments.seed).items():
                plan = ExpertMap(table, experts, ranks)

                def judge(w: np.ndarray, how: str = rule, plan: ExpertMap = plan) -> ms.placement.Imbalance:
                    return evaluate(plan, w, how, nodes, rows=ROWS)

                mine = judge(own)
                elsewhere = (
                    judge(loads[n]).mean if for_steps else np.mean([judge(loads[i]).mean for i in others])
                )
                row = (mine.mean, mine.worst, judge(own, "even").mean, float(elsewhere), seconds)
                rows.setdefault(name, []).append((*row, float(draws(plan, nodes).mean())))
                if arguments.price:
                    prices.setdefault(name, []).append(tpot(traces[n], plan, rule, ranks, nodes))
        for name, table in rows.items():
            middle = np.mean(table, axis=0)
            middle[1] = np.max(np.array(table)[:, 1])
            numbers = (
                " ".join(f"{value:9.4f}" for value in middle[:4]) + f" {middle[4]:9.2f} {middle[5]:12.0f}"
            )
            price = f"  TPOT {np.mean(prices[name]):.2f} ms" if prices else ""
            print(f"{rule:15} {name:20} {numbers}{price}", flush=True)


def tpot(trace: ms.LoadCounts, plan: ExpertMap, rule: str, ranks: int, nodes: int) -> float:
    """Milliseconds per output token at 64 requests per rank."""
    answer = ms.predict(
        ms.load_model("deepseek-v3"),
        ms.load_hardware("h200-sxm-8", nodes=nodes),
        ms.Parallelism(dp=ranks, ep=ranks),
        ms.Workload(1024, 1024, 64 * ranks),
        trace=trace,
        plan=plan,
        engine=ms.Engine(dispatch=rule, backend="sglang"),
    )
    return answer.tpot_s * 1e3


if __name__ == "__main__":
    main()
