"""Anneal which rank or node holds which experts, so that tokens stay there from layer to layer.

What stays is a sum over experts and parts of an expert's share on the part times its *pull*: what experts of the
two neighbouring layers on that part send it or take from it. Experts of one layer do not pull each other, so
a swap is priced by a few look-ups; only an accepted one has to update the pulls of the layers beside it.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick, unit
from moesim.placement.solvers.reach import COLD, LOOKS, RECOUNT, WARM


def _move(
    pairs: FloatArray, pull: FloatArray, layer: int, e: int, change: FloatArray, layers: int
) -> None:
    """Update the pulls beside a layer, of which expert `e` changes its shares ``[parts]``."""
    experts = pull.shape[1]
    for n in range(len(change)):
        d = change[n]
        if d != 0.0:
            if layer > 0:
                for f in range(experts):
                    pull[layer - 1, f, n] += pairs[layer - 1, f, e] * d
            if layer + 1 < layers:
                for f in range(experts):
                    pull[layer + 1, f, n] += pairs[layer, e, f] * d


move = compiled(_move)


def _kernel(
    pairs: FloatArray,
    loads: FloatArray,
    table: IntArray,
    ranks: int,
    most: FloatArray,
    most_slot: FloatArray,
    moves: int,
    state: np.uint64,
) -> float:
    """Anneal all layers together; `table` becomes the best plan under the caps that was seen, if there was one.

    Parameters
    ----------
    pairs
        Transitions ``[layers - 1, experts, experts]``.
    loads
        ``[layers, experts]``.
    table
        Expert in each slot of a part, ``[layers, parts, slots]``.
    ranks
        Ranks of a part, the most replicas of an expert it may hold.
    most, most_slot
        Load that a part may carry and a replica may have, ``[layers]``.
    moves
        Moves to try.
    state
        Of the generator.

    Returns
    -------
    float
        Transitions that stay, by what is now in `table`; -inf if it was never under the caps.
    """
    layers, experts = loads.shape
    parts, room = table.shape[1:]
    spare = parts * room > experts
    c = np.zeros((layers, experts), dtype=np.int64)
    m = np.zeros((layers, experts, parts), dtype=np.int64)
    for k in range(layers):
        for n in range(parts):
            for p in range(room):
                c[k, table[k, n, p]] += 1
                m[k, table[k, n, p], n] += 1
    load = np.zeros((layers, parts))
    pull = np.zeros((layers, experts, parts))
    share = np.zeros(parts)
    over = 0.0
    for k in range(layers):
        for e in range(experts):
            for n in range(parts):
                share[n] = m[k, e, n] / c[k, e]
                load[k, n] += loads[k, e] * share[n]
            move(pairs, pull, k, e, share, layers)
        for n in range(parts):
            over += max(0.0, load[k, n] - most[k])
    stay = 0.0
    for k in range(layers):
        for e in range(experts):
            for n in range(parts):
                # A transition pulls at both ends.
                stay += 0.5 * pull[k, e, n] * m[k, e, n] / c[k, e]
    whole = pairs.sum()
    slack = 1e-9 * most.sum()
    highest = stay if over <= slack else -math.inf
    best = table.copy()
    change_a, change_b = np.zeros(parts), np.zeros(parts)
    temperature, cooling, looked, seen = 0.0, 1.0, 0, 0.0
    for step in range(moves):
        temperature *= cooling
        state = advance(state)
        k, i = pick(state, 0, layers), pick(state, 1, room)
        g, j = pick(state, 2, parts), pick(state, 3, room)
        a = table[k, g, i]
        state = advance(state)
        recount = spare and step % RECOUNT == 0
        h = pick(state, 0, parts)
        if recount:
            b = pick(state, 1, experts)
            if a == b or c[k, a] == 1 or m[k, b, g] == ranks:
                continue
            if loads[k, a] / (c[k, a] - 1) > max(most_slot[k], loads[k, a] / c[k, a]):
                continue
            for n in range(parts):
                change_a[n] = (m[k, a, n] - (n == g)) / (c[k, a] - 1) - m[k, a, n] / c[k, a]
                change_b[n] = (m[k, b, n] + (n == g)) / (c[k, b] + 1) - m[k, b, n] / c[k, b]
            rise = 0.0
            more = 0.0
            for n in range(parts):
                rise -= change_a[n] * pull[k, a, n] + change_b[n] * pull[k, b, n]
                new = load[k, n] + change_a[n] * loads[k, a] + change_b[n] * loads[k, b]
                more += max(0.0, new - most[k]) - max(0.0, load[k, n] - most[k])
        else:
            b = table[k, h, j]
            if g == h or a == b or m[k, a, h] == ranks or m[k, b, g] == ranks:
                continue
            one, two = 1.0 / c[k, a], 1.0 / c[k, b]
            shift = two * loads[k, b] - one * loads[k, a]
            more = (
                max(0.0, load[k, g] + shift - most[k])
                + max(0.0, load[k, h] - shift - most[k])
                - max(0.0, load[k, g] - most[k])
                - max(0.0, load[k, h] - most[k])
            )
            rise = one * (pull[k, a, g] - pull[k, a, h]) + two * (pull[k, b, h] - pull[k, b, g])
        if more > 1e-12 * most[k]:
            continue
        if looked < LOOKS:
            looked += 1
            seen += abs(rise)
            if looked == LOOKS:
                temperature = WARM * seen / LOOKS
                cooling = (COLD / WARM) ** (1.0 / max(1, moves - step))
        if rise > 0.0 and more > -1e-12 * most[k]:
            if temperature == 0.0:
                continue
            state = advance(state)
            if math.exp(-rise / temperature) < unit(state):
                continue
        if recount:
            c[k, a] -= 1
            c[k, b] += 1
        else:
            for n in range(parts):
                change_a[n] = change_b[n] = 0.0
            change_a[g], change_a[h] = -one, one
            change_b[g], change_b[h] = two, -two
            m[k, a, h] += 1
            m[k, b, h] -= 1
            table[k, h, j] = a
        m[k, a, g] -= 1
        m[k, b, g] += 1
        table[k, g, i] = b
        for n in range(parts):
            load[k, n] += change_a[n] * loads[k, a] + change_b[n] * loads[k, b]
        move(pairs, pull, k, a, change_a, layers)
        move(pairs, pull, k, b, change_b, layers)
        stay -= rise
        over += more
        # A gain within rounding is none: the sum is kept by increments.
        if over <= slack and stay > highest + 1e-9 * whole:
            highest = stay
            best[:] = table
    table[:] = best
    return highest


anneal_follow = compiled(_kernel)
