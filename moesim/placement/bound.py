"""Provable lower bounds on the load of the most loaded rank.

They hold for every placement that fills every slot, puts no expert twice on a rank and lets replicas share
evenly: the `ExpertMap` invariants. With ``d`` the loads of a layer in falling order, ``s(n)`` the sum of its
``n`` smallest and ``c`` slots per rank:

mean
    The largest of some numbers is at least their mean.
replica
    A rank carries at least the hottest replica it holds; `replicate` minimises that over replica counts, so
    no placement has a cooler hottest replica.

Without spare slots each expert has one place and, with ``c`` experts on a rank, more can be said:

companions
    For ``k`` up to the number of ranks, the ``k`` hottest experts lie on ``k`` ranks, with ``k (c - 1)``
    more, one of them no lighter than the ``k (c - 1)``-th smallest; or two of them share a rank, each the
    other's companion and no lighter than that either. So some rank carries at least ``d[k]``, that
    companion, and ``s(c - 2)``.
spread
    For ``k`` from 2 to the number of ranks, either the ``k`` hottest experts lie on ``k`` ranks, which carry
    them and ``k (c - 1)`` others, so the largest of these is at least
    ``(d[1] + ... + d[k] + s(k (c - 1))) / k``; or two of them share a rank, which carries at least
    ``d[k-1] + d[k] + s(c - 2)``. The smaller of the two is a bound.
pigeonhole
    Of the ``m * ranks + 1`` hottest experts, ``m + 1`` share a rank, which carries at least the ``m + 1``
    lightest of these and ``s(c - m - 1)``.

With spare slots and two slots per rank:

prices
    Give a replica above half of a load ``M`` a price that does not fall with its load ``x``, one below half
    minus the price of ``M - x``. Then two replicas that add up to ``M`` or less have prices that add up to 0
    or less, and so have all replicas of a placement whose ranks carry at most ``M``. If for every choice of
    replica counts the prices add up to more, every placement exceeds ``M``. Prices that show it, for ``M`` as
    large as any prices can, come from a linear programme (`moesim.placement.ilp.pairs`); whether they show it
    is computed here, over all counts. These are dual feasible functions, as for bin packing: Fekete and
    Schepers, "New classes of fast lower bounds for bin packing problems", Math. Program. 91 (2001).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.placement.solvers.greedy import FloatArray, replicate

KINDS = ("mean", "replica", "companions", "spread", "pigeonhole", "prices")


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """Lower bound of each layer.

    Parameters
    ----------
    values
        float64 ``[layers]``, in the unit of the loads.
    kinds
        Which of `KINDS` gave it.
    """

    values: FloatArray
    kinds: tuple[str, ...]


def lower_bound(loads: FloatArray, ranks: int, slots: int) -> FloatArray:
    """Least load of the most loaded rank that any placement could have.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks
        Expert-parallel ranks; divides `slots`.
    slots
        Physical experts per layer.

    Returns
    -------
    ndarray
        float64 ``[layers]``.

    Examples
    --------
    >>> lower_bound(np.array([[9.0, 1.0, 1.0, 1.0]]), ranks=2, slots=4)
    array([10.])
    """
    return bound_with_kind(loads, ranks, slots).values


def bound_with_kind(loads: FloatArray, ranks: int, slots: int) -> Bound:
    """`lower_bound`, with the argument that gave it; the simplest of equal ones."""
    experts = loads.shape[1]
    found: list[tuple[int, FloatArray]] = [(0, loads.sum(axis=1) / ranks)]
    if slots > experts:
        found.append((1, (loads / replicate(loads, slots, max_copies=ranks)).max(axis=1)))
    else:
        found += _without_spares(loads, ranks)
    table = np.stack([values for _, values in found])
    # A bound that only rounding lifts above a simpler one is not worth naming.
    firm = table >= table.max(axis=0) * (1 - 1e-12)
    kinds = tuple(KINDS[found[i][0]] for i in firm.argmax(axis=0))
    return Bound(table.max(axis=0), kinds)


def pair_bound(
    loads: FloatArray, ranks: int, slots: int, value: FloatArray, *, tolerance: float = 5e-4
) -> Bound:
    """`bound_with_kind` for two slots per rank with spares, by prices: a tenth of a second a layer.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks, slots
        Expert-parallel ranks, and physical experts per layer: twice as many.
    value
        Largest rank load of some placement, float64 ``[layers]``: no bound is above it.
    tolerance
        How far below the best bound by prices this one may be, relative to it.

    Returns
    -------
    Bound

    Examples
    --------
    >>> loads = np.array([[1.1, 0.9, 1.7, 1.1, 0.7, 1.3]])
    >>> bound_with_kind(loads, ranks=4, slots=8).values
    array([1.7])
    >>> found = pair_bound(loads, ranks=4, slots=8, value=np.array([1.75]), tolerance=1e-6)
    >>> found.values.round(3), found.kinds
    (array([1.75]), ('prices',))
    """
    simple = bound_with_kind(loads, ranks, slots)
    values, kinds = simple.values.copy(), list(simple.kinds)
    for layer, row in enumerate(loads):
        low, high = values[layer], value[layer]
        while low > 0 and high > low * (1 + tolerance):
            limit = math.sqrt(low * high)
            if _priced_out(row, ranks, slots, limit):
                low = values[layer] = limit
                kinds[layer] = "prices"
            else:
                high = limit
    return Bound(values, tuple(kinds))


def price_total(
    loads: FloatArray,
    ranks: int,
    slots: int,
    limit: float,
    thresholds: FloatArray,
    prices: FloatArray,
    wage: float,
) -> float:
    """Least sum of prices of all replicas, over all replica counts; above 0, no placement is within `limit`.

    Parameters
    ----------
    loads
        Of one layer, float64 ``[experts]``.
    ranks, slots
        As in `pair_bound`.
    limit
        The load that no rank is to exceed.
    thresholds, prices
        A replica of ``thresholds[k]`` or more, all above half the limit and falling, costs ``prices[k]`` or
        more, which fall to 0 or more; float64 ``[thresholds]``.
    wage
        Added to every replica's price and taken off the sum, once per slot. Whatever it is, the result is not
        above the least sum.
    """
    count = np.arange(1, min(ranks, slots - len(loads) + 1) + 1)
    share = loads[:, None] / count
    # Where a partner fits but for rounding, it fits.
    reach = np.where(share > limit / 2, share, (limit - share) * (1 + 1e-12))
    steps = np.append(prices, 0.0)[np.searchsorted(-thresholds, -reach)]
    # Without a threshold at or below its reach a replica costs nothing: it looks beyond the last one.
    price = np.where(share > limit / 2, steps, -steps)
    fits = share <= limit * (1 + 1e-12)
    # An expert has the replicas that its own load asks for, and at most all that the others do not need.
    least = 1 + len(count) - fits.sum(axis=1)
    spare = slots - least.sum()
    fits &= count <= least[:, None] + spare
    cost = np.where(fits, count * (price + wage), np.inf)
    return float(cost.min(axis=1).sum() - slots * wage)


def _priced_out(loads: FloatArray, ranks: int, slots: int, limit: float) -> bool:
    from moesim.placement.ilp.pairs import programme, relax

    unit = loads / limit
    built = programme(unit, ranks, slots, 1.0)
    if built is None:
        return True
    if not len(built.thresholds):
        return False
    found = relax(built)
    prices = np.minimum.accumulate(np.maximum(found.prices, 0.0))
    return price_total(unit, ranks, slots, 1.0, found.thresholds, prices, found.wage) > 1e-9


def _without_spares(loads: FloatArray, ranks: int) -> list[tuple[int, FloatArray]]:
    experts = loads.shape[1]
    per_rank = experts // ranks
    falling = -np.sort(-loads, axis=1)
    hottest = _sums(falling)
    smallest = _sums(falling[:, ::-1])
    found = [(1, falling[:, 0])]
    if per_rank == 1:
        return found
    k = np.arange(1, ranks + 1)
    companion = falling[:, experts - k * (per_rank - 1)]
    found.append((2, (falling[:, k - 1] + companion + smallest[:, [per_rank - 2]]).max(axis=1)))
    k = k[1:]
    if len(k):
        apart = (hottest[:, k] + smallest[:, k * (per_rank - 1)]) / k
        together = falling[:, k - 2] + falling[:, k - 1] + smallest[:, [per_rank - 2]]
        found.append((3, np.minimum(apart, together).max(axis=1)))
    m = np.arange(1, per_rank)
    last = m * ranks + 1
    lightest = hottest[:, last] - hottest[:, last - m - 1]
    found.append((4, (lightest + smallest[:, per_rank - m - 1]).max(axis=1)))
    return found


def _sums(ordered: FloatArray) -> FloatArray:
    """Sums of the first 0, 1, 2, ... columns."""
    zero: npt.NDArray[np.float64] = np.zeros((len(ordered), 1))
    return np.concatenate([zero, np.cumsum(ordered, axis=1)], axis=1)
