"""Search for a plan under the rule by which an engine chooses among replicas.

even
    `moesim.placement.solvers.anneal`.
vllm-ascend
    Shares follow from the order of the ranks that hold an expert: `moesim.placement.solvers.shares`.
sglang-dynamic
    The same, with a replica that is near, else all alike.
sglang-static
    First among plans that leave nothing to draw: every replicated expert has a replica on every node (or on
    every rank, where there is one node), so each rank has one near and its share is known, whatever SGLang's
    generator gives, in this version or another. Where there are too few spare slots for that, or such a plan
    is not balanced: search with the shares to be expected, draw as SGLang will, keep all replicated experts
    where they are, which leaves what was drawn as it is, and place the others anew round them; from several
    searches the best. Where that is not enough, `moesim.placement.solvers.drawn` moves the replicas. What is
    drawn for a layer depends on the layers before, so layers come in turn.
lp
    A placement that balances totals when replicas share alike balances them when the split is free. Over
    several steps, each is split by itself: `moesim.placement.solvers.split_search`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesim.layout import ExpertMap
from moesim.layout.draws import StateArray, draw_layer, generators
from moesim.layout.sharing import SEED, draws, rule_of, slot_shares
from moesim.placement.bound import uneven_bound
from moesim.placement.bound_shares import bound_under
from moesim.placement.problem import Problem
from moesim.placement.solution import evaluate
from moesim.placement.solvers.anneal import search
from moesim.placement.solvers.drawn import improve_drawn
from moesim.placement.solvers.greedy import FloatArray, IntArray, pack
from moesim.placement.solvers.shares import IN_TURN, NEAREST, improve_layer
from moesim.placement.solvers.side_by_side import each
from moesim.placement.solvers.split_search import search_split

#: A layer this close to the bound is balanced: sooner than to search on, it is taken.
CLOSE = 1e-3
#: A placement without draws is taken this close to the bound, though one with draws might be closer: it does
#: not depend on the seed, the version and the rows before it.
CALM = 5e-3
#: Searches whose draws are looked at, for a layer that has to have some.
TRIES = 3


def search_under(
    problem: Problem,
    start: IntArray,
    *,
    seed: int = 0,
    effort: float = 1.0,
    rows: Sequence[int] | None = None,
    threads: int = 0,
) -> IntArray:
    """Improve a plan under the problem's rule.

    Parameters
    ----------
    problem
        Its totals, ranks, nodes and rule count.
    start
        physical_to_logical to start from, int64 ``[layers, slots]``, no expert twice on a rank.
    seed
        Of the random moves.
    effort
        Moves tried, relative to the default.
    rows
        Which row of the map that SGLang loads each layer is, as `slots_of_sources` of
        `moesim.layout.sharing` takes them; matters only for ``sglang-static``.
    threads
        Layers searched at a time; 0 for one per core.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``. No layer's busiest rank carries more than under
        `start`; with ``sglang-static``, where layers hang together, the mean over layers of largest over mean
        rank load is no larger.
    """
    rule = rule_of(problem.dispatch)
    totals, ranks, nodes = problem.totals, problem.ranks, problem.nodes
    speeds = problem.speeds
    # Layers without load are loaded in order, and what is drawn for them decides what is drawn behind.
    start = problem.plan(start).physical_to_logical.copy()
    if rule == "lp" and problem.redundant:
        return _split(problem, start, seed, effort, threads)
    if rule == "even" or not problem.redundant:
        return search(totals, ranks, start, speeds=speeds, seed=seed, effort=effort, threads=threads)
    if problem.even:
        target = bound_under(totals, ranks, problem.slots, rule).values
    else:
        target = uneven_bound(totals, ranks, problem.experts + problem.redundant, speeds)
    # Squares of loads of any unit must not overflow.
    top = totals.max(axis=1, keepdims=True)
    loads = np.divide(totals, top, out=np.zeros_like(totals), where=top > 0)
    target = np.divide(target, top[:, 0], out=np.zeros_like(target), where=top[:, 0] > 0)
    tables = start.reshape(problem.layers, ranks, problem.room)
    per_node = max(1, ranks // nodes)
    asked = _Layers(loads, target, per_node, speeds, seed, effort, threads)
    if rule == "vllm-ascend":
        return asked.each(tables, IN_TURN).reshape(start.shape)
    covered = _covered_start(loads, ranks, problem.redundant, nodes) if problem.even else None
    calm = None if covered is None else asked.each(covered, NEAREST, covered=True)
    if rule == "sglang-dynamic":
        found = asked.each(tables, NEAREST, skip=None if calm is None else asked.calm(calm))
        if calm is not None:
            better = asked.calm(calm) | (asked.busiest(calm) < asked.busiest(found))
            found = np.where(better[:, None, None], calm, found)
        return found.reshape(start.shape)
    found = asked.drawn(tables, calm, rows).reshape(start.shape)
    before, after = (_mean_imbalance(problem, table, rows) for table in (start, found))
    return found if after <= before else start


def _split(problem: Problem, start: IntArray, seed: int, effort: float, threads: int) -> IntArray:
    """Plan for a split that follows the loads."""

    def value(table: IntArray) -> FloatArray:
        plan = ExpertMap(table, problem.experts, problem.ranks)
        return evaluate(plan, problem.loads, problem.dispatch, problem.nodes, problem.speeds).per_layer

    ranks, speeds = problem.ranks, problem.speeds
    found = search(problem.totals, ranks, start, speeds=speeds, seed=seed, effort=effort, threads=threads)
    found = np.where((value(found) < value(start))[:, None], found, start)
    if speeds is not None:
        # The split knows nothing of speeds.
        return found
    return search_split(problem.steps, ranks, found, seed=seed, effort=effort, threads=threads)


def _mean_imbalance(problem: Problem, table: IntArray, rows: Sequence[int] | None) -> float:
    """Mean over layers with load of largest over mean rank load; 0 if no layer has any."""
    plan = ExpertMap(table, problem.experts, problem.ranks)
    found = evaluate(plan, problem.totals, problem.dispatch, problem.nodes, problem.speeds, rows).mean
    return 0.0 if np.isnan(found) else found


class _Layers:
    """Layers to be improved: loads ``[layers, experts]``, targets of their busiest ranks ``[layers]``."""

    def __init__(
        self,
        loads: FloatArray,
        target: FloatArray,
        per_node: int,
        speeds: FloatArray | None,
        seed: int,
        effort: float,
        threads: int,
    ) -> None:
        self.loads, self.target, self.per_node, self.speeds = loads, target, per_node, speeds
        self.effort, self.threads = effort, threads
        self.seeds = np.random.SeedSequence(seed).generate_state(len(loads) * TRIES).reshape(-1, TRIES)

    def each(
        self, start: IntArray, rule: int, *, covered: bool = False, skip: npt.NDArray[np.bool_] | None = None
    ) -> IntArray:
        """Improve every layer by itself, ``[layers, ranks, room]``, but for those to skip ``[layers]``."""

        def improve(layer: int) -> IntArray:
            left = skip is not None and skip[layer]
            return np.asarray(start[layer] if left else self.one(layer, start[layer], rule, covered=covered))

        return np.array(each(improve, range(len(start)), self.threads))

    def one(self, layer: int, start: IntArray, rule: int, *, covered: bool = False, nth: int = 0) -> IntArray:
        """Improve one layer."""
        return improve_layer(
            self.loads[layer],
            start,
            float(self.target[layer]),
            rule=rule,
            per_node=self.per_node,
            speeds=self.speeds,
            seed=int(self.seeds[layer, nth]),
            effort=self.effort,
            covered=covered,
        )[0]

    def busiest(self, tables: IntArray) -> FloatArray:
        """Load of the busiest rank with the nearest replica, else all alike, ``[layers]``."""
        layers, ranks, _ = tables.shape
        plan = ExpertMap(tables.reshape(layers, -1), self.loads.shape[1], ranks)
        shares = slot_shares(plan, "sglang-dynamic", ranks // self.per_node)
        found = plan.rank_loads(self.loads, shares)
        return np.asarray((found if self.speeds is None else found / self.speeds).max(axis=1))

    def calm(self, tables: IntArray) -> npt.NDArray[np.bool_]:
        """Whether a layer is balanced and leaves nothing to draw, ``[layers]``."""
        layers, ranks, _ = tables.shape
        plan = ExpertMap(tables.reshape(layers, -1), self.loads.shape[1], ranks)
        still = draws(plan, ranks // self.per_node) == 0
        return np.asarray(still & (self.busiest(tables) <= self.target * (1 + CALM)))

    def drawn(self, start: IntArray, calm: IntArray | None, rows: Sequence[int] | None) -> IntArray:
        """Plans of all layers in turn, each with what SGLang will draw for it."""
        layers, ranks, room = start.shape
        experts = self.loads.shape[1]
        states = generators(SEED, ranks)
        between = ExpertMap.contiguous(1, experts, ranks, ranks * room - experts).physical_to_logical
        settled = np.zeros(layers, dtype=np.bool_) if calm is None else self.calm(calm)
        found = np.empty_like(start)
        before = -1
        for layer, row in enumerate(range(layers) if rows is None else rows):
            for _ in range(before + 1, row):
                self._shares(between.reshape(ranks, room), states)
            before = row
            if not self.loads[layer].any():
                # It stays as it is; what is drawn for it all the same is skipped.
                found[layer] = start[layer]
                self._shares(start[layer], states)
                continue
            if calm is not None and settled[layer]:
                found[layer] = calm[layer]
                continue
            found[layer] = self._best_draw(layer, start[layer], None if calm is None else calm[layer], states)
            self._shares(found[layer], states)
        return found

    def _best_draw(self, layer: int, start: IntArray, calm: IntArray | None, states: StateArray) -> IntArray:
        """Placement of a layer that is best for what its generators draw."""
        enough = float(self.target[layer]) * (1 + CLOSE)
        best, lowest = start, np.inf
        for nth in range(-2, TRIES + 1):
            if nth == -2 and calm is None:
                continue
            if nth < 0:
                table = start if nth == -1 or calm is None else calm
            elif nth < TRIES:
                table = self.one(layer, start, NEAREST, nth=nth)
            else:
                table = improve_drawn(
                    self.loads[layer],
                    best,
                    enough,
                    states,
                    per_node=self.per_node,
                    speeds=self.speeds,
                    seed=int(self.seeds[layer, 0]),
                    effort=self.effort,
                )
            placed, busiest = improve_layer(
                self.loads[layer],
                table,
                float(self.target[layer]),
                rule=NEAREST,
                per_node=self.per_node,
                speeds=self.speeds,
                seed=int(self.seeds[layer, min(max(nth, 0), TRIES - 1)]),
                effort=self.effort,
                shares=self._shares(table, states.copy()),
            )
            if busiest < lowest:
                best, lowest = placed, busiest
            if lowest <= enough:
                break
        return best

    def _shares(self, table: IntArray, states: StateArray) -> FloatArray:
        """Part of its expert's tokens that each slot takes, ``[ranks, room]``; generators run on."""
        ranks, room = table.shape
        experts = self.loads.shape[1]
        plan = ExpertMap(table.reshape(1, -1), experts, ranks)
        chosen = np.empty((ranks, experts), dtype=np.int64)
        draw_layer(
            plan.logical_to_physical[0], plan.replica_counts[0], room, self.per_node, states, True, chosen
        )
        return np.asarray(np.bincount(chosen.ravel(), minlength=ranks * room) / ranks).reshape(ranks, room)


def _covered_start(loads: FloatArray, ranks: int, redundant: int, nodes: int) -> IntArray | None:
    """Greedy plan ``[layers, ranks, room]`` that leaves nothing to draw, or as little as there can be.

    The hottest experts have a replica on each node, or on each rank where there is one node; spare slots left
    over are further replicas of these, or of one more expert. None if they are neither.
    """
    layers, experts = loads.shape
    parts = nodes if nodes > 1 else ranks
    if ranks % parts or parts == 1:
        return None
    hot = min(redundant // (parts - 1), experts)
    rest = redundant - hot * (parts - 1)
    order = np.argsort(-loads, axis=1, kind="stable")
    if rest <= hot * min(parts, ranks - parts):
        # Each further replica serves its own rank alone, and lies on a node that has but one.
        more = order[:, np.arange(rest) % max(1, hot)]
    elif hot < experts and rest < parts:
        # One more expert has replicas, though not everywhere.
        more = np.repeat(order[:, [hot]], rest, axis=1)
    else:
        return None
    items = np.concatenate([order[:, hot:], more], axis=1)
    weights = np.take_along_axis(loads, items, axis=1)
    weights[:, experts - hot :] /= ranks
    each = np.take_along_axis(loads, order[:, :hot], axis=1) / parts
    nodes_of = pack(weights, parts, items)
    found = []
    for part in range(parts):
        mine = nodes_of[:, part]
        local = np.concatenate([order[:, :hot], np.take_along_axis(items, mine, axis=1)], axis=1)
        heavy = np.concatenate([each, np.take_along_axis(weights, mine, axis=1)], axis=1)
        packed = pack(heavy, ranks // parts, local)
        found.append(np.take_along_axis(local, packed.reshape(layers, -1), axis=1))
    return np.concatenate(found, axis=1).reshape(layers, ranks, -1)
