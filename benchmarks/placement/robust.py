"""Plans for several kinds of traffic: fitted on some workloads, judged on the others.

    python benchmarks/placement/robust.py FOLDER [--slots 288] [--ranks 32] [--seeds 5]

FOLDER holds load counts of one model, one workload per file, named ``decode_*`` and ``prefill_*``, such as
the DeepSeek-V3 counts attached to github.com/sgl-project/sglang/issues/6017. Four questions:

one            fitted on one workload, judged on each other
one of each    fitted on one decode and one prefill workload, judged on each other
leave one out  fitted on all but one, judged on that one
within phase   fitted on all but one of a phase with three or more workloads, judged on that one

``greedy`` is greedy's plan for the mean of the fitted loads, each scaled to the same total; ``totals``
searches the best balance for that mean; ``robust`` searches the mean over the fitted loads of max/mean,
greedy's replica counts kept. Excess is max/mean - 1. A cell is one layer of one judged workload under the
plan of one set of fitted ones; it is better if its max/mean is lower than greedy's, strictly. The interval is
over seeds of the search, twice the standard error; ``low`` and ``high`` are the cuts of the least and most
favourable judged workload.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from moesim import load_trace
from moesim.layout import ExpertMap
from moesim.placement.solvers.anneal import search
from moesim.placement.solvers.greedy import greedy
from moesim.placement.solvers.steps import search_robust


def questions(names: list[str]) -> dict[str, list[tuple[list[int], list[int]]]]:
    """Which workloads are fitted and which are judged."""
    everyone = range(len(names))
    phases = [[i for i in everyone if names[i].startswith(p)] for p in ("decode", "prefill")]
    pairs = [[d, p] for d in phases[0] for p in phases[1]]
    rest = {i: [j for j in everyone if j != i] for i in everyone}
    return {
        "one": [([i], rest[i]) for i in everyone],
        "one of each": [(pair, [j for j in everyone if j not in pair]) for pair in pairs],
        "leave one out": [(rest[i], [i]) for i in everyone],
        "within phase": [([j for j in ph if j != i], [i]) for ph in phases if len(ph) > 2 for i in ph],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slots", type=int, default=288)
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--effort", type=float, default=1.0)
    arguments = parser.parse_args()
    files = sorted(arguments.folder.glob("*.json"))
    names = [path.stem for path in files]
    counts = np.stack([load_trace(path).load_counts().totals for path in files])
    loads = counts / counts.sum(axis=2, keepdims=True)
    experts, ranks = loads.shape[2], arguments.ranks
    search_robust(loads[:, :1], ranks, greedy(loads[0, :1], ranks, arguments.slots - experts))  # compile

    def excess(table: np.ndarray, load: np.ndarray) -> np.ndarray:
        return ExpertMap(table, experts, ranks).load_imbalance(load) - 1

    print(
        f"{'fitted':14} {'plan':8} {'judged max/mean':>16} {'cut':>14} {'cells':>7} {'low':>7} {'high':>7}"
        f" {'cpu s':>7}"
    )
    for question, cases in questions(names).items():
        for method in ("greedy", "totals", "robust"):
            rows, cells, by, started = [], [], {}, time.process_time()
            for seed in range(1 if method == "greedy" else arguments.seeds):
                ours, base = [], []
                for fitted, judged in cases:
                    mean = loads[fitted].mean(axis=0)
                    start = plan = greedy(mean, ranks, arguments.slots - experts)
                    if method == "totals":
                        plan = search(mean, ranks, start, seed=seed, effort=arguments.effort)
                    if method == "robust":
                        plan = search_robust(loads[fitted], ranks, start, seed=seed, effort=arguments.effort)
                    for j in judged:
                        ours.append(excess(plan, loads[j]))
                        base.append(excess(start, loads[j]))
                        by.setdefault(j, []).append((ours[-1].mean(), base[-1].mean()))
                rows.append((np.mean(ours), np.mean(base)))
                cells.append(np.mean(np.array(ours) < np.array(base)))
            mine, greedily = np.array(rows).T
            cut = 1 - mine / greedily
            half = 2 * cut.std(ddof=1) / len(cut) ** 0.5 if len(cut) > 1 else 0.0
            each = [1 - a / b for a, b in (np.mean(values, axis=0) for values in by.values())]
            seconds = (time.process_time() - started) / len(rows) / len(cases)
            print(
                f"{question:14} {method:8} {1 + mine.mean():16.4f} {cut.mean():7.1%} ± {half:4.1%}"
                f" {np.mean(cells):7.1%} {min(each):7.1%} {max(each):7.1%} {seconds:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
