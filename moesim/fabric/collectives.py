"""Seconds of collectives on the links of a machine, whatever its topology.

Inside a scale-up domain the fastest of the algorithms of `moesim.fabric.phases` counts. Across domains they
are nested: ranks of equal place in their domains exchange over the network, those of a domain over its links.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.fabric.network import Network, network_of
from moesim.fabric.phases import Groups, Line, fastest_line, groups_of, lines
from moesim.hardware.types import Hardware, Link
from moesim.hardware.wiring import Array

#: Between messages that a host posts to its network card: with Intel processors; with AMD's it is twice that
#: (NVIDIA/nccl@5067397c src/graph/tuning.cc, network post overhead).
POST_S = 1e-6
#: Topologies whose links are shared by pairs far apart, or where bandwidth depends on the way round.
_SHARED = ("ring", "mesh", "torus")


def shares_links(link: Link) -> bool:
    """Whether paths of a kind of link meet beyond the devices' own links, or differ in length.

    >>> from moesim.hardware import load_hardware
    >>> shares_links(load_hardware("h100-sxm-8").scale_up)
    False
    """
    levels = link.leaf is not None or link.topology == "rail"
    return link.topology in _SHARED or (levels and (link.taper > 1.0 or bool(link.hop_s)))


def inside_lines(hardware: Hardware, collective: str, ranks: int, span: int) -> dict[str, Line]:
    """Ways to do a collective among `ranks` devices that fill `span` of one domain, by name.

    >>> from moesim.hardware import load_hardware
    >>> sorted(inside_lines(load_hardware("h100-sxm-8"), "all_gather", 8, 8))
    ['direct', 'doubling', 'ring']
    """
    network = network_of(hardware)
    return _kept(network, ("in", collective, ranks, span), groups_of(network, ranks, span))


def across_lines(hardware: Hardware, collective: str, inside: int, domains: int) -> dict[str, Line]:
    """Ways to do it among the ranks of equal place in `domains` domains, `inside` of them in each.

    Bytes are those of each such group.
    """
    network = network_of(hardware)
    size = network.domain
    stride = max(1, size // inside)
    place = np.arange(inside) * stride
    devices = place[:, None] + np.arange(domains)[None, :] * size
    return _kept(network, ("across", collective, inside, domains), Groups(network, devices, POST_S))


def _kept(network: Network, key: tuple[Any, ...], groups: Groups) -> dict[str, Line]:
    if key not in network.known:
        network.known[key] = lines(key[1], groups)
    found: dict[str, Line] = network.known[key]
    return found


def send_line(hardware: Hardware, distance: int) -> Line:
    """As many neighbours as the distance is long each send that far on: stages of a pipeline."""
    network = network_of(hardware)
    key = ("send", distance)
    if key not in network.known:
        source = np.arange(max(1, min(distance, network.devices - distance)))
        network.known[key] = Groups(network, source[None, :] + distance).phase(source, source + distance, 1.0)
    found: Line = network.known[key]
    return found


def collective_seconds_on(
    hardware: Hardware, collective: str, ranks: int, span: int, data: Array | float
) -> Array:
    """Seconds of a collective over `ranks` ranks spread over `span` devices, on the machine's links alone.

    No measured fit is looked at: `moesim.cost.collective_seconds` does, and asks here where there is none.

    Parameters
    ----------
    hardware
        The cluster.
    collective
        ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``.
    ranks, span
        Ranks of a group, and devices it is spread over. The groups that fill the span work at the same time.
    data
        Bytes of the whole vector; of an all-to-all, those that each rank holds.

    Returns
    -------
    ndarray
        Seconds, as `data`.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> node = load_hardware("h100-sxm-8")
    >>> rate = node.scale_up.bandwidth_bytes_per_s * node.scale_up.efficiency
    >>> seconds = collective_seconds_on(node, "all_gather", 8, 8, 8e9)
    >>> bool(np.isclose(seconds, node.scale_up.latency_s + 7e9 / rate))
    True
    """
    data = np.asarray(data, dtype=np.float64)
    if ranks <= 1:
        return np.zeros_like(data)
    size = network_of(hardware).domain
    if span <= size:
        return fastest_line(inside_lines(hardware, collective, ranks, span), data)
    inside = max(1, ranks * size // span)
    domains = -(-ranks // inside)
    if collective == "all_to_all":
        # Every byte crosses with the rank that it is handed to first.
        seconds = fastest_line(across_lines(hardware, collective, inside, domains), data)
    else:
        seconds = fastest_line(across_lines(hardware, collective, inside, domains), data / inside)
    if inside > 1:
        seconds = seconds + fastest_line(inside_lines(hardware, collective, inside, size), data)
    return seconds
