"""Less traffic between nodes, or between layers, at a balance that is kept: search over whole plans.

The objectives are annealed by `reach` (nodes a token must reach, each layer by itself) and `follow` (hops
between layers, all layers together). Both let a rank carry too much for a while, at a price that rises, and
only plans under the cap are kept: a layer may be as uneven as `greedy` leaves it on the same loads, or as the
cap says if that is more. So the plan is no less even than EPLB's, or even enough.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, nearest
from moesim.layout import ExpertMap
from moesim.layout.sharing import rule_of
from moesim.placement.problem import Problem, hierarchy_faults
from moesim.placement.solvers.chain import chain_lap
from moesim.placement.solvers.follow import anneal_follow
from moesim.placement.solvers.greedy import FloatArray, IntArray, greedy
from moesim.placement.solvers.reach import anneal_reach, weigh
from moesim.placement.solvers.scatter import SWAPS, scatter
from moesim.placement.solvers.side_by_side import each
from moesim.placement.traffic import leaving, remote_nodes, transitions
from moesim.trace.types import count_ids

OBJECTIVES = ("remote_nodes", "transitions")
#: Rules by which a token takes a replica of its own node.
NEAR = ("sglang-static", "sglang-dynamic")
#: Imbalance that is always allowed: less than what one batch differs from the next by.
LEAST_CAP = 1.02
#: Moves tried per slot and layer at effort 1: those of `follow` are a few look-ups each.
REACH_MOVES, FOLLOW_MOVES = 600, 6000
#: Batches of tokens, one after the other, whose loads ranks of a node are to share.
BATCHES = 32
#: Tokens looked at per layer at effort 1.
SAMPLE = 8192
#: Tokens by which two plans to start from are compared.
FIRST_LOOK = 1024


def search_traffic(
    problem: Problem,
    start: IntArray,
    *,
    objective: str = "remote_nodes",
    cap: float | None = None,
    seed: int = 0,
    effort: float = 1.0,
    near: bool | None = None,
    pairs: FloatArray | None = None,
) -> IntArray:
    """Search for a plan with less traffic whose most loaded rank stays under a cap.

    Parameters
    ----------
    problem
        What is asked, with `Problem.tokens`; these are what traffic is counted on, and the loads are what is
        balanced. Nodes are what traffic is between; ranks, if there is but one node.
    start
        physical_to_logical, int64 ``[layers, slots]``, no expert twice on a rank.
    objective
        ``remote_nodes``: mean number of other nodes a token must reach in each layer. ``transitions``: hops
        from an expert to one of the next layer that leave the node.
    cap
        Largest over mean rank load that is always allowed, `LEAST_CAP` if None; a layer that `greedy` leaves
        above it may be as uneven as that. A layer for which no such plan is found keeps its start.
    seed
        Same input and seed, same plan.
    effort
        Moves and tokens looked at, relative to the default.
    near
        Whether tokens take a replica of their own node where there is one, or any with equal chance; if None,
        as the problem's dispatch rule has it. For ``remote_nodes`` alone.
    pairs
        Transitions to use instead of those of the tokens.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``.

    Raises
    ------
    ConfigError
        If the problem has no tokens, its ranks do not divide over its nodes, or there is no such objective.
    """
    _check(problem, objective, cap, near)
    if near is None:
        near = objective == "remote_nodes" and rule_of(problem.dispatch) in NEAR
    layers, parts = problem.layers, problem.nodes if problem.nodes > 1 else problem.ranks
    mean = problem.totals.sum(axis=1) / problem.ranks
    caps = allowed(problem, LEAST_CAP if cap is None else cap)
    seeds = np.random.SeedSequence(seed).generate_state(layers, np.uint64) | np.uint64(1)
    if objective == "transitions":
        flow = transitions(_ids(problem), problem.experts) if pairs is None else pairs
        found = _follow(problem, start, flow, parts, caps, effort, seeds)
    else:
        table = _local_start(problem, start, near).reshape(layers, problem.ranks, -1).copy()
        even = _reach(problem, table, parts, mean * caps, near, effort, seeds)
        found = np.where(even[:, None], table.reshape(start.shape), start)
    if parts == problem.ranks or problem.tokens is None:
        return found
    return _scatter(problem, found, near, caps, effort, seeds)


def _local_start(problem: Problem, start: IntArray, near: bool) -> IntArray:
    """Start layers from the hierarchical plan where tokens reach fewer nodes by it, however uneven it is."""
    if problem.groups == 1 or problem.nodes == 1 or hierarchy_faults(problem):
        return start
    other = greedy(problem.totals, problem.ranks, problem.redundant, problem.groups, problem.nodes)
    ids = _sample(problem, FIRST_LOOK)
    rule = "nearest" if near else "even"
    here, there = (
        remote_nodes(ExpertMap(table, problem.experts, problem.ranks), ids, problem.nodes, rule)
        for table in (start, other)
    )
    return np.where((there < here)[:, None], other, start)


def _scatter(
    problem: Problem,
    found: IntArray,
    near: bool,
    caps: FloatArray,
    effort: float,
    seeds: npt.NDArray[np.uint64],
) -> IntArray:
    """Spread what each node holds over its ranks, batch by batch of the tokens."""
    ids = _ids(problem)
    bounds = np.linspace(0, len(ids), min(BATCHES, len(ids)) + 1).astype(np.int64)
    counts = np.stack([count_ids(ids[a:b], problem.experts) for a, b in itertools.pairwise(bounds)], axis=-1)
    table = found.reshape(problem.layers, problem.ranks, -1).copy()
    swaps = max(1, round(SWAPS * problem.slots * effort))
    most = problem.totals.sum(axis=1) / problem.ranks * caps

    def improve(layer: int) -> None:
        block = table[layer].reshape(problem.nodes, -1)
        loads = problem.totals[layer]
        # Batches may count other tokens than the loads do: what matters is the share of each.
        batch = counts[layer] * (loads.sum() / max(1, counts[layer].sum()))
        share = _weights(np.ones_like(loads), block, near).ravel()
        weight = batch[table[layer].ravel()] * share[:, None]
        place = np.arange(table[layer].size).reshape(table[layer].shape)
        scatter(weight, place, table[layer], problem.nodes, most[layer], swaps, seeds[layer])

    each(improve, np.flatnonzero(~problem.idle).tolist())
    spread = table.reshape(found.shape)
    # Batches that do not add up to the loads could break the cap.
    before, after = imbalance(problem, found, near), imbalance(problem, spread, near)
    worse = after > np.maximum(before, caps) * (1 + 1e-9)
    return np.where(worse[:, None], found, spread)


def _follow(
    problem: Problem,
    start: IntArray,
    flow: FloatArray,
    parts: int,
    caps: FloatArray,
    effort: float,
    seeds: npt.NDArray[np.uint64],
) -> IntArray:
    """Search all layers together."""
    loads, shape = problem.totals, (problem.layers, problem.ranks, problem.room)
    most = loads.sum(axis=1) / problem.ranks * caps
    moves = max(1, round(FOLLOW_MOVES * problem.slots * problem.layers * effort))
    chained = chain_lap(flow, start, parts)
    table = chained.reshape(shape).copy()
    anneal_follow(flow, loads, table, parts, most, moves, True, seeds[0])
    found = table.reshape(start.shape)
    over = imbalance(problem, found) > caps * (1 + 1e-9)
    # Layers that are not even enough take what they started with, and what follows leaves them under the cap.
    found[over] = chained[over]
    found = chain_lap(flow, found, parts)
    table = found.reshape(shape).copy()
    anneal_follow(flow, loads, table, parts, most, moves // 4, False, seeds[-1])
    found = table.reshape(start.shape)
    return min(chained, found, key=lambda table: _leave(problem, table, flow, parts))


def _leave(problem: Problem, table: IntArray, flow: FloatArray, parts: int) -> float:
    """Transitions in all that leave their part."""
    share = leaving(ExpertMap(table, problem.experts, problem.ranks), flow, parts)
    return float(np.nansum(share * flow.sum(axis=(1, 2))))


def allowed(problem: Problem, cap: float = LEAST_CAP) -> FloatArray:
    """Imbalance a layer may have: that of `greedy` on the loads, or the cap if more, float64 ``[layers]``."""
    table = greedy(problem.totals, problem.ranks, problem.redundant)
    return np.maximum(np.nan_to_num(imbalance(problem, table)), cap)


def imbalance(problem: Problem, table: IntArray, near: bool = False) -> FloatArray:
    """Largest over mean rank load of a plan ``[layers, slots]``, ``[layers]``; NaN for idle layers."""
    nodes = problem.nodes if problem.nodes > 1 else problem.ranks
    blocks = table.reshape(problem.layers, nodes, -1)
    weights = np.stack(
        [_weights(row, block, near) for row, block in zip(problem.totals, blocks, strict=True)]
    )
    loads = weights.reshape(problem.layers, problem.ranks, -1).sum(axis=2)
    mean = loads.mean(axis=1)
    return np.asarray(np.divide(loads.max(axis=1), mean, out=np.full(len(mean), np.nan), where=mean > 0))


def _weights(loads: FloatArray, block: IntArray, near: bool) -> FloatArray:
    """Load of each slot ``[nodes, slots]`` that holds the experts of `block`."""
    nodes = len(block)
    m = np.zeros((len(loads), nodes), dtype=np.int64)
    np.add.at(m, (block, np.arange(nodes)[:, None]), 1)
    c, weight, factor = m.sum(axis=1), np.zeros(m.shape), np.zeros((len(loads), nodes * nodes))
    for e in range(len(loads)):
        weigh(e, loads, m, c, near, weight, factor)
    return np.asarray(weight[block, np.arange(nodes)[:, None]])


def _reach(
    problem: Problem,
    table: IntArray,
    parts: int,
    most: FloatArray,
    near: bool,
    effort: float,
    seeds: npt.NDArray[np.uint64],
) -> npt.NDArray[np.bool_]:
    """Search layer by layer, changing `table` ``[layers, ranks, room]``; tell which are even enough."""
    ids = _sample(problem, max(1, round(SAMPLE * effort)))
    moves = max(1, round(REACH_MOVES * problem.slots * effort))

    even = np.zeros(problem.layers, dtype=np.bool_)

    def improve(layer: int) -> None:
        kinds, times = np.unique(np.sort(ids[:, layer].astype(np.int64), axis=1), axis=0, return_counts=True)
        order = np.argsort(kinds.ravel(), kind="stable")
        begin = np.searchsorted(kinds.ravel()[order], np.arange(problem.experts + 1))
        value = anneal_reach(
            problem.totals[layer],
            kinds,
            times.astype(np.float64),
            begin,
            order // kinds.shape[1],
            table[layer],
            parts,
            most[layer],
            near,
            moves,
            seeds[layer],
        )
        even[layer] = math.isfinite(value)

    each(improve, np.flatnonzero(~problem.idle).tolist())
    return even


def _sample(problem: Problem, number: int) -> npt.NDArray[np.unsignedinteger]:
    """Tokens spread over all, so over all requests."""
    ids = _ids(problem)
    return ids[np.unique(np.linspace(0, len(ids) - 1, min(number, len(ids))).astype(np.int64))]


def _ids(problem: Problem) -> npt.NDArray[np.unsignedinteger]:
    assert problem.tokens is not None
    return problem.tokens.topk_ids


def _check(problem: Problem, objective: str, cap: float | None, near: bool | None) -> None:
    found = []
    if objective not in OBJECTIVES:
        close = nearest(objective, OBJECTIVES)
        hint = f"nearest: {', '.join(close)}; " if close else ""
        found.append(Fault("is no kind of traffic", "objective", objective, hint + ", ".join(OBJECTIVES)))
    if problem.tokens is None:
        found.append(Fault("is needed to count traffic on", "tokens", None, "a token-level routing trace"))
    if problem.ranks % problem.nodes:
        found.append(Fault(f"must divide the {problem.ranks} ranks", "nodes", problem.nodes))
    if problem.nodes == problem.ranks == 1:
        found.append(Fault("has no traffic with others", "ranks", 1, "2 or more"))
    if cap is not None and not (np.isfinite(cap) and cap >= 1):
        found.append(Fault("must be 1 or more", "cap", cap))
    if near and objective == "transitions":
        found.append(Fault("is not known for transitions", "near", near, "False"))
    if found:
        raise ConfigError(found)
