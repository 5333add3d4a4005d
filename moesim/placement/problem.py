"""State a placement problem, solve it, judge the plan."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from moesim.errors import ConfigError, Fault, nearest
from moesim.layout import ExpertMap
from moesim.placement.bound import bound_with_kind
from moesim.placement.greedy import FloatArray, IntArray, greedy

METHODS = ("search", "greedy", "greedy-hierarchical", "contiguous", "round-robin")


@dataclass(frozen=True, slots=True, eq=False)
class Imbalance:
    """Largest over mean rank load.

    Parameters
    ----------
    mean, worst
        Over layers with load; NaN if there is none.
    per_layer
        float64 ``[layers]``; NaN for a layer without load.
    """

    mean: float
    worst: float
    per_layer: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A plan and what is proven about it.

    Parameters
    ----------
    expert_map
        The plan.
    method
        How it was found.
    bound
        Load no placement's most loaded rank can be below, float64 ``[layers]``, in the unit of the loads.
    bound_kind
        The argument behind each bound, see `moesim.placement.bound`.
    gap
        ``largest rank load / bound - 1`` on the loads the plan was fitted to, float64 ``[layers]``: no
        placement is better by more. NaN for a layer without load.
    seconds
        Wall time of the solver.
    """

    expert_map: ExpertMap
    method: str
    bound: FloatArray
    bound_kind: tuple[str, ...]
    gap: FloatArray
    seconds: float


def solve(
    loads: FloatArray,
    ranks: int,
    redundant: int = 0,
    method: str = "search",
    *,
    nodes: int = 1,
    groups: int = 1,
    seed: int = 0,
    effort: float = 1.0,
) -> Solution:
    """Place the experts of every layer on ranks.

    Parameters
    ----------
    loads
        Load of each expert, float64 ``[layers, experts]``. A layer without any load keeps its experts in
        order, as an engine starts.
    ranks
        Expert-parallel ranks.
    redundant
        Slots beyond one per expert.
    method
        One of `METHODS`.
    nodes, groups
        For ``greedy-hierarchical``: nodes the ranks lie on, and expert groups of node-limited routing.
    seed
        Of the search; same input and seed, same plan.
    effort
        Moves the search may try, relative to its default.

    Raises
    ------
    ConfigError
        With everything that is wrong with the problem.

    Examples
    --------
    >>> solution = solve(np.array([[4.0, 3.0, 2.0, 1.0]]), ranks=2)
    >>> solution.expert_map.rank_loads(np.array([[4.0, 3.0, 2.0, 1.0]]))
    array([[5., 5.]])
    >>> solution.gap
    array([0.])
    """
    loads = np.asarray(loads, dtype=np.float64)
    found = faults(loads, ranks, redundant, method, nodes=nodes, groups=groups, effort=effort)
    if found:
        raise ConfigError(found, "placement problem")
    started = time.perf_counter()
    table = _place(loads, ranks, redundant, method, nodes, groups, seed, effort)
    idle = ~loads.any(axis=1)
    experts = loads.shape[1]
    if method != "round-robin":
        table[idle] = np.arange(experts + redundant) % experts
    plan = ExpertMap(table, experts, ranks)
    bound = bound_with_kind(loads, ranks, experts + redundant)
    largest = plan.rank_loads(loads).max(axis=1)
    # Rounding may put a sum a few ulp below its own bound.
    gap = np.maximum(np.divide(largest, bound.values, out=np.full(len(loads), np.nan), where=~idle) - 1, 0.0)
    return Solution(plan, method, bound.values, bound.kinds, gap, time.perf_counter() - started)


def evaluate(expert_map: ExpertMap, loads: FloatArray) -> Imbalance:
    """Imbalance of a plan under loads, which need not be those it was fitted to.

    Raises
    ------
    ConfigError
        If the loads are not numbers of zero or more ``[layers, experts]`` of the plan's shape.

    Examples
    --------
    >>> evaluate(ExpertMap.contiguous(1, 4, ranks=2), np.array([[4.0, 3.0, 2.0, 1.0]])).worst
    1.4
    """
    loads = np.asarray(loads, dtype=np.float64)
    found = load_faults(loads)
    if not found and loads.shape != (expert_map.layers, expert_map.num_experts):
        shape = f"{expert_map.layers} layers of {expert_map.num_experts} experts"
        found = [Fault("do not fit the plan", "loads", loads.shape, shape)]
    if found:
        raise ConfigError(found)
    per_layer = expert_map.load_imbalance(loads)
    busy = per_layer[~np.isnan(per_layer)]
    if not busy.size:
        return Imbalance(math.nan, math.nan, per_layer)
    return Imbalance(float(busy.mean()), float(busy.max()), per_layer)


def load_faults(loads: FloatArray) -> list[Fault]:
    """What keeps an array from being loads ``[layers, experts]``."""
    if loads.ndim != 2 or 0 in loads.shape:
        return [Fault("must have two axes, [layers, experts], neither empty", "loads", loads.shape)]
    found = []
    # Beyond 1e300 a sum over experts could overflow.
    for fault, bad in (("is not a finite number", ~(abs(loads) <= 1e300)), ("is negative", loads < 0)):
        where = np.argwhere(bad)
        if len(where):
            layer, expert = where[0]
            more = f", and {len(where) - 1} more" if len(where) > 1 else ""
            found.append(
                Fault(f"{fault}{more}", f"loads[{layer}, {expert}]", float(loads[layer, expert]), "0 or more")
            )
    return found


def faults(
    loads: FloatArray,
    ranks: int,
    redundant: int = 0,
    method: str = "search",
    *,
    nodes: int = 1,
    groups: int = 1,
    effort: float = 1.0,
) -> list[Fault]:
    """Everything that keeps a placement problem from being solved."""
    found = load_faults(loads)
    if method not in METHODS:
        near = nearest(method, METHODS)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        found.append(Fault("is no placement method", "method", method, hint + ", ".join(METHODS)))
    if not (math.isfinite(effort) and effort > 0):
        found.append(Fault("must be a positive number", "effort", effort))
    sizes = (("ranks", ranks, 1), ("redundant", redundant, 0), ("nodes", nodes, 1), ("groups", groups, 1))
    small = [
        Fault("is too small", name, value, f"{least} or more")
        for name, value, least in sizes
        if value < least
    ]
    if small or loads.ndim != 2:
        return found + small
    return found + _shape_faults(loads.shape[1], ranks, redundant, method, nodes, groups)


def _shape_faults(
    experts: int, ranks: int, redundant: int, method: str, nodes: int, groups: int
) -> list[Fault]:
    found = []
    slots = experts + redundant
    if slots % ranks:
        fitting = redundant + -slots % ranks
        spare = f" and {redundant} redundant ones" if redundant else ""
        found.append(
            Fault(
                f"{experts} experts{spare} do not divide over {ranks} ranks",
                "redundant",
                redundant,
                f"{fitting} would fit",
            )
        )
    hierarchical = method == "greedy-hierarchical"
    if hierarchical:
        for name, whole in (("groups", groups), ("ranks", ranks), ("experts + redundant", slots)):
            if whole % nodes:
                found.append(Fault(f"must be a multiple of the {nodes} nodes", name, whole))
        if experts % groups:
            found.append(Fault(f"must divide the {experts} experts", "groups", groups))
    most = experts * (ranks // (nodes if hierarchical else 1) - 1)
    if redundant > most and not (hierarchical and ranks % nodes):
        where = "rank of its node" if hierarchical else "rank"
        found.append(
            Fault(
                f"no expert goes twice on a rank, so each has at most one replica per {where}",
                "redundant",
                redundant,
                f"0 to {most}",
            )
        )
    if method == "round-robin" and redundant:
        found.append(Fault("round-robin placement has no spare slots", "redundant", redundant, "0"))
    return found


def _place(
    loads: FloatArray,
    ranks: int,
    redundant: int,
    method: str,
    nodes: int,
    groups: int,
    seed: int,
    effort: float,
) -> IntArray:
    layers, experts = loads.shape
    match method:
        case "contiguous":
            return ExpertMap.contiguous(layers, experts, ranks, redundant).physical_to_logical.copy()
        case "round-robin":
            return ExpertMap.round_robin(layers, experts, ranks).physical_to_logical.copy()
        case "greedy-hierarchical":
            return greedy(loads, ranks, redundant, groups, nodes)
    table = greedy(loads, ranks, redundant)
    if method == "search":
        from moesim.placement.search import search

        return search(loads, ranks, table, seed=seed, effort=effort)
    return table
