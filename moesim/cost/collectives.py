"""Seconds of collectives, inside a scale-up domain and across domains.

Inside a domain, ``t = alpha + factor(n) * bytes / busbw`` with alpha and bus bandwidth measured per number of
ranks, in the convention of nccl-tests: factor ``2(n-1)/n`` for all-reduce, ``(n-1)/n`` for all-gather,
reduce-scatter and all-to-all. Across domains a reduction is hierarchical: reduce-scatter inside, all-reduce
of each shard over the network, all-gather inside.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.hardware.types import CollectiveFit, Hardware, Link
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
    domain = hardware.domain
    if span <= domain:
        return in_domain(collective, ranks, data, hardware.scale_up, backend)
    inside = max(1, ranks * domain // span)
    groups = -(-ranks // inside)
    network = _network(hardware)
    if collective == "all_reduce":
        return np.asarray(
            in_domain("reduce_scatter", inside, data, hardware.scale_up)
            + _over_network("all_reduce", groups, data / inside, network)
            + in_domain("all_gather", inside, data, hardware.scale_up)
        )
    return np.asarray(
        _over_network(collective, groups, data / inside, network)
        + in_domain(collective, inside, data, hardware.scale_up)
    )


def in_domain(collective: str, ranks: int, data: Array, link: Link, backend: str = "") -> Array:
    """Seconds of a collective among `ranks` devices of one scale-up domain."""
    if ranks <= 1:
        return np.zeros_like(data)
    factor = _FACTOR[collective] * (ranks - 1) / ranks
    seconds = []
    # Engines take the custom all-reduce of their CUDA graphs or NCCL's, whichever is faster for the size.
    for name in (collective, f"{collective}_custom"):
        if name == collective or name in link.collectives:
            alpha, bandwidth = alpha_beta(name, ranks, link)
            seconds.append(alpha + factor * data / bandwidth)
    return np.asarray(np.min(seconds, axis=0))


def alpha_beta(collective: str, ranks: int, link: Link) -> tuple[float, float]:
    """Latency in seconds and bus bandwidth in bytes/s of a collective among `ranks` devices.

    Measured fits are interpolated in the logarithm of the ranks and continued with their last slope.
    Without fits, latency is that of the steps of a tree, and bandwidth the link's.
    """
    fits = link.collectives.get(collective, ())
    if not fits:
        steps = math.ceil(math.log2(ranks)) * (2 if collective == "all_reduce" else 1)
        steps = 1 if collective == "all_to_all" else steps
        return link.latency_s * steps, link.bandwidth_bytes_per_s * link.efficiency
    return _interpolate(fits, ranks)


def _interpolate(fits: tuple[CollectiveFit, ...], ranks: int) -> tuple[float, float]:
    if len(fits) == 1 or ranks <= fits[0].ranks:
        return fits[0].alpha_s, fits[0].busbw_bytes_per_s
    last = fits[-1]
    if ranks > last.ranks:
        before = fits[-2]
        slope = (last.alpha_s - before.alpha_s) / math.log(last.ranks / before.ranks)
        return last.alpha_s + max(slope, 0.0) * math.log(ranks / last.ranks), last.busbw_bytes_per_s
    x = np.log([f.ranks for f in fits])
    alpha = np.interp(math.log(ranks), x, [f.alpha_s for f in fits])
    bandwidth = np.interp(math.log(ranks), x, [f.busbw_bytes_per_s for f in fits])
    return float(alpha), float(bandwidth)


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
    local = min(ranks, domain)
    alpha, bandwidth = alpha_beta("all_to_all", local, hardware.scale_up) if local > 1 else (0.0, 1.0)
    off = up * (1.0 - np.eye(ranks))
    if hardware.scale_up.topology == "full_mesh":
        # Each pair has a link of its own, so the busiest pair decides.
        seconds = off.max(axis=(-2, -1)) * (hardware.domain - 1) / bandwidth
    else:
        seconds = _busiest(off) / bandwidth
    if ranks > domain:
        network = _network(hardware)
        rate = network.bandwidth_bytes_per_s * network.efficiency
        seconds = np.maximum(seconds, _busiest(out) / rate)
        alpha = max(alpha, network.latency_s)
    return np.asarray(alpha + seconds)


def _busiest(traffic: Array) -> Array:
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
