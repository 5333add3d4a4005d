"""What no plan can be below, whatever is asked of it."""

from __future__ import annotations

import numpy as np

from moesim.placement.bound import Bound, bound_with_kind, uneven_bound
from moesim.placement.problem import Problem
from moesim.placement.solvers.greedy import FloatArray


def load_bound(problem: Problem) -> Bound:
    """Largest over mean rank load that no plan is below, ``[layers]``; of steps, their mean.

    NaN for a layer without load.
    """
    bounds = [_step_bound(problem, step) for step in problem.steps]
    if len(bounds) == 1:
        return bounds[0]
    values = np.stack([bound.values for bound in bounds])
    busy = ~np.isnan(values)
    total = np.where(busy, values, 0.0).sum(axis=0)
    number = busy.sum(axis=0)
    mean = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    return Bound(mean, ("each step",) * len(mean))


def _step_bound(problem: Problem, loads: FloatArray) -> Bound:
    ranks, speeds = problem.ranks, problem.speeds
    mean = loads.sum(axis=1) / (ranks if speeds is None else speeds.sum())
    if problem.even:
        found = bound_with_kind(loads, ranks, problem.slots)
    else:
        filled = problem.experts + problem.redundant
        found = Bound(uneven_bound(loads, ranks, filled, speeds), ("mean or replica",) * len(loads))
    values = np.divide(found.values, mean, out=np.full(len(loads), np.nan), where=mean > 0)
    return Bound(values, found.kinds)
