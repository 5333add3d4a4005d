"""Local search for placements whose shares are drawn: replicas are moved, drawn for anew, and filled up.

What SGLang draws for a layer depends on the replicated experts alone, so a placement is judged by these: all
others are packed round them, heaviest first, each on the lightest rank with room. A move trades or shifts a
replica, draws as SGLang will, packs, and is kept if the busiest rank does not get worse.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.layout.draws import StateArray, draw_layer
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance
from moesim.placement.solvers.shares import places

#: Draws, counted as slots times ranks, that a layer may cost at effort 1: moves take time in proportion.
DRAWN = 8_000_000


def improve_drawn(
    loads: FloatArray,
    start: IntArray,
    target: float,
    states: StateArray,
    *,
    per_node: int,
    speeds: FloatArray | None = None,
    seed: int = 0,
    effort: float = 1.0,
) -> IntArray:
    """Improve the placement of one layer for what SGLang draws.

    Parameters
    ----------
    loads
        float64 ``[experts]``.
    start
        Experts, int64 ``[ranks, slots_per_rank]``, none twice on a rank; -1 where a slot is empty.
    target
        Load at which the busiest rank need not get any better.
    states
        Generators as this layer finds them, uint64 ``[ranks, 625]``; they are left as they are.
    per_node, speeds
        Ranks of a node; and of the ranks, float64 ``[ranks]``, equal ones if None.
    seed, effort
        Of the random moves; and how many, relative to the default.

    Returns
    -------
    ndarray
        Experts ``[ranks, slots_per_rank]``, packed: no worse than `start` is with its single experts packed.
    """
    ranks, room = start.shape
    members, copies = places(start, len(loads))
    held: npt.NDArray[np.bool_] = np.zeros((len(loads), ranks), dtype=np.bool_)
    for expert in np.flatnonzero(copies > 1):
        held[expert, members[expert, : copies[expert]]] = True
    slower = np.ones(ranks) if speeds is None else 1.0 / speeds
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] | np.uint64(1)
    table = np.empty((ranks, room), dtype=np.int64)
    order = np.argsort(-loads, kind="stable")
    rooms = (start >= 0).sum(axis=1)
    moves = max(1, round(DRAWN / (start.size * ranks) * effort))
    _anneal(loads, order, held, rooms, slower, target, states, per_node, moves, state, table)
    return table


def _pack(
    loads: FloatArray,
    order: IntArray,
    held: npt.NDArray[np.bool_],
    rooms: IntArray,
    slower: FloatArray,
    states: StateArray,
    per_node: int,
    table: IntArray,
) -> float:
    """Draw for the replicated experts, pack the others round them into `table`; return the largest load."""
    experts, ranks = held.shape
    replicas = np.zeros((experts, ranks), dtype=np.int64)
    copies = np.zeros(experts, dtype=np.int64)
    load = np.zeros(ranks)
    used = np.zeros(ranks, dtype=np.int64)
    for k in range(ranks):
        for p in range(table.shape[1]):
            table[k, p] = -1
    for e in range(experts):
        for k in range(ranks):
            if held[e, k]:
                replicas[e, copies[e]] = k
                copies[e] += 1
                table[k, used[k]] = e
                used[k] += 1
        # One that is not replicated is drawn for by none, wherever it is.
        copies[e] = max(copies[e], 1)
    chosen = np.empty((ranks, experts), dtype=np.int64)
    draw_layer(replicas, copies, 1, per_node, states, True, chosen)
    for e in range(experts):
        if copies[e] > 1:
            for k in range(ranks):
                load[chosen[k, e]] += loads[e] / ranks
    for n in range(experts):
        e = order[n]
        if copies[e] > 1:
            continue
        lightest = -1
        for k in range(ranks):
            if used[k] < rooms[k] and (
                lightest < 0
                or (load[k] + loads[e]) * slower[k] < (load[lightest] + loads[e]) * slower[lightest]
            ):
                lightest = k
        table[lightest, used[lightest]] = e
        used[lightest] += 1
        load[lightest] += loads[e]
    largest = 0.0
    for k in range(ranks):
        largest = max(largest, load[k] * slower[k])
    return largest


_packed = compiled(_pack)


def _count(held: npt.NDArray[np.bool_], copies: IntArray, used: IntArray) -> bool:
    """Count replicas of each expert, at least one, and replicated experts of each rank, if there are any."""
    experts, ranks = held.shape
    for k in range(ranks):
        used[k] = 0
    some = False
    for e in range(experts):
        many = 0
        for k in range(ranks):
            if held[e, k]:
                many += 1
                used[k] += 1
                some = True
        copies[e] = max(many, 1)
    return some


_tally = compiled(_count)


def _kernel(
    loads: FloatArray,
    order: IntArray,
    held: npt.NDArray[np.bool_],
    rooms: IntArray,
    slower: FloatArray,
    target: float,
    states: StateArray,
    per_node: int,
    moves: int,
    state: np.uint64,
    table: IntArray,
) -> float:
    """Search one layer; `held` tells the ranks of replicated experts, and `table` gets the best placement."""
    experts, ranks = held.shape
    room = table.shape[1]
    # An expert that is not replicated counts one, and is held nowhere here.
    copies = np.ones(experts, dtype=np.int64)
    used = np.zeros(ranks, dtype=np.int64)
    any_copied = _tally(held, copies, used)
    lowest = _packed(loads, order, held, rooms, slower, states.copy(), per_node, table)
    if not any_copied:
        return lowest
    other = np.empty_like(table)
    before = held.copy()
    for _ in range(moves):
        if lowest <= target:
            break
        for e in range(experts):
            for k in range(ranks):
                before[e, k] = held[e, k]
        state = advance(state)
        draw = state * np.uint64(2685821657736338717)
        kind = np.int64(draw & np.uint64(1))
        a = np.int64((((draw >> np.uint64(1)) & np.uint64(0xFFFFF)) * np.uint64(experts)) >> np.uint64(20))
        b = np.int64((((draw >> np.uint64(21)) & np.uint64(0xFFFFF)) * np.uint64(experts)) >> np.uint64(20))
        g = np.int64((((draw >> np.uint64(41)) & np.uint64(0x7FF)) * np.uint64(ranks)) >> np.uint64(11))
        h = np.int64((((draw >> np.uint64(52)) & np.uint64(0x7FF)) * np.uint64(ranks)) >> np.uint64(11))
        # The next replicated expert loses, or shifts, its replica at or after rank g.
        for _ in range(experts):
            if copies[a] > 1:
                break
            a = (a + 1) % experts
        while not held[a, g]:
            g = (g + 1) % ranks
        if kind == 0:
            if held[a, h] or used[h] == rooms[h]:
                continue
            held[a, g], held[a, h] = False, True
        else:
            # Hot experts gain replicas more often: the hotter of two.
            c = np.int64(((draw >> np.uint64(40)) * np.uint64(experts)) >> np.uint64(24))
            if loads[c] > loads[b]:
                b = c
            if a == b or held[b, h] or copies[b] >= ranks:
                continue
            held[a, g] = False
            if copies[a] == 2:
                for k in range(ranks):
                    held[a, k] = False
            held[b, h] = True
            if copies[b] == 1:
                # Its first place is the rank that a leaves, or the next one.
                while held[b, g]:
                    g = (g + 1) % ranks
                held[b, g] = True
        _tally(held, copies, used)
        fits = True
        for k in range(ranks):
            if used[k] > rooms[k]:
                fits = False
        if fits:
            value = _packed(loads, order, held, rooms, slower, states.copy(), per_node, other)
            if value <= lowest:
                lowest = value
                for k in range(ranks):
                    for p in range(room):
                        table[k, p] = other[k, p]
                continue
        for e in range(experts):
            for k in range(ranks):
                held[e, k] = before[e, k]
        _tally(held, copies, used)
    return lowest


_anneal = compiled(_kernel)
