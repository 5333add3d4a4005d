"""Mixtral's shape, 8 experts: balance proven, and MoETuner's two programmes beside the joint one.

    python benchmarks/placement/exact_mixtral.py [COUNTS.npz] [--solver highs] [--limit 60]

COUNTS.npz holds ``mistral__DOMAIN__counts [layers, 8]`` and ``mistral__DOMAIN__crosslayer [layers - 1, 8,
8]`` of the layers that OLMoE's routing analysis recorded. Generated pair counts: each token has a drifting
hidden direction that scores the experts of every layer, top-2, so consecutive layers are correlated. Traffic
is the part of transitions between consecutive (recorded) layers that changes rank.
"""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise

import numpy as np

from moesim.placement.ilp.balance import balance, moetuner_clusters
from moesim.placement.ilp.solve import Run
from moesim.placement.ilp.traffic import joint, leaving, moetuner_links

EXPERTS, TOP, RANKS = 8, 2, 4
#: Where a dynamic programme over whole layers is, if it is.
OPTIMUM = "moesim.placement.solvers.eight"


def generated(layers: int, seed: int, tokens: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Loads and pair counts of correlated layers."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(tokens, 16))
    on = []
    for _ in range(layers):
        hidden = 0.9 * hidden + np.sqrt(1 - 0.9**2) * rng.normal(size=hidden.shape)
        scores = hidden @ rng.normal(size=(16, EXPERTS)) + rng.gumbel(size=(tokens, EXPERTS))
        chosen = np.zeros((tokens, EXPERTS))
        np.put_along_axis(chosen, np.argsort(-scores, axis=1)[:, :TOP], 1.0, axis=1)
        on.append(chosen)
    pairs = np.stack([a.T @ b for a, b in pairwise(on)])
    return np.stack([c.sum(axis=0) for c in on]), pairs


def compare(name: str, loads: np.ndarray, pairs: np.ndarray, run: Run) -> None:
    mean = loads.sum(axis=1) / RANKS
    clusters = moetuner_clusters(loads, RANKS, run=run)
    links = moetuner_links(clusters.table, pairs, RANKS, run=run)
    two = leaving(links.table, pairs, RANKS) / pairs.sum()
    proven = set(clusters.status + links.status)
    held = np.take_along_axis(loads, links.table, axis=1).reshape(len(loads), RANKS, -1).sum(axis=2)
    ratio = (held.max(axis=1) / mean).mean()
    seconds = clusters.seconds + links.seconds
    print(
        f"{name:34} {'MoETuner, two programmes':26} {two:8.3%} {'':9} {ratio:8.4f} {seconds:7.1f}  {proven}"
    )
    joint_optimum = None if find_spec(OPTIMUM) is None else import_module(OPTIMUM).joint_optimum
    even = balance(loads, RANKS, run=run)
    cap = even.value
    start = moetuner_links(even.table, pairs, RANKS, run=run).table
    for slack in (1.0, 1.05):
        answer = joint(loads, pairs, RANKS, cap * slack, start=start, run=run)
        held = np.take_along_axis(loads, answer.table, axis=1).reshape(len(loads), RANKS, -1).sum(axis=2)
        ratio = (held.max(axis=1) / mean).mean()
        numbers = f"{answer.value[0] / pairs.sum():8.3%} {answer.bound[0] / pairs.sum():9.3%} {ratio:8.4f}"
        label = f"joint, cap {slack:g} x best"
        print(f"{'':34} {label:26} {numbers} {answer.seconds:7.1f}  {answer.status[0]}", flush=True)
        if joint_optimum is None:
            continue
        begun = time.process_time()
        table = joint_optimum(pairs, loads, RANKS, cap * slack / mean)
        seconds = time.process_time() - begun
        best = leaving(table, pairs, RANKS) / pairs.sum()
        print(f"{'':34} {'  dynamic programme':26} {best:8.3%} {best:9.3%} {'':8} {seconds:7.1f}  optimal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", nargs="?")
    parser.add_argument("--solver", default="highs")
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--layers", type=int, nargs="*", default=[4, 32])
    arguments = parser.parse_args()
    run = Run(arguments.solver, time_limit_s=arguments.limit)
    real = {}
    if arguments.counts:
        with np.load(arguments.counts) as data:
            for key in data:
                model, domain, what = key.split("__")
                if model == "mistral" and what == "counts":
                    name = f"{model}__{domain}__"
                    real[domain] = (data[name + "counts"] * 1.0, data[name + "crosslayer"] * 1.0)
    balance(np.array([[5.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0]]), 2)  # load what is loaded once
    print("balance, all layers proven")
    sets = {"recorded, all domains": np.concatenate([loads for loads, _ in real.values()])} if real else {}
    sets |= {f"generated, 32 layers, seed {s}": generated(32, s)[0] for s in range(arguments.seeds)}
    for name, loads in sets.items():
        for ranks in (2, 4, 8):
            begun = time.process_time()
            answer = balance(loads, ranks, run=run)
            seconds = time.process_time() - begun
            kinds = {kind: answer.kind.count(kind) for kind in dict.fromkeys(answer.kind)}
            ratio = (answer.value / loads.sum(axis=1) * ranks).mean()
            facts = f"{ratio:8.4f} gap {answer.gap.max():.1e} {seconds:6.2f} s {set(answer.status)} {kinds}"
            print(f"{name:34} EP{ranks} {facts}", flush=True)
    print(f"\n{'traffic on 4 ranks':34} {'':26} {'leaving':>8} {'bound':>9} {'max/mean':>8} {'seconds':>7}")
    for domain, (loads, pairs) in real.items():
        compare(f"recorded, {domain}, {len(loads)} layers", loads, pairs, run)
    for layers in arguments.layers:
        for seed in range(arguments.seeds if layers <= 4 else 1):
            compare(f"generated, {layers} layers, seed {seed}", *generated(layers, seed), run)


if __name__ == "__main__":
    main()
