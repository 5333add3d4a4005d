"""From a problem to a plan with its certificate."""

from __future__ import annotations

import math
import time

import numpy as np

from moesim.errors import ConfigError, Fault, nearest
from moesim.layout import ExpertMap
from moesim.layout.sharing import rule_of
from moesim.placement.bound import Bound
from moesim.placement.certificate import certificate
from moesim.placement.ilp.answer import Listener
from moesim.placement.migration import aligned
from moesim.placement.objective import Objective, objective_faults, objective_value
from moesim.placement.portfolio import candidates, choose
from moesim.placement.problem import Problem, hierarchy_faults
from moesim.placement.proof import brings_proof, proof
from moesim.placement.solution import Solution
from moesim.placement.solvers.greedy import IntArray, greedy

METHODS = ("search", "exact", "greedy", "greedy-hierarchical", "contiguous", "round-robin")


def solve(
    problem: Problem,
    method: str = "search",
    objective: Objective | str = "max-load",
    *,
    seed: int = 0,
    effort: float = 1.0,
    time_limit_s: float = 600.0,
    progress: Listener | None = None,
) -> Solution:
    """Place the experts of every layer on ranks.

    Parameters
    ----------
    problem
        What is asked.
    method
        One of `METHODS`. ``exact`` goes on from ``search`` with integer programmes, until every layer is
        proven to be within `moesim.placement.proof.PROVEN` of its optimum, or the time is over.
    objective
        What is minimised, see `moesim.placement.objective`; methods other than ``search`` do not look at it,
        but are judged by it.
    seed
        Of the search; same input and seed, same plan.
    effort
        Moves the search may try, relative to its default.
    time_limit_s
        Of the integer programmes.
    progress
        Called with incumbent and bound, in largest over mean rank load, as integer programmes run.

    Raises
    ------
    ConfigError
        With everything that keeps the method from solving the problem.

    Examples
    --------
    >>> loads = np.array([[4.0, 3.0, 2.0, 1.0]])
    >>> solution = solve(Problem(loads, ranks=2))
    >>> solution.expert_map.rank_loads(loads)
    array([[5., 5.]])
    >>> solution.gap
    array([0.])
    """
    if isinstance(objective, str):
        objective = Objective.parse(objective)
    found = method_faults(problem, method, objective, effort, time_limit_s)
    if found:
        raise ConfigError(found, "placement problem")
    started = time.perf_counter()
    proven: Bound | None = None
    notes: tuple[str, ...] = ()
    if method == "exact" or (method == "search" and brings_proof(problem) and objective == Objective()):
        table, proven = proof(problem, method == "exact", seed, effort, time_limit_s, progress)
    else:
        table, notes = _place(problem, method, objective, seed, effort)
    plan = _labelled(problem, problem.plan(table), objective)
    value = objective_value(problem, plan, objective)
    bound = proven or certificate(problem, objective)
    # Rounding may put a sum a few ulp below its own bound; a bound of nothing proves nothing.
    some = np.where(bound.values > 0, bound.values, np.nan)
    gap = np.maximum(value / some - 1, 0.0)
    seconds = time.perf_counter() - started
    return Solution(plan, method, str(objective), value, bound.values, bound.kinds, gap, seconds, notes)


def _labelled(problem: Problem, plan: ExpertMap, objective: Objective) -> ExpertMap:
    """The plan with its ranks named such that fewest experts move, where names change nothing else."""
    current = problem.current
    named = rule_of(problem.dispatch) != "even" or "transitions" in objective.terms
    if current is None or named or not (problem.even and current.full):
        return plan
    nodes = problem.nodes if problem.ranks % problem.nodes == 0 else 1
    return aligned(plan, current, nodes, keep_nodes=nodes > 1)


def method_faults(
    problem: Problem,
    method: str,
    objective: Objective | None = None,
    effort: float = 1.0,
    time_limit_s: float = 600.0,
) -> list[Fault]:
    """What keeps a method from solving a problem."""
    found = name_faults(method)
    objective = objective or Objective()
    for name, value in (("effort", effort), ("time limit", time_limit_s)):
        if not (math.isfinite(value) and value > 0):
            found.append(Fault("must be a positive number", name, value))
    if method == "greedy-hierarchical":
        found += hierarchy_faults(problem)
    if not problem.even and method not in ("search", "greedy"):
        found.append(Fault("takes ranks of one speed and room", "method", method, "search, greedy"))
    if method == "exact" and (objective != Objective() or rule_of(problem.dispatch) not in ("even", "lp")):
        found.append(
            Fault("proves max-load where replicas share evenly", "method", method, "search for all else")
        )
    if method == "round-robin" and problem.redundant:
        found.append(Fault("round-robin placement has no spare slots", "redundant", problem.redundant, "0"))
    return found + objective_faults(problem, objective)


def name_faults(method: str) -> list[Fault]:
    """What keeps a name from being a method."""
    if method in METHODS:
        return []
    near = nearest(method, METHODS)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return [Fault("is no placement method", "method", method, hint + ", ".join(METHODS))]


def _place(
    problem: Problem, method: str, objective: Objective, seed: int, effort: float
) -> tuple[IntArray, tuple[str, ...]]:
    """A plan ``[layers, slots]``, and what was decided on the way."""
    layers, experts, ranks, redundant = problem.layers, problem.experts, problem.ranks, problem.redundant
    match method:
        case "contiguous":
            return ExpertMap.contiguous(layers, experts, ranks, redundant).physical_to_logical, ()
        case "round-robin":
            return ExpertMap.round_robin(layers, experts, ranks).physical_to_logical, ()
        case "greedy-hierarchical":
            return greedy(problem.totals, ranks, redundant, problem.groups, problem.nodes), ()
        case "greedy":
            return greedy(problem.totals, ranks, redundant, rooms=problem.rooms, speeds=problem.speeds), ()
    found = candidates(problem, objective, seed, effort)
    return choose(problem, objective, found.tables), found.notes
