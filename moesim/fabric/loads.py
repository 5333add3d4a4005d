"""What each link carries, and how long that takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.fabric.grids import grid_loads
from moesim.fabric.network import Network
from moesim.fabric.routes import incidence, latencies
from moesim.hardware.wiring import HOST, OUT, Array, IntArray, Part


def link_loads(network: Network, traffic: Array) -> Array:
    """Bytes over each link.

    Parameters
    ----------
    network
        The network.
    traffic
        Bytes from device to device, of its first `n` devices, ``[..., n, n]``. The diagonal is ignored.

    Returns
    -------
    ndarray
        ``[..., links]``. Its sum is that of bytes times hops.

    Examples
    --------
    >>> from moesim.fabric import network_of
    >>> from moesim.hardware import load_hardware
    >>> traffic = np.zeros((8, 8))
    >>> traffic[0, 1:] = 1e6
    >>> loads = link_loads(network_of(load_hardware("h100-sxm-8")), traffic)
    >>> float(loads.max()), float(loads.sum())  # out of device 0; twice all bytes
    (7000000.0, 14000000.0)
    """
    lead, n = traffic.shape[:-2], traffic.shape[-1]
    if n > network.devices:
        raise ValueError(f"traffic of {n} ranks on {network.devices} devices")
    sent = np.asarray(traffic, dtype=np.float64).reshape(-1, n, n) * (1.0 - np.eye(n))
    domain = network.domain_of(n)
    across = domain[:, None] != domain[None, :]
    loads = np.zeros((len(sent), len(network.source)))
    has_out = False
    for part in network.parts:
        if part.use == HOST:
            continue
        has_out |= part.use == OUT
        mine = part.devices[part.devices < n]
        if len(mine):
            own = sent * across if part.use == OUT else sent[:, mine[:, None], mine]
            loads[:, part.first : part.first + part.links] = _part_loads(network, part, own)
    if not has_out and sent[:, across].any():
        raise ValueError("traffic between domains, and no network between them")
    return loads.reshape(*lead, -1)


def flow_loads(network: Network, source: IntArray, target: IntArray, sizes: Array) -> Array:
    """Bytes over each link of flows between any nodes, ``[links]``; arguments as of `incidence`.

    Parameters
    ----------
    sizes
        Bytes of each flow, ``[flows]``.
    """
    return np.asarray(incidence(network, source, target).T @ np.asarray(sizes, dtype=np.float64))


def multicast_loads(
    network: Network, source: IntArray, targets: npt.NDArray[np.bool_], sizes: Array
) -> Array:
    """Bytes over each link where switches copy: a message to many devices crosses a link once.

    Parameters
    ----------
    network
        The network.
    source
        Device that each message comes from, ``[messages]``.
    targets
        Devices that each goes to, ``[messages, n]``; the source itself is ignored.
    sizes
        Bytes of each message, ``[messages]``.

    Returns
    -------
    ndarray
        ``[links]``. The links of a message are those of its paths to each target: a tree, in a mesh along the
        row first.

    Examples
    --------
    >>> from moesim.fabric import network_of
    >>> from moesim.hardware import load_hardware
    >>> network = network_of(load_hardware("h100-sxm-8"))
    >>> all_others = np.ones((1, 8), dtype=bool)
    >>> loads = multicast_loads(network, np.array([0]), all_others, np.array([1e6]))
    >>> float(loads.max()), float(loads.sum())  # up once, down seven times
    (1000000.0, 8000000.0)
    """
    import scipy.sparse as sp

    source, sizes = np.asarray(source, dtype=np.int64), np.asarray(sizes, dtype=np.float64)
    loads, everywhere = np.zeros(len(network.source)), np.arange(targets.shape[1])
    for origin in np.unique(source).tolist():
        mine = source == origin
        paths = incidence(network, np.full(len(everywhere), origin), everywhere)
        wanted = sp.csr_array(targets[mine].astype(np.float64))
        before = 0.0
        # The largest part of a message that any of its paths brings over a link: level by level of the parts.
        for level in np.unique(paths.data).tolist():
            some = sp.csr_array((paths.data >= level, paths.indices, paths.indptr), shape=paths.shape)
            crossed = wanted @ some.astype(np.float64)
            crossed.data[:] = crossed.data > 0
            loads += (level - before) * (crossed.T @ sizes[mine])
            before = level
    return loads


def contention_seconds(network: Network, traffic: Array) -> Array:
    """Seconds of an exchange: the latency of the longest path, and what the busiest link takes.

    Where no link is shared this is the time of the slowest message alone, ``latency + bytes / rate``.

    Parameters
    ----------
    network
        The network.
    traffic
        Bytes from device to device, ``[..., n, n]``. The diagonal is ignored.

    Returns
    -------
    ndarray
        ``[...]``, seconds; 0 without traffic.

    Examples
    --------
    >>> from moesim.fabric import network_of
    >>> from moesim.hardware import load_hardware
    >>> machine = load_hardware("h100-sxm-8")
    >>> traffic = np.zeros((8, 8))
    >>> traffic[0, 1] = 1e6
    >>> link = machine.scale_up
    >>> alone = link.latency_s + 1e6 / (link.bandwidth_bytes_per_s * link.efficiency)
    >>> bool(np.isclose(contention_seconds(network_of(machine), traffic), alone))
    True
    """
    n = traffic.shape[-1]
    loads = link_loads(network, traffic)
    used = (np.asarray(traffic) > 0) & ~np.eye(n, dtype=bool)
    longest = np.where(used, latencies(network, n), 0.0).max(axis=(-2, -1))
    return np.asarray(longest + busiest_seconds(network, loads))


def busiest_seconds(network: Network, loads: Array) -> Array:
    """What the busiest link takes, ``[..., links]`` to ``[...]``."""
    if not loads.shape[-1]:
        return np.zeros(loads.shape[:-1])
    return np.asarray((loads / network.rate_bytes_per_s).max(axis=-1))


def _part_loads(network: Network, part: Part, sent: Array) -> Array:
    """Loads of one part's links, ``[batches, links]``."""
    if part.pattern == "star":
        return _star_loads(part, sent)
    full = _padded(sent, int((part.devices < network.devices).sum()))
    n = full.shape[-1]
    if part.pattern == "complete":
        return full[:, ~np.eye(n, dtype=bool)]
    if part.pattern == "grid":
        return grid_loads(full, part.shape, part.closed)
    key = ("all pairs", part.first)
    if key not in network.known:
        source, target = (i.ravel() for i in np.divmod(np.arange(n * n), n))
        inside = part.devices[part.devices < network.devices]
        paths = incidence(network, inside[source], inside[target])
        network.known[key] = paths[:, part.first : part.first + part.links].T.tocsr()
    return np.asarray((network.known[key] @ full.reshape(len(full), -1).T).T)


def _star_loads(part: Part, sent: Array) -> Array:
    n, m = len(part.devices), sent.shape[-1]
    leaves = (part.links - 2 * n) // 2
    loads = np.zeros((len(sent), part.links))
    loads[:, :m], loads[:, n : n + m] = sent.sum(axis=2), sent.sum(axis=1)
    if leaves:
        leaf = part.leaf[:m]
        member = (leaf[:, None] == np.arange(leaves)).astype(np.float64)
        between = member.T @ sent @ member
        between = between * (1.0 - np.eye(leaves))
        loads[:, 2 * n : 2 * n + leaves] = between.sum(axis=2)
        loads[:, 2 * n + leaves :] = between.sum(axis=1)
    return loads


def _padded(sent: Array, n: int) -> Array:
    """Traffic of all devices of a part, where only the first have any."""
    missing = n - sent.shape[-1]
    return np.pad(sent, ((0, 0), (0, missing), (0, missing))) if missing else sent
