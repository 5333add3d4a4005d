"""Anneal which node holds which experts, so that tokens reach few nodes: one layer, token by token.

What counts is the sum over sampled tokens of the other nodes they must reach, kept up to date by what a move
changes: without replicas by counts of a token's experts per node; with them, by looking again at every token
that has one of the two experts moved.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick, unit

#: One move in this many changes replica counts; the others swap two experts.
RECOUNT = 4
#: Moves looked at before the first temperature is set, and that temperature and the last one as parts of
#: the mean change they would make.
LOOKS, WARM, COLD = 64, 0.3, 0.003


def _reached(
    token: IntArray, m: IntArray, c: IntArray, near: bool
) -> float:
    """Other nodes that a token reaches, as `moesim.placement.traffic.remote_nodes` has it."""
    nodes = m.shape[1]
    found = 0.0
    if not near:
        for n in range(nodes):
            missed = 1.0
            for e in token:
                missed *= 1.0 - m[e, n] / c[e]
            found += 1.0 - missed
        return found * (nodes - 1) / nodes
    for home in range(nodes):
        for n in range(nodes):
            if n != home:
                missed = 1.0
                for e in token:
                    if m[e, n] > 0 and m[e, home] == 0:
                        missed *= 1.0 - m[e, n] / c[e]
                found += 1.0 - missed
    return found / nodes


reached = compiled(_reached)


def _weigh(e: int, loads: FloatArray, m: IntArray, c: IntArray, near: bool, weight: FloatArray) -> None:
    """Load of a replica of one expert on each node ``[experts, nodes]``.

    Near replicas take the tokens of their node among them, and an equal part of those of nodes without.
    """
    nodes = m.shape[1]
    without = 0
    for n in range(nodes):
        without += m[e, n] == 0
    for n in range(nodes):
        if not near:
            weight[e, n] = loads[e] / c[e]
        else:
            own = 1.0 / m[e, n] if m[e, n] > 0 else 0.0
            weight[e, n] = loads[e] * (own + without / c[e]) / nodes


weigh = compiled(_weigh)


def _kernel(
    loads: FloatArray,
    ids: IntArray,
    times: FloatArray,
    begin: IntArray,
    having: IntArray,
    table: IntArray,
    ranks: int,
    most: float,
    most_slot: float,
    near: bool,
    moves: int,
    state: np.uint64,
) -> float:
    """Anneal one layer; `table` becomes the best placement under the cap that was seen, if there was one.

    Parameters
    ----------
    loads
        ``[experts]``.
    ids, times
        Experts of each kind of token ``[kinds, top_k]``, and tokens of that kind.
    begin, having
        Kinds that have expert ``e``: ``having[begin[e]:begin[e + 1]]``.
    table
        Expert in each slot of a node, ``[nodes, slots]``.
    ranks
        Ranks of a node, the most replicas of an expert it may hold.
    most, most_slot
        Load a node may carry, and load a replica may.
    near
        Whether a token takes a replica of its own node.
    moves
        Moves to try.
    state
        Of the generator.

    Returns
    -------
    float
        Mean other nodes reached per token by what is now in `table`; infinite if it was never under the cap.
    """
    experts = len(loads)
    nodes, room = table.shape
    spare = nodes * room > experts
    c = np.zeros(experts, dtype=np.int64)
    m = np.zeros((experts, nodes), dtype=np.int64)
    for n in range(nodes):
        for p in range(room):
            c[table[n, p]] += 1
            m[table[n, p], n] += 1
    weight = np.zeros((experts, nodes))
    load = np.zeros(nodes)
    for e in range(experts):
        weigh(e, loads, m, c, near, weight)
        for n in range(nodes):
            load[n] += m[e, n] * weight[e, n]
    kinds = len(ids)
    mine = np.zeros((experts, kinds), dtype=np.bool_)
    value = np.zeros(kinds)
    fresh = np.zeros(kinds)
    count = np.zeros((kinds, nodes), dtype=np.int64)
    total = 0.0
    for t in range(kinds):
        for e in ids[t]:
            mine[e, t] = True
            for n in range(nodes):
                count[t, n] += m[e, n]
        value[t] = reached(ids[t], m, c, near)
        total += times[t] * value[t]
    tokens = times.sum()
    lowest = math.inf
    best = table.copy()
    over = 0.0
    for n in range(nodes):
        over += max(0.0, load[n] - most)
    if over <= 1e-9 * most:
        lowest = total
    old_a, old_b = np.zeros(nodes), np.zeros(nodes)
    was_a, was_b = np.zeros(nodes), np.zeros(nodes)
    temperature, cooling, looked, seen = 0.0, 1.0, 0, 0.0
    for step in range(moves):
        temperature *= cooling
        state = advance(state)
        g, i = pick(state, 0, nodes), pick(state, 1, room)
        a = table[g, i]
        recount = spare and step % RECOUNT == 0
        h, j = pick(state, 2, nodes), pick(state, 3, room)
        if recount:
            b = pick(state, 2, experts)
            if a == b or c[a] == 1 or m[b, g] == ranks:
                continue
        else:
            b = table[h, j]
            if g == h or a == b or m[a, h] == ranks or m[b, g] == ranks:
                continue
        # Change the two experts, and look whether nodes carry too much.
        for n in range(nodes):
            old_a[n] = m[a, n] * weight[a, n]
            old_b[n] = m[b, n] * weight[b, n]
            was_a[n], was_b[n] = weight[a, n], weight[b, n]
        if recount:
            c[a] -= 1
            c[b] += 1
        else:
            m[a, h] += 1
            m[b, h] -= 1
        m[a, g] -= 1
        m[b, g] += 1
        weigh(a, loads, m, c, near, weight)
        weigh(b, loads, m, c, near, weight)
        more = 0.0
        hot = False
        for n in range(nodes):
            new = load[n] + m[a, n] * weight[a, n] + m[b, n] * weight[b, n] - old_a[n] - old_b[n]
            more += max(0.0, new - most) - max(0.0, load[n] - most)
            hot |= m[a, n] > 0 and weight[a, n] > max(most_slot, was_a[n])
            hot |= m[b, n] > 0 and weight[b, n] > max(most_slot, was_b[n])
        taken = not hot and more <= 1e-12 * most
        rise = 0.0
        if taken:
            if spare:
                for k in range(begin[a], begin[a + 1]):
                    t = having[k]
                    fresh[t] = reached(ids[t], m, c, near)
                    rise += times[t] * (fresh[t] - value[t])
                for k in range(begin[b], begin[b + 1]):
                    t = having[k]
                    if not mine[a, t]:
                        fresh[t] = reached(ids[t], m, c, near)
                        rise += times[t] * (fresh[t] - value[t])
            else:
                for k in range(begin[a], begin[a + 1]):
                    t = having[k]
                    if not mine[b, t]:
                        rise += times[t] * ((count[t, h] == 0) - np.int64(count[t, g] == 1))
                for k in range(begin[b], begin[b + 1]):
                    t = having[k]
                    if not mine[a, t]:
                        rise += times[t] * ((count[t, g] == 0) - np.int64(count[t, h] == 1))
                rise *= (nodes - 1) / nodes
            if looked < LOOKS:
                looked += 1
                seen += abs(rise)
                if looked == LOOKS:
                    temperature = WARM * seen / LOOKS
                    cooling = (COLD / WARM) ** (1.0 / max(1, moves - step))
            if rise > 0.0 and more > -1e-12 * most:
                if temperature == 0.0:
                    taken = False
                else:
                    state = advance(state)
                    taken = math.exp(-rise / temperature) >= unit(state)
        if not taken:
            if recount:
                c[a] += 1
                c[b] -= 1
            else:
                m[a, h] -= 1
                m[b, h] += 1
            m[a, g] += 1
            m[b, g] -= 1
            weigh(a, loads, m, c, near, weight)
            weigh(b, loads, m, c, near, weight)
            continue
        for n in range(nodes):
            load[n] += m[a, n] * weight[a, n] + m[b, n] * weight[b, n] - old_a[n] - old_b[n]
        table[g, i] = b
        if not recount:
            table[h, j] = a
        for k in range(begin[a], begin[a + 1]):
            t = having[k]
            value[t] = fresh[t]
            if not spare:
                count[t, g] -= 1
                count[t, h] += 1
        for k in range(begin[b], begin[b + 1]):
            t = having[k]
            value[t] = fresh[t]
            if not spare:
                count[t, h] -= 1
                count[t, g] += 1
        total += rise
        over += more
        # A gain within rounding is none: the sum is kept by increments.
        if over <= 1e-9 * most and total < lowest - 1e-9 * tokens:
            lowest = total
            best[:] = table
    table[:] = best
    return lowest / tokens


anneal_reach = compiled(_kernel)
