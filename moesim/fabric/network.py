"""A machine as a network of directed links, kept for as long as the same machine is asked about."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.hardware.types import Hardware, Link
from moesim.hardware.wiring import OUT, UP, Array, IntArray, Part, Wiring, wiring

#: Networks that are kept: a session asks about a few machines, many times.
_KEPT = 32


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Directed links of a machine.

    Parameters
    ----------
    wiring
        The links, and the patterns they form.
    domain
        Devices per scale-up domain: pairs beyond it use the network.
    multicast
        Uses of links whose switches copy.
    known
        What was worked out before, by what it is.
    """

    wiring: Wiring
    domain: int
    multicast: frozenset[str] = frozenset()
    known: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def devices(self) -> int:
        """Devices; node `i` is device `i` up to there."""
        return self.wiring.devices

    @property
    def names(self) -> tuple[str, ...]:
        """Of the nodes."""
        return self.wiring.names

    @property
    def parts(self) -> tuple[Part, ...]:
        """Patterns of links."""
        return self.wiring.parts

    @property
    def source(self) -> IntArray:
        """Node that each link leaves, ``[links]``."""
        return self.wiring.source

    @property
    def target(self) -> IntArray:
        """Node that each link enters, ``[links]``."""
        return self.wiring.target

    @property
    def bandwidth_bytes_per_s(self) -> Array:
        """As described, ``[links]``."""
        return self.wiring.bandwidth_bytes_per_s

    @property
    def efficiency(self) -> Array:
        """Reachable fraction of it, ``[links]``."""
        return self.wiring.efficiency

    @property
    def latency_s(self) -> Array:
        """Of each link, ``[links]``."""
        return self.wiring.latency_s

    @property
    def rate_bytes_per_s(self) -> Array:
        """Reachable bandwidth, ``[links]``."""
        return np.asarray(self.bandwidth_bytes_per_s * self.efficiency)

    @property
    def kind(self) -> tuple[str, ...]:
        """Use of each link: ``up`` in a domain, ``out`` between domains, ``host``."""
        return tuple(part.use for part in self.parts for _ in range(part.links))

    def node(self, name: str) -> int:
        """Index of a node by its name."""
        return self.names.index(name)

    def link_name(self, link: int) -> str:
        """What a link connects: ``device:0 > switch:scale_up:0``."""
        return f"{self.names[self.source[link]]} > {self.names[self.target[link]]}"

    def domain_of(self, ranks: int) -> IntArray:
        """Domain of each of the first devices; machines whose fabric joins all have one."""
        return np.arange(ranks, dtype=np.int64) // self.domain


def network_of(hardware: Hardware) -> Network:
    """The network of a machine.

    Equal machines share one, with what was worked out about it.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> network = network_of(load_hardware("h100-sxm-8", nodes=2))
    >>> network.devices, len(network.source), network.link_name(0)
    (16, 112, 'device:0 > switch:scale_up:0')
    """
    key = _key(hardware)
    found = _NETWORKS.pop(key, None)
    if found is None:
        links = wiring(hardware)
        uses = {UP: hardware.scale_up, OUT: hardware.scale_out}
        copies = frozenset(use for use, link in uses.items() if link is not None and link.multicast)
        found = Network(links, _domain(hardware, links), copies)
    _NETWORKS[key] = found
    if len(_NETWORKS) > _KEPT:
        _NETWORKS.popitem(last=False)
    return found


def device_bytes_per_s(hardware: Hardware) -> float:
    """Most that one device can send inside its domain, at full bandwidth.

    >>> from moesim.hardware import load_hardware
    >>> device_bytes_per_s(load_hardware("h100-sxm-8"))
    450000000000.0
    """
    if hardware.fabric is None:
        return hardware.scale_up.bandwidth_bytes_per_s
    network = network_of(hardware)
    sent = np.zeros(len(network.names))
    for part in network.parts:
        if part.use == UP:
            own = slice(part.first, part.first + part.links)
            np.add.at(sent, network.source[own], network.bandwidth_bytes_per_s[own])
    return float(sent[: network.devices].max())


_NETWORKS: OrderedDict[Any, Network] = OrderedDict()


def _key(hardware: Hardware) -> tuple[Any, ...]:
    """All of a machine that its links depend on."""
    return (
        hardware.nodes,
        hardware.devices_per_node,
        _link_key(hardware.scale_up),
        _link_key(hardware.scale_out),
        _link_key(hardware.host_link) if hardware.host is not None else None,
        hardware.fabric,
    )


def _link_key(link: Link | None) -> tuple[Any, ...] | None:
    if link is None:
        return None
    return (
        link.name,
        link.bandwidth_bytes_per_s,
        link.latency_s,
        link.efficiency,
        link.domain,
        link.topology,
        link.shape,
        link.planes,
        link.leaf,
        link.taper,
        link.hop_s,
        link.multicast,
    )


def _domain(hardware: Hardware, links: Wiring) -> int:
    """Devices that reach each other without the network."""
    if hardware.fabric is None:
        return hardware.domain
    outside = any(part.use == OUT for part in links.parts)
    return hardware.devices_per_node if outside else hardware.num_devices
