"""Spread experts over the ranks of their node so that no kind of request loads one rank alone.

A search that puts experts of the same tokens on one node leaves free which of its ranks holds which. Experts
that come together in time should not share a rank: that is what makes plans uneven on other requests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray
from moesim.placement.solvers.random_bits import advance, pick

#: Swaps tried per slot.
SWAPS = 400


def _kernel(
    weight: FloatArray,
    slot: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    nodes: int,
    most: float,
    swaps: int,
    state: np.uint64,
) -> None:
    """Swap slots inside nodes while the sum over batches and ranks of squared loads falls.

    Parameters
    ----------
    weight
        Load of each slot in each batch, float64 ``[slots, batches]``, slots in the order of `table` as given.
    slot
        Row of `weight` that is in each place, int64 ``[ranks, room]``; changed.
    table
        Expert in each place, int64 ``[ranks, room]``; changed.
    nodes
        Nodes the ranks lie on, in order.
    most
        Load that a rank may carry over all batches, unless it carries more already.
    swaps
        Swaps to try.
    state
        Of the generator, not 0.
    """
    ranks, room = table.shape
    of_node = ranks // nodes
    batches = weight.shape[1]
    load = np.zeros((ranks, batches))
    total = np.zeros(ranks)
    for r in range(ranks):
        for p in range(room):
            for b in range(batches):
                load[r, b] += weight[slot[r, p], b]
                total[r] += weight[slot[r, p], b]
    for _ in range(swaps):
        state = advance(state)
        r, i, j = pick(state, 0, ranks), pick(state, 1, room), pick(state, 2, room)
        s = r // of_node * of_node + pick(state, 3, of_node)
        x, y = slot[r, i], slot[s, j]
        e, f = table[r, i], table[s, j]
        twice = r == s
        for p in range(room):
            twice |= table[r, p] == f or table[s, p] == e
        if twice:
            continue
        rise, shift = 0.0, 0.0
        for b in range(batches):
            more = weight[y, b] - weight[x, b]
            rise += more * (load[r, b] - load[s, b] + more)
            shift += more
        if rise >= 0.0 or max(total[r] + shift, total[s] - shift) > max(most, total[r], total[s]):
            continue
        for b in range(batches):
            more = weight[y, b] - weight[x, b]
            load[r, b] += more
            load[s, b] -= more
        total[r] += shift
        total[s] -= shift
        slot[r, i], slot[s, j] = y, x
        table[r, i], table[s, j] = f, e


scatter = compiled(_kernel)
