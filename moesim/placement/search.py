"""Local search on a placement: swaps between ranks, and changes of replica counts, by simulated annealing.

The objective of a layer is ``sum over ranks of max(0, load - bound)^2``: zero means the placement is proven
optimal, and a rank below the bound is free to take more, which the maximum alone would not tell. What is kept
is the placement with the lowest maximum seen, so the search is never worse than what it starts from.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import numpy.typing as npt

from moesim.placement.bound import lower_bound
from moesim.placement.greedy import FloatArray, IntArray

#: Stop when the most loaded rank is this close to the bound.
STOP = 1e-4
#: Fresh starts of the annealing, for layers that have not stopped; the best is kept.
ROUNDS = 4
#: Moves tried per slot, layer and round at effort 1.
MOVES_PER_SLOT = 1000
#: One move in this many changes replica counts; the others swap two experts.
RECOUNT = 16


def search(
    loads: FloatArray, ranks: int, start: IntArray, *, seed: int = 0, effort: float = 1.0, threads: int = 2
) -> IntArray:
    """Improve a placement, layer by layer.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks
        Expert-parallel ranks.
    start
        physical_to_logical to start from, int64 ``[layers, slots]``, no expert twice on a rank.
    seed
        Of the random moves. Layers draw from streams of their own, so threads change nothing.
    effort
        Moves tried, relative to the default.
    threads
        Layers searched at a time; the kernel runs without Python's lock.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``; no layer's most loaded rank carries more than before.
    """
    layers, slots = start.shape
    experts = loads.shape[1]
    target = lower_bound(loads, ranks, slots)
    seeds = np.random.SeedSequence(seed).generate_state(layers * ROUNDS, np.uint64) | np.uint64(1)
    moves = max(1, round(MOVES_PER_SLOT * slots * effort))
    first = start.reshape(layers, ranks, slots // ranks)
    best = first.copy()

    def improve(layer: int) -> None:
        copies = np.bincount(start[layer], minlength=experts)
        held = np.zeros((experts, ranks), dtype=np.bool_)
        held[first[layer], np.arange(ranks)[:, None]] = True
        load = (loads[layer] / copies)[first[layer]].sum(axis=1)
        lowest = load.max()
        for state in seeds[layer * ROUNDS : (layer + 1) * ROUNDS]:
            if lowest <= target[layer] * (1 + STOP):
                break
            lowest = _anneal(
                loads[layer],
                first[layer].copy(),
                best[layer],
                copies.copy(),
                held.copy(),
                load.copy(),
                lowest,
                target[layer],
                moves,
                state,
            )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(improve, range(layers)))
    return best.reshape(layers, slots)


@numba.njit(cache=True, nogil=True)
def _anneal(
    loads: FloatArray,
    table: IntArray,
    best: IntArray,
    copies: IntArray,
    held: npt.NDArray[np.bool_],
    load: FloatArray,
    lowest: float,
    target: float,
    moves: int,
    state: np.uint64,
) -> float:
    """Anneal one layer, and return the lowest maximum seen so far; `best` is the placement that has it.

    Parameters
    ----------
    loads
        ``[experts]``.
    table, copies, held, load
        The placement to start from, used up: experts ``[ranks, slots_per_rank]``, replicas ``[experts]``,
        whether a rank holds an expert ``[experts, ranks]``, load ``[ranks]``.
    best, lowest
        The best placement so far ``[ranks, slots_per_rank]`` and its largest load; `best` is updated.
    target
        Load above which a rank counts as too hot.
    moves
        Moves to try.
    state
        Of the xorshift64* generator, not 0.
    """
    ranks, room = table.shape
    experts = len(loads)
    spare = ranks * room > experts
    share = np.empty(experts)
    for e in range(experts):
        share[e] = loads[e] / copies[e]
    hottest = 0.0
    for k in range(ranks):
        hottest = max(hottest, load[k])
    # The temperature falls geometrically from a squared excess that greedy shows to one that is noise.
    cold = target * 2e-5
    warm = max((hottest - target) * 0.3, 2 * cold)
    temperature = warm * warm
    cooling = (cold / warm) ** (2.0 * 256 / moves)
    for step in range(moves):
        if step % 256 == 0:
            temperature *= cooling
        state ^= state >> np.uint64(12)
        state ^= state << np.uint64(25)
        state ^= state >> np.uint64(27)
        draw = state * np.uint64(2685821657736338717)
        g = np.int64(((draw & np.uint64(0xFFFF)) * np.uint64(ranks)) >> np.uint64(16))
        i = np.int64((((draw >> np.uint64(16)) & np.uint64(0xFFFF)) * np.uint64(room)) >> np.uint64(16))
        h = np.int64((((draw >> np.uint64(32)) & np.uint64(0xFFFF)) * np.uint64(ranks)) >> np.uint64(16))
        j = np.int64((((draw >> np.uint64(48)) & np.uint64(0xFFFF)) * np.uint64(room)) >> np.uint64(16))
        a = table[g, i]
        recount = spare and step % RECOUNT == 0
        rise = 0.0
        more = 0.0
        less = 0.0
        if recount:
            # Expert b takes the slot of one of the replicas of a.
            b = np.int64(((draw >> np.uint64(32)) * np.uint64(experts)) >> np.uint64(32))
            if copies[a] == 1 or held[b, g]:
                continue
            more = loads[a] / (copies[a] - 1) - share[a]
            less = loads[b] / (copies[b] + 1) - share[b]
            for k in range(ranks):
                new = load[k] + more * held[a, k] + less * held[b, k]
                if k == g:
                    new += less + share[b] - share[a] - more
                rise += max(0.0, new - target) ** 2 - max(0.0, load[k] - target) ** 2
        else:
            b = table[h, j]
            if g == h or held[a, h] or held[b, g]:
                continue
            more = share[b] - share[a]
            rise = (
                max(0.0, load[g] + more - target) ** 2
                + max(0.0, load[h] - more - target) ** 2
                - max(0.0, load[g] - target) ** 2
                - max(0.0, load[h] - target) ** 2
            )
        if rise > 0.0:
            state ^= state >> np.uint64(12)
            state ^= state << np.uint64(25)
            state ^= state >> np.uint64(27)
            if math.exp(-rise / temperature) < (state >> np.uint64(11)) * 2.0**-53:
                continue
        table[g, i] = b
        sunk = True
        if recount:
            for k in range(ranks):
                load[k] += more * held[a, k] + less * held[b, k]
            load[g] += less + share[b] - share[a] - more
            copies[a] -= 1
            copies[b] += 1
            share[a] += more
            share[b] += less
        else:
            table[h, j] = a
            held[b, h] = False
            held[a, h] = True
            sunk = max(load[g], load[h]) >= hottest
            load[g] += more
            load[h] -= more
            hottest = max(hottest, load[g], load[h])
        held[a, g] = False
        held[b, g] = True
        if sunk:
            hottest = 0.0
            for k in range(ranks):
                hottest = max(hottest, load[k])
        # A gain within rounding is none: sums of loads are kept by increments.
        if hottest < lowest * (1.0 - 1e-12):
            lowest = hottest
            for k in range(ranks):
                for p in range(room):
                    best[k, p] = table[k, p]
            if lowest <= target * (1.0 + STOP):
                break
    return lowest
