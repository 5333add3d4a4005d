"""A machine as a graph: what is connected to what, how wide and how far.

Nodes are named ``device:7``, ``host:0``, ``switch:scale_up:0``, ``switch:scale_out:0``; each has an
attribute ``kind`` (``device``, ``host``, ``switch``). Edges have ``bandwidth_bytes_per_s`` (per direction),
``latency_s`` and ``link``, the link's name. A switch or network without blocking is one node, whatever its
stages and planes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from moesim.hardware.types import Hardware, Link

if TYPE_CHECKING:
    import networkx as nx


def graph(hardware: Hardware) -> nx.Graph[str]:
    """The devices, hosts and switches of a machine, and the links between them.

    Parameters
    ----------
    hardware
        The machine.

    Returns
    -------
    networkx.Graph
        With ``bandwidth_bytes_per_s``, ``latency_s`` and ``link`` on the edges. The latency between two
        devices is that of the link: a hop into a switch and one out of it count half each.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> g = graph(load_hardware("h100-sxm-8", nodes=2))
    >>> sum(1 for _, kind in g.nodes(data="kind") if kind == "device")
    16
    """
    import networkx as nx

    made: nx.Graph[str] = nx.Graph(name=hardware.name)
    devices = [f"device:{index}" for index in range(hardware.num_devices)]
    made.add_nodes_from(devices, kind="device")
    for index, group in enumerate(_groups(devices, hardware.domain)):
        _connect(made, group, hardware.scale_up, f"switch:scale_up:{index}")
    if hardware.host is not None and hardware.host_link is not None:
        for index, group in enumerate(_groups(devices, hardware.devices_per_node)):
            made.add_node(f"host:{index}", kind="host")
            _edges(made, ((device, f"host:{index}") for device in group), hardware.host_link, 1.0)
    if hardware.scale_out is not None and hardware.num_devices > hardware.domain:
        _network(made, devices, hardware)
    return made


def bisection_bytes_per_s(hardware: Hardware) -> float:
    """Least bandwidth, per direction, between the first and the second half of the devices.

    Halves are cut in device order: through the middle of the nodes, or of one node. Paths through host
    memory do not count.

    Parameters
    ----------
    hardware
        A machine of at least two devices.

    Returns
    -------
    float
        Maximum flow from one half to the other.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> bisection_bytes_per_s(load_hardware("h100-sxm-8"))
    1800000000000.0
    """
    import networkx as nx

    whole = graph(hardware)
    whole.remove_nodes_from([node for node in whole if node.startswith("host:")])
    half = hardware.num_devices // 2
    for index in range(hardware.num_devices):
        whole.add_edge("left" if index < half else "right", f"device:{index}")
    return float(nx.maximum_flow_value(whole, "left", "right", capacity="bandwidth_bytes_per_s"))


def _groups(items: list[str], size: int) -> Iterable[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _connect(made: nx.Graph[str], group: list[str], link: Link, switch: str) -> None:
    """Connect the devices of one domain as the link's topology says."""
    n = len(group)
    if n < 2:
        return
    if link.topology == "full_mesh":
        # The device's bandwidth is the sum over its links to all peers of a full domain.
        pairs = ((a, b) for i, a in enumerate(group) for b in group[i + 1 :])
        _edges(made, pairs, link, 1.0, share=1.0 / (link.domain - 1))
    elif link.topology == "ring":
        # Half of the device's bandwidth goes each way round; a ring of two is one edge.
        ring = [(group[i], group[(i + 1) % n]) for i in range(n if n > 2 else 1)]
        _edges(made, ring, link, 1.0, share=0.5 if n > 2 else 1.0)
    elif link.topology == "mesh":
        _edges(made, _mesh(group), link, 1.0, share=0.25)
    else:
        made.add_node(switch, kind="switch")
        _edges(made, ((device, switch) for device in group), link, 0.5)


def _mesh(group: list[str]) -> list[tuple[str, str]]:
    """Neighbours in the squarest rectangle that holds the group, filled row by row."""
    n = len(group)
    width = next(w for w in range(int(n**0.5), 0, -1) if n % w == 0)
    right = [(group[i], group[i + 1]) for i in range(n - 1) if (i + 1) % width]
    return right + [(group[i], group[i + width]) for i in range(n - width)]


def _network(made: nx.Graph[str], devices: list[str], hardware: Hardware) -> None:
    """Connect the nodes: one switch, or one per rail, whose rails meet in a spine."""
    link = hardware.scale_out
    if link is None:
        return
    if link.topology in ("ring", "mesh", "full_mesh"):
        _connect(made, devices, link, "switch:scale_out:0")
        return
    rails = hardware.devices_per_node if link.topology == "rail" else 1
    for rail in range(rails):
        made.add_node(f"switch:scale_out:{rail}", kind="switch")
    _edges(
        made,
        ((device, f"switch:scale_out:{index % rails}") for index, device in enumerate(devices)),
        link,
        0.5,
    )
    if rails > 1:
        made.add_node("switch:spine", kind="switch")
        behind = len(devices) // rails
        leaves = ((f"switch:scale_out:{rail}", "switch:spine") for rail in range(rails))
        _edges(made, leaves, link, 0.5, share=float(behind))


def _edges(
    made: nx.Graph[str], pairs: Iterable[tuple[str, str]], link: Link, hops: float, share: float = 1.0
) -> None:
    """Edges of `share` of the link's bandwidth and `hops` of its latency."""
    made.add_edges_from(
        pairs,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * share,
        latency_s=link.latency_s * hops,
        link=link.name,
    )
