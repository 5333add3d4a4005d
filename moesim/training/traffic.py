"""Seconds of the collectives of training, each over its own group of ranks.

A group whose ranks are so far apart that it leaves a scale-up domain takes the network for what leaves it;
which mapping is used decides that, not the size of the group.
"""

from __future__ import annotations

import numpy as np

from moesim.cost import collective_seconds
from moesim.hardware.types import Hardware
from moesim.training.layout import Group


def reduce_seconds(collective: str, group: Group, vector_bytes: float, hardware: Hardware) -> float:
    """Seconds of an ``all_reduce``, ``all_gather`` or ``reduce_scatter`` of a vector of so many bytes."""
    if group.ranks == 1 or vector_bytes == 0:
        return 0.0
    data = np.array([vector_bytes])
    return float(collective_seconds(collective, group.ranks, group.span, data, hardware)[0])


def exchange_seconds(group: Group, held_bytes: float, hardware: Hardware) -> float:
    """Seconds of an all-to-all in which each rank holds so many bytes, evenly for all ranks.

    The part for ranks of the same domain goes over the scale-up link, the rest over the network, side by
    side.

    Parameters
    ----------
    held_bytes
        Of one rank, the part that it keeps included.
    """
    if group.ranks == 1 or held_bytes == 0:
        return 0.0
    inside = group.inside(hardware.domain)
    local = np.array([held_bytes * inside / group.ranks])
    up = float(collective_seconds("all_to_all", inside, inside, local, hardware)[0])
    if inside == group.ranks:
        return up
    network = hardware.scale_out
    if network is None:
        raise ValueError(f"{hardware.name} has no network between domains")
    leaving = held_bytes * (group.ranks - inside) / group.ranks
    return max(up, network.latency_s + leaving / (network.bandwidth_bytes_per_s * network.efficiency))


def send_seconds(bytes_: float, distance: int, hardware: Hardware) -> float:
    """Seconds to hand bytes to a rank so many devices away."""
    link = hardware.scale_up
    if distance >= hardware.domain and hardware.scale_out is not None:
        link = hardware.scale_out
    return link.latency_s + bytes_ / (link.bandwidth_bytes_per_s * link.efficiency)
