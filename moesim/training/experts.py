"""Rows that experts work on: what is routed, dropped and padded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.ops.table import Array
from moesim.training.recipe import BLOCK_ROWS, Recipe


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """Work of one rank's experts for one micro-batch.

    Parameters
    ----------
    sent
        Token-expert pairs that a rank sends out, padding included where it travels.
    each
        Rows of each local expert.
    local
        Experts on this rank.
    """

    sent: float
    each: float
    local: float

    @property
    def rows(self) -> float:
        """Rows of all local experts."""
        return self.each * self.local


def expert_rows(tokens: float, num_experts: int, top_k: int, ep: int, etp: int, recipe: Recipe) -> ExpertRows:
    """Rows of a rank's experts when each of its group brings `tokens` tokens.

    Parameters
    ----------
    tokens
        Of this rank alone: a tensor-parallel rank holds its part of the sequence.
    ep, etp
        Ranks that experts are spread over, and ranks that share each; tokens of all `etp` are gathered.

    Examples
    --------
    >>> rows = expert_rows(4096, 8, 2, 8, 1, Recipe(256, 4096, capacity_factor=1.0, padding="capacity"))
    >>> rows.sent, rows.each, rows.local
    (8192.0, 8192.0, 1.0)
    >>> expert_rows(1000, 64, 1, 8, 1, Recipe(8, 1000, padding="block")).each
    128.0
    """
    factor = 1.0 if recipe.capacity_factor is None else recipe.capacity_factor
    local = num_experts / ep
    even = tokens * top_k * etp / local
    if recipe.padding == "capacity":
        return ExpertRows(tokens * top_k * factor, even * factor, local)
    # A capacity above the load drops nothing and, unpadded, costs nothing.
    kept = tokens * top_k * min(1.0, factor)
    busiest = min(recipe.imbalance, factor) if recipe.capacity_factor is not None else recipe.imbalance
    each = even * max(min(1.0, factor), busiest)
    if recipe.padding == "block":
        each = float(np.ceil(each / BLOCK_ROWS) * BLOCK_ROWS)
    return ExpertRows(kept, each, local)


def rank_imbalance(counts: Array, ep: int) -> float:
    """Tokens of the busiest of `ep` ranks over the mean, averaged over layers.

    Parameters
    ----------
    counts
        Tokens per expert, ``[layers, experts]`` or ``[steps, layers, experts]``; experts lie in order.

    Examples
    --------
    >>> loads = np.array([[6.0, 2.0, 4.0, 4.0]])
    >>> rank_imbalance(loads, 4), rank_imbalance(loads, 2)
    (1.5, 1.0)
    """
    loads = np.asarray(counts, dtype=np.float64)
    by_rank = loads.reshape(*loads.shape[:-1], ep, -1).sum(axis=-1)
    mean = by_rank.mean(axis=-1)
    live = mean > 0
    return float((by_rank.max(axis=-1)[live] / mean[live]).mean())


def needed_capacity(counts: Array) -> float:
    """Capacity factor at which no token is dropped: the busiest expert over the mean, worst layer and step.

    >>> needed_capacity(np.array([[6.0, 2.0, 4.0, 4.0]]))
    1.5
    """
    loads = np.asarray(counts, dtype=np.float64)
    mean = loads.mean(axis=-1)
    live = mean > 0
    return float((loads.max(axis=-1)[live] / mean[live]).max())


def dropped_fraction(counts: Array, capacity_factor: float) -> float:
    """Token-expert pairs beyond capacity, as a fraction of all.

    >>> dropped_fraction(np.array([[6.0, 2.0, 4.0, 4.0]]), 1.0)
    0.125
    """
    loads = np.asarray(counts, dtype=np.float64)
    capacity = capacity_factor * loads.mean(axis=-1, keepdims=True)
    return float(np.maximum(loads - capacity, 0.0).sum() / loads.sum())
