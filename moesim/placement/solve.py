"""From a problem to a plan with its certificate."""

from __future__ import annotations

import math
import time

import numpy as np

from moesim.errors import ConfigError, Fault, nearest
from moesim.layout import ExpertMap
from moesim.placement.certificate import certificate
from moesim.placement.objective import Objective, objective_faults, objective_value
from moesim.placement.portfolio import candidates, choose
from moesim.placement.problem import Problem, hierarchy_faults
from moesim.placement.solution import Solution
from moesim.placement.solvers.greedy import IntArray, greedy

METHODS = ("search", "greedy", "greedy-hierarchical", "contiguous", "round-robin")


def solve(
    problem: Problem,
    method: str = "search",
    objective: Objective | str = "max-load",
    *,
    seed: int = 0,
    effort: float = 1.0,
) -> Solution:
    """Place the experts of every layer on ranks.

    Parameters
    ----------
    problem
        What is asked.
    method
        One of `METHODS`.
    objective
        What is minimised, see `moesim.placement.objective`; methods other than ``search`` do not look at it,
        but are judged by it.
    seed
        Of the search; same input and seed, same plan.
    effort
        Moves the search may try, relative to its default.

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
    found = method_faults(problem, method, effort) + objective_faults(problem, objective)
    if found:
        raise ConfigError(found, "placement problem")
    started = time.perf_counter()
    plan = problem.plan(_place(problem, method, objective, seed, effort))
    value = objective_value(problem, plan, objective)
    bound = certificate(problem, objective)
    # Rounding may put a sum a few ulp below its own bound; a bound of nothing proves nothing.
    proven = np.where(bound.values > 0, bound.values, np.nan)
    gap = np.maximum(value / proven - 1, 0.0)
    seconds = time.perf_counter() - started
    return Solution(plan, method, str(objective), value, bound.values, bound.kinds, gap, seconds)


def method_faults(problem: Problem, method: str, effort: float = 1.0) -> list[Fault]:
    """What keeps a method from solving a problem."""
    found = name_faults(method)
    if not (math.isfinite(effort) and effort > 0):
        found.append(Fault("must be a positive number", "effort", effort))
    if method == "greedy-hierarchical":
        found += hierarchy_faults(problem)
    if not problem.even and method not in ("search", "greedy"):
        found.append(Fault("takes ranks of one speed and room", "method", method, "search, greedy"))
    if method == "round-robin" and problem.redundant:
        found.append(Fault("round-robin placement has no spare slots", "redundant", problem.redundant, "0"))
    return found


def name_faults(method: str) -> list[Fault]:
    """What keeps a name from being a method."""
    if method in METHODS:
        return []
    near = nearest(method, METHODS)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return [Fault("is no placement method", "method", method, hint + ", ".join(METHODS))]


def _place(problem: Problem, method: str, objective: Objective, seed: int, effort: float) -> IntArray:
    layers, experts, ranks, redundant = problem.layers, problem.experts, problem.ranks, problem.redundant
    match method:
        case "contiguous":
            return ExpertMap.contiguous(layers, experts, ranks, redundant).physical_to_logical
        case "round-robin":
            return ExpertMap.round_robin(layers, experts, ranks).physical_to_logical
        case "greedy-hierarchical":
            return greedy(problem.totals, ranks, redundant, problem.groups, problem.nodes)
        case "greedy":
            return greedy(problem.totals, ranks, redundant, rooms=problem.rooms, speeds=problem.speeds)
    return choose(problem, objective, candidates(problem, objective, seed, effort))
