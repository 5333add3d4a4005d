"""Link loads of many traffic matrices: at once, against paths that are walked one by one in networkx.

python benchmarks/fabric/bench_loads.py
"""

from __future__ import annotations

import itertools
import time

import networkx as nx
import numpy as np

from moesim.fabric import contention_seconds, grid_links, grid_loads, link_loads, network_of
from moesim.hardware import load_hardware


def walked(traffic, shape):
    """Loads of a mesh, along the row first."""
    made = nx.grid_2d_graph(*shape).to_directed()
    nx.set_edge_attributes(made, 0.0, "load")
    for (r1, c1), (r2, c2) in itertools.product(np.ndindex(*shape), repeat=2):
        step = 1 if c2 > c1 else -1
        path = [(r1, c) for c in range(c1, c2, step)] + [(r1, c2)]
        step = 1 if r2 > r1 else -1
        path += [(r, c2) for r in range(r1 + step, r2 + step, step)] if r1 != r2 else []
        size = traffic[r1 * shape[1] + c1, r2 * shape[1] + c2]
        for edge in itertools.pairwise(path):
            made.edges[edge]["load"] += size
    return made


def timed(call):
    call()
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def main() -> None:
    rng = np.random.default_rng(0)
    print("| network | matrices | seconds | matrices/s |")
    print("|---|---|---|---|")
    for shape, batch in (((5, 5), 10_000), ((3, 8), 10_000), ((16, 16), 100)):
        n = shape[0] * shape[1]
        traffic = rng.random((batch, n, n))
        loads, seconds = timed(lambda traffic=traffic, shape=shape: grid_loads(traffic, shape))
        made, slow = timed(lambda traffic=traffic, shape=shape: walked(traffic[0], shape))
        source, target = (
            np.stack(np.unravel_index(ends, shape), axis=1).tolist() for ends in grid_links(shape, False)
        )
        expected = [made.edges[tuple(a), tuple(b)]["load"] for a, b in zip(source, target, strict=True)]
        assert np.allclose(loads[0], expected)
        print(f"| mesh {shape[0]} x {shape[1]} | {batch:,} | {seconds:.3f} | {batch / seconds:,.0f} |")
        print(f"| the same, walked in networkx | 1 | {slow:.4f} | {1 / slow:,.2g} |")
    for name, nodes, batch in (("h100-sxm-8", 4, 1000), ("gb200-nvl72", 18, 1000), ("cloudmatrix384", 48, 4)):
        network = network_of(load_hardware(name, nodes=nodes))
        traffic = rng.random((batch, network.devices, network.devices))
        _, seconds = timed(lambda network=network, traffic=traffic: link_loads(network, traffic))
        print(f"| {name}, {network.devices} devices | {batch:,} | {seconds:.3f} | {batch / seconds:,.0f} |")
        _, seconds = timed(lambda network=network, traffic=traffic: contention_seconds(network, traffic))
        print(f"| the same, with latencies | {batch:,} | {seconds:.3f} | {batch / seconds:,.0f} |")


if __name__ == "__main__":
    main()
