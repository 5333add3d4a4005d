"""Seconds of collectives, inside a scale-up domain and across domains.

Inside a domain, ``t = alpha + factor(n) * bytes / busbw`` with alpha and bus bandwidth measured per number of
ranks, once for the way libraries send small messages and once for large ones, in the convention of
nccl-tests: factor ``2(n-1)/n`` for all-reduce, ``(n-1)/n`` for all-gather, reduce-scatter and all-to-all.
Across domains a reduction is hierarchical: reduce-scatter inside, all-reduce of each shard over the network,
all-gather inside.
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
    """Seconds of a collective among `ranks` devices of one scale-up domain.

    An engine whose own kernels were measured takes these, NCCL for large messages included. Else the faster
    counts of NCCL and of what engines reach in the median.
    """
    if ranks <= 1:
        return np.zeros_like(data)
    moved = _FACTOR[collective] * (ranks - 1) / ranks * data
    own = f"{collective}_custom.{backend}"
    if own in link.collectives:
        return _fastest(fit_of(own, ranks, link), moved)
    seconds = _fastest(fit_of(collective, ranks, link), moved)
    if (custom := f"{collective}_custom") in link.collectives:
        seconds = np.minimum(seconds, _fastest(fit_of(custom, ranks, link), moved))
    return seconds


def _fastest(fit: CollectiveFit, moved: Array) -> Array:
    """Seconds of the faster way to move bytes over the bus; see `CollectiveFit`."""
    if fit.small_busbw_bytes_per_s is None or fit.bulk_alpha_s is None:
        return np.asarray(fit.alpha_s + moved / fit.busbw_bytes_per_s)
    small = fit.alpha_s + moved / fit.small_busbw_bytes_per_s
    return np.asarray(np.minimum(small, fit.bulk_alpha_s + moved / fit.busbw_bytes_per_s))


def fit_of(collective: str, ranks: int, link: Link) -> CollectiveFit:
    """The fit of a collective among `ranks` devices.

    Measured fits are interpolated in the logarithm of the ranks; beyond them latencies go on with their last
    slope. Without fits, latency is that of the steps of a tree, and bandwidth the link's.
    """
    fits = link.collectives.get(collective, ())
    if not fits:
        steps = math.ceil(math.log2(ranks)) * (2 if collective == "all_reduce" else 1)
        steps = 1 if collective == "all_to_all" else steps
        return CollectiveFit(ranks, link.latency_s * steps, link.bandwidth_bytes_per_s * link.efficiency)
    above = next((i for i, fit in enumerate(fits) if fit.ranks >= ranks), len(fits))
    if above == 0 or len(fits) == 1:
        return fits[0]
    if above < len(fits) and fits[above].ranks == ranks:
        return fits[above]
    beyond = above == len(fits)
    low, high = fits[above - 1 - beyond], fits[above - beyond]
    weight = math.log(ranks / low.ranks) / math.log(high.ranks / low.ranks)

    def latency(a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return None
        return b + max(b - a, 0.0) * (weight - 1.0) if beyond else a + (b - a) * weight

    def rate(a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return None
        return b if beyond else a + (b - a) * weight

    alpha, bandwidth = latency(low.alpha_s, high.alpha_s), rate(low.busbw_bytes_per_s, high.busbw_bytes_per_s)
    assert alpha is not None
    assert bandwidth is not None
    return CollectiveFit(
        ranks,
        alpha,
        bandwidth,
        rate(low.small_busbw_bytes_per_s, high.small_busbw_bytes_per_s),
        latency(low.bulk_alpha_s, high.bulk_alpha_s),
    )


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
    seconds = np.zeros(up.shape[:-2])
    if local > 1:
        moved = _moved(up * (1.0 - np.eye(ranks)), local, hardware)
        seconds = _fastest(fit_of("all_to_all", local, hardware.scale_up), moved)
    if ranks > domain:
        network = _network(hardware)
        rate = network.bandwidth_bytes_per_s * network.efficiency
        seconds = np.maximum(seconds, network.latency_s + busiest(out) / rate)
    return np.asarray(seconds)


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
