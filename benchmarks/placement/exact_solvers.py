"""Where integer programming helps: search, HiGHS and CBC on one layer, the same seconds each.

    python benchmarks/placement/exact_solvers.py [--limit 10] [--seeds 5]

Loads are drawn: Zipf shares, exponent 0.6, in random order times gamma noise. Both solvers get a thread, the
same programme (replica counts free) and greedy's placement as a start. Gaps are to the best bound that any
method knows; `own bound` is the method's bound over that one. The limit is wall time; seconds shown are of
processor time, CBC's included.
"""

from __future__ import annotations

import argparse
import os

import numpy as np

from moesim.placement.bound import bound_with_kind
from moesim.placement.bound_pairs import pair_bound
from moesim.placement.ilp.balance import balance
from moesim.placement.ilp.solve import Run
from moesim.placement.solvers.anneal import search
from moesim.placement.solvers.greedy import greedy

#: Experts, slots, ranks.
SHAPES = ((8, 8, 4), (16, 20, 4), (32, 40, 8), (32, 40, 20), (128, 128, 8), (256, 256, 32), (256, 288, 32))


def drawn(experts: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    share = rng.permutation(np.arange(1, experts + 1.0) ** -0.6)
    return (share * rng.gamma(4.0, 0.25, size=experts))[None]


def largest(loads: np.ndarray, table: np.ndarray, ranks: int) -> float:
    share = loads[0] / np.bincount(table[0], minlength=loads.shape[1])
    return share[table[0]].reshape(ranks, -1).sum(axis=1).max()


def processor() -> float:
    """Seconds of this process and of those it waited for."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shapes", type=int, nargs="*", help="which of the shapes, by place in the list")
    arguments = parser.parse_args()
    search(drawn(8, 0), 4, greedy(drawn(8, 0), 4))  # compile before the clock runs
    balance(drawn(8, 0), 4, start=np.arange(8)[None])
    print(
        f"{'experts, slots / ranks':24} {'method':7} {'gap':>8} {'worst':>8} {'own bound':>10} proven seconds"
    )
    chosen = SHAPES if arguments.shapes is None else [SHAPES[i] for i in arguments.shapes]
    for experts, slots, ranks in chosen:
        rows: dict[str, list[tuple]] = {}
        for seed in range(arguments.seeds):
            loads = drawn(experts, seed)
            start = greedy(loads, ranks, slots - experts)
            bound = bound_with_kind(loads, ranks, slots).values[0]
            if slots == 2 * ranks > experts:
                bound = pair_bound(loads, ranks, slots).values[0]
            found = {"greedy": (largest(loads, start, ranks), bound, 0.0)}
            begun = processor()
            table = search(loads, ranks, start, seed=seed, threads=1)
            found["search"] = (largest(loads, table, ranks), bound, processor() - begun)
            for solver in ("highs", "cbc"):
                run = Run(solver, time_limit_s=arguments.limit, gap=1e-6, seed=seed)
                begun = processor()
                answer = balance(loads, ranks, slots, start=start, run=run)
                found[solver] = (answer.value[0], answer.bound[0], processor() - begun)
            best = max(b for _, b, _ in found.values())
            for name, (value, own, seconds) in found.items():
                rows.setdefault(name, []).append((value / best - 1, own / best, seconds))
        for name, row in rows.items():
            gap, own, seconds = np.array(row).T
            proven = f"{(gap <= 1e-5).sum()}/{len(gap)}"
            numbers = (
                f"{gap.mean():8.3%} {gap.max():8.3%} {own.mean():10.4f} {proven:>6} {seconds.mean():.2f}"
            )
            print(f"{f'{experts}, {slots} / {ranks}':24} {name:7} {numbers}", flush=True)


if __name__ == "__main__":
    main()
