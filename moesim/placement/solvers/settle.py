"""Spread the slots of a node over its ranks, when which node holds what is decided."""

from __future__ import annotations

import math

import numpy as np

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray, IntArray, pack
from moesim.placement.solvers.random_bits import advance, pick, unit

#: Swaps tried per slot of a part.
MOVES_PER_SLOT = 500
#: A part is settled when its busiest rank is this close to the mean of its ranks.
ENOUGH = 2e-4


def settle(weights: FloatArray, held: IntArray, ranks: int, states: IntArray, effort: float = 1.0) -> IntArray:
    """Put the experts of each part on its ranks, evenly, no expert twice on a rank.

    Parameters
    ----------
    weights
        Load of each slot, float64 ``[parts, slots]``.
    held
        Expert in each slot, int64 ``[parts, slots]``, at most `ranks` times each.
    ranks
        Ranks of a part; divides the slots.
    states
        Of the generators, uint64 ``[parts]``, none 0.
    effort
        Swaps tried, relative to the default.

    Returns
    -------
    ndarray
        The experts in order of rank, int64 ``[parts, slots]``.
    """
    parts, slots = held.shape
    order = pack(weights, ranks, held).reshape(parts, slots)
    if ranks == 1:
        return held
    experts = np.take_along_axis(held, order, axis=1)
    loads = np.take_along_axis(weights, order, axis=1)
    moves = max(1, round(MOVES_PER_SLOT * slots * effort))
    for part in range(parts):
        _settle(
            loads[part].reshape(ranks, -1), experts[part].reshape(ranks, -1), moves, np.uint64(states[part])
        )
    return experts


def _kernel(loads: FloatArray, table: IntArray, moves: int, state: np.uint64) -> None:
    """Anneal swaps between ranks; the table that has the lowest maximum is left in `table`.

    Parameters
    ----------
    loads, table
        Of each slot and what it holds, ``[ranks, room]``; both changed.
    moves
        Swaps to try.
    state
        Of the generator.
    """
    ranks, room = table.shape
    total = loads.sum(axis=1)
    target = total.mean()
    lowest = total.max()
    best = table.copy()
    # As hot as swapping unlike slots is; the end is a change no one would notice.
    warm = 0.1 * target / room
    temperature = warm * warm
    cooling = (2e-5 * target / warm) ** (2.0 * 64 / moves) if warm > 0 else 1.0
    for step in range(moves):
        if lowest <= target * (1.0 + ENOUGH):
            break
        if step % 64 == 0:
            temperature *= cooling
        state = advance(state)
        g, i = pick(state, 0, ranks), pick(state, 1, room)
        h, j = pick(state, 2, ranks), pick(state, 3, room)
        a, b = table[g, i], table[h, j]
        if g == h or a == b:
            continue
        twice = False
        for p in range(room):
            twice |= table[g, p] == b or table[h, p] == a
        if twice:
            continue
        more = loads[h, j] - loads[g, i]
        rise = (
            max(0.0, total[g] + more - target) ** 2
            + max(0.0, total[h] - more - target) ** 2
            - max(0.0, total[g] - target) ** 2
            - max(0.0, total[h] - target) ** 2
        )
        if rise > 0.0:
            state = advance(state)
            if math.exp(-rise / temperature) < unit(state):
                continue
        table[g, i], table[h, j] = b, a
        loads[g, i], loads[h, j] = loads[h, j], loads[g, i]
        total[g] += more
        total[h] -= more
        hottest = total.max()
        if hottest < lowest * (1.0 - 1e-12):
            lowest = hottest
            best[:] = table
    table[:] = best


_settle = compiled(_kernel)
