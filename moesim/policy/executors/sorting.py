"""Orders of accesses: by tokens, and the order in which loads and GPU end earliest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

#: Below this many entries an insertion sort is faster than a general one.
_SMALL = 48


@compiled
def ascending(keys: npt.NDArray[np.float64], order: npt.NDArray[np.int64]) -> None:
    """Fill `order` with the places of `keys` from the least on; equal ones keep their order.

    Examples
    --------
    >>> order = np.zeros(3, np.int64)
    >>> ascending(np.array([2.0, 1.0, 2.0]), order)
    >>> order.tolist()
    [1, 0, 2]
    """
    n = len(keys)
    if n > _SMALL:
        order[:] = np.argsort(keys, kind="mergesort")
        return
    for i in range(n):
        key = keys[i]
        j = i
        while j > 0 and keys[order[j - 1]] > key:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i


@compiled
def heaviest_first(tokens: npt.NDArray[np.int32], order: npt.NDArray[np.int64]) -> None:
    """Fill `order` with the accesses of most tokens first; equal ones keep their order."""
    n = len(tokens)
    if n > _SMALL:
        order[:] = np.argsort(-tokens, kind="mergesort")
        return
    for i in range(n):
        j = i
        while j > 0 and tokens[order[j - 1]] < tokens[i]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i


@compiled
def johnson(
    resident: npt.NDArray[np.bool_],
    gpu_s: npt.NDArray[np.float64],
    load_s: npt.NDArray[np.float64],
    order: npt.NDArray[np.int64],
) -> None:
    """Fill `order` so that loads followed by GPU work end earliest, whichever of them are chosen.

    Johnson's rule for two machines in line [1]_: what loads faster than it computes comes first, by load
    time; the rest follows by falling GPU time. Resident experts do not wait for the link and come before all.
    It stays optimal when link and GPU are free only later: that is one more job before the others.

    References
    ----------
    .. [1] S. M. Johnson, "Optimal two- and three-stage production schedules with setup times included",
       Naval Research Logistics Quarterly 1, 1954.

    Examples
    --------
    >>> order = np.zeros(3, np.int64)
    >>> johnson(np.array([False, False, True]), np.array([1.0, 3, 1]), np.array([2.0, 2, 2]), order)
    >>> order.tolist()
    [2, 1, 0]
    """
    n = len(gpu_s)
    first = np.empty(n, np.float64)
    largest = 0.0
    for i in range(n):
        largest = max(largest, gpu_s[i], load_s[i])
    for i in range(n):
        load = -1.0 if resident[i] else load_s[i]
        # Both classes in one key: those that load faster up to `largest`, the others above.
        first[i] = load if load <= gpu_s[i] else 2 * largest - gpu_s[i]
    ascending(first, order)
