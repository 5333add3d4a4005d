"""Seconds of an exchange of tokens between expert-parallel ranks, as measured libraries do it.

One way of an exchange, to the experts or back, takes

    t = (floor**p + body**p) ** (1/p),   body = max(up, out)
    leg = latency + scan * tokens * (n - 1) + bytes / min(share * link, rate) * (1 + spread * log2(n / 8))

`up` is the leg inside a scale-up domain and `out` the one across the network; both links work at once, so
the slower decides. `bytes` are those of the rank that sends or receives most, without what stays on it. The
form is ours; its numbers are fitted in ``benchmarks/exchanges_from_tables.py`` to DeepEP on Hopper and
Blackwell, DeepEP-Ascend on CloudMatrix384 and TensorRT-LLM's one-sided kernels on NVL72, and stand in
``hardware/*.yaml``.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.cost.collectives import all_to_all_seconds, busiest, link_seconds
from moesim.hardware.types import Exchange, Hardware, Leg, Link, OneWay
from moesim.ops.table import Array

#: Each token-expert pair travels on its own, straight to its rank: what decode uses.
LOW_LATENCY = "low_latency"
#: A token crosses the network once per domain and is handed on inside: what prefill uses.
HIGH_THROUGHPUT = "high_throughput"
#: Ranks at which a leg's share of the link was measured; `Leg.spread` counts doublings from there.
_MEASURED_RANKS = 8


def exchange_of(hardware: Hardware, mode: str, backend: str = "") -> Exchange | None:
    """The measured exchange of a serving engine on this machine, else of any engine, else None.

    Parameters
    ----------
    mode
        `LOW_LATENCY` or `HIGH_THROUGHPUT`.
    backend
        ``vllm``, ``sglang``, ``trtllm``, or empty.
    """
    return hardware.exchanges.get(f"{mode}.{backend}") or hardware.exchanges.get(mode)


def exchange_seconds(
    up: Array,
    out: Array,
    hardware: Hardware,
    *,
    mode: str,
    way: str,
    tokens: float,
    domain: int | None = None,
    backend: str = "",
) -> Array:
    """Seconds of one way of an exchange given by what each rank sends to each.

    Parameters
    ----------
    up, out
        Bytes from rank to rank over the scale-up link and over the network, ``[..., ranks, ranks]``. The
        diagonal is ignored.
    hardware
        The cluster. Where its file has no measured exchange, `all_to_all_seconds` answers.
    mode
        `LOW_LATENCY` or `HIGH_THROUGHPUT`.
    way
        ``dispatch`` or ``combine``.
    tokens
        Tokens of one rank.
    domain
        Ranks per scale-up domain; fewer than devices when a rank spans several.
    backend
        Serving engine, where known.

    Returns
    -------
    ndarray
        ``[...]``, seconds.
    """
    ranks = up.shape[-1]
    found = exchange_of(hardware, mode, backend)
    if found is None or ranks == 1:
        return all_to_all_seconds(up, out, hardware, domain)
    domain = hardware.domain if domain is None else domain
    off = 1.0 - np.eye(ranks)
    fit = found.dispatch if way == "dispatch" else found.combine
    up, out = up * off, out * off
    found_s = one_way_seconds(fit, hardware, busiest(up), busiest(out), ranks, tokens, domain)
    # What was measured on full-rate switches takes no less on links that are shared.
    return np.asarray(np.maximum(found_s, link_seconds(up, out, hardware, domain)))


def one_way_seconds(
    fit: OneWay,
    hardware: Hardware,
    up_bytes: Array | float,
    out_bytes: Array | float,
    ranks: int,
    tokens: Array | float,
    domain: int,
) -> Array:
    """Seconds of one way of an exchange, from the bytes of the busiest rank.

    Parameters
    ----------
    fit
        What was measured.
    hardware
        Its links.
    up_bytes, out_bytes
        Bytes that the busiest rank sends or receives inside its domain, and across.
    ranks
        Ranks of the exchange.
    tokens
        Tokens of one rank.
    domain
        Ranks per scale-up domain.
    """
    body = np.asarray(0.0)
    if domain > 1:
        body = _leg_seconds(fit.up, hardware.scale_up, up_bytes, ranks, tokens)
    if ranks > domain:
        network = hardware.scale_out
        if network is None:
            raise ValueError(f"{hardware.name} has no network between domains")
        leg = fit.out or Leg(network.latency_s, network.efficiency)
        body = np.maximum(body, _leg_seconds(leg, network, out_bytes, ranks, tokens))
    return soft_maximum(fit.floor_s, body, fit.sharpness)


def soft_maximum(floor: float, body: Array, sharpness: float) -> Array:
    """``(floor**p + body**p) ** (1/p)``, without overflow; the maximum where `p` is infinite.

    >>> float(soft_maximum(3.0, np.array(4.0), 2.0)), float(soft_maximum(3.0, np.array(4.0), math.inf))
    (5.0, 4.0)
    """
    large = np.maximum(floor, body)
    if not math.isfinite(sharpness):
        return np.asarray(large)
    small = np.minimum(floor, body)
    ratio = np.divide(small, large, out=np.zeros_like(large), where=large > 0)
    return np.asarray(large * (1.0 + ratio**sharpness) ** (1.0 / sharpness))


def _leg_seconds(leg: Leg, link: Link, data: Array | float, ranks: int, tokens: Array | float) -> Array:
    rate = min(leg.share * link.bandwidth_bytes_per_s, leg.rate_bytes_per_s)
    crowd = 1.0 + leg.spread * max(0.0, math.log2(ranks / _MEASURED_RANKS))
    scan = leg.scan_s * np.asarray(tokens, dtype=np.float64) * (ranks - 1)
    return np.asarray(leg.latency_s + scan + np.asarray(data, dtype=np.float64) * crowd / rate)
