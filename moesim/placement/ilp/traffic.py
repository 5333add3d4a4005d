"""Traffic between consecutive layers as integer programmes: MoETuner's second one, and the joint form."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moesim.placement.ilp import constraints, objectives
from moesim.placement.ilp.answer import Answer, Listener, Progress
from moesim.placement.ilp.solve import Run
from moesim.placement.ilp.variables import amounts, binaries, shares, values
from moesim.placement.solvers.greedy import FloatArray, IntArray


def leaving(table: IntArray, pairs: FloatArray, ranks: int) -> float:
    """Transitions between experts of consecutive layers that change rank.

    Parameters
    ----------
    table
        physical_to_logical without spares, int64 ``[layers, experts]``.
    pairs
        Transitions from an expert to one of the next layer, float64 ``[layers - 1, experts, experts]``.
    ranks
        Expert-parallel ranks.

    Examples
    --------
    >>> leaving(np.array([[0, 1], [1, 0]]), np.array([[[5.0, 1.0], [2.0, 7.0]]]), ranks=2)
    12.0
    """
    crossing = cluster_pairs(table, pairs, ranks)
    return float(crossing.sum() - np.trace(crossing, axis1=1, axis2=2).sum())


def cluster_pairs(table: IntArray, pairs: FloatArray, ranks: int) -> FloatArray:
    """Transitions between ranks, float64 ``[layers - 1, ranks, ranks]``; parameters as in `leaving`."""
    layers, experts = table.shape
    member = np.zeros((layers, experts, ranks))
    member[np.arange(layers)[:, None], table, np.arange(experts) // (experts // ranks)] = 1.0
    return np.asarray(np.swapaxes(member[:-1], 1, 2) @ pairs @ member[1:])


def longest_links(
    table: IntArray, pairs: FloatArray, ranks: int, bandwidth: FloatArray | None = None
) -> FloatArray:
    """MoETuner's cost of each pair of layers: the largest ``C / B`` of two GPUs, float64 ``[layers - 1]``."""
    speed = np.ones((ranks, ranks)) if bandwidth is None else bandwidth
    seconds = cluster_pairs(table, pairs, ranks) / speed
    seconds[:, np.arange(ranks), np.arange(ranks)] = 0.0
    return np.asarray(seconds.max(axis=(1, 2)))


def moetuner_links(
    table: IntArray,
    pairs: FloatArray,
    ranks: int,
    bandwidth: FloatArray | None = None,
    *,
    run: Run | None = None,
    progress: Listener | None = None,
) -> Answer:
    """MoETuner's second programme: which cluster of each layer lies on which GPU.

    Minimises ``sum over layers of max over pairs of GPUs of C / B`` (arXiv:2502.06643, section 4.2), with
    ``C`` the transitions between two clusters of consecutive layers that lie on these GPUs. In print the
    maximum's index is not given and the sum runs over the pairs of GPUs inside it; the text says that it is
    over pairs, which is what is done here. The constraint on experts per GPU over all layers follows from one
    cluster per GPU and clusters of one size.

    Parameters
    ----------
    table
        Clusters, int64 ``[layers, experts]`` as by `moesim.placement.ilp.balance.moetuner_clusters`.
    pairs, ranks
        As in `leaving`.
    bandwidth
        Of the links between GPUs, float64 ``[ranks, ranks]``, the diagonal unused; equal ones if None. With
        equal ones a layer may be renamed together with all behind it, so each pair of layers is a programme
        of its own, and the answer is still the optimum of all.
    run, progress
        As in `moesim.placement.ilp.balance.balance`.

    Returns
    -------
    Answer
        Of all layers together, arrays of one value.
    """
    started = time.perf_counter()
    run = run or Run()
    layers = len(table)
    held = table.reshape(layers, ranks, -1).copy()
    scale = max(float(pairs.sum(axis=(1, 2)).max(initial=0.0)), 1e-300)
    speed = np.ones((ranks, ranks)) if bandwidth is None else bandwidth
    apart = speed[~np.eye(ranks, dtype=bool)]
    uniform = bool((apart == apart[0]).all()) if len(apart) else True
    chunks = [(i, i + 2) for i in range(layers - 1)] if uniform else [(0, layers)]
    value, bound, status = 0.0, 0.0, []
    for first, last in chunks:
        left = run.time_limit_s - (time.perf_counter() - started)
        limited = replace(run, time_limit_s=max(0.01, left * (last - first - 1) / (layers - 1 - first)))
        part = cluster_pairs(held[first:last].reshape(last - first, -1), pairs[first : last - 1], ranks)
        places, proven, said = _links(part / scale, speed, uniform, limited)
        for layer, place in zip(range(first, last), places, strict=True):
            held[layer] = held[layer][place]
        status.append(said)
        bound += max(0.0, proven) * scale
        value = float(longest_links(held.reshape(layers, -1), pairs, ranks, bandwidth)[: last - 1].sum())
        if progress is not None:
            progress(Progress(last - 1, value, bound, time.perf_counter() - started))
    seconds = time.perf_counter() - started
    overall = "optimal" if all(s == "optimal" for s in status) else "time limit"
    return Answer(
        held.reshape(layers, -1),
        np.array([value]),
        np.array([min(bound, value)]),
        ("integer programme",),
        (overall,),
        seconds,
    )


def _links(
    between: FloatArray, speed: FloatArray, first_fixed: bool, run: Run
) -> tuple[list[IntArray], float, str]:
    """Cluster on each GPU ``[layers][gpus]``, bound and status for transitions ``[layers - 1, c, d]``."""
    import pulp

    layers, ranks = len(between) + 1, between.shape[1]
    problem = pulp.LpProblem("links", pulp.LpMinimize)
    y = binaries(problem, "y", (layers, ranks, ranks))
    q = shares(problem, "q", (layers - 1, ranks, ranks, ranks, ranks))
    longest = amounts(problem, "longest", (layers - 1,))
    for layer in range(layers):
        constraints.one_place(problem, y[layer])
        constraints.full(problem, y[layer], 1)
    if first_fixed:
        for g in range(ranks):
            problem += y[0, g, g] == 1
    for k in range(layers - 1):
        constraints.routed(problem, q[k], y[k], y[k + 1])
        seconds = between[k][:, None, :, None] / speed[None, :, None, :]
        constraints.slowest(problem, q[k], seconds, longest[k])
    objectives.least(problem, longest)
    start = {y[layer, g, g]: 1.0 for layer in range(layers) for g in range(ranks)}
    for k in range(layers - 1):
        start |= {q[k, g, g, h, h]: 1.0 for g in range(ranks) for h in range(ranks)}
        cost = between[k] / speed
        start[longest[k]] = float(cost[~np.eye(ranks, dtype=bool)].max(initial=0.0))
    outcome = run(problem, start)
    if not math.isfinite(outcome.value):
        return [np.arange(ranks)] * layers, outcome.bound, outcome.status
    return list(values(y).argmax(axis=1)), outcome.bound, outcome.status


def joint(
    loads: FloatArray,
    pairs: FloatArray,
    ranks: int,
    cap: npt.ArrayLike,
    *,
    start: IntArray | None = None,
    run: Run | None = None,
    progress: Listener | None = None,
) -> Answer:
    """Clusters and their places at once: least transitions that change rank, no rank above a cap on its load.

    For a few layers of few experts. The relaxation is loose, so large problems end at their time limit; the
    bound tells by how much.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    pairs, ranks
        As in `leaving`.
    cap
        Largest load of a rank, of each layer or of all.
    start
        physical_to_logical within the cap to improve, int64 ``[layers, experts]``.
    run, progress
        As in `moesim.placement.ilp.balance.balance`.

    Returns
    -------
    Answer
        Of all layers together, arrays of one value; status ``none`` and a table of zeros if no placement
        within the cap was found.
    """
    import pulp

    started = time.perf_counter()
    run = run or Run()
    layers, experts = loads.shape
    room = experts // ranks
    cap = np.broadcast_to(np.asarray(cap, dtype=np.float64), (layers,))
    everything = float(pairs.sum())
    scale = max(everything, 1e-300)
    problem = pulp.LpProblem("joint", pulp.LpMinimize)
    x = binaries(problem, "x", (layers, experts, ranks))
    q = shares(problem, "q", (layers - 1, experts, experts, ranks))
    for layer in range(layers):
        constraints.one_place(problem, x[layer])
        constraints.full(problem, x[layer], room)
        unit = max(float(loads[layer].max()), 1e-300)
        constraints.below(problem, x[layer], loads[layer][:, None] / unit, cap[layer] / unit * (1 + 1e-9))
    constraints.ordered(problem, x[0])
    for k in range(layers - 1):
        constraints.together(problem, q[k], x[k], x[k + 1], room)
    objectives.leaving(problem, q, pairs / scale)
    given = None
    if start is not None:
        held = start.reshape(layers, ranks, room)
        held = held[:, np.argsort(held[0].min(axis=1), kind="stable")]
        on = np.zeros((layers, experts, ranks))
        on[np.arange(layers)[:, None], held.reshape(layers, -1), np.repeat(np.arange(ranks), room)] = 1.0
        both = on[:-1, :, None, :] * on[1:, None, :, :]
        given = dict(zip(x.ravel().tolist(), on.ravel().tolist(), strict=True))
        given |= dict(zip(q.ravel().tolist(), both.ravel().tolist(), strict=True))
    if progress is not None:
        tell = progress

        def listen(value: float, bound: float, seconds: float) -> None:
            tell(Progress(-1, everything + value * scale, everything + bound * scale, seconds))

        run = replace(run, progress=listen)
    outcome = run(problem, given)
    bound = min(max(0.0, everything + outcome.bound * scale), everything)
    if math.isfinite(outcome.value):
        chosen = values(x) > 0.5
        table = np.stack([np.concatenate([np.flatnonzero(g) for g in row.T]) for row in chosen])
        status = outcome.status
    elif start is not None:
        table, status = start, "time limit"
    else:
        table, status = np.zeros((layers, experts), dtype=np.int64), "none"
    value = leaving(table, pairs, ranks) if status != "none" else math.inf
    seconds = time.perf_counter() - started
    return Answer(
        table,
        np.array([value]),
        np.array([min(bound, value)]),
        ("integer programme",),
        (status,),
        seconds,
    )
