"""Searches that terms of an objective call for, beyond balance on totals.

Each takes the problem, the plans that are there already, seed and effort, and gives more plans
``[layers, slots]``. What they are worth is judged elsewhere: a search may assume less than the problem says,
as that replicas share evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from moesim.layout.sharing import rule_of
from moesim.placement.problem import Problem
from moesim.placement.solvers.greedy import IntArray

Search = Callable[[Problem, Sequence[IntArray], int, float], list[IntArray]]

#: Imbalance that searches for less traffic may leave, beside the least that they always allow: the scale on
#: which traffic is traded for balance.
CAPS = (None, 1.05, 1.1)
#: Experts up to which the placements of a layer are few enough to list.
LISTED = 8
#: Copies of an expert that a search by seconds may make beyond those of its start.
MORE_COPIES = 2


def steady(problem: Problem, found: Sequence[IntArray], seed: int, effort: float) -> list[IntArray]:
    """Plans for the mean over steps; none for ranks that differ.

    Where replicas share evenly, replica counts are those of greedy on the mean: that is what holds for other
    steps. Under other rules the start is the plan that balances the mean.
    """
    if not problem.even or len(problem.steps) == 1:
        return []
    if rule_of(problem.dispatch) != "even":
        from moesim.placement.solvers.shares_steps import search_steps_under

        return [search_steps_under(problem, found[-1], seed=seed, effort=effort)]
    from moesim.placement.solvers.steps import search_robust

    return [search_robust(problem.steps, problem.ranks, found[0], seed=seed, effort=effort)]


def local(problem: Problem, found: Sequence[IntArray], seed: int, effort: float) -> list[IntArray]:
    """Plans by which tokens reach fewer nodes, at several caps of imbalance."""
    return _less_traffic(problem, found, "remote_nodes", seed, effort)


def following(problem: Problem, found: Sequence[IntArray], seed: int, effort: float) -> list[IntArray]:
    """Plans by which fewer transitions between layers leave their node, or their rank on one node.

    For models of few experts on one node, the least there is at each cap.
    """
    more = _less_traffic(problem, found, "transitions", seed, effort)
    tokens, one_node = problem.tokens, problem.even and problem.nodes == 1
    listed = problem.experts <= LISTED and not problem.redundant and not problem.idle.any()
    if tokens is None or not (one_node and listed):
        return more
    from moesim.placement.solvers.eight import joint_optimum
    from moesim.placement.traffic import transitions

    pairs = transitions(tokens.topk_ids, problem.experts)
    least = np.min([problem.plan(table).load_imbalance(problem.totals) for table in found], axis=0)
    caps = [np.maximum(least, cap or 1.0) for cap in CAPS]
    return more + [joint_optimum(pairs, problem.totals, problem.ranks, cap) for cap in caps]


def _less_traffic(
    problem: Problem, found: Sequence[IntArray], objective: str, seed: int, effort: float
) -> list[IntArray]:
    from moesim.placement.solvers.joint import search_traffic

    if not problem.even:
        return []
    near = objective == "remote_nodes" and problem.dispatch.startswith("sglang")
    return [
        search_traffic(problem, found[-1], objective=objective, cap=cap, seed=seed, effort=effort, near=near)
        for cap in CAPS
    ]


def faster(problem: Problem, found: Sequence[IntArray], seed: int, effort: float) -> list[IntArray]:
    """Plans that balance seconds, by what each slot costs in drawn batches."""
    if not problem.even or problem.clock is None:
        return []
    from moesim.placement.solvers.steps import search_costs

    start = found[-1]
    most = max(int(np.bincount(row, minlength=problem.experts).max()) for row in start)
    cost = problem.clock.costs(problem.plan(start), min(problem.ranks, most + MORE_COPIES))
    return [search_costs(cost, problem.ranks, start, seed=seed, effort=effort, recount=True)]


def near(problem: Problem, found: Sequence[IntArray], seed: int, effort: float) -> list[IntArray]:
    """Plans near the one that is loaded now."""
    from moesim.placement.migration import near_plans

    return near_plans(problem, found, seed, effort)


SEARCHES: dict[str, Search] = {
    "expected-max": steady,
    "remote-nodes": local,
    "transitions": following,
    "layer-time": faster,
    "migration": near,
}
