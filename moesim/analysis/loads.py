"""Statistics of load alone: array in, array out, over any leading axes (layers, bootstrap draws, windows)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Loads = npt.NDArray[Any]


def max_over_mean(load: Loads) -> Array:
    """Largest over mean load, ``[..., experts]`` -> ``[...]``; NaN without load."""
    return ratio(load.max(-1), load.mean(-1))


def entropy_normalised(load: Loads) -> Array:
    """Entropy of the shares of load over its largest value, ``-sum p ln p / ln E``; 1 for one expert."""
    p, experts = shares(load), load.shape[-1]
    value: Array = entropy(p) / np.log(experts) if experts > 1 else p[..., 0]
    return value


def gini(load: Loads) -> Array:
    """Gini coefficient, ``sum (2 i - E - 1) p_(i) / E`` over shares in rising order."""
    p, experts = np.sort(shares(load), -1), load.shape[-1]
    weight = 2.0 * np.arange(1, experts + 1) - experts - 1
    value: Array = (p * weight).sum(-1) / experts
    return value


def top_share(load: Loads, fraction: float) -> Array:
    """Share of the most loaded ``round(fraction * E)`` experts, one at least."""
    count = top_count(load.shape[-1], fraction)
    value: Array = np.sort(shares(load), -1)[..., -count:].sum(-1)
    return value


def top_count(experts: int, fraction: float) -> int:
    """How many experts a fraction of them is: rounded, one at least."""
    return max(1, round(fraction * experts))


def sigma_log(load: Loads) -> Array:
    """Standard deviation of the natural logarithm of load, over experts that have any."""
    has = load > 0
    log = np.log(np.where(has, load, 1.0))
    n = has.sum(-1)
    mean = ratio(log.sum(-1), n)
    spread = ratio((np.where(has, log - mean[..., None], 0.0) ** 2).sum(-1), n)
    return np.sqrt(spread)


def rank_imbalance(load: Loads, ep: int) -> Array:
    """Largest over mean load of `ep` ranks that hold equal, contiguous blocks of experts."""
    return max_over_mean(load.reshape(*load.shape[:-1], ep, -1).sum(-1))


def random_pair_overlap(load: Loads, top_k: int) -> Array:
    """Share of a token's experts that a token drawn at random from the same trace has too.

    ``sum_e q_e^2 / k`` with ``q_e`` the share of tokens that choose expert ``e``: the exact expectation over
    two independent draws.
    """
    value: Array = (shares(load) ** 2).sum(-1) * top_k
    return value


def distinct_mixed(load: Loads, top_k: int, tokens: int) -> Array:
    """Share of experts that `tokens` tokens drawn at random hit: ``mean_e 1 - (1 - q_e)^tokens``, exactly."""
    q = np.minimum(shares(load) * top_k, 1.0)
    value: Array = (1.0 - (1.0 - q) ** tokens).mean(-1)
    return value


def distinct_uniform(experts: int, top_k: int, tokens: int) -> float:
    """What `distinct_mixed` is when every expert is equally likely."""
    return 1.0 - (1.0 - min(1.0, top_k / experts)) ** tokens


def total_variation(p: Loads, q: Loads) -> Array:
    """Half the summed difference of two distributions (or of loads with equal totals of 1)."""
    value: Array = 0.5 * np.abs(shares(p) - shares(q)).sum(-1)
    return value


def drift(windows: Loads, top_k: int = 1) -> tuple[Array, Array]:
    """How much load moves over time, and how much it would seem to if it did not.

    Parameters
    ----------
    windows
        Loads of consecutive windows, ``[windows, ..., experts]``.
    top_k
        Distinct experts that a token chooses together.

    Returns
    -------
    tuple of ndarray
        Mean total-variation distance of a window's load from the whole's, and the mean expected if tokens
        were independent and load stood still: ``sum_e sqrt(2 p_e (1 - k p_e) (1 / n - 1 / N) / pi) / 2`` for
        a window of ``n`` of ``N`` selections; windows without load are left out.
    """
    whole = windows.sum(0)
    p, n = shares(whole), windows.sum(-1)
    filled = n > 0
    distance = np.where(filled, total_variation(np.where(filled[..., None], windows, 1), whole), 0.0)
    # Of a window that is part of the whole, with f of its selections, the variance shrinks by 1 - f.
    rest = np.clip(1.0 - ratio(n, whole.sum(-1)), 0.0, None)
    scale = np.sqrt(ratio(2.0 * np.where(filled, rest, 0.0), np.pi * np.where(filled, n, 1)))
    noise = np.where(filled, 0.5 * np.sqrt(p * np.clip(1.0 - top_k * p, 0.0, None)).sum(-1) * scale, 0.0)
    count = filled.sum(0)
    return ratio(distance.sum(0), count), ratio(noise.sum(0), count)


def shares(load: Loads) -> Array:
    """Each expert's share of load, NaN without any."""
    return ratio(load, load.sum(-1, keepdims=True))


def entropy(p: Array) -> Array:
    """Entropy in nats over the last axis."""
    value: Array = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
    return value


def ratio(a: Any, b: Any) -> Array:  # noqa: ANN401 - numbers or arrays
    """Quotient of `a` and `b`, NaN where `b` is not positive."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    value: Array = np.full(a.shape, np.nan)
    np.divide(a, b, out=value, where=b > 0)
    return value
