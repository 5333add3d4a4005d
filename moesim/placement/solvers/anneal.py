"""Local search on a placement: swaps between ranks, and changes of replica counts, by simulated annealing.

The objective of a layer is ``sum over ranks of max(0, load - bound)^2``: zero means the placement is proven
optimal, and a rank below the bound is free to take more, which the maximum alone would not tell. What is kept
is the placement with the lowest maximum seen, so the search is never worse than what it starts from.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.placement.bound import lower_bound, uneven_bound
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick
from moesim.placement.solvers.side_by_side import each

#: A round stops when the most loaded rank is this close to the bound; and no other starts when it is that.
STOP, ENOUGH = 1e-4, 2e-4
#: Moves tried per slot, layer and round at effort 1, and the least there are.
MOVES_PER_SLOT, LEAST_MOVES = 800, 20_000
#: One move in this many changes replica counts, but in the first round; the others swap two experts.
RECOUNT = 8
#: Start temperature of each round, as a share of the mean slot load; a round starts afresh, the best is kept.
#: Problems of few slots have deep local optima, and moves to spare for hotter rounds.
COOL, HOT, FEW_SLOTS = (0.05, 0.1, 0.05, 0.1), (0.3, 1.0, 3.0, 10.0, 1.0, 3.0, 10.0), 64


def search(
    loads: FloatArray,
    ranks: int,
    start: IntArray,
    *,
    speeds: FloatArray | None = None,
    seed: int = 0,
    effort: float = 1.0,
    threads: int = 0,
) -> IntArray:
    """Improve a placement, layer by layer.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks
        Expert-parallel ranks.
    start
        physical_to_logical to start from, int64 ``[layers, slots]``, no expert twice on a rank; slots of -1
        stay empty.
    speeds
        Of the ranks, float64 ``[ranks]``: a rank's load counts divided by its speed. Equal ones if None.
    seed
        Of the random moves. Layers draw from streams of their own, so threads change nothing.
    effort
        Moves tried, relative to the default.
    threads
        Layers searched at a time, the kernel running without Python's lock; 0 for one per core.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``; no layer's most loaded rank carries more than before.
    """
    layers, slots = start.shape
    experts = loads.shape[1]
    # Squares of loads of any unit must not overflow.
    top = loads.max(axis=1, keepdims=True)
    loads = np.divide(loads, top, out=np.zeros_like(loads), where=top > 0)
    filled = int((start[0] >= 0).sum())
    even = speeds is None and filled == slots
    target = lower_bound(loads, ranks, slots) if even else uneven_bound(loads, ranks, filled, speeds)
    slower = np.ones(ranks) if speeds is None else 1.0 / speeds
    heats = COOL + HOT if slots <= FEW_SLOTS else COOL
    # The generator's state must not be 0.
    seeds = np.random.SeedSequence(seed).generate_state(layers * len(heats), np.uint64) | np.uint64(1)
    states = seeds.reshape(layers, len(heats))
    moves = max(1, round(max(LEAST_MOVES, MOVES_PER_SLOT * slots) * effort))
    first = start.reshape(layers, ranks, slots // ranks)
    best = first.copy()

    def improve(layer: int) -> None:
        used = first[layer] >= 0
        copies = np.bincount(first[layer][used], minlength=experts)
        held = np.zeros((experts, ranks), dtype=np.bool_)
        held[first[layer][used], np.nonzero(used)[0]] = True
        load = np.where(used, (loads[layer] / copies)[first[layer]], 0.0).sum(axis=1) * slower
        lowest = load.max()
        for turn, (heat, state) in enumerate(zip(heats, states[layer], strict=True)):
            if lowest <= target[layer] * (1 + ENOUGH):
                break
            lowest = _anneal(
                loads[layer],
                first[layer].copy(),
                best[layer],
                copies.copy(),
                held.copy(),
                load.copy(),
                slower,
                lowest,
                target[layer],
                heat * target[layer] * ranks / filled,
                moves,
                turn > 0,
                state,
            )

    each(improve, range(layers), threads)
    return best.reshape(layers, slots)


def _kernel(
    loads: FloatArray,
    table: IntArray,
    best: IntArray,
    copies: IntArray,
    held: npt.NDArray[np.bool_],
    load: FloatArray,
    slower: FloatArray,
    lowest: float,
    target: float,
    warm: float,
    moves: int,
    recounts: bool,
    state: np.uint64,
) -> float:
    """Anneal one layer, and return the lowest maximum seen so far; `best` is the placement that has it.

    Parameters
    ----------
    loads
        ``[experts]``.
    table, copies, held, load
        The placement to start from, used up: experts ``[ranks, slots_per_rank]``, replicas ``[experts]``,
        whether a rank holds an expert ``[experts, ranks]``, load over speed ``[ranks]``.
    slower
        One over the speed of each rank ``[ranks]``.
    best, lowest
        The best placement so far ``[ranks, slots_per_rank]`` and its largest load; `best` is updated.
    target
        Load above which a rank counts as too hot.
    warm
        Excess over `target` whose square is the first temperature.
    moves
        Moves to try.
    recounts
        Whether replica counts may change.
    state
        Of the xorshift64* generator, not 0.
    """
    ranks, room = table.shape
    experts = len(loads)
    spare = recounts and copies.sum() > experts
    share = np.empty(experts)
    for e in range(experts):
        share[e] = loads[e] / copies[e]
    hottest = 0.0
    for k in range(ranks):
        hottest = max(hottest, load[k])
    # The temperature falls geometrically, down to a squared excess that no one would notice.
    cooling = (2e-5 * target / warm) ** (2.0 * 256 / moves)
    temperature = warm * warm
    for step in range(moves):
        if step % 256 == 0:
            temperature *= cooling
        state = advance(state)
        draw = state * np.uint64(2685821657736338717)
        g = pick(state, 0, ranks)
        i = pick(state, 1, room)
        h = pick(state, 2, ranks)
        j = pick(state, 3, room)
        a = table[g, i]
        if a < 0:
            continue
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
                if not (held[a, k] or held[b, k]):
                    continue
                change = more * held[a, k] + less * held[b, k]
                if k == g:
                    change += less + share[b] - share[a] - more
                new = load[k] + change * slower[k]
                rise += max(0.0, new - target) ** 2 - max(0.0, load[k] - target) ** 2
        else:
            b = table[h, j]
            if g == h or b < 0 or held[a, h] or held[b, g]:
                continue
            more = share[b] - share[a]
            rise = (
                max(0.0, load[g] + more * slower[g] - target) ** 2
                + max(0.0, load[h] - more * slower[h] - target) ** 2
                - max(0.0, load[g] - target) ** 2
                - max(0.0, load[h] - target) ** 2
            )
        if rise > 0.0:
            state = advance(state)
            if math.exp(-rise / temperature) < (state >> np.uint64(11)) * 2.0**-53:
                continue
        table[g, i] = b
        sunk = True
        if recount:
            for k in range(ranks):
                if held[a, k] or held[b, k]:
                    load[k] += (more * held[a, k] + less * held[b, k]) * slower[k]
            load[g] += (less + share[b] - share[a] - more) * slower[g]
            copies[a] -= 1
            copies[b] += 1
            share[a] += more
            share[b] += less
        else:
            table[h, j] = a
            held[b, h] = False
            held[a, h] = True
            sunk = max(load[g], load[h]) >= hottest
            load[g] += more * slower[g]
            load[h] -= more * slower[h]
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


_anneal = compiled(_kernel)
