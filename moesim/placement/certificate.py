"""What no plan can be below, whatever is asked of it."""

from __future__ import annotations

import numpy as np

from moesim.placement.bound import Bound, uneven_bound
from moesim.placement.bound_shares import bound_under
from moesim.placement.bound_traffic import least_leaving, least_remote
from moesim.placement.objective import Objective, flow_of, sample
from moesim.placement.problem import Problem
from moesim.placement.solvers.greedy import FloatArray

#: Name of a bound that says nothing: a term that nothing is proven about.
NOTHING = "nothing proven"


def certificate(problem: Problem, objective: Objective) -> Bound:
    """Value of an objective that no plan is below, ``[layers]``; NaN for a layer without load.

    Terms are bounded one by one, for weights are positive; of terms in order the first is what counts.
    """
    terms = objective.terms[:1] if objective.ordered else objective.terms
    bounds = [_term_bound(problem, term) for term in terms]
    weights = objective.weights[: len(terms)]
    values = sum(weight * bound.values for weight, bound in zip(weights, bounds, strict=True))
    kinds = tuple(" + ".join(dict.fromkeys(names)) for names in zip(*(b.kinds for b in bounds), strict=True))
    return Bound(np.asarray(values), kinds)


def load_bound(problem: Problem, loads: FloatArray) -> Bound:
    """Largest over mean rank load that no plan is below on loads ``[layers, experts]``."""
    ranks, speeds = problem.ranks, problem.speeds
    mean = loads.sum(axis=1) / (ranks if speeds is None else speeds.sum())
    if problem.even:
        found = bound_under(loads, ranks, problem.slots, problem.dispatch)
    else:
        filled = problem.experts + problem.redundant
        found = Bound(uneven_bound(loads, ranks, filled, speeds), ("mean or replica",) * len(loads))
    values = np.divide(found.values, mean, out=np.full(len(loads), np.nan), where=mean > 0)
    return Bound(values, found.kinds)


def _term_bound(problem: Problem, term: str) -> Bound:
    if term == "max-load":
        return load_bound(problem, problem.totals)
    if term == "expected-max":
        return imbalance_bound(problem)
    values = np.zeros(problem.layers)
    kind = NOTHING
    # Replicas can only bring experts nearer, and nothing is known of how near.
    if problem.tokens is not None and not problem.redundant and problem.experts % problem.nodes == 0:
        if term == "remote-nodes":
            values, kind = least_remote(sample(problem.tokens), problem.experts, problem.nodes), "spectral"
        elif term == "transitions":
            parts = problem.nodes if problem.nodes > 1 else problem.ranks
            values[1:], kind = least_leaving(flow_of(problem.tokens), parts), "spectral"
    return Bound(np.where(problem.idle, np.nan, values), (kind,) * problem.layers)


def imbalance_bound(problem: Problem) -> Bound:
    """Mean of the bounds of single steps: no plan is below any of them in its step."""
    bounds = [load_bound(problem, step) for step in problem.steps]
    values = np.stack([bound.values for bound in bounds])
    busy = ~np.isnan(values)
    total, number = np.where(busy, values, 0.0).sum(axis=0), busy.sum(axis=0)
    mean = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    kinds = bounds[0].kinds if len(bounds) == 1 else ("each step",) * len(mean)
    return Bound(mean, kinds)
