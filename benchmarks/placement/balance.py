"""Placement on real loads: imbalance, proven gap and time of each method, and what a plan is worth elsewhere.

    python benchmarks/placement/balance.py FOLDER

FOLDER holds load counts of one model, one workload per file, such as the DeepSeek-V3 counts attached to
github.com/sgl-project/sglang/issues/6017. Every layout is solved for every file, replicas sharing evenly.
``all`` is the mean over files (of the two ``worst``, the largest), ``elsewhere`` the mean of max/mean - 1
over the other files; seconds are of the processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from moesim import load_trace
from moesim.placement import Problem, evaluate, solve

LAYOUTS = ((288, 32), (288, 36), (288, 72), (288, 144), (256, 32), (320, 320))
METHODS = ("contiguous", "greedy-hierarchical", "greedy", "search")
NODES, GROUPS = 4, 8
COLUMNS = ("mean", "worst", "gap mean", "gap worst", "seconds", "elsewhere")


def measure(loads: dict[str, np.ndarray], fitted: str, slots: int, ranks: int, method: str, seed: int):
    """Numbers of `COLUMNS` for one plan."""
    counts = loads[fitted]
    problem = Problem(counts, ranks, slots - counts.shape[1], nodes=NODES, groups=GROUPS)
    started = time.process_time()
    solution = solve(problem, method, seed=seed)
    seconds = time.process_time() - started
    own = evaluate(solution.expert_map, counts)
    others = [evaluate(solution.expert_map, loads[name]).mean - 1 for name in loads if name != fitted]
    gap_mean, gap_worst = np.nanmean(solution.gap), np.nanmax(solution.gap)
    return own.mean, own.worst, gap_mean, gap_worst, seconds, np.mean(others)


def show(name: str, layout: str, method: str, row: tuple[float, ...]) -> None:
    mean, worst, gap_mean, gap_worst, seconds, elsewhere = row
    numbers = f"{mean:9.4f} {worst:9.4f} {gap_mean:9.3%} {gap_worst:9.3%} {seconds:9.2f} {elsewhere:9.3f}"
    print(f"{name:22} {layout:8} {method:20} {numbers}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="ranks of the layouts to run")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.glob("*.json"))
    loads = {path.stem: load_trace(path).load_counts().totals for path in files}
    for ranks, redundant in ((4, 5), (8, 5)):  # compile before the clock runs
        solve(Problem(np.arange(1.0, 12.0)[None] ** 3, ranks, redundant))

    print(f"{'load':22} {'layout':8} {'method':20} " + " ".join(f"{name:>9}" for name in COLUMNS))
    for slots, ranks in LAYOUTS:
        if arguments.only and ranks not in arguments.only:
            continue
        for method in METHODS:
            if method == "greedy-hierarchical" and ranks % NODES:
                continue
            rows = [measure(loads, name, slots, ranks, method, arguments.seed) for name in loads]
            for name, row in zip(loads, rows, strict=True):
                show(name, f"{slots}/{ranks}", method, row)
            overall = [
                max(c) if "worst" in n else float(np.mean(c))
                for n, c in zip(COLUMNS, zip(*rows, strict=True), strict=True)
            ]
            show("all", f"{slots}/{ranks}", method, tuple(overall))


if __name__ == "__main__":
    main()
