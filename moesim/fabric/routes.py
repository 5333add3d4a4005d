"""Which links a message crosses: rows of a sparse matrix, one for each flow.

A row sums to the number of hops. Where several ways are equally short, it holds the part of the bytes that
goes each way. Pairs of one scale-up domain use its links, others the network; a device and its host use the
link between them. Described fabrics take the fewest hops, evenly over all shortest paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.fabric.grids import grid_hops, line_steps
from moesim.fabric.network import Network
from moesim.hardware.wiring import HOST, OUT, UP, Array, IntArray, Part

if TYPE_CHECKING:
    import scipy.sparse as sp

#: Flows whose paths through a described fabric are searched at once, times its links.
_BLOCK = 20_000_000


def incidence(network: Network, source: IntArray, target: IntArray) -> sp.csr_array:
    """Part of each flow's bytes that crosses each link.

    Parameters
    ----------
    network
        The network.
    source, target
        Nodes, ``[flows]``: devices, a device and its host, or any nodes of a described fabric.

    Returns
    -------
    scipy.sparse.csr_array
        ``[flows, links]``; empty rows for flows from a node to itself.

    Examples
    --------
    >>> from moesim.fabric import network_of
    >>> from moesim.hardware import load_hardware
    >>> network = network_of(load_hardware("h100-sxm-8", nodes=2))
    >>> paths = incidence(network, np.array([0, 0]), np.array([1, 9]))
    >>> paths.sum(axis=1).tolist()  # through one switch; from rail 0 over the spine to rail 1
    [2.0, 4.0]
    """
    import scipy.sparse as sp

    source, target = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
    shape = (len(source), len(network.source))
    total = sp.csr_array(shape, dtype=np.float64)
    for part, mine in _divided(network, source, target):
        local = _local(network, part)
        own = _ROUTERS[part.pattern](network, part, local[source[mine]], local[target[mine]]).tocoo()
        rows, columns = mine[own.coords[0]], part.first + own.coords[1]
        total = total + sp.csr_array((own.data, (rows, columns)), shape=shape)
    return total


def hops(network: Network, ranks: int | None = None) -> Array:
    """Links between each two devices, ``[ranks, ranks]``.

    >>> from moesim.fabric import network_of
    >>> from moesim.hardware import load_hardware
    >>> hops(network_of(load_hardware("h100-sxm-8")), 2).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    return _kept(network, "hops", lambda part: _lengths(network, part)[0])[:ranks, :ranks]


def latencies(network: Network, ranks: int | None = None) -> Array:
    """Seconds of an empty message between each two devices, ``[ranks, ranks]``; the longest of equal ways."""
    return _kept(network, "latencies", lambda part: _lengths(network, part)[1])[:ranks, :ranks]


def _kept(network: Network, name: str, of: Callable[[Part], Array]) -> Array:
    """A matrix over all devices, put together from that of each part."""
    if name not in network.known:
        n = network.devices
        made = np.full((n, n), np.inf)
        np.fill_diagonal(made, 0.0)
        domain = network.domain_of(n)
        for part in network.parts:
            inside = part.devices[part.devices < n]
            if part.use == UP:
                made[np.ix_(inside, inside)] = of(part)
            elif part.use == OUT:
                made = np.where(domain[:, None] == domain[None, :], made, of(part))
        made.setflags(write=False)
        network.known[name] = made
    kept: Array = network.known[name]
    return kept


def _divided(network: Network, source: IntArray, target: IntArray) -> list[tuple[Part, IntArray]]:
    """Flows by the part that carries them; those within a node need none."""
    found: list[tuple[Part, IntArray]] = []
    open_ = source != target
    for part in sorted(network.parts, key=lambda part: part.use != UP):
        local = _local(network, part)
        here = open_ & (local[source] >= 0) & (local[target] >= 0)
        if part.use == OUT:
            here &= source // network.domain != target // network.domain
        elif part.use == HOST:
            here &= (source == part.hub) | (target == part.hub)
        if here.any():
            found.append((part, np.flatnonzero(here)))
            open_ &= ~here
    if open_.any():
        flow = int(np.flatnonzero(open_)[0])
        raise ValueError(f"no way from {network.names[source[flow]]} to {network.names[target[flow]]}")
    return found


def _local(network: Network, part: Part) -> IntArray:
    """Place of each node in a part, -1 where it is not there; a star's hub comes last."""
    key = ("local", part.first)
    if key not in network.known:
        made = np.full(len(network.names), -1, dtype=np.int64)
        made[part.devices] = np.arange(len(part.devices))
        if part.use == HOST:
            made[part.hub] = len(part.devices)
        network.known[key] = made
    kept: IntArray = network.known[key]
    return kept


def _star(_network: Network, part: Part, source: IntArray, target: IntArray) -> sp.csr_array:
    import scipy.sparse as sp

    n, flows = len(part.devices), np.arange(len(source))
    leaves = (part.links - 2 * n) // 2
    out, into = source < n, target < n
    rows, columns = [flows[out], flows[into]], [source[out], n + target[into]]
    if leaves:
        # The hub has no leaf of its own: whatever comes from there passes one.
        leaf = np.append(part.leaf, -1)
        apart = leaf[source] != leaf[target]
        rows += [flows[apart & out], flows[apart & into]]
        columns += [2 * n + leaf[source[apart & out]], 2 * n + leaves + leaf[target[apart & into]]]
    row, column = np.concatenate(rows), np.concatenate(columns)
    return sp.csr_array((np.ones(len(row)), (row, column)), shape=(len(source), part.links))


def _complete(_network: Network, part: Part, source: IntArray, target: IntArray) -> sp.csr_array:
    import scipy.sparse as sp

    n = len(part.devices)
    column = source * (n - 1) + target - (target > source)
    return sp.csr_array(
        (np.ones(len(source)), (np.arange(len(source)), column)), shape=(len(source), part.links)
    )


def _grid(_network: Network, part: Part, source: IntArray, target: IntArray) -> sp.csr_array:
    import scipy.sparse as sp

    here, there = np.unravel_index(source, part.shape), np.unravel_index(target, part.shape)
    blocks, axes = [], len(part.shape)
    for axis, extent in enumerate(part.shape):
        steps = sp.csr_array(line_steps(extent, part.closed))
        taken = steps[here[axis] * extent + there[axis]]
        # Axes after this one are behind: the line lies where the target is.
        others = [there[a] if a > axis else here[a] for a in range(axes) if a != axis]
        extents = [part.shape[a] for a in range(axes) if a != axis]
        line = np.zeros(len(source), dtype=np.int64)
        for place, size in zip(others, extents, strict=True):
            line = line * size + place
        per = steps.shape[1]
        column = taken.indices + np.repeat(line, np.diff(taken.indptr)) * per
        lines = int(np.prod(extents, dtype=np.int64))
        blocks.append(sp.csr_array((taken.data, column, taken.indptr), shape=(len(source), lines * per)))
    return sp.csr_array(sp.hstack(blocks))


@dataclass(frozen=True, slots=True, eq=False)
class _Shortest:
    """Shortest paths between all nodes of a described fabric.

    Parameters
    ----------
    source, target
        Local ends of its links.
    apart
        Hops, ``[nodes, nodes]``.
    ways
        Number of shortest paths.
    latency_s
        Of the longest of these.
    """

    source: IntArray
    target: IntArray
    apart: Array
    ways: Array
    latency_s: Array


def _shortest(network: Network, part: Part) -> _Shortest:
    import scipy.sparse as sp

    key = ("shortest", part.first)
    if key in network.known:
        kept: _Shortest = network.known[key]
        return kept
    own = slice(part.first, part.first + part.links)
    local = _local(network, part)
    source, target, n = local[network.source[own]], local[network.target[own]], len(part.devices)
    links = sp.csr_array((np.ones(part.links), (source, target)), shape=(n, n))
    apart, ways = np.full((n, n), np.inf), np.eye(n)
    np.fill_diagonal(apart, 0.0)
    latency = np.where(np.eye(n, dtype=bool), 0.0, -np.inf)
    front = np.eye(n)
    for level in range(1, n):
        reached = np.asarray(front @ links)
        new = (reached > 0) & np.isinf(apart)
        if not new.any():
            break
        # The slowest of the links by which a node is reached in as many hops.
        later = np.full((n, n), -np.inf)
        before = np.where(front > 0, latency, -np.inf)
        np.maximum.at(later.T, target, before[:, source].T + network.latency_s[own][:, None])
        apart[new], latency[new] = level, later[new]
        front = np.where(new, reached, 0.0)
        ways += front
    network.known[key] = _Shortest(source, target, apart, ways, latency)
    made: _Shortest = network.known[key]
    return made


def _wires(network: Network, part: Part, source: IntArray, target: IntArray) -> sp.csr_array:
    import scipy.sparse as sp

    found = _shortest(network, part)
    if np.isinf(found.apart[source, target]).any():
        flow = int(np.flatnonzero(np.isinf(found.apart[source, target]))[0])
        ends = (network.names[part.devices[i[flow]]] for i in (source, target))
        raise ValueError("no way from {} to {}".format(*ends))
    blocks = []
    for start in range(0, len(source), step := max(1, _BLOCK // part.links)):
        s, t = source[start : start + step, None], target[start : start + step, None]
        u, v = found.source[None, :], found.target[None, :]
        on = found.apart[s, u] + 1.0 + found.apart[v, t] == found.apart[s, t]
        row, column = np.nonzero(on)
        s, t = s[row, 0], t[row, 0]
        share = found.ways[s, found.source[column]] * found.ways[found.target[column], t] / found.ways[s, t]
        blocks.append(sp.csr_array((share, (row, column)), shape=on.shape))
    return sp.csr_array(sp.vstack(blocks))


_ROUTERS: dict[str, Any] = {"star": _star, "complete": _complete, "grid": _grid, "wires": _wires}


def _lengths(network: Network, part: Part) -> tuple[Array, Array]:
    """Hops and latency between each two devices of a part."""
    latency = network.latency_s[part.first : part.first + part.links]
    if part.pattern == "grid":
        far = grid_hops(part.shape, part.closed)
        return far, np.where(far > 0, part.start_s + far * latency[0], 0.0)
    if part.pattern == "wires":
        found = _shortest(network, part)
        inside = part.devices < network.devices
        return found.apart[np.ix_(inside, inside)], found.latency_s[np.ix_(inside, inside)]
    n = len(part.devices)
    other = 1.0 - np.eye(n)
    if part.pattern == "complete":
        return other, other * latency[0]
    far, total = 2.0 * other, 2.0 * latency[0] * other
    if part.links > 2 * n:
        apart = (part.leaf[:, None] != part.leaf[None, :]).astype(np.float64)
        far, total = far + 2.0 * apart, total + 2.0 * latency[2 * n] * apart
    return far, total
