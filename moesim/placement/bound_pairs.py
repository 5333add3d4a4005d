"""Lower bound for two slots per rank with spares, by prices of replicas.

Give a replica above half of a load ``M`` a price that does not fall with its load ``x``, and one below half
minus the price of ``M - x``. Then two replicas that add up to ``M`` or less have prices that add up to 0 or
less, and so have all replicas of a placement whose ranks carry at most ``M``. If for every choice of replica
counts the prices add up to more, every placement exceeds ``M``.

Prices that show it, for ``M`` as large as any prices can, come from a linear programme
(`moesim.placement.ilp.pairs`); whether they show it is computed here, over all counts, so the bound does not
rest on a solver. Such prices are dual feasible functions, known from bin packing: Fekete and Schepers, "New
classes of fast lower bounds for bin packing problems", Mathematical Programming 91 (2001).
"""

from __future__ import annotations

import math

import numpy as np

from moesim.placement.bound import Bound, bound_with_kind
from moesim.placement.ilp.pairs import programme, relax
from moesim.placement.solvers.counts import pair_loads
from moesim.placement.solvers.greedy import FloatArray, replicate


def pair_bound(
    loads: FloatArray, ranks: int, slots: int, value: FloatArray | None = None, *, tolerance: float = 5e-4
) -> Bound:
    """`bound_with_kind` for two slots per rank with spares, by prices: a tenth of a second a layer.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks, slots
        Expert-parallel ranks, and physical experts per layer: twice as many.
    value
        Largest rank load of some placement, float64 ``[layers]``: no bound is above it. The better it is, the
        sooner the bound is found. That of `replicate`'s counts if None.
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
    if value is None:
        value = pair_loads(loads, replicate(loads, slots, max_copies=ranks)).max(axis=1)
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
    unit = loads / limit
    built = programme(unit, ranks, slots, 1.0)
    if built is None:
        return True
    if not len(built.thresholds):
        return False
    found = relax(built)
    prices = np.minimum.accumulate(np.maximum(found.prices, 0.0))
    return price_total(unit, ranks, slots, 1.0, found.thresholds, prices, found.wage) > 1e-9
