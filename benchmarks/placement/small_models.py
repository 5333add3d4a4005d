"""Models of few experts: two stages as in MoETuner, in polynomial time, beside the optimum of both at once.

    python benchmarks/placement/small_models.py olmoe_mixtral_counts.npz

The file holds ``mistral__DOMAIN__counts`` [layers, 8] and ``mistral__DOMAIN__crosslayer`` [layers - 1, 8, 8]
of five domains: routing of Mixtral 8x7B as published with OLMoE, for three of its layers. Plans are fitted to
all domains; then to all but one, and judged on that one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from moesim.layout import ExpertMap
from moesim.placement.bound_traffic import least_leaving
from moesim.placement.solvers.chain import chain_lap, largest_flow
from moesim.placement.solvers.eight import joint_optimum, states
from moesim.placement.solvers.greedy import greedy
from moesim.placement.traffic import leaving

DOMAINS = ("arxiv", "book", "c4", "github", "wikipedia")


def even_clusters(loads: np.ndarray, ranks: int) -> np.ndarray:
    """Clusters of least deviation from the mean, MoETuner's first stage, by looking at all."""
    every = states(loads.shape[1], ranks)
    member = every[:, :, None] == np.arange(ranks)
    off = np.abs(np.einsum("le,ser->lsr", loads, member) - loads.sum(axis=1)[:, None, None] / ranks)
    return np.argsort(every[off.sum(axis=2).argmin(axis=1)], axis=1, kind="stable")


def plans(pairs: np.ndarray, loads: np.ndarray, ranks: int):
    first, experts = greedy(loads, ranks), loads.shape[1]
    even = even_clusters(loads, ranks) if ranks < experts else first
    cap = ExpertMap(even, experts, ranks).load_imbalance(loads)
    yield "greedy", lambda: first
    yield "two stages, total", lambda: chain_lap(pairs, even, ranks)
    yield "two stages, largest", lambda: chain_lap(pairs, even, ranks, "largest")
    yield "joint, cap of the two stages", lambda: joint_optimum(pairs, loads, ranks, cap)
    for least in (1.02, 1.05, 1.1):
        allowed = np.maximum(ExpertMap(first, experts, ranks).load_imbalance(loads), least)
        yield f"joint, cap {least:g}", lambda allowed=allowed: joint_optimum(pairs, loads, ranks, allowed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", type=Path)
    data = np.load(parser.parse_args().counts)
    loads = {d: data[f"mistral__{d}__counts"].astype(float) for d in DOMAINS}
    pairs = {d: data[f"mistral__{d}__crosslayer"].astype(float) for d in DOMAINS}
    print("| ranks | plan | leaving % | largest flow % | max/mean | held out: leaving % | max/mean | cpu s |")
    print("|---" * 8 + "|")
    for ranks in (2, 4, 8):
        rows: dict[str, list] = {}
        for out in (None, *DOMAINS):
            kept = [d for d in DOMAINS if d != out]
            fit_pairs, fit_loads = sum(pairs[d] for d in kept), sum(loads[d] for d in kept)
            for name, make in plans(fit_pairs, fit_loads, ranks):
                began = time.process_time()
                plan = ExpertMap(make(), fit_loads.shape[1], ranks)
                seconds = time.process_time() - began
                if out is None:
                    flow = largest_flow(fit_pairs, plan.physical_to_logical, ranks) / fit_pairs.sum(
                        axis=(1, 2)
                    )
                    left = leaving(plan, fit_pairs, ranks).mean()
                    rows[name] = [left, flow.mean(), plan.load_imbalance(fit_loads).mean(), seconds]
                else:
                    rows[name].append(
                        (leaving(plan, pairs[out], ranks).mean(), plan.load_imbalance(loads[out]).mean())
                    )
        for name, (left, flow, uneven, seconds, *others) in rows.items():
            there, balance = np.mean(others, axis=0)
            print(
                f"| {ranks} | {name} | {left:.2%} | {flow:.2%} | {uneven:.4f} | {there:.2%} | {balance:.4f} "
                f"| {seconds:.3f} |"
            )
        bound = least_leaving(sum(pairs.values()), ranks).mean()
        print(f"| {ranks} | spectral bound | {bound:.2%} | | | | | |")


if __name__ == "__main__":
    main()
