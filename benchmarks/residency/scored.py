"""Scored rules: speed of decayed scores, and hits of every rule on recorded routing.

    python benchmarks/residency/scored.py [TRACE ...] [--accesses 2000000] [--repeat 3] [--learn TRACE TRACE]

First MRS (alpha = 0.5, a pool per layer) in millions of accesses per second of process CPU time, best of
several, beside its definition as a loop over all experts; the hits of both are compared. Then, for each
trace, hit ratios of all rules with slots for a quarter and three quarters of a layer's experts, one lookup
after the other, cold misses charged, no reset. MRS needs router weights; a trace without them is replayed as
if a token weighed its experts alike, which is marked.

With ``--learn`` also HOBBIT's two pools: its weights are learnt on the first trace, and the penalty (a load
in low precision counts a quarter) on the second is compared with that of recency alone.

HybriMoE (arXiv 2504.05897, figure 9, decode) published for MRS and LRU, in percent: with a quarter Mixtral
36.2/30.2, DeepSeek-V2-Lite 52.7/47.7, Qwen2-57B 52.8/45.0, with three quarters Mixtral 83.3/80.6.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace as change
from pathlib import Path

import numpy as np
from skewed import trace

from moesim import load_trace
from moesim.compiled import compiled
from moesim.policy import Residency, token_steps
from moesim.policy.precisions import RankedPrecision
from moesim.residency import replay
from moesim.residency.mixed import fit_terms, replay_mixed

SIZES = ((8, 2, 4), (64, 6, 16), (128, 8, 32), (128, 8, 64), (256, 8, 64), (512, 10, 128))
RULES = (
    ("lru", {}),
    ("lfu", {}),
    ("lfu", {"keep": 1}),
    ("mrs", {}),
    ("mrs", {"alpha": 0.2}),
    ("p-freq", {}),
    ("p-freq", {"truncate": 1}),
    ("hobbit", {"fld": 0}),
    ("cost", {}),
    ("sch", {"window": 4}),
    ("sch", {"window": 16}),
    ("sch", {"window": 64}),
    ("belady", {}),
)


@compiled
def dense(items, weights, cells, experts, slots, alpha):
    """Hits of one pool by the definition: every score decays, every resident is looked at."""
    score, here = np.zeros(experts), np.zeros(experts, np.bool_)
    held = hits = 0
    for c in range(len(cells) - 1):
        for e in range(experts):
            score[e] *= 1 - alpha
        for i in range(cells[c], cells[c + 1]):
            score[items[i]] += alpha * weights[i]
        for i in range(cells[c], cells[c + 1]):
            if here[items[i]]:
                hits += 1
                continue
            if held < slots:
                held += 1
            else:
                victim = -1
                for e in range(experts):
                    if here[e] and (victim < 0 or score[e] < score[victim]):
                        victim = e
                here[victim] = False
            here[items[i]] = True
    return hits


def weighted(tokens, experts, top_k):
    """Generated routing whose weights fall with the order in a token, with chance."""
    routing = trace(tokens, 1, experts, top_k)
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(top_k), (tokens, 1)).astype(np.float16)
    return change(routing, topk_weights=-np.sort(-weights, axis=-1))


def speed(accesses, repeat):
    print(
        f"{'experts':>8}{'top':>4}{'slots':>6}{'MRS, M/s':>12}{'definition':>12}{'ratio':>8}{'hit ratio':>11}"
    )
    for experts, top_k, slots in SIZES:
        routing = weighted(accesses // top_k, experts, top_k)
        steps = token_steps(routing)
        least = [np.inf, np.inf]
        for _ in range(repeat + 1):
            found = replay(routing, Residency("mrs"), slots)
            least[0] = min(least[0], found.seconds)
            began = time.process_time()
            hits = dense(steps.experts, steps.weights, steps.starts, experts, slots, 0.5)
            least[1] = min(least[1], time.process_time() - began)
            assert hits == found.hits.sum()
        fast, slow = (steps.accesses / s / 1e6 for s in least)
        line = f"{fast:>12.1f}{slow:>12.1f}{fast / slow:>8.1f}{found.hit_ratio:>11.4f}"
        print(f"{experts:>8}{top_k:>4}{slots:>6}{line}", flush=True)


def table(path):
    routing = load_trace(path)
    steps = token_steps(routing)
    alike = steps.weights is None
    if alike:
        steps = change(steps, weights=np.full(steps.accesses, 1 / routing.top_k, np.float32))
    print(f"\n{path.parent.name}/{path.stem}: {routing.num_experts} experts, top {routing.top_k}", end="")
    print(", weights taken as alike" if alike else "")
    print(f"{'rule':<24}{'25 %':>9}{'75 %':>9}")
    for rule, parameters in RULES:
        ratios = [
            replay(steps, Residency(rule, parameters=parameters), round(part * routing.num_experts)).hit_ratio
            for part in (0.25, 0.75)
        ]
        name = rule + "".join(f" {k}={v}" for k, v in parameters.items())
        print(f"{name:<24}" + "".join(f"{r:>9.4f}" for r in ratios), flush=True)


def learnt(train, test):
    """Penalty of HOBBIT's score beside recency alone, by slots of a layer in high and low precision."""
    steps = [token_steps(load_trace(path)) for path in (train, test)]
    wanted = [RankedPrecision().levels(s).wanted for s in steps]
    print(f"\n{'high':>5}{'low':>5}{'lru':>8}{'lfu':>8}{'lhu':>8}{'penalty':>11}{'recency':>11}{'less':>8}")
    for high, low in ((8, 4), (16, 8), (24, 12), (32, 16)):
        terms = fit_terms(steps[0], wanted[0], high, low, low_size=0.25, parts=8)
        own, recent = (
            replay_mixed(steps[1], wanted[1], high, low, terms=t).penalty(0.25)
            for t in (terms, (1.0, 0.0, 0.0, 0.0))
        )
        weights = "".join(f"{t:>8.3f}" for t in terms[:3])
        print(f"{high:>5}{low:>5}{weights}{own:>11.0f}{recent:>11.0f}{1 - own / recent:>8.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path, nargs="*")
    parser.add_argument("--accesses", type=int, default=2_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--learn", type=Path, nargs=2, metavar="TRACE")
    arguments = parser.parse_args()
    speed(arguments.accesses, arguments.repeat)
    for path in arguments.traces:
        table(path)
    if arguments.learn:
        learnt(*arguments.learn)


if __name__ == "__main__":
    main()
