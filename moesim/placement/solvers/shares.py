"""Local search on a placement whose replicas do not share alike: what each takes follows from where they are.

Moves are those of `moesim.placement.solvers.anneal`, swaps of two slots and changes of replica counts, and
one more: two experts trade all their places, which leaves every share as it is. A move makes the shares of
the experts it touches anew. The objective is the same, ``sum over ranks of max(0, load - bound)^2``, and so
is what is kept: the placement with the lowest maximum seen.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.placement.solvers.anneal import ENOUGH, LEAST_MOVES, MOVES_PER_SLOT, RECOUNT, STOP
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick

#: Rules whose shares follow from the ranks that hold an expert: alike, in turn, and the nearest.
ALIKE, IN_TURN, NEAREST = 0, 1, 2
#: Start temperatures of the rounds, as those of `moesim.placement.solvers.anneal`.
HEATS = (0.1, 0.3, 1.0, 0.1)


def _shares(members: IntArray, ranks: int, per_node: int, rule: int, share: FloatArray) -> int:
    """Part that each replica takes of its expert's tokens.

    Parameters
    ----------
    members
        Ranks that hold a replica, rising, ``[replicas]``.
    ranks, per_node, rule
        All of them, those of a node, and one of `ALIKE`, `IN_TURN` and `NEAREST`.
    share
        Where the parts go, ``[replicas]``.

    Returns
    -------
    int
        Ranks without a replica near, which choose any one.
    """
    many = len(members)
    if many == 1 or rule == ALIKE:
        for i in range(many):
            share[i] = 1.0 / many
        return 0
    if rule == IN_TURN:
        for i in range(many):
            share[i] = ((ranks - i + many - 1) // many) / ranks
        return 0
    undecided = ranks
    i = 0
    while i < many:
        node = members[i] // per_node
        j = i
        while j < many and members[j] // per_node == node:
            share[j] = 1.0
            j += 1
        served = j - i
        if served < many:
            size = min(per_node, ranks - node * per_node)
            share[i] += size - served
            served = size
        undecided -= served
        i = j
    for i in range(many):
        share[i] = (share[i] + undecided / many) / ranks
    return undecided


share_out = compiled(_shares)


def _insert(members: IntArray, many: int, lost: int | np.int64, gained: int | np.int64, out: IntArray) -> int:
    """Write `members` without `lost` and with `gained` in order to `out`; -1 is none. Return how many."""
    n = 0
    placed = gained < 0
    for i in range(many):
        rank = members[i]
        if rank == lost:
            continue
        if not placed and gained < rank:
            out[n] = gained
            n += 1
            placed = True
        out[n] = rank
        n += 1
    if not placed:
        out[n] = gained
        n += 1
    return n


replaced = compiled(_insert)


def _kernel(
    loads: FloatArray,
    table: IntArray,
    best: IntArray,
    members: IntArray,
    copies: IntArray,
    share: FloatArray,
    slower: FloatArray,
    lowest: float,
    target: float,
    warm: float,
    moves: int,
    state: np.uint64,
    rule: int,
    per_node: int,
    covered: bool,
    frozen: bool,
) -> float:
    """Anneal one layer, and return the lowest maximum seen so far; `best` is the placement that has it.

    Parameters
    ----------
    loads
        ``[experts]``.
    table, members, copies, share
        The placement to start from, used up: experts ``[ranks, slots_per_rank]``, ranks of each expert in
        order ``[experts, ranks]``, how many ``[experts]``, and what part each takes ``[experts, ranks]``.
        Slots of -1 stay empty.
    slower
        One over the speed of each rank ``[ranks]``; a rank's load counts divided by its speed.
    best, lowest
        The best placement so far ``[ranks, slots_per_rank]`` and its largest load; `best` is updated.
    target
        Load above which a rank counts as too hot.
    warm
        Excess over `target` whose square is the first temperature.
    moves
        Moves to try.
    state
        Of the xorshift64* generator, not 0.
    rule, per_node
        As `_shares` takes them.
    covered
        Refuse what leaves a rank without a replica near.
    frozen
        Move only experts that have a single replica: all shares stay what they are.
    """
    ranks, room = table.shape
    experts = len(loads)
    spare = copies.sum() > experts and not frozen
    load = np.zeros(ranks)
    held = np.zeros((experts, ranks), dtype=np.bool_)
    for e in range(experts):
        for p in range(copies[e]):
            load[members[e, p]] += loads[e] * share[e, p] * slower[members[e, p]]
            held[e, members[e, p]] = True
    after = load.copy()
    members_a, members_b = np.empty(ranks, dtype=np.int64), np.empty(ranks, dtype=np.int64)
    share_a, share_b = np.empty(ranks), np.empty(ranks)
    hottest = 0.0
    for k in range(ranks):
        hottest = max(hottest, load[k])
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
        kind = 0
        if spare and step % RECOUNT < 2:
            kind = 1 + step % RECOUNT
        rise = 0.0
        number_a, number_b = int(copies[a]), 1
        if kind == 0:
            b = table[h, j]
            if g == h or b < 0 or held[a, h] or held[b, g]:
                continue
            number_b = int(copies[b])
            if number_a == 1 and number_b == 1:
                more = loads[b] - loads[a]
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
                sunk = max(load[g], load[h]) >= hottest
                load[g] += more * slower[g]
                load[h] -= more * slower[h]
                after[g], after[h] = load[g], load[h]
                hottest = max(hottest, load[g], load[h])
                table[g, i], table[h, j] = b, a
                members[a, 0], members[b, 0] = h, g
                held[a, g] = held[b, h] = False
                held[a, h] = held[b, g] = True
                if sunk:
                    hottest = 0.0
                    for k in range(ranks):
                        hottest = max(hottest, load[k])
                if hottest < lowest * (1.0 - 1e-12):
                    lowest = hottest
                    for k in range(ranks):
                        for p in range(room):
                            best[k, p] = table[k, p]
                    if lowest <= target * (1.0 + STOP):
                        break
                continue
            if frozen:
                continue
            number_a = replaced(members[a], number_a, g, h, members_a)
            number_b = replaced(members[b], number_b, h, g, members_b)
        else:
            b = np.int64(((draw >> np.uint64(32)) * np.uint64(experts)) >> np.uint64(32))
            if a == b:
                continue
            number_b = int(copies[b])
            if kind == 1:
                # Expert b takes the slot of one of the replicas of a.
                if number_a == 1 or held[b, g]:
                    continue
                number_a = replaced(members[a], number_a, g, -1, members_a)
                number_b = replaced(members[b], number_b, -1, g, members_b)
            elif number_a == number_b == 1:
                continue
        if kind == 2:
            for p in range(number_a):
                after[members[a, p]] += (loads[b] - loads[a]) * share[a, p] * slower[members[a, p]]
            for p in range(number_b):
                after[members[b, p]] += (loads[a] - loads[b]) * share[b, p] * slower[members[b, p]]
        else:
            undecided = share_out(members_a[:number_a], ranks, per_node, rule, share_a)
            undecided += share_out(members_b[:number_b], ranks, per_node, rule, share_b)
            if covered and undecided:
                continue
            for p in range(copies[a]):
                after[members[a, p]] -= loads[a] * share[a, p] * slower[members[a, p]]
            for p in range(copies[b]):
                after[members[b, p]] -= loads[b] * share[b, p] * slower[members[b, p]]
            for p in range(number_a):
                after[members_a[p]] += loads[a] * share_a[p] * slower[members_a[p]]
            for p in range(number_b):
                after[members_b[p]] += loads[b] * share_b[p] * slower[members_b[p]]
        for k in range(ranks):
            if after[k] != load[k]:
                rise += max(0.0, after[k] - target) ** 2 - max(0.0, load[k] - target) ** 2
        if rise > 0.0:
            state = advance(state)
            if math.exp(-rise / temperature) < (state >> np.uint64(11)) * 2.0**-53:
                for k in range(ranks):
                    after[k] = load[k]
                continue
        if kind == 2:
            for p in range(number_a):
                k = members[a, p]
                for q in range(room):
                    if table[k, q] == a:
                        table[k, q] = -2
                members_a[p], share_a[p] = members[a, p], share[a, p]
                held[a, k] = False
            for p in range(number_b):
                k = members[b, p]
                for q in range(room):
                    if table[k, q] == b:
                        table[k, q] = a
                held[b, k] = False
            for p in range(number_a):
                k = members_a[p]
                for q in range(room):
                    if table[k, q] == -2:
                        table[k, q] = b
            for p in range(number_b):
                members[a, p], share[a, p] = members[b, p], share[b, p]
                held[a, members[a, p]] = True
            for p in range(number_a):
                members[b, p], share[b, p] = members_a[p], share_a[p]
                held[b, members[b, p]] = True
            copies[a], copies[b] = number_b, number_a
        else:
            table[g, i] = b
            held[a, g] = False
            held[b, g] = True
            if kind == 0:
                table[h, j] = a
                held[b, h] = False
                held[a, h] = True
            for p in range(number_a):
                members[a, p], share[a, p] = members_a[p], share_a[p]
            for p in range(number_b):
                members[b, p], share[b, p] = members_b[p], share_b[p]
            copies[a], copies[b] = number_a, number_b
        hottest = 0.0
        for k in range(ranks):
            load[k] = after[k]
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


def places(table: IntArray, experts: int) -> tuple[IntArray, IntArray]:
    """Ranks of each expert, rising ``[experts, ranks]``, and how many ``[experts]``, of ``[ranks, room]``."""
    rank, slot = np.nonzero(table >= 0)
    held: npt.NDArray[np.bool_] = np.zeros((experts, len(table)), dtype=np.bool_)
    held[table[rank, slot], rank] = True
    copies = held.sum(axis=1)
    members = np.argsort(~held, axis=1, kind="stable")
    return members, copies


def shares_of(table: IntArray, experts: int, shares: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """`places`, and what part each replica takes ``[experts, ranks]``; `shares` are of slots."""
    members, copies = places(table, experts)
    by_rank = np.zeros(members.shape)
    rank, slot = np.nonzero(table >= 0)
    by_rank[table[rank, slot], rank] = shares[rank, slot]
    return members, copies, np.take_along_axis(by_rank, members, axis=1)


def improve_layer(
    loads: FloatArray,
    start: IntArray,
    target: float,
    *,
    rule: int,
    per_node: int,
    speeds: FloatArray | None = None,
    seed: int = 0,
    effort: float = 1.0,
    covered: bool = False,
    shares: FloatArray | None = None,
    heats: tuple[float, ...] = HEATS,
) -> tuple[IntArray, float]:
    """Improve the placement of one layer under a rule.

    Parameters
    ----------
    loads
        float64 ``[experts]``.
    start
        Experts, int64 ``[ranks, slots_per_rank]``, none twice on a rank; -1 where a slot is empty.
    target
        Load that no placement can have its busiest rank below.
    rule, per_node
        One of `ALIKE`, `IN_TURN` and `NEAREST`, and the ranks of a node.
    speeds
        Of the ranks, float64 ``[ranks]``: a rank's load counts divided by its speed. Equal ones if None.
    seed, effort
        Of the random moves; and how many, relative to the default.
    covered
        Keep to placements in which every rank has a replica near of every replicated expert, as `start` does.
    shares
        Part of its expert's tokens that each slot of `start` takes, float64 ``[ranks, slots_per_rank]``:
        replicated experts are left where they are, and `rule` does not matter.

    Returns
    -------
    tuple
        The placement, and the load of its busiest rank, no larger than that of `start`.
    """
    ranks = len(start)
    experts = len(loads)
    slower = np.ones(ranks) if speeds is None else 1.0 / speeds
    members, copies, share = shares_of(start, experts, np.zeros(start.shape) if shares is None else shares)
    if shares is None:
        for e in range(experts):
            share_out(members[e, : copies[e]], ranks, per_node, rule, share[e])
    load = np.bincount(members.ravel(), weights=(share * loads[:, None]).ravel(), minlength=ranks)
    lowest = float((load * slower).max())
    best = start.copy()
    moves = max(1, round(max(LEAST_MOVES, MOVES_PER_SLOT * start.size) * effort))
    states = np.random.SeedSequence(seed).generate_state(len(heats), np.uint64) | np.uint64(1)
    for heat, state in zip(heats, states, strict=True):
        if lowest <= target * (1 + ENOUGH) or target <= 0:
            break
        lowest = _anneal(
            loads,
            start.copy(),
            best,
            members.copy(),
            copies.copy(),
            share.copy(),
            slower,
            lowest,
            target,
            heat * target * ranks / copies.sum(),
            moves,
            state,
            rule,
            per_node,
            covered,
            shares is not None,
        )
    return best, lowest
