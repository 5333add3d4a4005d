"""Lower bounds on the busiest rank when replicas do not share alike.

What `moesim.placement.bound` proves holds under every rule, though its text speaks of replicas that share
alike:

mean
    Whatever is sent where, ranks carry all of it.
replica
    Of ``n`` replicas one takes at least an ``n``-th of the expert's tokens, however they are split.
companions, spread, pigeonhole
    Are about placements without spare slots, where no rule has anything to choose.

Where a home rank sends all its tokens of an expert to one replica, more can be said:

sources
    Of ``n`` replicas one serves at least ``ceil(ranks / n)`` of the home ranks, and so takes that part of
    ``ranks``. More replicas never serve more, so giving every next slot to the expert whose busiest replica
    carries most minimises the largest, as in `moesim.placement.solvers.greedy.replicate`.
"""

from __future__ import annotations

import numpy as np

from moesim.layout.sharing import FIXED, rule_of
from moesim.placement.bound import KINDS, Bound, bound_with_kind
from moesim.placement.solvers.greedy import FloatArray


def kinds_under(dispatch: str) -> tuple[str, ...]:
    """Arguments that hold under a rule.

    Examples
    --------
    >>> kinds_under("static")
    ('mean', 'replica', 'companions', 'spread', 'pigeonhole', 'sources')
    """
    return (*KINDS, "sources") if rule_of(dispatch) in FIXED else KINDS


def bound_under(loads: FloatArray, ranks: int, slots: int, dispatch: str = "even") -> Bound:
    """Least load of the most loaded rank that any placement could have under a rule, and why.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks
        Expert-parallel ranks; divides `slots`.
    slots
        Physical experts per layer.
    dispatch
        One of `moesim.layout.DISPATCH`.

    Examples
    --------
    >>> bound_under(np.array([[8.0, 1.0, 1.0, 1.0]]), ranks=3, slots=6, dispatch="static").values
    array([3.66666667])
    >>> bound_under(np.array([[8.0, 0.0, 0.0]]), ranks=5, slots=5, dispatch="static").kinds
    ('sources',)
    """
    known = bound_with_kind(loads, ranks, slots)
    experts = loads.shape[1]
    if rule_of(dispatch) not in FIXED or slots == experts:
        return known
    counts = np.ones(loads.shape, dtype=np.int64)
    rows = np.arange(len(loads))
    for _ in range(slots - experts):
        busiest = np.where(counts < ranks, loads * -(-ranks // counts), -1.0)
        counts[rows, busiest.argmax(axis=1)] += 1
    sources = (loads * -(-ranks // counts)).max(axis=1) / ranks
    # A bound that only rounding lifts above a simpler one is not worth naming.
    firm = sources > known.values * (1 + 1e-12)
    kinds = tuple("sources" if new else kind for new, kind in zip(firm, known.kinds, strict=True))
    return Bound(np.maximum(sources, known.values), kinds)
