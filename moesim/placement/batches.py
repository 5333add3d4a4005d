"""Batches of recorded tokens, as loads per step: what a plan is fitted to and judged on.

How tokens come together decides how uneven a batch is. A decode step of many requests mixes their tokens; a
chunk of a prompt is a run of neighbours, which choose alike; and traffic of one task after the other makes
whole batches choose alike. Requests, not tokens or batches, are what may be kept aside for judging: tokens of
a request resemble each other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.trace.types import RoutingTrace, count_ids


def draw_batches(
    trace: RoutingTrace,
    tokens: int,
    number: int,
    *,
    requests: IntArray | None = None,
    run: int = 1,
    tasks: IntArray | None = None,
    resample: bool = False,
    seed: int = 0,
) -> FloatArray:
    """Draw batches and count what they choose.

    Parameters
    ----------
    trace
        Recorded routing.
    tokens
        Tokens of each batch.
    number
        Batches to draw.
    requests
        Ids of the requests whose tokens may be drawn; all if None.
    run
        Neighbouring tokens of one request that are drawn together; 1 mixes single tokens, without drawing one
        twice where there are enough. A request that is shorter is taken whole.
    tasks
        Task of each request id, int ``[largest request id + 1]``. If given, each batch is all of one task,
        drawn alike from those of the requests.
    resample
        Whether each batch draws from a bootstrap of the requests (Efron 1979): as many of them, drawn with
        replacement. All batches of a few requests share their peculiarities; so drawn they differ as
        batches of other requests would, and a plan fitted to them holds better elsewhere.
    seed
        Of the draws.

    Returns
    -------
    ndarray
        Token-expert selections, float64 ``[number, layers, experts]``.

    Raises
    ------
    ConfigError
        With everything that is wrong.

    Examples
    --------
    >>> trace = RoutingTrace(
    ...     np.array([[[0]], [[0]], [[1]], [[2]]], np.uint8),
    ...     np.array([0, 0, 1, 1], np.int32), 3, (0,), np.arange(4, dtype=np.int32), np.ones(4, np.int8))
    >>> draw_batches(trace, tokens=2, number=2, requests=np.array([0]))[:, 0].tolist()
    [[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]
    """
    rows = np.argsort(trace.request, kind="stable")
    if requests is not None:
        rows = rows[np.isin(trace.request[rows], requests)]
    found = [
        Fault("is too small", name, value, "1 or more")
        for name, value in (("tokens", tokens), ("number", number), ("run", run))
        if value < 1
    ]
    if not len(rows):
        found.append(Fault("no token of the trace belongs to them", "requests"))
    elif tasks is not None and len(tasks) <= trace.request[rows].max():
        needed = int(trace.request[rows].max()) + 1
        found.append(Fault("must name the task of every request", "tasks", len(tasks), f"{needed} or more"))
    if found:
        raise ConfigError(found, "batches")
    of = trace.request[rows]
    pools = [rows] if tasks is None else [rows[tasks[of] == task] for task in np.unique(tasks[of])]
    rng = np.random.default_rng(seed)
    counts = np.empty((number, trace.topk_ids.shape[1], trace.num_experts))
    for batch in counts:
        pool = pools[rng.integers(len(pools))]
        who = trace.request[pool]
        weight = _bootstrap(who, rng) if resample else None
        if run > 1:
            chosen = _runs(pool, who, tokens, run, weight, rng)
        elif weight is not None:
            chosen = pool[_places(weight, tokens, rng)]
        else:
            chosen = rng.choice(pool, tokens, replace=tokens > len(pool))
        batch[:] = count_ids(trace.topk_ids[chosen], trace.num_experts)
    return counts


def _bootstrap(who: npt.NDArray[np.int32], rng: np.random.Generator) -> IntArray:
    """How often the request of each row is drawn, in as many draws as there are requests."""
    requests, nth = np.unique(who, return_inverse=True)
    times = np.bincount(rng.integers(len(requests), size=len(requests)), minlength=len(requests))
    return np.asarray(times[nth])


def _places(weight: IntArray, number: int, rng: np.random.Generator) -> IntArray:
    """Places drawn in proportion to whole weights, with replacement."""
    ends = np.cumsum(weight)
    return np.asarray(np.searchsorted(ends, rng.integers(ends[-1], size=number), side="right"))


def _runs(
    pool: IntArray,
    who: npt.NDArray[np.int32],
    tokens: int,
    run: int,
    weight: IntArray | None,
    rng: np.random.Generator,
) -> IntArray:
    """Runs of rows of a pool that is sorted by request, until there are enough tokens."""
    chosen: list[IntArray] = []
    have = 0
    while have < tokens:
        at = int(rng.integers(len(pool)) if weight is None else _places(weight, 1, rng)[0])
        first, end = np.searchsorted(who, who[at]), np.searchsorted(who, who[at], side="right")
        begin = max(int(first), min(at, int(end) - run))
        part = pool[begin : min(begin + run, int(end), begin + tokens - have)]
        chosen.append(part)
        have += len(part)
    return np.concatenate(chosen)
