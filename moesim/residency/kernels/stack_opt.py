"""Stack distances of Belady's rule: optimal hits of every capacity in one pass.

The stack holds when each object is next used, nothing else: what is looked up now is the entry that says
now. It goes on top; on the way down to where it was, of every two entries the one needed sooner stays and the
other is carried on (Mattson et al., IBM Systems Journal 9(2), 1970). A miss always loads: nothing passes by.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

NEVER = np.iinfo(np.int64).max


@compiled
def next_uses(
    experts: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    fresh: npt.NDArray[np.bool_],
    layers: int,
    num_experts: int,
) -> npt.NDArray[np.int64]:
    """Index of the next access to the same expert of the same layer, `NEVER` if there is none before a reset.

    int64 ``[accesses]``; parameters as in `moesim.residency.kernels.stack_lru.lru_depths`.
    """
    after = np.empty(len(experts), np.int64)
    soonest = np.full(layers * num_experts, NEVER, np.int64)
    for step in range(len(fresh) - 1, -1, -1):
        for layer in range(layers):
            for i in range(starts[step * layers + layer], starts[step * layers + layer + 1]):
                x = layer * num_experts + experts[i]
                after[i] = soonest[x]
                soonest[x] = i
        if fresh[step]:
            soonest[:] = NEVER
    return after


@compiled
def opt_depths(
    starts: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    fresh: npt.NDArray[np.bool_],
    layers: int,
    objects: int,
    shared: bool,
    batch: bool,
    depth: npt.NDArray[Any],
    first: npt.NDArray[Any],
) -> None:
    """Lookups of each layer by depth in the optimal stack.

    Parameters
    ----------
    after
        From `next_uses`.
    objects
        Of a pool.
    batch
        Whether all experts of a cell are looked up before any is loaded, and none pushes out another.

    See `moesim.residency.kernels.stack_lru.lru_depths` for the rest.
    """
    pools = 1 if shared else layers
    # Unsigned indices spare numba the question whether they are negative.
    one, room = np.uint64(1), objects + 1
    stack = np.empty(pools * room, np.int64)
    size = np.zeros(pools, np.int64)
    early = np.zeros(objects, np.bool_)
    for step in range(len(fresh)):
        if fresh[step]:
            size[:] = 0
        for layer in range(layers):
            pool = 0 if shared else layer
            base = pool * room
            start, stop = starts[step * layers + layer], starts[step * layers + layer + 1]
            top, bottom = np.uint64(base), np.uint64(base + size[pool])
            if batch:
                # What the cell pushes down by being there; the rest of it lies where it was until its turn.
                early[: stop - start] = False
                for p in range(min(stop - start, size[pool])):
                    entry = stack[base + p]
                    if start <= entry < stop:
                        early[entry - start] = True
                        depth[layer, p] += 1
            for i in range(start, stop):
                stack[bottom] = i  # found at the latest here
                carry = stack[top]
                if not batch:
                    stack[top] = after[i]
                d = top
                if carry != i:
                    d += one
                    entry = stack[d]
                    while entry != i:
                        stack[d] = min(carry, entry)
                        carry = max(carry, entry)
                        d += one
                        entry = stack[d]
                    stack[d] = carry
                if d < bottom:
                    if not batch or not early[i - start]:
                        depth[layer, d - np.uint64(base)] += 1
                else:
                    first[layer, bottom - np.uint64(base)] += 1
                    bottom += one
                if batch:
                    top += one  # nothing of the cell is carried down
            if batch:
                # On top lies the cell, what is needed soonest first, for caches that cannot hold it all.
                for i in range(start, stop):
                    p = base + i - start
                    while p > base and stack[p - 1] > after[i]:
                        stack[p] = stack[p - 1]
                        p -= 1
                    stack[p] = after[i]
            size[pool] = np.int64(bottom) - base
