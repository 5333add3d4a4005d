"""What traffic does to a machine: its busiest links, how far bytes go, and which algorithm is fastest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.fabric.all_to_all import ALGORITHMS, all_to_all
from moesim.fabric.collectives import across_lines, collective_seconds_on, inside_lines
from moesim.fabric.loads import busiest_seconds, contention_seconds, link_loads
from moesim.fabric.network import network_of
from moesim.fabric.routes import hops
from moesim.hardware.types import Hardware
from moesim.hardware.wiring import Array

#: Traffic that can be asked for by name.
PATTERNS = ("all_to_all", "neighbour", "hotspot")


@dataclass(frozen=True, slots=True)
class BusyLink:
    """A link under load."""

    link: str
    bytes: float
    bandwidth_bytes_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What an exchange does to a machine.

    Parameters
    ----------
    seconds, busiest_s
        Of the whole, and of its busiest link; the rest is latency.
    total_bytes
        Sent.
    mean_hops, max_hops
        Links that a byte crosses, and that the farthest does.
    busiest
        The links that take longest, longest first.
    """

    seconds: float
    busiest_s: float
    total_bytes: float
    mean_hops: float
    max_hops: float
    busiest: tuple[BusyLink, ...]


def pattern(name: str, devices: int, size: float) -> Array:
    """Bytes from device to device where each sends `size`, ``[devices, devices]``.

    ``all_to_all``: an equal part to each, its own stays; ``neighbour``: to the next; ``hotspot``: to the
    first.

    >>> pattern("neighbour", 3, 1.0).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    made = np.zeros((devices, devices))
    if name == "all_to_all":
        made[:] = size / devices
    elif name == "neighbour":
        made[np.arange(devices), (np.arange(devices) + 1) % devices] = size
    else:
        made[:, 0] = size
    np.fill_diagonal(made, 0.0)
    return made


def traffic_report(hardware: Hardware, traffic: Array, top: int = 10) -> Report:
    """What an exchange does to a machine.

    Parameters
    ----------
    hardware
        The machine.
    traffic
        Bytes from device to device, ``[n, n]``.
    top
        Links to name.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> found = traffic_report(load_hardware("h100-sxm-8"), pattern("hotspot", 8, 1e9), 1)
    >>> found.busiest[0].link, found.mean_hops
    ('switch:scale_up:0 > device:0', 2.0)
    """
    network = network_of(hardware)
    n = traffic.shape[-1]
    sent = traffic * (1.0 - np.eye(n))
    loads = link_loads(network, sent)
    taken = loads / network.rate_bytes_per_s
    order = [int(i) for i in np.argsort(-taken, kind="stable")[:top] if loads[i] > 0]
    far, total = hops(network, n), float(sent.sum())

    def busy(i: int) -> BusyLink:
        width = float(network.bandwidth_bytes_per_s[i])
        return BusyLink(network.link_name(i), float(loads[i]), width, float(taken[i]))

    return Report(
        seconds=float(contention_seconds(network, sent)),
        busiest_s=float(busiest_seconds(network, loads)),
        total_bytes=total,
        mean_hops=float((sent * far).sum() / total) if total else 0.0,
        max_hops=float(far[sent > 0].max(initial=0.0)),
        busiest=tuple(busy(i) for i in order),
    )


def algorithms(hardware: Hardware, ranks: int, size: float) -> list[tuple[str, str, float]]:
    """Collective, algorithm and seconds over the first `ranks` devices, each with `size` bytes.

    Collectives across domains are nested, with the fastest way inside and across.
    """
    domain = network_of(hardware).domain
    found: list[tuple[str, str, float]] = []
    for collective in ("all_reduce", "all_gather", "reduce_scatter"):
        if ranks <= domain:
            for name, line in inside_lines(hardware, collective, ranks, ranks).items():
                found.append((collective, name, line.alpha_s + line.beta_s * size))
            continue
        across = across_lines(hardware, collective, domain, -(-ranks // domain))
        name = min(across, key=lambda key: across[key].alpha_s + across[key].beta_s * size / domain)
        seconds = float(collective_seconds_on(hardware, collective, ranks, ranks, size))
        found.append((collective, f"nested domains: {name} across", seconds))
    if ranks <= domain or ranks % domain == 0:
        for name in ALGORITHMS:
            found.append(("all_to_all", name, float(all_to_all(hardware, ranks, size, name))))
    return found
