"""Hits of fixed placements: Fiddler's on Mixtral's loads, and all of them on a trace in two halves.

    python benchmarks/residency/placements.py COUNTS TRACE

COUNTS is the file of load counts of allenai/OLMoE's analysis (Mixtral-8x7B and OLMoE, three layers, five
domains): popularity is fitted to four domains and the hit ratio taken on the fifth. Fiddler's table has
25.2 % with 56 of 256 experts resident and 53.0 % with 125; random placement 21.9 and 48.8. ``own`` is fitted
to the domain itself. TRACE is cut in two by requests: placements are fitted to the first half, and the part
of accesses of the second that find their expert resident is printed, for a quarter and half of all experts.
"""

from __future__ import annotations

import argparse

import numpy as np

import moesim as ms
from moesim.policy.placements import (
    DemandQuota,
    FrontLoading,
    Popular,
    Random,
    RoundRobin,
    WholeLayers,
    popular_coverage,
)
from moesim.policy.split import split

PUBLISHED = ((56, 25.2), (125, 53.0))


def fiddler(path: str) -> None:
    """Print Fiddler's two hit ratios by domain."""
    counts = np.load(path)
    loads = {
        name.split("__")[1]: counts[name]
        for name in counts.files
        if name.startswith("mistral") and name.endswith("counts")
    }
    print(
        f"{'resident':12}"
        + "".join(f"{domain:>11}" for domain in loads)
        + f"{'mean':>9}{'own':>9}{'paper':>9}"
    )
    for resident, published in PUBLISHED:
        held, own = [], []
        for domain, load in loads.items():
            rest = sum(other for name, other in loads.items() if name != domain)
            held.append(100 * popular_coverage(rest, load, resident / 256))
            own.append(100 * popular_coverage(load, load, resident / 256))
        cells = "".join(f"{value:11.1f}" for value in held)
        print(f"{resident:3} of 256  {cells}{np.mean(held):9.1f}{np.mean(own):9.1f}{published:9.1f}")


def halves(path: str) -> None:
    """Print hits of every placement on the second half of a trace."""
    train, rest = split(ms.load_trace(path), 0.5)
    load = rest.load_counts().totals
    print(f"\n{'placement':28}{'a quarter':>11}{'half':>11}")
    for name, placement in (
        ("random", Random()),
        ("round robin", RoundRobin()),
        ("front loading", FrontLoading()),
        ("whole layers", WholeLayers()),
        ("popular, each layer", Popular(across=False)),
        ("demand of 8 tokens", DemandQuota(8)),
        ("popular, all layers", Popular()),
    ):
        cells = ""
        for share in (0.25, 0.5):
            quota = placement.quota(int(share * load.size), train)
            hits = load[placement.resident(quota, train)].sum() / load.sum()
            cells += f"{100 * hits:10.1f}%"
        print(f"{name:28}{cells}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("counts")
    parser.add_argument("trace")
    arguments = parser.parse_args()
    fiddler(arguments.counts)
    halves(arguments.trace)


if __name__ == "__main__":
    main()
