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

For two slots per rank with spares see `moesim.placement.bound_pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.placement.solvers.greedy import FloatArray, replicate

KINDS = ("mean", "replica", "companions", "spread", "pigeonhole")


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


def uneven_bound(loads: FloatArray, ranks: int, filled: int, speeds: FloatArray | None) -> FloatArray:
    """Least of the largest load over speed, for ranks of any room and speed, float64 ``[layers]``.

    The mean over the ranks' speeds, and the hottest replica on the fastest rank; `filled` slots hold experts.
    """
    total, fastest = (ranks, 1.0) if speeds is None else (speeds.sum(), speeds.max())
    replica = (loads / replicate(loads, filled, max_copies=ranks)).max(axis=1) / fastest
    return np.asarray(np.maximum(loads.sum(axis=1) / total, replica))


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
