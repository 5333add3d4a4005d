"""A machine as a graph: what is connected to what, how wide and how far.

Nodes are named ``device:7``, ``host:0``, ``switch:scale_up:0``, ``switch:scale_out:0``; each has an
attribute ``kind`` (``device``, ``host``, ``switch``). Edges have ``bandwidth_bytes_per_s`` (per direction),
``latency_s`` and ``link``, the link's name. Planes of switches are one, and so are stages without a described
leaf: see `moesim.hardware.wiring`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.hardware.types import Hardware
from moesim.hardware.wiring import wiring

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

    links = wiring(hardware)
    made: nx.Graph[str] = nx.Graph(name=hardware.name)
    for index, name in enumerate(links.names):
        kind = "device" if index < links.devices else "host" if name.startswith("host:") else "switch"
        made.add_node(name, kind=kind)
    for part in links.parts:
        for link in range(part.first, part.first + part.links):
            source, target = links.names[links.source[link]], links.names[links.target[link]]
            if not made.has_edge(source, target):
                latency = float(links.latency_s[link] + part.start_s)
                made.add_edge(
                    source, target, bandwidth_bytes_per_s=0.0, latency_s=latency, link=links.link_names[link]
                )
            # Each connection is there once for each way, and may have parallel ones.
            made.edges[source, target]["bandwidth_bytes_per_s"] += links.bandwidth_bytes_per_s[link] / 2.0
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
