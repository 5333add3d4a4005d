"""Local search for several loads at once, where what each replica takes follows from where it lies.

As `moesim.placement.solvers.shares`, but what is minimised is the mean over steps of largest over mean rank
load: a plan that is perfect on the sum of several loads may be bad on each of them. Experts keep their number
of replicas, for counts fitted to few loads do not suit others.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.layout import ExpertMap, slot_shares
from moesim.layout.sharing import draws, rule_of
from moesim.placement.problem import Problem
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.placement.solvers.random_bits import advance, pick
from moesim.placement.solvers.shares import ALIKE, IN_TURN, NEAREST, replaced, share_out, shares_of
from moesim.placement.solvers.side_by_side import each
from moesim.placement.solvers.split_search import search_split

#: Moves tried per slot and layer at effort 1.
MOVES_PER_SLOT = 500
#: Start temperature, as part of the mean load of a slot, and the last one.
WARM, COLD = 0.02, 2e-5

_RULES = {"even": ALIKE, "vllm-ascend": IN_TURN, "sglang-dynamic": NEAREST, "sglang-static": NEAREST}


def search_steps_under(
    problem: Problem, start: IntArray, *, seed: int = 0, effort: float = 1.0, threads: int = 0
) -> IntArray:
    """Improve a plan for the mean over the problem's steps, under its rule.

    Parameters
    ----------
    problem
        Its steps, ranks, nodes, rule and rows count; ranks must be of one speed.
    start
        physical_to_logical to start from, int64 ``[layers, slots]``, no expert twice on a rank; slots of -1
        stay empty.
    seed, effort, threads
        As `moesim.placement.solvers.under.search_under` takes them.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``. No layer is worse than before. With ``sglang-static``
        what is drawn stays as it is: replicated experts move only where nothing is.
    """
    rule, steps, ranks = rule_of(problem.dispatch), problem.steps, problem.ranks
    if rule == "lp":
        return search_split(steps, ranks, start, seed=seed, effort=effort, threads=threads)
    plan = ExpertMap(start, problem.experts, ranks)
    shares = slot_shares(plan, rule, problem.nodes, rows=problem.rows)
    frozen = (rule == "sglang-static") & (draws(plan, problem.nodes) > 0)
    mean = steps.sum(axis=2, keepdims=True) / ranks
    relative = np.divide(steps, mean, out=np.zeros_like(steps), where=mean > 0)
    seeds = np.random.SeedSequence(seed).generate_state(plan.layers, np.uint64) | np.uint64(1)
    tables = start.reshape(plan.layers, ranks, -1)
    moves = max(1, round(MOVES_PER_SLOT * problem.slots * effort))

    def improve(layer: int) -> IntArray:
        loads = np.ascontiguousarray(relative[:, layer][mean[:, layer, 0] > 0])
        best = tables[layer].copy()
        if len(loads):
            members, copies, share = shares_of(best, problem.experts, shares[layer].reshape(best.shape))
            _anneal(
                loads,
                tables[layer].copy(),
                best,
                members,
                copies,
                share,
                moves,
                seeds[layer],
                _RULES[rule],
                max(1, ranks // problem.nodes),
                rule == "sglang-static",
                frozen[layer],
            )
        return np.asarray(best)

    return np.array(each(improve, range(plan.layers), threads)).reshape(start.shape)


def _kernel(
    loads: FloatArray,
    table: IntArray,
    best: IntArray,
    members: IntArray,
    copies: IntArray,
    share: FloatArray,
    moves: int,
    state: np.uint64,
    rule: int,
    per_node: int,
    covered: bool,
    frozen: bool,
) -> float:
    """Anneal one layer by swaps, and return the lowest mean of maxima seen; `best` is what has it.

    Parameters
    ----------
    loads
        Over their mean per rank, ``[steps, experts]``.
    table, members, copies, share, rule, per_node, covered, frozen
        As the kernel of `moesim.placement.solvers.shares` takes them.
    best
        The best placement so far.
    moves
        Moves to try.
    state
        Of the xorshift64* generator, not 0.
    """
    ranks, room = table.shape
    steps = len(loads)
    load = np.zeros((steps, ranks))
    held: npt.NDArray[np.bool_] = np.zeros((len(copies), ranks), dtype=np.bool_)
    for e in range(len(copies)):
        for p in range(copies[e]):
            held[e, members[e, p]] = True
            for t in range(steps):
                load[t, members[e, p]] += loads[t, e] * share[e, p]
    value = 0.0
    for t in range(steps):
        largest = 0.0
        for k in range(ranks):
            largest = max(largest, load[t, k])
        value += largest / steps
    lowest = value
    after = load.copy()
    members_a, members_b = np.empty(ranks, dtype=np.int64), np.empty(ranks, dtype=np.int64)
    share_a, share_b = np.empty(ranks), np.empty(ranks)
    slots = copies.sum()
    warm = WARM * ranks / slots
    for step in range(moves):
        state = advance(state)
        g = pick(state, 0, ranks)
        i = pick(state, 1, room)
        h = pick(state, 2, ranks)
        j = pick(state, 3, room)
        a, b = table[g, i], table[h, j]
        if g == h or a < 0 or b < 0 or held[a, h] or held[b, g]:
            continue
        if frozen and (copies[a] > 1 or copies[b] > 1):
            continue
        number_a = replaced(members[a], copies[a], g, h, members_a)
        number_b = replaced(members[b], copies[b], h, g, members_b)
        undecided = share_out(members_a[:number_a], ranks, per_node, rule, share_a)
        undecided += share_out(members_b[:number_b], ranks, per_node, rule, share_b)
        if covered and undecided:
            continue
        new = 0.0
        for t in range(steps):
            for p in range(number_a):
                after[t, members[a, p]] -= loads[t, a] * share[a, p]
                after[t, members_a[p]] += loads[t, a] * share_a[p]
            for p in range(number_b):
                after[t, members[b, p]] -= loads[t, b] * share[b, p]
                after[t, members_b[p]] += loads[t, b] * share_b[p]
            largest = 0.0
            for k in range(ranks):
                largest = max(largest, after[t, k])
            new += largest / steps
        temperature = warm * (COLD / WARM) ** (step / moves)
        state = advance(state)
        if new > value and math.exp((value - new) / temperature) < (state >> np.uint64(11)) * 2.0**-53:
            for t in range(steps):
                for k in range(ranks):
                    after[t, k] = load[t, k]
            continue
        value = new
        for t in range(steps):
            for k in range(ranks):
                load[t, k] = after[t, k]
        table[g, i], table[h, j] = b, a
        held[a, g] = held[b, h] = False
        held[a, h] = held[b, g] = True
        for p in range(number_a):
            members[a, p], share[a, p] = members_a[p], share_a[p]
        for p in range(number_b):
            members[b, p], share[b, p] = members_b[p], share_b[p]
        # A gain within rounding is none: sums of loads are kept by increments.
        if value < lowest * (1.0 - 1e-9):
            lowest = value
            for k in range(ranks):
                for p in range(room):
                    best[k, p] = table[k, p]
    return lowest


_anneal = compiled(_kernel)
