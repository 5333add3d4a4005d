"""Anneal which rank or node holds which experts, so that tokens stay there from layer to layer.

What stays is a sum over experts and parts of an expert's share on the part times its *pull*: what experts of
the two neighbouring layers on that part send it or take from it. Experts of one layer do not pull each other,
so a swap is priced by a few look-ups; only an accepted one has to update the pulls of the layers beside it.
Load above what a rank may carry has a price, as in `reach`.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick, unit
from moesim.placement.solvers.reach import CHEAP, COLD, DEAR, LOOKS, NOTHING, QUENCH, RECOUNT, WARM


def _move(pairs: FloatArray, pull: FloatArray, layer: int, e: int, change: FloatArray, layers: int) -> None:
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
    parts: int,
    most: FloatArray,
    moves: int,
    warm: bool,
    state: np.uint64,
) -> None:
    """Anneal all layers together, changing `table`; layers may end a little above their caps.

    Parameters
    ----------
    pairs
        Transitions ``[layers - 1, experts, experts]``.
    loads
        ``[layers, experts]``.
    table
        Expert in each slot of a rank, ``[layers, ranks, room]``.
    parts
        The ranks, or the nodes they lie on, in order.
    most
        Load that a rank may carry, ``[layers]``.
    moves
        Moves to try.
    warm
        Whether to start warm; else moves may only lower the excess, or the traffic at the same excess.
    state
        Of the generator.
    """
    layers, experts = loads.shape
    ranks, room = table.shape[1:]
    of_part = ranks // parts
    spare = ranks * room > experts
    c = np.zeros((layers, experts), dtype=np.int64)
    m = np.zeros((layers, experts, parts), dtype=np.int64)
    held = np.zeros((layers, experts, ranks), dtype=np.bool_)
    for k in range(layers):
        for r in range(ranks):
            for e in table[k, r]:
                c[k, e] += 1
                m[k, e, r // of_part] += 1
                held[k, e, r] = True
    load = np.zeros((layers, ranks))
    pull = np.zeros((layers, experts, parts))
    share = np.zeros(parts)
    mean = np.zeros(layers)
    for k in range(layers):
        mean[k] = max(loads[k].sum(), 1e-300) / ranks
        for e in range(experts):
            for n in range(parts):
                share[n] = m[k, e, n] / c[k, e]
            for r in range(ranks):
                load[k, r] += held[k, e, r] * loads[k, e] / c[k, e]
            move(pairs, pull, k, e, share, layers)
    change_a, change_b = np.zeros(parts), np.zeros(parts)
    temperature, cooling, price, dearer, looked, seen = 0.0, 1.0, 0.0, 1.0, 0, 0.0
    last = int(moves * (1.0 - QUENCH)) if warm else 0
    if not warm:
        looked = LOOKS
    for step in range(moves):
        temperature *= cooling
        price *= dearer
        state = advance(state)
        k, i = pick(state, 0, layers), pick(state, 1, room)
        r, j = pick(state, 2, ranks), pick(state, 3, room)
        state = advance(state)
        s = pick(state, 0, ranks)
        g, h = r // of_part, s // of_part
        a = table[k, r, i]
        recount = spare and step % RECOUNT == 0
        rise, more, shift, gain, loss = 0.0, 0.0, 0.0, 0.0, 0.0
        if recount:
            # Expert b takes the slot of one of the replicas of a.
            b = pick(state, 1, experts)
            if c[k, a] == 1 or held[k, b, r]:
                continue
            for n in range(parts):
                change_a[n] = (m[k, a, n] - (n == g)) / (c[k, a] - 1) - m[k, a, n] / c[k, a]
                change_b[n] = (m[k, b, n] + (n == g)) / (c[k, b] + 1) - m[k, b, n] / c[k, b]
                rise -= change_a[n] * pull[k, a, n] + change_b[n] * pull[k, b, n]
            # Each other replica of a takes more, each of b less.
            gain = loads[k, a] / (c[k, a] - 1) - loads[k, a] / c[k, a]
            loss = loads[k, b] / (c[k, b] + 1) - loads[k, b] / c[k, b]
            shift = loads[k, b] / (c[k, b] + 1) - loads[k, a] / (c[k, a] - 1)
            for q in range(ranks):
                new = load[k, q] + gain * held[k, a, q] + loss * held[k, b, q] + shift * (q == r)
                more += max(0.0, new - most[k]) - max(0.0, load[k, q] - most[k])
        else:
            b = table[k, s, j]
            if r == s or held[k, a, s] or held[k, b, r]:
                continue
            one, two = 1.0 / c[k, a], 1.0 / c[k, b]
            shift = two * loads[k, b] - one * loads[k, a]
            more = (
                max(0.0, load[k, r] + shift - most[k])
                + max(0.0, load[k, s] - shift - most[k])
                - max(0.0, load[k, r] - most[k])
                - max(0.0, load[k, s] - most[k])
            )
            if g != h:
                rise = one * (pull[k, a, g] - pull[k, a, h]) + two * (pull[k, b, h] - pull[k, b, g])
        if looked < LOOKS and (recount or g != h):
            looked += 1
            seen += abs(rise)
            if looked == LOOKS:
                usual = seen / LOOKS
                price = CHEAP * usual * room
                temperature = WARM * usual
                cooling = (COLD / WARM) ** (1.0 / max(1, last - step))
                dearer = (DEAR / CHEAP) ** (1.0 / max(1, last - step))
        worse = rise + price * more / mean[k]
        if looked < LOOKS:
            continue
        if step >= last:
            if not (more < -NOTHING * mean[k] or (more <= 0.0 and rise < 0.0)):
                continue
        elif worse > 0.0:
            state = advance(state)
            if math.exp(-worse / temperature) < unit(state):
                continue
        if recount:
            for q in range(ranks):
                load[k, q] += gain * held[k, a, q] + loss * held[k, b, q]
            c[k, a] -= 1
            c[k, b] += 1
        else:
            for n in range(parts):
                change_a[n] = change_b[n] = 0.0
            if g != h:
                change_a[g], change_a[h] = -one, one
                change_b[g], change_b[h] = two, -two
            m[k, a, h] += 1
            m[k, b, h] -= 1
            held[k, a, s], held[k, b, s] = True, False
            table[k, s, j] = a
            load[k, s] -= shift
        m[k, a, g] -= 1
        m[k, b, g] += 1
        held[k, a, r], held[k, b, r] = False, True
        table[k, r, i] = b
        load[k, r] += shift
        move(pairs, pull, k, a, change_a, layers)
        move(pairs, pull, k, b, change_b, layers)


anneal_follow = compiled(_kernel)
