"""Local search for placements whose replicas are split anew for each batch, as `moesim.layout.split` does.

The objective of a layer is the mean over steps of largest over mean rank load, each step with its own best
split; by simulated annealing over swaps of two experts and changes of replica counts. A step costs a flow
problem, so far fewer moves are tried than where shares are known.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.compiled import compiled
from moesim.layout.split import split_layer
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick
from moesim.placement.solvers.shares import places
from moesim.placement.solvers.side_by_side import each

#: Flow problems per slot and layer at effort 1, shared by all steps.
SPLITS_PER_SLOT = 50
#: Steps of a layer within this of what no placement can beat are balanced.
ENOUGH = 2e-4
#: Temperatures at the start and at the end, as parts of the excess to be removed.
WARM, COLD = 0.03, 1e-4


def search_split(
    steps: FloatArray,
    ranks: int,
    start: IntArray,
    *,
    seed: int = 0,
    effort: float = 1.0,
    threads: int = 0,
) -> IntArray:
    """Improve a placement, layer by layer.

    Parameters
    ----------
    steps
        float64 ``[steps, layers, experts]``.
    ranks
        Expert-parallel ranks.
    start
        physical_to_logical to start from, int64 ``[layers, slots]``, no expert twice on a rank; slots of -1
        stay empty.
    seed, effort, threads
        As `moesim.placement.solvers.anneal.search` takes them.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``; in no layer is the objective larger than before.
    """
    layers, slots = start.shape
    mean = steps.sum(axis=2, keepdims=True) / ranks
    # Loads over the mean of their step and layer; those of empty steps count for nothing.
    relative = np.divide(steps, mean, out=np.zeros_like(steps), where=mean > 0)
    seeds = np.random.SeedSequence(seed).generate_state(layers, np.uint64) | np.uint64(1)
    tables = start.reshape(layers, ranks, slots // ranks)

    def improve(layer: int) -> IntArray:
        loads = np.ascontiguousarray(relative[:, layer][mean[:, layer, 0] > 0])
        if not len(loads):
            return np.asarray(tables[layer])
        moves = max(1, round(SPLITS_PER_SLOT * slots * effort / len(loads)))
        members, copies = places(tables[layer], steps.shape[2])
        best = tables[layer].copy()
        _anneal(loads, tables[layer].copy(), best, members, copies, moves, seeds[layer])
        return np.asarray(best)

    return np.array(each(improve, range(layers), threads)).reshape(start.shape)


def _value(loads: FloatArray, members: IntArray, copies: IntArray, ranks: int, shares: FloatArray) -> float:
    """Mean over steps of the largest rank load under the best split."""
    total = 0.0
    for t in range(len(loads)):
        total += split_layer(loads[t], members, copies, ranks, 1, shares)
    return total / len(loads)


_objective = compiled(_value)


def _kernel(
    loads: FloatArray,
    table: IntArray,
    best: IntArray,
    members: IntArray,
    copies: IntArray,
    moves: int,
    state: np.uint64,
) -> float:
    """Anneal one layer, and return the lowest objective seen; `best` is the placement that has it.

    Parameters
    ----------
    loads
        Over their mean per rank, ``[steps, experts]``.
    table, members, copies
        The placement to start from, used up: experts ``[ranks, slots_per_rank]``, ranks of each expert in
        order ``[experts, ranks]``, and how many ``[experts]``.
    best
        The best placement so far.
    moves
        Moves to try.
    state
        Of the xorshift64* generator, not 0.
    """
    ranks, room = table.shape
    experts = len(copies)
    spare = copies.sum() > experts
    held = np.zeros((experts, ranks), dtype=np.bool_)
    for e in range(experts):
        for p in range(copies[e]):
            held[e, members[e, p]] = True
    # Only the load of the busiest rank is wanted, so a rank may be one slot that all its experts write to.
    shares = np.zeros(ranks)
    value = _objective(loads, members, copies, ranks, shares)
    lowest = value
    excess = value - 1.0
    for step in range(moves):
        if lowest <= 1.0 + ENOUGH:
            break
        state = advance(state)
        draw = state * np.uint64(2685821657736338717)
        g = pick(state, 0, ranks)
        i = pick(state, 1, room)
        h = pick(state, 2, ranks)
        j = pick(state, 3, room)
        a = table[g, i]
        b = table[h, j]
        # Every other move changes replica counts: the split makes up for most of where experts lie.
        recount = spare and step % 2 == 0
        if recount:
            b = np.int64(((draw >> np.uint64(32)) * np.uint64(experts)) >> np.uint64(32))
        if a < 0 or b < 0 or a == b or held[b, g]:
            continue
        if recount:
            if copies[a] == 1:
                continue
        elif g == h or held[a, h]:
            continue
        table[g, i] = b
        held[a, g], held[b, g] = False, True
        if not recount:
            table[h, j] = a
            held[b, h], held[a, h] = False, True
        for e in (a, b):
            copies[e] = 0
            for k in range(ranks):
                if held[e, k]:
                    members[e, copies[e]] = k
                    copies[e] += 1
        new = _objective(loads, members, copies, ranks, shares)
        warm = excess * WARM * (COLD / WARM) ** (step / moves)
        state = advance(state)
        if new <= value or math.exp(-(new - value) / warm) >= (state >> np.uint64(11)) * 2.0**-53:
            value = new
            if value < lowest * (1.0 - 1e-12):
                lowest = value
                for k in range(ranks):
                    for p in range(room):
                        best[k, p] = table[k, p]
            continue
        table[g, i] = a
        held[a, g], held[b, g] = True, False
        if not recount:
            table[h, j] = b
            held[b, h], held[a, h] = True, False
        for e in (a, b):
            copies[e] = 0
            for k in range(ranks):
                if held[e, k]:
                    members[e, copies[e]] = k
                    copies[e] += 1
    return lowest


_anneal = compiled(_kernel)
