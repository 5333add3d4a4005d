"""Tokens per expert of the rank that a table of grouped GEMMs times.

The tables name their routing by a word: ``balanced`` deals pairs out in turn, ``power_law_a`` draws the load
of each expert from a bounded power law with exponent ``a``, rounds it to whole pairs, and times the rank with
the most pairs (ai-dynamo/aiconfigurator, collector/helper.py). The draws themselves are not recorded: a few
are made here with a fixed seed, and features are averaged over them.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]

#: Draws per power law; the spread between draws is part of the residuals.
DRAWS = 8


@functools.lru_cache(maxsize=100_000)
def rank_tokens(distribution: str, tokens: int, experts: int, top_k: int, ranks: int) -> Counts:
    """Tokens of each expert on the timed rank, ``[draws, experts / ranks]``.

    Parameters
    ----------
    distribution
        ``balanced`` (or ``uniform``), or ``power_law_`` and the exponent.
    tokens
        Tokens that are routed over all experts.
    experts, top_k, ranks
        Experts of a layer, choices per token, ranks that share the experts.
    """
    kind, _, exponent = distribution.rpartition("_")
    if kind != "power_law":
        return _balanced(tokens, experts, top_k)[None, : experts // ranks]
    rng = np.random.default_rng([tokens, experts, top_k, ranks, round(float(exponent) * 1000)])
    return np.array([_power_law(tokens, experts, top_k, ranks, float(exponent), rng) for _ in range(DRAWS)])


def _balanced(tokens: int, experts: int, top_k: int) -> Counts:
    """Choice j of token i is expert ``i + j * stride``; few tokens are spread out as far as they go."""
    stride = math.ceil(experts / top_k)
    token = np.arange(tokens)[:, None]
    start = token if tokens >= stride else token * stride / tokens
    chosen = (start + np.arange(top_k)[None, :] * stride) % experts
    return np.bincount(chosen.astype(np.int64).ravel(), minlength=experts).astype(np.float64)


def _power_law(
    tokens: int, experts: int, top_k: int, ranks: int, exponent: float, rng: np.random.Generator
) -> Counts:
    pairs = tokens * top_k
    low, high = (1.0, tokens * 0.8) if pairs > experts else (0.01, 2.0)
    a, b = low ** (1 - exponent), high ** (1 - exponent)
    load = ((b - a) * rng.random(experts) + a) ** (1 / (1 - exponent))
    # An expert can be chosen once per token; what is rounded or cut away goes to the ranks in turn.
    counts = np.minimum(np.round(load / load.sum() * pairs), tokens).reshape(ranks, -1)
    missing = pairs - counts.sum()
    each = np.full(ranks, missing // ranks) + (np.arange(ranks) < missing % ranks)
    counts = np.array([_adjusted(row, extra, tokens) for row, extra in zip(counts, each, strict=True)])
    return np.asarray(counts[counts.sum(axis=1).argmax()])


def _adjusted(counts: Counts, extra: float, most: int) -> Counts:
    """Add `extra` tokens to the least loaded experts one by one, or take them from the most loaded."""
    order = np.sort(counts)[:: 1 if extra > 0 else -1]
    sign = 1.0 if extra > 0 else -1.0
    left = abs(extra)
    if left == 0:
        return counts
    level = order[0]
    for i in range(1, len(order) + 1):
        # The first i experts are at one level; raise (or lower) them to the next.
        following = order[i] if i < len(order) else (float(most) if sign > 0 else 0.0)
        step = abs(following - level)
        if step * i >= left:
            level += sign * left / i
            left = 0.0
            break
        left -= step * i
        level = following
    changed = np.maximum(counts, level) if sign > 0 else np.minimum(counts, level)
    return np.asarray(np.clip(np.round(changed), 0.0, most))
