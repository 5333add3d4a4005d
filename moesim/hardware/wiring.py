"""Every link of a machine, one by one: what each connects, how wide it is and how far.

A machine is made of *parts*, each a set of nodes with one regular pattern of links: a `star` of devices
around a switch (or around leaf switches that meet in one), a `grid` of neighbours, a `complete` graph, or
`wires` that a description lists. Links have a direction; both are there. Equal planes of switches are one
switch with the sum of their bandwidths, as traffic is spread evenly over them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.hardware.types import Fabric, Hardware, Link

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: What a part of a machine is for: inside a domain, between domains, to the host.
UP, OUT, HOST = "up", "out", "host"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Links of one pattern. They follow each other in the machine's arrays.

    Parameters
    ----------
    pattern
        ``star``: out of each device, into each device, out of each leaf switch, into each leaf switch.
        ``grid``: see `grid_links`. ``complete``: from each device to each other, row by row without the
        diagonal. ``wires``: each wire, then each wire backwards.
    use
        `UP`, `OUT` or `HOST`.
    devices
        Nodes it connects, rising.
    first, links
        Index of the first link, and how many there are.
    start_s
        What a message takes beside the latency of the links it crosses.
    shape, closed
        Extents of a grid, and whether each line of it is a ring.
    leaf
        Leaf switch of each device of a star; empty where all meet in one.
    hub
        Node in the middle of a star.
    """

    pattern: str
    use: str
    devices: IntArray
    first: int
    links: int
    start_s: float = 0.0
    shape: tuple[int, ...] = ()
    closed: bool = False
    leaf: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    hub: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """All links of a machine.

    Parameters
    ----------
    names
        Of the nodes: devices first, in order.
    devices
        How many nodes are devices.
    parts
        The patterns that they form.
    source, target
        Node that each link leaves and enters, ``[links]``.
    bandwidth_bytes_per_s, efficiency, latency_s
        Of each link, ``[links]``.
    link_names
        Name of the kind of link, ``[links]``.
    """

    names: tuple[str, ...]
    devices: int
    parts: tuple[Part, ...]
    source: IntArray
    target: IntArray
    bandwidth_bytes_per_s: Array
    efficiency: Array
    latency_s: Array
    link_names: tuple[str, ...]


def wiring(hardware: Hardware) -> Wiring:
    """The links of a machine.

    Parameters
    ----------
    hardware
        The machine. Devices that a described fabric connects have no other links between them, but those of
        the network where it has several nodes and the fabric lies in one: then each node has its own.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> made = wiring(load_hardware("h100-sxm-8"))
    >>> [(part.pattern, part.use, part.links) for part in made.parts]
    [('star', 'up', 16), ('star', 'host', 16)]
    """
    maker = _Maker([f"device:{index}" for index in range(hardware.num_devices)])
    everything = np.arange(hardware.num_devices, dtype=np.int64)
    if hardware.fabric is not None:
        spans = _fabrics(maker, hardware, hardware.fabric)
    else:
        for index, group in enumerate(_groups(everything, hardware.domain)):
            _connect(maker, group, hardware.scale_up, UP, f"switch:scale_up:{index}")
        spans = hardware.num_devices <= hardware.domain
    if hardware.host is not None and hardware.host_link is not None:
        for index, group in enumerate(_groups(everything, hardware.devices_per_node)):
            _star(maker, group, hardware.host_link, HOST, f"host:{index}", 1.0)
    if hardware.scale_out is not None and not spans:
        _network(maker, everything, hardware, hardware.scale_out)
    return maker.made()


def grid_shape(devices: int, link: Link) -> tuple[int, ...]:
    """Extents of the mesh or torus that `devices` form: as described, else the squarest rectangle.

    Axes of one device are left out.
    """
    if link.topology == "ring":
        return (devices,)
    shape = link.shape
    if math.prod(shape or (0,)) != devices:
        width = next(w for w in range(math.isqrt(devices), 0, -1) if devices % w == 0)
        shape = (width, devices // width)
    return tuple(extent for extent in shape if extent > 1) or (1,)


def grid_links(shape: Sequence[int], closed: bool) -> tuple[IntArray, IntArray]:
    """Ends of the links of a grid whose nodes are counted row by row.

    For each axis, for each line along it in the order of the other coordinates: first the links that go up
    the axis by the place they start from, then those that go down by the place they end at. Closed lines
    have a link more each way, between their ends.

    >>> [ends.tolist() for ends in grid_links((3,), False)]
    [[0, 1, 1, 2], [1, 2, 0, 1]]
    >>> [ends.tolist() for ends in grid_links((3,), True)]
    [[0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2]]
    """
    nodes = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    sources, targets = [], []
    for axis, extent in enumerate(shape):
        lines = np.moveaxis(nodes, axis, -1).reshape(-1, extent)
        low = lines if closed else lines[:, :-1]
        high = np.roll(lines, -1, axis=1) if closed else lines[:, 1:]
        sources.append(np.concatenate([low, high], axis=1).ravel())
        targets.append(np.concatenate([high, low], axis=1).ravel())
    return np.concatenate(sources), np.concatenate(targets)


class _Maker:
    """Collects nodes, links and parts."""

    def __init__(self, devices: list[str]) -> None:
        self.names = devices
        self.devices = len(devices)
        self.parts: list[Part] = []
        self.ends: list[tuple[IntArray, IntArray]] = []
        self.values: list[Array] = []
        self.kinds: list[str] = []

    def node(self, name: str) -> int:
        """A new node."""
        self.names.append(name)
        return len(self.names) - 1

    def links(
        self, source: IntArray, target: IntArray, link: Link, share: Array | float, latency_s: Array | float
    ) -> int:
        """Links that each have `share` of a link's bandwidth; how many there were before."""
        first = len(self.kinds)
        values = np.empty((3, len(source)))
        values[0] = link.bandwidth_bytes_per_s * np.asarray(share)
        values[1] = link.efficiency
        values[2] = latency_s
        self.ends.append((source, target))
        self.values.append(values)
        self.kinds += [link.name] * len(source)
        return first

    def made(self) -> Wiring:
        """What was collected."""
        none = np.zeros(0, dtype=np.int64)
        values = np.concatenate([*self.values, np.zeros((3, 0))], axis=1)
        return Wiring(
            names=tuple(self.names),
            devices=self.devices,
            parts=tuple(self.parts),
            source=np.concatenate([*(ends[0] for ends in self.ends), none]),
            target=np.concatenate([*(ends[1] for ends in self.ends), none]),
            bandwidth_bytes_per_s=values[0],
            efficiency=values[1],
            latency_s=values[2],
            link_names=tuple(self.kinds),
        )


def _groups(items: IntArray, size: int) -> list[IntArray]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _connect(maker: _Maker, group: IntArray, link: Link, use: str, switch: str) -> None:
    """Connect devices as the link's topology says."""
    n = len(group)
    if n < 2:
        return
    hop = link.hop_s or 0.0
    if link.topology == "full_mesh":
        # The device's bandwidth is the sum over its links to all peers of a full domain.
        source, target = np.nonzero(~np.eye(n, dtype=bool))
        share = 1.0 / (max(link.domain, n) - 1)
        first = maker.links(group[source], group[target], link, share, link.latency_s)
        maker.parts.append(Part("complete", use, group, first, n * (n - 1)))
    elif link.topology in ("ring", "mesh", "torus"):
        shape, closed = grid_shape(n, link), link.topology != "mesh"
        source, target = grid_links(shape, closed)
        first = maker.links(group[source], group[target], link, 0.5 / len(shape), hop)
        start = link.latency_s - hop
        maker.parts.append(Part("grid", use, group, first, len(source), start, shape, closed))
    else:
        _star(maker, group, link, use, switch, 0.5)


def _star(
    maker: _Maker, group: IntArray, link: Link, use: str, hub: str, hops: float, rails: int = 0
) -> None:
    """Devices around a switch, or around leaf switches that meet in one.

    A leaf switch holds neighbours, or, with rails, every `rails`-th device.
    """
    middle = maker.node(hub)
    n, none = len(group), np.zeros(0, dtype=np.int64)
    leaf = none
    if rails > 1:
        leaf = np.arange(n, dtype=np.int64) % rails
    elif link.leaf is not None and link.leaf < n:
        leaf = np.arange(n, dtype=np.int64) // link.leaf
    count = int(leaf.max()) + 1 if len(leaf) else 0
    name = "switch:scale_out:{}" if rails > 1 else f"{hub}:leaf:{{}}"
    leaves = np.array([maker.node(name.format(i)) for i in range(count)], dtype=np.int64)
    into = leaves[leaf] if count else np.full(n, middle, dtype=np.int64)
    first = maker.links(
        np.concatenate([group, into]), np.concatenate([into, group]), link, 1.0, link.latency_s * hops
    )
    if count:
        behind = np.bincount(leaf) / link.taper
        top = np.full(count, middle, dtype=np.int64)
        maker.links(
            np.concatenate([leaves, top]),
            np.concatenate([top, leaves]),
            link,
            np.concatenate([behind, behind]),
            link.hop_s or 0.0,
        )
    maker.parts.append(Part("star", use, group, first, 2 * (n + count), 0.0, (), False, leaf, middle))


def _network(maker: _Maker, devices: IntArray, hardware: Hardware, link: Link) -> None:
    """Connect the nodes: one switch, or one per rail, whose rails meet in a spine."""
    if link.topology == "rail" and hardware.devices_per_node > 1:
        _star(maker, devices, link, OUT, "switch:spine", 0.5, hardware.devices_per_node)
    else:
        _connect(maker, devices, link, OUT, "switch:scale_out:0")


def _fabrics(maker: _Maker, hardware: Hardware, fabric: Fabric) -> bool:
    """Connect devices wire by wire; whether all of the machine is."""
    named = {end for wire in fabric.wires for end in wire.ends if end.startswith("device:")}
    reach = max((int(name.partition(":")[2]) for name in named), default=0) + 1
    per = hardware.devices_per_node
    copies = hardware.nodes if reach <= per and hardware.nodes > 1 else 1
    for copy in range(copies):
        mark = f"node:{copy}:" if copies > 1 else ""
        index = {f"device:{i}": copy * per + i for i in range(per if copies > 1 else hardware.num_devices)}
        index |= {name: maker.node(f"{mark}{name}") for name in fabric.switches}
        ends = np.array([[index[name] for name in wire.ends] for wire in fabric.wires], dtype=np.int64)
        share = np.array([wire.bandwidth_bytes_per_s for wire in fabric.wires])
        share = np.concatenate([share, share]) / hardware.scale_up.bandwidth_bytes_per_s
        latency = np.array([wire.latency_s for wire in fabric.wires] * 2)
        first = maker.links(
            np.concatenate([ends[:, 0], ends[:, 1]]),
            np.concatenate([ends[:, 1], ends[:, 0]]),
            hardware.scale_up,
            share,
            latency,
        )
        nodes = np.array(sorted(index.values()), dtype=np.int64)
        maker.parts.append(Part("wires", UP, nodes, first, 2 * len(ends)))
    return copies == 1
