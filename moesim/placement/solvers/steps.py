"""Local search for plans that have to hold for each of several loads: batches of a workload, or workloads.

What is minimised is the mean over steps of the cost of the most costly rank, a *sample average*: plans for
the sum of all steps may be perfect on the sum and bad on every single step. A rank's cost is the sum over its
slots of a table ``cost[step, expert, copies]``: what one replica of an expert costs in a step when the expert
has so many. For load it is ``load / copies``; for time, see `moesim.placement.costs`.

Moves are swaps of two experts between ranks, which also move replicas, and changes of replica counts;
simulated annealing decides. Cost of each rank in each step is kept up to date by increments, and the three
largest of each step, so that a swap is judged without looking at the other ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick
from moesim.placement.solvers.side_by_side import each

#: Moves tried per slot and layer at effort 1, and the least there are.
MOVES_PER_SLOT, LEAST_MOVES = 1200, 20_000
#: One move in this many changes replica counts, where that is allowed.
RECOUNT = 8
#: Start temperature of each round, as a share of the mean cost of a slot, and the most slots it is for. A
#: round starts afresh, the best is kept. Hot ones undo what greedy got right, but few slots have deep optima.
HEATS = ((0.02, math.inf), (0.3, 16), (2.0, 16))
#: Last temperature of each round, as a share of the mean cost of a slot.
COLD = 2e-5
#: Replicas that an expert may gain over those it starts with.
MORE_COPIES = 2


def search_steps(
    steps: FloatArray,
    ranks: int,
    start: IntArray,
    *,
    seed: int = 0,
    effort: float = 1.0,
    recount: bool = False,
    threads: int = 0,
) -> IntArray:
    """Minimise the mean over steps of the largest over mean rank load.

    Parameters
    ----------
    steps
        float64 ``[steps, layers, experts]``; each step counts alike, whatever its tokens.
    ranks
        Expert-parallel ranks.
    start
        physical_to_logical to start from, int64 ``[layers, slots]``, no expert twice on a rank.
    seed
        Of the random moves. Layers draw from streams of their own, so threads change nothing.
    effort
        Moves tried, relative to the default.
    recount
        Whether replica counts may change. Counts fitted to few steps do not suit others.
    threads
        Layers searched at a time, the kernel running without Python's lock; 0 for one per core.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``; no layer is worse than before on these steps.
    """

    def table(layer: int, most: int) -> FloatArray:
        share = _shares(steps[:, layer]) * ranks
        return np.asarray(share[None] / np.arange(1, most + 1)[:, None, None])

    return _search(table, steps.shape[2], ranks, start, seed, effort, recount, threads)


def search_robust(
    loads: FloatArray,
    ranks: int,
    start: IntArray,
    *,
    seed: int = 0,
    effort: float = 1.0,
    threads: int = 0,
) -> IntArray:
    """Minimise the mean over kinds of traffic of the largest over mean rank load, replica counts kept.

    Parameters
    ----------
    loads
        float64 ``[loads, layers, experts]``; each counts alike.
    ranks, start, seed, effort, threads
        Those of `search_steps`. `start` brings the replica counts, which are kept: those of greedy's plan for
        the mean of the loads, each scaled to the same total, suit other loads as well as any that were tried.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``.
    """
    return search_steps(loads, ranks, start, seed=seed, effort=effort, threads=threads)


def search_costs(
    cost: FloatArray,
    ranks: int,
    start: IntArray,
    *,
    seed: int = 0,
    effort: float = 1.0,
    recount: bool = False,
    threads: int = 0,
) -> IntArray:
    """Minimise the mean over steps of the most costly rank.

    Parameters
    ----------
    cost
        Of one replica of an expert with 1, 2, ... copies, float64 ``[layers, steps, experts, copies]``; at
        least as many copies as `start` has. More than the table knows are not tried.
    ranks, start, seed, effort, recount, threads
        Those of `search_steps`.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``.
    """

    def table(layer: int, most: int) -> FloatArray:
        return np.ascontiguousarray(cost[layer].transpose(2, 1, 0)[:most])

    return _search(table, cost.shape[2], ranks, start, seed, effort, recount, threads)


def _shares(steps: FloatArray) -> FloatArray:
    """Part of its step's load that each expert has, ``[experts, steps]``; idle steps stay zero."""
    total = steps.sum(axis=1, keepdims=True)
    share = np.divide(steps, total, out=np.zeros_like(steps), where=total > 0)
    return np.ascontiguousarray(share.T)


def _search(
    table_of: Callable[[int, int], FloatArray],
    experts: int,
    ranks: int,
    start: IntArray,
    seed: int,
    effort: float,
    recount: bool,
    threads: int,
) -> IntArray:
    layers, slots = start.shape
    first = start.reshape(layers, ranks, slots // ranks)
    best = first.copy()
    moves = max(1, round(max(LEAST_MOVES, MOVES_PER_SLOT * slots) * effort))
    heats = [heat for heat, most in HEATS if slots <= most]
    # The generator's state must not be 0.
    seeds = np.random.SeedSequence(seed).generate_state(layers * len(heats), np.uint64) | np.uint64(1)
    states = seeds.reshape(layers, len(heats))

    def improve(layer: int) -> None:
        copies = np.bincount(start[layer], minlength=experts)
        most = min(ranks, int(copies.max()) + MORE_COPIES * recount)
        cost = table_of(layer, most)
        mean_slot = float(cost[0].sum(axis=0).mean()) / slots
        if ranks == 1 or mean_slot <= 0.0:
            return
        held = np.zeros((experts, ranks), dtype=np.bool_)
        held[first[layer], np.arange(ranks)[:, None]] = True
        load = rank_costs(cost, first[layer], copies)
        lowest = float(load.max(axis=0).sum())
        for heat, state in zip(heats, states[layer], strict=True):
            lowest = _anneal(
                cost,
                first[layer].copy(),
                best[layer],
                copies.copy(),
                held.copy(),
                load.copy(),
                lowest,
                heat * mean_slot,
                COLD * mean_slot,
                moves,
                recount,
                state,
            )

    each(improve, range(layers), threads)
    return best.reshape(layers, slots)


def rank_costs(cost: FloatArray, table: IntArray, copies: IntArray) -> FloatArray:
    """Cost of each rank in each step, ``[ranks, steps]``, from ``cost [copies, experts, steps]``."""
    return np.asarray(cost[copies[table] - 1, table].sum(axis=1))


def _kernel(
    cost: FloatArray,
    table: IntArray,
    best: IntArray,
    copies: IntArray,
    held: npt.NDArray[np.bool_],
    load: FloatArray,
    lowest: float,
    hot: float,
    cold: float,
    moves: int,
    recount: bool,
    state: np.uint64,
) -> float:
    """Anneal one layer, and return the lowest sum over steps of the maximum, that of `best`.

    Parameters
    ----------
    cost
        ``[copies, experts, steps]``.
    table, copies, held, load
        The placement to start from, used up: experts ``[ranks, slots_per_rank]``, replicas ``[experts]``,
        whether a rank holds an expert ``[experts, ranks]``, cost ``[ranks, steps]``.
    best, lowest
        The best placement so far ``[ranks, slots_per_rank]`` and its sum; `best` is updated.
    hot, cold
        First and last temperature.
    moves
        Moves to try.
    recount
        Whether replica counts may change.
    state
        Of the xorshift64* generator, not 0.
    """
    ranks, room = table.shape
    most, experts, steps = cost.shape
    # The three most costly ranks of each step: a swap touches two.
    peaks = np.empty((3, steps))
    where = np.empty((3, steps), dtype=np.int64)
    fresh = np.empty((ranks, steps))
    total = 0.0
    for s in range(steps):
        for n in range(3):
            peaks[n, s], where[n, s] = -1.0, -1
        for k in range(ranks):
            x = load[k, s]
            if x > peaks[0, s]:
                peaks[2, s], where[2, s] = peaks[1, s], where[1, s]
                peaks[1, s], where[1, s] = peaks[0, s], where[0, s]
                peaks[0, s], where[0, s] = x, k
            elif x > peaks[1, s]:
                peaks[2, s], where[2, s] = peaks[1, s], where[1, s]
                peaks[1, s], where[1, s] = x, k
            elif x > peaks[2, s]:
                peaks[2, s], where[2, s] = x, k
        total += peaks[0, s]
    cooling = (cold / hot) ** (256.0 / moves)
    temperature = hot * steps
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
        changes = recount and step % RECOUNT == 0
        new = 0.0
        if changes:
            # Expert b takes the slot of one of the replicas of a.
            b = np.int64(((draw >> np.uint64(32)) * np.uint64(experts)) >> np.uint64(32))
            if copies[a] == 1 or copies[b] == most or held[b, g]:
                continue
            for k in range(ranks):
                for s in range(steps):
                    x = load[k, s]
                    if held[a, k]:
                        x += cost[copies[a] - 2, a, s] - cost[copies[a] - 1, a, s]
                    if held[b, k]:
                        x += cost[copies[b], b, s] - cost[copies[b] - 1, b, s]
                    if k == g:
                        x += cost[copies[b], b, s] - cost[copies[a] - 2, a, s]
                    fresh[k, s] = x
            for s in range(steps):
                top = 0.0
                for k in range(ranks):
                    top = max(top, fresh[k, s])
                new += top
        else:
            b = table[h, j]
            if g == h or held[a, h] or held[b, g]:
                continue
            out, into = cost[copies[a] - 1, a], cost[copies[b] - 1, b]
            for s in range(steps):
                more = into[s] - out[s]
                top = max(load[g, s] + more, load[h, s] - more)
                if where[0, s] != g and where[0, s] != h:
                    rest = peaks[0, s]
                elif where[1, s] != g and where[1, s] != h:
                    rest = peaks[1, s]
                else:
                    rest = peaks[2, s]
                new += max(top, rest)
        if new > total:
            state = advance(state)
            if math.exp((total - new) / temperature) < (state >> np.uint64(11)) * 2.0**-53:
                continue
        table[g, i] = b
        held[a, g] = False
        held[b, g] = True
        if changes:
            copies[a] -= 1
            copies[b] += 1
            load[:] = fresh
        else:
            table[h, j] = a
            held[b, h] = False
            held[a, h] = True
        total = 0.0
        for s in range(steps):
            stale = changes
            if not changes:
                more = cost[copies[b] - 1, b, s] - cost[copies[a] - 1, a, s]
                load[g, s] += more
                load[h, s] -= more
                stale = max(load[g, s], load[h, s]) > peaks[2, s]
                for n in range(3):
                    stale = stale or where[n, s] == g or where[n, s] == h
            if stale:
                for n in range(3):
                    peaks[n, s], where[n, s] = -1.0, -1
                for k in range(ranks):
                    x = load[k, s]
                    if x > peaks[0, s]:
                        peaks[2, s], where[2, s] = peaks[1, s], where[1, s]
                        peaks[1, s], where[1, s] = peaks[0, s], where[0, s]
                        peaks[0, s], where[0, s] = x, k
                    elif x > peaks[1, s]:
                        peaks[2, s], where[2, s] = peaks[1, s], where[1, s]
                        peaks[1, s], where[1, s] = x, k
                    elif x > peaks[2, s]:
                        peaks[2, s], where[2, s] = x, k
            total += peaks[0, s]
        # A gain within rounding is none: sums are kept by increments.
        if total < lowest * (1.0 - 1e-12):
            lowest = total
            best[:] = table
    return lowest


_anneal = compiled(_kernel)
