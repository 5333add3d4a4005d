"""Balance as integer programmes, layer by layer: the largest load, or MoETuner's deviations from the mean."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moesim.placement.bound import bound_with_kind
from moesim.placement.ilp import constraints, objectives
from moesim.placement.ilp.answer import Answer, Listener, Progress
from moesim.placement.ilp.solve import Outcome, Run
from moesim.placement.ilp.variables import amounts, binaries, values
from moesim.placement.solvers.greedy import FloatArray, IntArray, greedy


def balance(
    loads: FloatArray,
    ranks: int,
    slots: int | None = None,
    *,
    counts: IntArray | None = None,
    start: IntArray | None = None,
    run: Run | None = None,
    progress: Listener | None = None,
) -> Answer:
    """Minimise the load of the most loaded rank.

    With spares, replica counts are decided together with the placement, unless they are given. A layer whose
    start meets its combinatorial bound is not solved: it is proven already.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks, slots
        Expert-parallel ranks, and physical experts per layer; one each if None.
    counts
        Replicas, int64 ``[layers, experts]``; free if None. Then bounds hold for these counts alone.
    start
        physical_to_logical to improve, int64 ``[layers, slots]``, of these counts if they are given; `greedy`
        and `moesim.placement.solvers.anneal.search` if None, and nothing if only counts are given.
    run
        Solver, time limit of all layers together, gap, seed.
    progress
        Called while HiGHS runs and after each layer.

    Returns
    -------
    Answer
        Where the solver finds nothing better, the start.

    Examples
    --------
    >>> balance(np.array([[5.0, 4.0, 3.0, 3.0, 2.0, 1.0]]), ranks=2).value
    array([9.])
    """
    started = time.perf_counter()
    run = run or Run()
    layers, experts = loads.shape
    slots = experts if slots is None else slots
    if start is None and counts is None:
        from moesim.placement.solvers.anneal import search

        start = search(loads, ranks, greedy(loads, ranks, slots - experts), seed=run.seed)
    simple = bound_with_kind(loads, ranks, slots)
    bound, kinds = simple.values.copy(), list(simple.kinds)
    table = np.zeros((layers, slots), dtype=np.int64) if start is None else start.copy()
    value = (
        np.full(layers, math.inf)
        if start is None
        else np.array([_largest(loads[i], table[i], ranks) for i in range(layers)])
    )
    status = []
    for layer in range(layers):
        if value[layer] <= bound[layer] * (1 + run.gap):
            status.append("optimal")
            continue
        left = run.time_limit_s - (time.perf_counter() - started)
        limited = replace(run, time_limit_s=max(0.01, left / (layers - layer)))
        fixed = None if counts is None else counts[layer]
        first = None if start is None else start[layer]
        found, outcome = _balance_layer(
            loads[layer], ranks, slots, fixed, first, float(bound[layer]), limited, _teller(progress, layer)
        )
        if found is not None and (new := _largest(loads[layer], found, ranks)) < value[layer]:
            table[layer], value[layer] = found, new
        if outcome.bound > bound[layer]:
            bound[layer], kinds[layer] = min(outcome.bound, value[layer]), "integer programme"
        proven = value[layer] <= bound[layer] * (1 + max(run.gap, 1e-9))
        # What a solver found nothing better than is still a plan.
        known = "time limit" if outcome.status == "none" else outcome.status
        status.append("optimal" if proven else known if math.isfinite(value[layer]) else "none")
        if progress is not None:
            seconds = time.perf_counter() - started
            progress(Progress(layer, float(value[layer]), float(bound[layer]), seconds))
    return Answer(table, value, bound, tuple(kinds), tuple(status), time.perf_counter() - started)


def _balance_layer(
    loads: FloatArray,
    ranks: int,
    slots: int,
    counts: IntArray | None,
    start: IntArray | None,
    bound: float,
    run: Run,
    tell: Listener | None,
) -> tuple[IntArray | None, Outcome]:
    import pulp

    experts, room = len(loads), slots // ranks
    unit = max(float(loads.sum()) / ranks, 1e-300)
    if counts is None:
        most = min(ranks, slots - experts + 1)
        expert = np.repeat(np.arange(experts), most)
        copies = np.tile(np.arange(1, most + 1), experts)
    else:
        expert, copies = np.arange(experts), counts
    share = loads[expert] / copies / unit
    problem = pulp.LpProblem("balance", pulp.LpMinimize)
    peak = amounts(problem, "peak", (1,))
    # What is known of the optimum spares the solver finding it.
    peak[0].lowBound = bound / unit * (1 - 1e-12)
    y = binaries(problem, "y", (len(expert), ranks))
    z = binaries(problem, "z", (len(expert),))
    constraints.replicas(problem, y, z, expert, copies)
    constraints.full(problem, y, room)
    constraints.below(problem, y, share[:, None], peak[0])
    if slots == experts:
        constraints.ordered(problem, y)
    objectives.least(problem, peak)
    given = None
    if start is not None:
        held = _named(start.reshape(ranks, room))
        number = np.bincount(start, minlength=experts)
        given = {peak[0]: _largest(loads, start, ranks) / unit}
        for option in np.flatnonzero(copies == number[expert]).tolist():
            given[z[option]] = 1.0
            for g in np.flatnonzero((held == expert[option]).any(axis=1)).tolist():
                given[y[option, g]] = 1.0
    if tell is not None:
        run = replace(run, progress=_scaled(tell, unit))
    outcome = run(problem, given)
    outcome = Outcome(outcome.status, outcome.value * unit, outcome.bound * unit)
    if not math.isfinite(outcome.value):
        return None, outcome
    chosen = values(y) > 0.5
    return np.concatenate([expert[chosen[:, g]] for g in range(ranks)]), outcome


def moetuner_clusters(
    loads: FloatArray, ranks: int, *, run: Run | None = None, progress: Listener | None = None
) -> Answer:
    """MoETuner's first programme: clusters of experts whose loads deviate least from the mean, in sum.

    As printed (Go and Mahajan, "MoETuner", arXiv:2502.06643, section 4.2) the programme minimises
    ``sum_c |T[c] - mean|`` subject to every cluster having at least one expert. That lacks two constraints,
    which are added here: **every expert is in exactly one cluster** (as printed one may be in none or in
    several), and **all clusters have the same number of experts**, as engines want.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks
        Clusters: one for each rank.
    run, progress
        As in `balance`.

    Returns
    -------
    Answer
        Of the sum of deviations, per layer; cluster c is written to rank c.

    Examples
    --------
    >>> moetuner_clusters(np.array([[4.0, 3.0, 2.0, 2.0]]), ranks=2).value
    array([1.])
    """
    import pulp

    started = time.perf_counter()
    run = run or Run()
    layers, experts = loads.shape
    tables, found, bounds, status = [], [], [], []
    for layer, row in enumerate(loads):
        left = run.time_limit_s - (time.perf_counter() - started)
        unit = max(row.sum() / ranks, 1e-300)
        problem = pulp.LpProblem("clusters", pulp.LpMinimize)
        x = binaries(problem, "x", (experts, ranks))
        beyond = amounts(problem, "beyond", (ranks,))
        constraints.one_place(problem, x)
        constraints.full(problem, x, experts // ranks)
        constraints.deviations(problem, x, row / unit, row.sum() / unit / ranks, beyond)
        constraints.ordered(problem, x)
        objectives.least(problem, beyond)
        start = _named(greedy(row[None], ranks)[0].reshape(ranks, -1))
        given = {x[e, g]: 1.0 for g in range(ranks) for e in start[g].tolist()}
        deviation = abs(row[start].sum(axis=1) - row.sum() / ranks)
        given |= dict(zip(beyond.tolist(), (deviation / unit).tolist(), strict=True))
        limited = replace(run, time_limit_s=max(0.01, left / (layers - layer)))
        outcome = limited(problem, given)
        best = start.ravel()
        if math.isfinite(outcome.value):
            chosen = values(x) > 0.5
            best = np.concatenate([np.flatnonzero(chosen[:, g]) for g in range(ranks)])
        sums = row[best.reshape(ranks, -1)].sum(axis=1)
        tables.append(best)
        found.append(float(abs(sums - row.sum() / ranks).sum()))
        bounds.append(min(found[-1], max(0.0, outcome.bound * unit)))
        status.append("time limit" if outcome.status == "none" else outcome.status)
        if progress is not None:
            progress(Progress(layer, found[-1], bounds[-1], time.perf_counter() - started))
    seconds = time.perf_counter() - started
    kinds = ("integer programme",) * layers
    return Answer(np.array(tables), np.array(found), np.array(bounds), kinds, tuple(status), seconds)


def _named(held: IntArray) -> IntArray:
    """Ranks ``[ranks, room]`` in the order of their least expert, as `constraints.ordered` wants them."""
    return held[np.argsort(held.min(axis=1), kind="stable")]


def _largest(loads: FloatArray, row: IntArray, ranks: int) -> float:
    share = loads / np.maximum(1, np.bincount(row, minlength=len(loads)))
    return float(share[row].reshape(ranks, -1).sum(axis=1).max())


def _teller(progress: Listener | None, layer: int) -> Listener | None:
    if progress is None:
        return None
    return lambda state: progress(replace(state, layer=layer))


def _scaled(tell: Listener, unit: float) -> Callable[[float, float, float], None]:
    return lambda value, bound, seconds: tell(Progress(-1, value * unit, bound * unit, seconds))
