"""Collectives as they were measured inside a scale-up domain: the fits that hardware files hold."""

from __future__ import annotations

import math

import numpy as np

from moesim.hardware.types import CollectiveFit, Link
from moesim.hardware.wiring import Array


def fastest(fit: CollectiveFit, moved: Array) -> Array:
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
