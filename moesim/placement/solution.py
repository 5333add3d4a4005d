"""Plans, what is proven about them, and how they do under loads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.layout import ExpertMap, slot_shares
from moesim.layout.sharing import dispatch_faults, rule_of
from moesim.placement.problem import load_faults
from moesim.placement.solvers.greedy import FloatArray


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
    objective
        What was minimised.
    value
        Of the objective, float64 ``[layers]``: largest over mean rank load, unless another was asked for.
    bound
        What no placement's objective can be below, float64 ``[layers]``.
    bound_kind
        The argument behind each bound, see `moesim.placement.bound`.
    gap
        ``value / bound - 1`` on what the plan was fitted to, float64 ``[layers]``: no placement is better by
        more. NaN for a layer without load.
    seconds
        Wall time of the solver.
    notes
        What was decided on the way.
    """

    expert_map: ExpertMap
    method: str
    objective: str
    value: FloatArray
    bound: FloatArray
    bound_kind: tuple[str, ...]
    gap: FloatArray
    seconds: float
    notes: tuple[str, ...] = ()


def evaluate(
    expert_map: ExpertMap,
    loads: FloatArray,
    dispatch: str = "even",
    nodes: int = 1,
    speeds: FloatArray | None = None,
    rows: Sequence[int] | None = None,
) -> Imbalance:
    """Imbalance of a plan under loads, which need not be those it was fitted to.

    Parameters
    ----------
    expert_map
        The plan.
    loads
        float64 ``[layers, experts]``; or ``[steps, layers, experts]``, whose imbalances are averaged.
    dispatch
        How the engine chooses among replicas, one of `moesim.layout.DISPATCH`.
    nodes
        Nodes the ranks lie on.
    speeds
        Of the ranks, float64 ``[ranks]``; a load counts divided by its rank's speed, and even is what lets
        all ranks finish together. Equal ones if None.
    rows
        Decoder index of each layer; as `moesim.layout.sharing.slots_of_sources` takes it.

    Raises
    ------
    ConfigError
        If the loads are not numbers of zero or more of the plan's shape, or there is no such rule.

    Examples
    --------
    >>> evaluate(ExpertMap.contiguous(1, 4, ranks=2), np.array([[4.0, 3.0, 2.0, 1.0]])).worst
    1.4
    """
    loads = np.asarray(loads, dtype=np.float64)
    found = load_faults(loads) + dispatch_faults(dispatch)
    if not found and loads.shape[-2:] != (expert_map.layers, expert_map.num_experts):
        shape = f"{expert_map.layers} layers of {expert_map.num_experts} experts"
        found = [Fault("do not fit the plan", "loads", loads.shape, shape)]
    if found:
        raise ConfigError(found)
    steps = loads if loads.ndim == 3 else loads[None]
    # Only a split that follows the loads is another one for each step.
    fixed = None if rule_of(dispatch) == "lp" else slot_shares(expert_map, dispatch, nodes, rows=rows)
    found_loads = [
        expert_map.rank_loads(step, slot_shares(expert_map, "lp", loads=step) if fixed is None else fixed)
        for step in steps
    ]
    table = np.stack([_imbalance(each, speeds) for each in found_loads])
    busy = ~np.isnan(table)
    number = busy.sum(axis=0)
    per_layer = np.divide(
        np.where(busy, table, 0.0).sum(axis=0), number, out=np.full(len(number), math.nan), where=number > 0
    )
    used = per_layer[number > 0]
    if not used.size:
        return Imbalance(math.nan, math.nan, per_layer)
    return Imbalance(float(used.mean()), float(used.max()), per_layer)


def _imbalance(ranks: FloatArray, speeds: FloatArray | None) -> FloatArray:
    """Largest over mean of rank loads ``[layers, ranks]``, ``[layers]``; NaN for a layer without load."""
    even = np.full(ranks.shape[1], 1.0 / ranks.shape[1]) if speeds is None else speeds / speeds.sum()
    mean = ranks.sum(axis=1, keepdims=True) * even
    relative = np.divide(ranks, mean, out=np.full_like(ranks, math.nan), where=mean > 0)
    return np.asarray(relative.max(axis=1))
