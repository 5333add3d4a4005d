"""Anneal which node holds which experts, so that tokens reach few nodes: one layer, token by token.

What counts is the sum over sampled tokens of the other nodes they must reach. A token misses a node with the
product of the chances that each of its experts is taken elsewhere. So a move changes that product by a
factor, for the tokens that have one of the two experts moved; factors of zero are counted apart.

Load above what a rank may carry has a price, so that the search may pass through plans that are not balanced:
few swaps between ranks would keep the balance at every step. The price rises while the temperature falls, the
last moves may only lower the excess, or the traffic at the same excess, and only balanced plans are kept.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick, unit

#: One move in this many changes replica counts; the others swap two experts.
RECOUNT = 4
#: Moves between nodes looked at before the first temperature is set. That temperature and the last one, and
#: the first and last price of one mean slot load in excess, as multiples of the mean change they would make.
LOOKS, WARM, COLD, CHEAP, DEAR = 64, 0.3, 0.003, 3.0, 100.0
#: Part of the moves, at the end, that may only lower the excess, or the traffic at the same excess.
QUENCH = 0.2
#: Excess, as part of the mean rank load, that rounding may leave.
NOTHING = 1e-9


def _weigh(
    e: int, loads: FloatArray, m: IntArray, c: IntArray, near: bool, weight: FloatArray, factor: FloatArray
) -> None:
    """Set one expert's load of a replica on each node, and the chances that no replica there is taken.

    Near replicas take the tokens of their node among them, and an equal part of those of nodes without.

    Parameters
    ----------
    e
        The expert.
    loads
        ``[experts]``.
    m, c
        Replicas on each node ``[experts, nodes]``, and in all.
    near
        Whether a token takes a replica of its own node.
    weight
        Load of a replica, ``[experts, nodes]``.
    factor
        Chance that a token does not go to a node, ``[experts, nodes]``; if near, by its own node as well,
        ``[experts, nodes * nodes]``, the node gone to last.
    """
    nodes = m.shape[1]
    without = 0
    for n in range(nodes):
        without += m[e, n] == 0
    for n in range(nodes):
        if not near:
            weight[e, n] = loads[e] / c[e]
            factor[e, n] = 1.0 - m[e, n] / c[e]
        else:
            own = 1.0 / m[e, n] if m[e, n] > 0 else 0.0
            weight[e, n] = loads[e] * (own + without / c[e]) / nodes
            for home in range(nodes):
                stays = m[e, home] > 0 or n == home
                factor[e, home * nodes + n] = 1.0 if stays else 1.0 - m[e, n] / c[e]


weigh = compiled(_weigh)


def _kernel(
    loads: FloatArray,
    ids: IntArray,
    times: FloatArray,
    begin: IntArray,
    having: IntArray,
    table: IntArray,
    nodes: int,
    most: float,
    near: bool,
    moves: int,
    state: np.uint64,
) -> float:
    """Anneal one layer; `table` becomes the best plan under the cap that was seen, if there was one.

    Parameters
    ----------
    loads
        ``[experts]``.
    ids, times
        Experts of each kind of token ``[kinds, top_k]``, and tokens of that kind.
    begin, having
        Kinds that have expert ``e``: ``having[begin[e]:begin[e + 1]]``.
    table
        Expert in each slot of a rank, ``[ranks, room]``.
    nodes
        Nodes the ranks lie on, in order.
    most
        Load a rank may carry.
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
    ranks, room = table.shape
    of_node = ranks // nodes
    spare = ranks * room > experts
    c = np.zeros(experts, dtype=np.int64)
    m = np.zeros((experts, nodes), dtype=np.int64)
    held = np.zeros((experts, ranks), dtype=np.bool_)
    for r in range(ranks):
        for e in table[r]:
            c[e] += 1
            m[e, r // of_node] += 1
            held[e, r] = True
    cells = nodes * nodes if near else nodes
    scale = 1.0 / nodes if near else (nodes - 1) / nodes
    weight, factor = np.zeros((experts, nodes)), np.zeros((experts, cells))
    load, new = np.zeros(ranks), np.zeros(ranks)
    for e in range(experts):
        weigh(e, loads, m, c, near, weight, factor)
        for r in range(ranks):
            load[r] += held[e, r] * weight[e, r // of_node]
    kinds = len(ids)
    mine = np.zeros((experts, kinds), dtype=np.bool_)
    zeros = np.zeros((kinds, cells), dtype=np.int64)
    product = np.ones((kinds, cells))
    total = 0.0
    for t in range(kinds):
        for e in ids[t]:
            mine[e, t] = True
            for n in range(cells):
                if factor[e, n] == 0.0:
                    zeros[t, n] += 1
                else:
                    product[t, n] *= factor[e, n]
        for n in range(cells):
            total += scale * times[t] * (1.0 if zeros[t, n] else 1.0 - product[t, n])
    tokens_of = np.zeros(experts)
    for e in range(experts):
        for k in range(begin[e], begin[e + 1]):
            tokens_of[e] += times[having[k]]
    was_a, was_b = np.zeros(cells), np.zeros(cells)
    touched = np.zeros(cells, dtype=np.int64)
    more_a, more_b = np.zeros(cells, dtype=np.int64), np.zeros(cells, dtype=np.int64)
    times_a, times_b = np.ones(cells), np.ones(cells)
    tokens = times.sum()
    mean = load.sum() / ranks
    over = 0.0
    for r in range(ranks):
        over += max(0.0, load[r] - most)
    lowest = total if over <= NOTHING * mean else math.inf
    best = table.copy()
    temperature, cooling, price, dearer, looked, seen = 0.0, 1.0, 0.0, 1.0, 0, 0.0
    last = int(moves * (1.0 - QUENCH))
    for step in range(moves):
        temperature *= cooling
        price *= dearer
        state = advance(state)
        r, i = pick(state, 0, ranks), pick(state, 1, room)
        s, j = pick(state, 2, ranks), pick(state, 3, room)
        g, h = r // of_node, s // of_node
        a = table[r, i]
        recount = spare and step % RECOUNT == 0
        if recount:
            # Expert b takes the slot of one of the replicas of a.
            b = pick(state, 2, experts)
            if c[a] == 1 or held[b, r]:
                continue
        else:
            b = table[s, j]
            if r == s or held[a, s] or held[b, r]:
                continue
        travels = recount or g != h
        # Make the move, and look what it does to ranks and tokens.
        simple = not (recount or (near and travels))
        more = 0.0
        if simple:
            shift = weight[b, h] - weight[a, g]
            more = (
                max(0.0, load[r] + shift - most)
                + max(0.0, load[s] - shift - most)
                - max(0.0, load[r] - most)
                - max(0.0, load[s] - most)
            )
        else:
            for q in range(ranks):
                new[q] = load[q] - held[a, q] * weight[a, q // of_node] - held[b, q] * weight[b, q // of_node]
        held[a, r], held[b, r] = False, True
        if recount:
            c[a] -= 1
            c[b] += 1
        else:
            held[a, s], held[b, s] = True, False
            m[a, h] += 1
            m[b, h] -= 1
        m[a, g] -= 1
        m[b, g] += 1
        number = 0
        if travels:
            was_a[:], was_b[:] = factor[a], factor[b]
            for e in (a, b):
                weigh(e, loads, m, c, near, weight, factor)
            for n in range(cells):
                if was_a[n] != factor[a, n] or was_b[n] != factor[b, n]:
                    touched[number] = n
                    number += 1
                    more_a[n] = np.int64(factor[a, n] == 0.0) - np.int64(was_a[n] == 0.0)
                    more_b[n] = np.int64(factor[b, n] == 0.0) - np.int64(was_b[n] == 0.0)
                    times_a[n] = (factor[a, n] or 1.0) / (was_a[n] or 1.0)
                    times_b[n] = (factor[b, n] or 1.0) / (was_b[n] or 1.0)
        if not simple:
            for q in range(ranks):
                new[q] += held[a, q] * weight[a, q // of_node] + held[b, q] * weight[b, q // of_node]
                more += max(0.0, new[q] - most) - max(0.0, load[q] - most)
        state = advance(state)
        budget = -temperature * math.log(1.0 - unit(state))
        # A token spares at most the visits that the move touches: often too little to pay for the excess.
        gain = scale * number * (tokens_of[a] + tokens_of[b])
        hopeless = looked == LOOKS and (more > 0.0 if step >= last else price * more - gain > budget)
        rise = 0.0
        if not hopeless:
            for k in range(begin[a], begin[a + 1]):
                t = having[k]
                both = mine[b, t]
                for u in range(number):
                    n = touched[u]
                    old = 0.0 if zeros[t, n] else product[t, n]
                    if both:
                        gone = zeros[t, n] + more_a[n] + more_b[n] > 0
                        rise += times[t] * (old - (0.0 if gone else product[t, n] * times_a[n] * times_b[n]))
                    else:
                        gone = zeros[t, n] + more_a[n] > 0
                        rise += times[t] * (old - (0.0 if gone else product[t, n] * times_a[n]))
            for k in range(begin[b], begin[b + 1]):
                t = having[k]
                if not mine[a, t]:
                    for u in range(number):
                        n = touched[u]
                        old = 0.0 if zeros[t, n] else product[t, n]
                        gone = zeros[t, n] + more_b[n] > 0
                        rise += times[t] * (old - (0.0 if gone else product[t, n] * times_b[n]))
        rise *= scale
        if travels and looked < LOOKS:
            looked += 1
            seen += abs(rise)
            if looked == LOOKS:
                usual = seen / LOOKS
                price = CHEAP * usual * room / mean
                temperature = WARM * usual
                cooling = (COLD / WARM) ** (1.0 / max(1, last - step))
                dearer = (DEAR / CHEAP) ** (1.0 / max(1, last - step))
        taken = looked == LOOKS and not hopeless
        if step >= last:
            taken &= more < -NOTHING * mean or rise < 0.0
        else:
            taken &= rise + price * more <= budget
        if not taken:
            held[a, r], held[b, r] = True, False
            if recount:
                c[a] += 1
                c[b] -= 1
            else:
                held[a, s], held[b, s] = False, True
                m[a, h] -= 1
                m[b, h] += 1
            m[a, g] += 1
            m[b, g] -= 1
            if travels:
                for e in (a, b):
                    weigh(e, loads, m, c, near, weight, factor)
            continue
        if simple:
            load[r] += shift
            load[s] -= shift
        else:
            load[:] = new
        table[r, i] = b
        if not recount:
            table[s, j] = a
        for k in range(begin[a], begin[a + 1]):
            t = having[k]
            for u in range(number):
                n = touched[u]
                zeros[t, n] += more_a[n]
                product[t, n] *= times_a[n]
        for k in range(begin[b], begin[b + 1]):
            t = having[k]
            for u in range(number):
                n = touched[u]
                zeros[t, n] += more_b[n]
                product[t, n] *= times_b[n]
        total += rise
        # A gain within rounding is none: sums are kept by increments.
        if total < lowest - NOTHING * tokens:
            over = 0.0
            for q in range(ranks):
                over += max(0.0, load[q] - most)
            if over <= NOTHING * mean:
                lowest = total
                best[:] = table
    table[:] = best
    return float(lowest / tokens)


anneal_reach = compiled(_kernel)
