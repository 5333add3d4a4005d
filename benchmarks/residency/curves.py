"""Hits of all capacities in one pass: speed by number of experts, beside caches of one capacity.

    python benchmarks/residency/curves.py [--accesses 4000000] [--repeat 3]

Millions of accesses per second of process CPU time, best of several. ``lru`` and ``opt`` give every capacity
from 0 to all experts in one pass, one after the other or token by token (``batch``); ``opt`` finds next uses
itself. ``one`` is a pass of this package's kernel for a single capacity, a quarter of the experts;
``libcachesim`` the same there (pip install 'moesim[test]'), which reads its next uses from the file. ``all``
is how many times longer every capacity takes libCacheSim, one after the other: its mean over 1/8, 1/4, 1/2
and 3/4 of the experts, times how many there are. Hits are compared, but for ties of libCacheSim's Belady.
Last, many layers at once, each with its pool, and least recently used of one pool of all layers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from skewed import trace, write_oracle

from moesim.policy import Residency, token_steps
from moesim.residency import curve, replay

SIZES = ((8, 2), (64, 6), (128, 8), (256, 8), (512, 10))
PARTS = (0.125, 0.25, 0.5, 0.75)
COLUMNS = ("lru", "lru batch", "one lru", "opt", "opt batch", "one opt")


def best_of(repeat, run):
    """What the last run gives, and the least process CPU seconds."""
    least = np.inf
    for _ in range(repeat):
        began = time.process_time()
        found = run()
        least = min(least, time.process_time() - began)
    return found, least


def theirs(items, experts, repeat):
    """Seconds of libCacheSim by rule and part of the experts, and its hits of least recently used."""
    import libcachesim

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.oracleGeneral"
        write_oracle(items, experts, path)
        seconds, hits = {}, {}
        for name, rule in (("lru", libcachesim.LRU), ("opt", libcachesim.Belady)):
            for part in PARTS:

                def run(rule=rule, part=part):
                    kind = libcachesim.TraceType.ORACLE_GENERAL_TRACE
                    reader = libcachesim.TraceReader(str(path), trace_type=kind)
                    return rule(cache_size=max(1, round(part * experts))).process_trace(reader)[0]

                missed, seconds[name, part] = best_of(repeat, run)
                hits[name, part] = round((1 - missed) * len(items))
    return seconds, hits


def measure(steps, slots, repeat):
    """Seconds by column, and the curves, which agree with the caches of one capacity."""
    seconds, found = {}, {}
    for name, rule in (("lru", "lru"), ("opt", "belady")):
        for lookup, tail in (("sequential", ""), ("token_batch", " batch")):
            residency = Residency(rule, lookup=lookup)
            replay(steps, residency, slots)  # compile before the clock runs
            found[name + tail], seconds[name + tail] = best_of(repeat, partial(curve, steps, residency))
            one, spent = best_of(repeat, partial(replay, steps, residency, slots))
            assert one.hits.sum() == found[name + tail].hits[:, slots].sum()
            if not tail:
                seconds["one " + name] = spent
    return seconds, found


def layered(accesses, repeat):
    """All capacities of many layers, as tokens pass through them."""
    print(f"\n{'layers':>8}{'experts':>8}" + "".join(f"{n:>16}" for n in ("lru", "opt", "lru, one pool")))
    for layers, experts, top_k in ((48, 128, 8), (58, 256, 8)):
        steps = token_steps(trace(accesses // layers // top_k, layers, experts, top_k))
        numbers = []
        for rule, pool in (("lru", "layer"), ("belady", "layer"), ("lru", "global")):
            _, spent = best_of(repeat, partial(curve, steps, Residency(rule, pool)))
            numbers.append(f"{steps.accesses / spent / 1e6:.1f}")
        print(f"{layers:>8}{experts:>8}" + "".join(f"{x:>16}" for x in numbers), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accesses", type=int, default=4_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    try:
        import libcachesim  # noqa: F401

        compared = True
    except ImportError:
        compared = False
    names = [*COLUMNS, *(("libcachesim lru", "libcachesim opt", "all lru", "all opt") if compared else ())]
    print(f"{'experts':>8}{'top':>4}  " + "".join(f"{name:>16}" for name in names))
    for experts, top_k in SIZES:
        tokens = arguments.accesses // top_k
        routing = trace(tokens, 1, experts, top_k)
        steps = token_steps(routing)
        slots = max(1, experts // 4)
        n = steps.accesses
        curve(token_steps(trace(100, 1, experts, top_k)), Residency("lru"))  # compile before the clock runs
        seconds, found = measure(steps, slots, arguments.repeat)
        numbers = [f"{n / seconds[name] / 1e6:.1f}" for name in COLUMNS]
        if compared:
            spent, hits = theirs(routing.topk_ids.reshape(-1), experts, arguments.repeat)
            for part in PARTS:
                assert hits["lru", part] == found["lru"].hits[0, max(1, round(part * experts))]
            numbers += [f"{n / spent[name, 0.25] / 1e6:.1f}" for name in ("lru", "opt")]
            for name in ("lru", "opt"):
                every = np.mean([spent[name, part] for part in PARTS]) * experts
                numbers.append(f"{every / seconds[name]:.0f}x")
        print(f"{experts:>8}{top_k:>4}  " + "".join(f"{x:>16}" for x in numbers), flush=True)
    layered(arguments.accesses, arguments.repeat)


if __name__ == "__main__":
    main()
