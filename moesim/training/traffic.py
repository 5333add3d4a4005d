"""Seconds of the collectives of training, each over its own group of ranks.

A group whose ranks are so far apart that it leaves a scale-up domain takes the network for what leaves it;
which mapping is used decides that, not the size of the group.
"""

from __future__ import annotations

import numpy as np

from moesim.cost import collective_seconds, message_seconds, two_level_traffic
from moesim.hardware.types import Hardware
from moesim.ops import Message
from moesim.training.layout import Group

#: NCCL's all-to-all over the network: share of its bandwidth with 16 MB and with 1 GB per rank, by nodes
#: (SimAI's ata_ratio.csv).
_NODES = (2, 4, 8, 16)
_SIZES = (16e6, 1e9)
_SHARES = ((0.52, 0.67, 0.64, 0.62), (0.81, 0.94, 0.92, 0.85))


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
    leaving = held_bytes * (group.ranks - inside) / group.ranks
    return max(up, _network_seconds(leaving, hardware, library_efficiency(held_bytes, group.ranks // inside)))


def library_efficiency(held_bytes: float, nodes: int) -> float:
    """Part of the network's bandwidth that NCCL's all-to-all reaches, by bytes of a rank and nodes.

    Straight lines in the logarithms between what SimAI's table says (inputs/ratio/ata_ratio.csv), flat
    beyond.

    >>> round(library_efficiency(128e6, 4), 3), library_efficiency(1e12, 64)
    (0.806, 0.85)
    """
    place = np.log2(held_bytes / _SIZES[0]) / np.log2(_SIZES[1] / _SIZES[0])
    small, large = (np.interp(np.log2(nodes), np.log2(_NODES), column) for column in _SHARES)
    return float(np.interp(place, (0.0, 1.0), (small, large)))


def _network_seconds(bytes_: float, hardware: Hardware, efficiency: float | None = None) -> float:
    network = hardware.scale_out
    if network is None:
        raise ValueError(f"{hardware.name} has no network between domains")
    share = network.efficiency if efficiency is None else min(efficiency, network.efficiency)
    return network.latency_s + bytes_ / (network.bandwidth_bytes_per_s * share)


def two_level_seconds(
    group: Group, own_bytes: float, experts: int, top_k: int, node_limit: int | None, hardware: Hardware
) -> float:
    """Seconds of a dispatch in which a token crosses the network once per node and goes once to each rank.

    Choices are even; see `moesim.cost.two_level_traffic`.

    Parameters
    ----------
    own_bytes
        Of the tokens of one rank.
    node_limit
        Nodes that a token's experts may lie in; None for no limit.
    """
    if group.ranks == 1:
        return 0.0
    inside = group.inside(hardware.domain)
    sent = two_level_traffic(own_bytes, group.ranks, inside, experts, top_k, node_limit)
    up = 0.0
    if inside > 1:
        # As a collective counts them: what stays included.
        local = np.array([sent.up * inside / (inside - 1)])
        up = float(collective_seconds("all_to_all", inside, inside, local, hardware)[0])
    return up if inside == group.ranks else max(up, _network_seconds(sent.out, hardware))


def send_seconds(bytes_: float, distance: int, hardware: Hardware) -> float:
    """Seconds to hand bytes to a rank so many devices away."""
    return float(message_seconds(Message("stage", "send", 2, distance + 1, bytes_), hardware))
