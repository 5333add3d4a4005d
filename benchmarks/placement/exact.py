"""Two slots per rank with spares, and one: imbalance, proven gap and time of each method.

    python benchmarks/placement/exact.py [FOLDER] [--exact 0.005] [--seeds 5]

FOLDER holds load counts of one model, one workload per file, such as the DeepSeek-V3 counts attached to
github.com/sgl-project/sglang/issues/6017: 256 experts on 144 ranks of two slots, and on 320 of one. Without
it, loads are drawn: Zipf shares of 256 experts in random order times gamma noise, over seeds. Gaps are to the
best bound that any method proved for a layer; `own` is the worst gap to the bound the method itself has.
Seconds are of processor time, for all layers, compiled code in place.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from moesim import load_trace
from moesim.placement.bound import bound_with_kind
from moesim.placement.ilp.counts import count_search, exact_counts
from moesim.placement.solvers.anneal import search
from moesim.placement.solvers.greedy import greedy

RANKS, SLOTS, EXPERTS, LAYERS = 144, 288, 256, 8


def largest(loads: np.ndarray, table: np.ndarray, ranks: int) -> np.ndarray:
    counts = np.stack([np.bincount(row, minlength=loads.shape[1]) for row in table])
    share = np.take_along_axis(loads / counts, table, axis=1)
    return share.reshape(len(loads), ranks, -1).sum(axis=2).max(axis=1)


def run(loads: np.ndarray, tolerance: float | None) -> dict[str, tuple]:
    """By method: max/mean, gap to the best bound, gap to its own bound, seconds, layers by kind of bound."""
    mean = loads.sum(axis=1) / RANKS
    found = {}
    first = greedy(loads, RANKS, SLOTS - EXPERTS)
    simple = bound_with_kind(loads, RANKS, SLOTS)
    methods = ["greedy", "swaps", "counts"]
    if tolerance is not None:
        methods.append(f"exact {tolerance:.2%}")
    for name in methods:
        begun = time.process_time()
        if name == "greedy":
            table, bound, kinds = greedy(loads, RANKS, SLOTS - EXPERTS), simple.values, simple.kinds
        elif name == "swaps":
            table, bound, kinds = search(loads, RANKS, first, threads=1), simple.values, simple.kinds
        else:
            solver = count_search if name == "counts" else exact_counts
            options = {} if name == "counts" else {"tolerance": tolerance}
            answer = solver(loads, RANKS, SLOTS, threads=1, **options)
            table, bound, kinds = answer.table, answer.bound, answer.kind
        seconds = time.process_time() - begun
        found[name] = (largest(loads, table, RANKS), bound, seconds, kinds)
    best = np.max([bound for _, bound, _, _ in found.values()], axis=0)
    return {
        name: (value / mean, value / best - 1, value / bound - 1, seconds, kinds)
        for name, (value, bound, seconds, kinds) in found.items()
    }


def show(name: str, row: tuple) -> None:
    ratio, gap, own, seconds, kinds = row
    kinds = ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
    numbers = f"{ratio.mean():8.4f} {ratio.max():8.4f} {gap.mean():8.3%} {gap.max():8.3%} {own.max():8.3%}"
    print(f"{name:38} {numbers} {seconds:8.1f}  {kinds}", flush=True)


def drawn(exponent: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    share = np.arange(1, EXPERTS + 1.0) ** -exponent
    loads = np.stack([rng.permutation(share) for _ in range(LAYERS)])
    return 1e5 * loads * rng.gamma(4.0, 0.25, size=loads.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--exact", type=float, help="gap to prove by integer programmes as well")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    count_search(np.arange(1.0, 12.0)[None] ** 3, 8, 16)  # compile before the clock runs
    search(np.arange(1.0, 12.0)[None] ** 3, 8, greedy(np.arange(1.0, 12.0)[None] ** 3, 8, 5))

    columns = ("max/mean", "worst", "gap", "worst", "own")
    print(f"{'256 experts, 288 slots on 144 ranks':38} " + " ".join(f"{c:>8}" for c in columns) + "  seconds")
    if arguments.folder is None:
        for exponent in (0.3, 0.6, 1.0):
            runs = [run(drawn(exponent, seed), arguments.exact) for seed in range(arguments.seeds)]
            for name in runs[0]:
                parts = list(zip(*(r[name] for r in runs), strict=True))
                kinds = sum(parts[4], ())
                whole = (*(np.concatenate(p) for p in parts[:3]), float(np.mean(parts[3])), kinds)
                show(f"Zipf {exponent}, {arguments.seeds} x {LAYERS} layers, {name}", whole)
                gaps = [gap.mean() for gap in parts[1]]
                half = student.ppf(0.975, len(gaps) - 1) * np.std(gaps, ddof=1) / np.sqrt(len(gaps))
                print(f"{'':38} mean gap {np.mean(gaps):.3%} +- {half:.3%} (95 %, over seeds)")
        return
    files = sorted(arguments.folder.glob("*.json"))
    for path in files:
        loads = load_trace(path).load_counts().totals
        loads = loads[loads.any(axis=1)]
        for name, row in run(loads, arguments.exact).items():
            show(f"{path.stem} {name}", row)
    print("\n256 experts, 320 slots on 320 ranks: greedy")
    for path in files:
        loads = load_trace(path).load_counts().totals
        loads = loads[loads.any(axis=1)]
        begun = time.process_time()
        value = largest(loads, greedy(loads, 320, 64), 320)
        bound = bound_with_kind(loads, 320, 320)
        seconds = time.process_time() - begun
        ratio = (value / loads.sum(axis=1) * 320).mean()
        gap = (value / bound.values - 1).max()
        print(f"{path.stem:38} {ratio:8.4f} gap {gap:.1e}, {seconds:.2f} s, {set(bound.kinds)}")


if __name__ == "__main__":
    main()
