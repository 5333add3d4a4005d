"""Few moves from the plan that is loaded: a path of exchanges, each the best there is for what it moves.

A change is a swap of two experts between ranks, or a slot that a replica gives up to another expert. The path
descends ``sum over steps and ranks of max(0, load - mean)^2``, from the rank that adds most to it; each
change is the one with the steepest descent per expert moved, counted against the plan at the start. The path
is kept with its price at every point, so that any number of moves, or any price of one, is a prefix of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.side_by_side import each

#: Descent, as a share of the objective, below which a change is not worth a move.
LEAST = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Changes in order, layer by layer; point 0 is the start.

    Parameters
    ----------
    start
        physical_to_logical ``[layers, slots]``.
    slots, experts
        Slots that each change writes and the experts they then hold, int64 ``[layers, changes, 2]``; -1 where
        a change writes one slot, or the path has ended.
    moves
        Experts on ranks that did not hold them at the start, int64 ``[layers, changes + 1]``.
    value
        Largest rank load, summed over steps, over the sum of mean loads, float64 ``[layers, changes + 1]``. A
        path that has ended stays at its last point; a layer without load is at 1.
    """

    start: IntArray
    slots: IntArray
    experts: IntArray
    moves: IntArray
    value: FloatArray

    def at(self, points: IntArray) -> IntArray:
        """The plan at a point of each layer, physical_to_logical ``[layers, slots]``."""
        table = self.start.copy()
        for layer, point in enumerate(points.tolist()):
            for slots, experts in zip(
                self.slots[layer, :point].tolist(), self.experts[layer, :point].tolist(), strict=True
            ):
                for slot, expert in zip(slots, experts, strict=True):
                    if slot >= 0:
                        table[layer, slot] = expert
        return table

    def priced(self, price: float | FloatArray) -> IntArray:
        """Points of least ``value + price * moves``, the first of equals; `price` may be ``[layers]``."""
        price = np.broadcast_to(np.asarray(price, dtype=np.float64), len(self.start))
        return np.asarray((self.value + price[:, None] * self.moves).argmin(axis=1))

    def within(self, most: int) -> IntArray:
        """Points of lowest value with at most `most` moves in each layer, the first of equals."""
        return np.asarray(np.where(self.moves <= most, self.value, np.inf).argmin(axis=1))


def exchanges(loads: FloatArray, ranks: int, start: IntArray, *, most: int, threads: int = 0) -> Path:
    """Find a path of changes from a plan.

    Parameters
    ----------
    loads
        float64 ``[steps, layers, experts]``.
    ranks
        Expert-parallel ranks.
    start
        physical_to_logical, int64 ``[layers, slots]``, no expert twice on a rank, every slot filled.
    most
        Moves at which a layer's path ends.
    threads
        Layers at a time; 0 for one per core.

    Returns
    -------
    Path

    Examples
    --------
    >>> path = exchanges(np.array([[[4.0, 3.0, 2.0, 1.0]]]), 2, np.array([[0, 1, 2, 3]]), most=2)
    >>> path.value
    array([[1.4, 1. ]])
    >>> path.at(path.within(2))
    array([[2, 1, 0, 3]])
    """
    layers, slots = start.shape
    whole = loads.sum(axis=(0, 2))
    scaled = np.divide(loads, whole[None, :, None], out=np.zeros_like(loads), where=whole[None, :, None] > 0)
    written = np.full((layers, most, 2), -1, dtype=np.int64)
    held_then = np.full((layers, most, 2), -1, dtype=np.int64)
    moved = np.zeros((layers, most + 1), dtype=np.int64)
    value = np.ones((layers, most + 1))

    def walk(layer: int) -> None:
        if whole[layer] > 0:
            _walk(
                np.ascontiguousarray(scaled[:, layer]),
                start[layer].reshape(ranks, slots // ranks).copy(),
                written[layer],
                held_then[layer],
                moved[layer],
                value[layer],
            )

    each(walk, range(layers), threads)
    used = max(1, int((written[:, :, 0] >= 0).sum(axis=1).max(initial=0)))
    return Path(start, written[:, :used], held_then[:, :used], moved[:, : used + 1], value[:, : used + 1])


def _kernel(
    loads: FloatArray,
    table: IntArray,
    written: IntArray,
    held_then: IntArray,
    moved: IntArray,
    value: FloatArray,
) -> None:
    """Walk one layer; the last four arrays are those of `Path`, filled in.

    Parameters
    ----------
    loads
        ``[steps, experts]``, summing to one.
    table
        Experts ``[ranks, slots_per_rank]``, used up.
    """
    steps, experts = loads.shape
    ranks, room = table.shape
    most = len(written)
    copies = np.zeros(experts, dtype=np.int64)
    held = np.zeros((experts, ranks), dtype=np.bool_)
    for g in range(ranks):
        for i in range(room):
            copies[table[g, i]] += 1
            held[table[g, i], g] = True
    home = held.copy()
    where = np.full((experts, ranks), -1, dtype=np.int64)
    _find(held, where)
    share = np.empty((steps, experts))
    load = np.zeros((steps, ranks))
    mean = np.zeros(steps)
    for t in range(steps):
        for e in range(experts):
            share[t, e] = loads[t, e] / copies[e]
            mean[t] += loads[t, e] / ranks
        for g in range(ranks):
            for i in range(room):
                load[t, g] += share[t, table[g, i]]
    value[:] = _worst(load) * ranks
    tries = np.empty(ranks)
    heavy = np.empty(experts)
    for change in range(most):
        total = 0.0
        for e in range(experts):
            heavy[e] = share[:, e].sum()
        for g in range(ranks):
            tries[g] = 0.0
            for t in range(steps):
                tries[g] += max(0.0, load[t, g] - mean[t]) ** 2
            total += tries[g]
        if total <= 0.0:
            return
        best = LEAST * total
        # g gives up slot i for b; slot j of h takes a, or is left as it is where h is -1.
        found = np.full(5, -1)
        for _ in range(ranks):
            hot = int(tries.argmax())
            if tries[hot] <= 0.0:
                break
            tries[hot] = -1.0
            for i in range(room):
                a = table[hot, i]
                for h in range(ranks):
                    if h == hot:
                        continue
                    for j in range(room):
                        b = table[h, j]
                        if heavy[b] < heavy[a] and not held[a, h] and not held[b, hot]:
                            gain = 0.0
                            for t in range(steps):
                                more = share[t, b] - share[t, a]
                                gain += (
                                    max(0.0, load[t, hot] - mean[t]) ** 2
                                    + max(0.0, load[t, h] - mean[t]) ** 2
                                    - max(0.0, load[t, hot] + more - mean[t]) ** 2
                                    - max(0.0, load[t, h] - more - mean[t]) ** 2
                                )
                            if gain > 0.0:
                                cost = _moves_of(home, a, hot, h) + _moves_of(home, b, h, hot)
                                if gain / max(0.5, cost) > best:
                                    best = gain / max(0.5, cost)
                                    found[:] = np.array([hot, i, b, h, j])
                        # Another copy of a, in the slot of a replica.
                        if copies[b] > 1 and not held[a, h]:
                            gain = _recount(loads, share, load, mean, copies, where, held, h, b, a)
                            if gain > 0.0:
                                cost = (0.0 if home[a, h] else 1.0) - (0.0 if home[b, h] else 1.0)
                                if gain / max(0.5, cost) > best:
                                    best = gain / max(0.5, cost)
                                    found[:] = np.array([h, j, a, -1, -1])
                # Another expert in the slot of a replica of a.
                if copies[a] > 1:
                    for b in range(experts):
                        if held[b, hot]:
                            continue
                        gain = _recount(loads, share, load, mean, copies, where, held, hot, a, b)
                        if gain > 0.0:
                            cost = (0.0 if home[b, hot] else 1.0) - (0.0 if home[a, hot] else 1.0)
                            if gain / max(0.5, cost) > best:
                                best = gain / max(0.5, cost)
                                found[:] = np.array([hot, i, b, -1, -1])
            if found[0] >= 0:
                break
        if found[0] < 0:
            return
        g, i, b, h, j = found
        a = table[g, i]
        count = moved[change] + (0 if home[b, g] else 1) - (0 if home[a, g] else 1)
        if h >= 0:
            count += (0 if home[a, h] else 1) - (0 if home[b, h] else 1)
        if count > most:
            return
        written[change, 0] = g * room + i
        held_then[change, 0] = b
        table[g, i] = b
        held[a, g] = False
        held[b, g] = True
        if h >= 0:
            written[change, 1] = h * room + j
            held_then[change, 1] = a
            table[h, j] = a
            held[b, h] = False
            held[a, h] = True
        else:
            copies[a] -= 1
            copies[b] += 1
            for t in range(steps):
                share[t, a] = loads[t, a] / copies[a]
                share[t, b] = loads[t, b] / copies[b]
        _find(held, where)
        for t in range(steps):
            for r in range(ranks):
                load[t, r] = 0.0
                for k in range(room):
                    load[t, r] += share[t, table[r, k]]
        moved[change + 1 :] = count
        value[change + 1 :] = _worst(load) * ranks


def _find_kernel(held: npt.NDArray[np.bool_], where: IntArray) -> None:
    """List the ranks that hold each expert, ``[experts, ranks]``; what lies behind them means nothing."""
    for e in range(len(held)):
        k = 0
        for r in range(held.shape[1]):
            if held[e, r]:
                where[e, k] = r
                k += 1


def _worst_kernel(load: FloatArray) -> float:
    total = 0.0
    for t in range(len(load)):
        total += load[t].max()
    return total


def _moves_of_kernel(home: npt.NDArray[np.bool_], expert: int, left: int, joined: int) -> float:
    """What it adds to the moves that an expert leaves one rank for another."""
    return (0.0 if home[expert, joined] else 1.0) - (0.0 if home[expert, left] else 1.0)


def _recount_kernel(
    loads: FloatArray,
    share: FloatArray,
    load: FloatArray,
    mean: FloatArray,
    copies: IntArray,
    where: IntArray,
    held: npt.NDArray[np.bool_],
    rank: int,
    less: int,
    more: int,
) -> float:
    """Descent when `rank` gives up its replica of `less` and takes one of `more`."""
    gain = 0.0
    for t in range(len(loads)):
        up = loads[t, less] / (copies[less] - 1) - share[t, less]
        down = loads[t, more] / (copies[more] + 1) - share[t, more]
        new = load[t, rank] + share[t, more] + down - share[t, less]
        gain += max(0.0, load[t, rank] - mean[t]) ** 2 - max(0.0, new - mean[t]) ** 2
        for k in range(copies[less]):
            r = where[less, k]
            if r != rank:
                new = load[t, r] + up
                if held[more, r]:
                    new += down
                gain += max(0.0, load[t, r] - mean[t]) ** 2 - max(0.0, new - mean[t]) ** 2
        for k in range(copies[more]):
            r = where[more, k]
            if not held[less, r]:
                gain += max(0.0, load[t, r] - mean[t]) ** 2 - max(0.0, load[t, r] + down - mean[t]) ** 2
    return gain


_find = compiled(_find_kernel)
_worst = compiled(_worst_kernel)
_moves_of = compiled(_moves_of_kernel)
_recount = compiled(_recount_kernel)
_walk = compiled(_kernel)
