"""Hits and speed beside libCacheSim, side by side in one run on one core.

    python benchmarks/residency/cachesim.py [--requests N] [--rounds N] [--rules RULE,RULE]

Every row is one generated layer (see skewed.py) of N requests, 20 million if not said. libCacheSim (PyPI
`libcachesim`, C++) replays the same requests from an `oracleGeneral` file that the page cache holds, through
its own `process_trace`. For Belady that file has the next use of every request in it, which we compute within
the time that is counted; the line below leaves that pass out on our side too. Times are CPU time of this
process, best of the rounds, in turns. Every hit count must be equal, or the script fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import libcachesim
import numpy as np
import skewed

from moesim.policy import Residency
from moesim.residency import replay
from moesim.residency.kernels.belady import next_uses

SHAPES = ((8, 2, 4), (64, 6, 16), (128, 8, 32), (128, 8, 64), (256, 8, 64), (512, 10, 128))
RULES = (
    ("lru", libcachesim.LRU),
    ("fifo", libcachesim.FIFO),
    ("lfu", libcachesim.LFU),
    ("belady", libcachesim.Belady),
)


def theirs(kind, slots: int, path: Path, requests: int) -> tuple[int, float]:
    cache = kind(slots, hashpower=12)
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    began = time.process_time()
    misses, _ = cache.process_trace(reader)
    return requests - round(misses * requests), time.process_time() - began


def ours(rule: str, slots: int, trace) -> tuple[int, float]:
    began = time.process_time()
    found = replay(trace, Residency(rule), slots)
    return int(found.hits.sum()), time.process_time() - began


def passes(trace, experts: int) -> float:
    items = trace.topk_ids.reshape(-1)
    began = time.process_time()
    next_uses(items, np.empty(len(items), np.uint32), np.empty(experts, np.uint32))
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rules", default=",".join(rule for rule, _ in RULES))
    asked = parser.parse_args()
    print(f"libcachesim {version('libcachesim')}; M accesses/s of CPU time, best of {asked.rounds}")
    print(
        f"{'experts':>7}{'top-k':>6}{'slots':>6} {'rule':7}{'hits':>8}{'moesim':>8}{'theirs':>8}{'ratio':>7}"
    )
    wrong = 0
    for experts, top_k, slots in SHAPES:
        trace = skewed.trace(asked.requests // top_k, 1, experts, top_k)
        requests = trace.topk_ids.size
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "requests.bin"
            skewed.write_oracle(trace.topk_ids.reshape(-1), experts, path)
            for rule, kind in RULES:
                if rule not in asked.rules.split(","):
                    continue
                ours(rule, slots, skewed.trace(100, 1, experts, top_k))
                best, ahead = [float("inf")] * 2, float("inf")
                for _ in range(asked.rounds):
                    (mine, one), (other, two) = ours(rule, slots, trace), theirs(kind, slots, path, requests)
                    best = [min(best[0], one), min(best[1], two)]
                    wrong += mine != other
                    ahead = min(ahead, passes(trace, experts)) if rule == "belady" else 0.0
                mine_m, other_m = (requests / seconds / 1e6 for seconds in best)
                print(
                    f"{experts:7}{top_k:6}{slots:6} {rule:7}{mine / requests:8.4f}{mine_m:8.1f}{other_m:8.1f}"
                    f"{mine_m / other_m:7.1f}{'' if mine == other else f'  UNEQUAL: {mine} {other}'}",
                    flush=True,
                )
                if rule == "belady":
                    alone = requests / (best[0] - ahead) / 1e6
                    print(f"{'next uses given to both':35}{alone:8.1f}{other_m:8.1f}{alone / other_m:7.1f}")
    sys.exit(f"{wrong} hit counts differ" if wrong else 0)


if __name__ == "__main__":
    main()
