"""Seconds of collectives, inside a scale-up domain and across domains.

Inside a domain, ``t = alpha + factor(n) * bytes / busbw`` with alpha and bus bandwidth measured per number of
ranks, once for the way libraries send small messages and once for large ones, in the convention of
nccl-tests: factor ``2(n-1)/n`` for all-reduce, ``(n-1)/n`` for all-gather, reduce-scatter and all-to-all.
Across domains a reduction is hierarchical: reduce-scatter inside, all-reduce of each shard over the network,
all-gather inside. Where paths meet beyond the devices' own links (meshes, tori, tapered switches, described
fabrics) and nothing was measured, `moesim.fabric` says how long that takes.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.fabric import (
    across_lines,
    contention_seconds,
    fastest,
    fastest_line,
    fit_of,
    inside_lines,
    network_of,
    send_line,
    shares_links,
)
from moesim.hardware.types import Hardware, Link
from moesim.ops.table import Array, Message

_FACTOR = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}


def message_seconds(message: Message, hardware: Hardware, backend: str = "") -> Array:
    """Seconds of one collective, ``[batches]``.

    Parameters
    ----------
    message
        The collective; its span decides which links it crosses.
    hardware
        The cluster.
    backend
        Serving engine whose own all-reduce to take, where it was measured.
    """
    data = np.asarray(message.bytes, dtype=np.float64)
    if message.collective == "send":
        if message.span <= hardware.domain and _on_fabric(hardware):
            line = send_line(hardware, message.span - 1)
            return np.asarray(line.alpha_s + line.beta_s * data)
        link = hardware.scale_up if message.span <= hardware.domain else _network(hardware)
        return np.asarray(link.latency_s + data / (link.bandwidth_bytes_per_s * link.efficiency))
    return collective_seconds(message.collective, message.ranks, message.span, data, hardware, backend)


def collective_seconds(
    collective: str, ranks: int, span: int, data: Array, hardware: Hardware, backend: str = ""
) -> Array:
    """Seconds of a collective over `ranks` ranks spread over `span` devices.

    Parameters
    ----------
    data
        Bytes of the whole vector.
    backend
        Serving engine whose own all-reduce to take, where it was measured.
    """
    if ranks <= 1:
        return np.zeros_like(data)
    domain = network_of(hardware).domain if hardware.fabric is not None else hardware.domain
    if span <= domain:
        return _inside(collective, ranks, span, data, hardware, backend)
    inside = max(1, ranks * domain // span)
    groups = -(-ranks // inside)
    # Of an all-to-all every byte crosses, with the rank that it is handed to first.
    over = data if collective == "all_to_all" else data / inside
    network = _across(collective, inside, groups, over, hardware)
    if collective == "all_reduce":
        return np.asarray(
            _inside("reduce_scatter", inside, domain, data, hardware)
            + network
            + _inside("all_gather", inside, domain, data, hardware)
        )
    return np.asarray(network + _inside(collective, inside, domain, data, hardware))


def _on_fabric(hardware: Hardware) -> bool:
    """Whether the links of a domain are shared by pairs far apart."""
    return hardware.fabric is not None or shares_links(hardware.scale_up)


def _inside(
    collective: str, ranks: int, span: int, data: Array, hardware: Hardware, backend: str = ""
) -> Array:
    """Among ranks of one domain: as measured, else on its links."""
    link = hardware.scale_up
    if _on_fabric(hardware) and collective not in link.collectives:
        return fastest_line(inside_lines(hardware, collective, ranks, span), data)
    return in_domain(collective, ranks, data, link, backend)


def _across(collective: str, inside: int, groups: int, data: Array, hardware: Hardware) -> Array:
    """Among ranks of equal place in their domains, `inside` in each at once."""
    network = _network(hardware)
    if shares_links(network):
        return fastest_line(across_lines(hardware, collective, inside, groups), data)
    return _over_network(collective, groups, data, network)


def in_domain(collective: str, ranks: int, data: Array, link: Link, backend: str = "") -> Array:
    """Seconds of a collective among `ranks` devices of one scale-up domain.

    An engine whose own kernels were measured takes these, NCCL for large messages included. Else the faster
    counts of NCCL and of what engines reach in the median.
    """
    if ranks <= 1:
        return np.zeros_like(data)
    moved = _FACTOR[collective] * (ranks - 1) / ranks * data
    own = f"{collective}_custom.{backend}"
    if own in link.collectives:
        return fastest(fit_of(own, ranks, link), moved)
    seconds = fastest(fit_of(collective, ranks, link), moved)
    if (custom := f"{collective}_custom") in link.collectives:
        seconds = np.minimum(seconds, fastest(fit_of(custom, ranks, link), moved))
    return seconds


def all_to_all_seconds(up: Array, out: Array, hardware: Hardware, domain: int | None = None) -> Array:
    """Seconds of an exchange given by what each rank sends to each over either link.

    Both links work at once; each takes as long as the rank that sends or receives most.

    Parameters
    ----------
    up, out
        Bytes from rank to rank over the scale-up link and over the network, ``[..., ranks, ranks]``. The
        diagonal is ignored.
    hardware
        The cluster.
    domain
        Ranks per scale-up domain; fewer than devices when a rank spans several.

    Returns
    -------
    ndarray
        ``[...]``.
    """
    ranks = up.shape[-1]
    domain = hardware.domain if domain is None else domain
    if ranks == 1:
        return np.zeros(up.shape[:-2])
    if hardware.fabric is not None:
        return link_seconds(up, out, hardware, domain)
    local = min(ranks, domain)
    seconds = link_seconds(up, out, hardware, domain)
    if local > 1 and ("all_to_all" in hardware.scale_up.collectives or not _on_fabric(hardware)):
        moved = _moved(up * (1.0 - np.eye(ranks)), local, hardware)
        seconds = np.maximum(seconds, fastest(fit_of("all_to_all", local, hardware.scale_up), moved))
    if ranks > domain and not shares_links(_network(hardware)):
        network = _network(hardware)
        rate = network.bandwidth_bytes_per_s * network.efficiency
        seconds = np.maximum(seconds, network.latency_s + busiest(out) / rate)
    return np.asarray(seconds)


def link_seconds(up: Array, out: Array, hardware: Hardware, domain: int) -> Array:
    """What an exchange takes on links that pairs far apart share; 0 where there are none.

    Parameters
    ----------
    up, out, hardware, domain
        As of `all_to_all_seconds`.
    """
    seconds = np.zeros(np.broadcast_shapes(up.shape, out.shape)[:-2])
    if hardware.fabric is not None:
        return contention_seconds(network_of(hardware), _spread(up + out, hardware, domain))
    if up.shape[-1] > 1 and domain > 1 and _on_fabric(hardware):
        seconds = contention_seconds(network_of(hardware), _spread(up, hardware, domain))
    if up.shape[-1] > domain and shares_links(_network(hardware)):
        across = contention_seconds(network_of(hardware), _spread(out, hardware, domain))
        seconds = np.maximum(seconds, across)
    return seconds


def _spread(traffic: Array, hardware: Hardware, domain: int) -> Array:
    """Traffic of ranks as that of devices: a rank talks through the first of its own."""
    per = max(1, hardware.domain // domain)
    if per == 1:
        return traffic
    ranks = traffic.shape[-1]
    found = np.zeros((*traffic.shape[:-2], ranks * per, ranks * per))
    found[..., ::per, ::per] = traffic
    return found


def _moved(off: Array, local: int, hardware: Hardware) -> Array:
    """Bytes that decide how long an exchange inside a domain takes, per device."""
    link = hardware.scale_up
    if link.topology == "full_mesh":
        # Each pair has a link of its own, so the busiest pair decides.
        return np.asarray(off.max(axis=(-2, -1)) * (hardware.domain - 1))
    if link.topology == "tree":
        # All traffic meets in the host bridge; a busy device waits for its own link, as one of two does.
        pair, all_ = (fit_of("all_to_all", n, link).busbw_bytes_per_s for n in (2, local))
        share = min(1.0, all_ / pair)
        mean = off.sum(axis=(-2, -1)) / off.shape[-1]
        return np.asarray(np.maximum(mean, busiest(off) * share))
    return busiest(off)


def busiest(traffic: Array) -> Array:
    """What the rank that sends or receives most does: ``[..., ranks, ranks]`` to ``[...]``."""
    return np.asarray(np.maximum(traffic.sum(axis=-1).max(axis=-1), traffic.sum(axis=-2).max(axis=-1)))


def _over_network(collective: str, groups: int, data: Array, link: Link) -> Array:
    """A ring or tree over the network, one rank per domain."""
    if groups <= 1:
        return np.zeros_like(data)
    steps = math.ceil(math.log2(groups)) * (2 if collective == "all_reduce" else 1)
    rate = link.bandwidth_bytes_per_s * link.efficiency
    return np.asarray(link.latency_s * steps + _FACTOR[collective] * (groups - 1) / groups * data / rate)


def _network(hardware: Hardware) -> Link:
    """The link between domains; a machine without one never gets here (its layout would not fit)."""
    if hardware.scale_out is None:
        raise ValueError(f"{hardware.name} has no network between domains")
    return hardware.scale_out
