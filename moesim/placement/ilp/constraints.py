"""Constraints of placement programmes; each function adds one kind to a PuLP problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.placement.ilp.variables import Variables, total
from moesim.placement.solvers.greedy import FloatArray, IntArray


def one_place(problem: Any, x: Variables) -> None:
    """Every item is in exactly one place, x ``[items, places]``."""
    for row in x:
        problem += total(row) == 1


def full(problem: Any, x: Variables, room: int) -> None:
    """Every place holds `room` items, x ``[..., places]``: all axes but the last are summed over."""
    for g in range(x.shape[-1]):
        problem += total(x[..., g]) == room


def below(problem: Any, x: Variables, weights: npt.ArrayLike, peak: Any) -> None:
    """No place carries more than `peak`, a variable or a number; weights broadcast to x ``[..., places]``."""
    weights = np.broadcast_to(np.asarray(weights, dtype=np.float64), x.shape)
    for g in range(x.shape[-1]):
        problem += total(x[..., g], weights[..., g]) - peak <= 0


def deviations(problem: Any, x: Variables, weights: FloatArray, mean: float, beyond: Variables) -> None:
    """``beyond[g]`` is at least the distance of the load of place g from the mean."""
    for g in range(x.shape[-1]):
        load = total(x[..., g], weights)
        problem += load - beyond[g] <= mean
        problem += load + beyond[g] >= mean


def ordered(problem: Any, x: Variables) -> None:
    """Leave one of the orders that equal places can be named in: item i is in one of the first i + 1 places.

    Name places by the first item they hold, then the place of item i is at most the i-th.
    """
    items, places = x.shape
    for i in range(min(items, places)):
        for g in range(i + 1, places):
            problem += total(x[i, g : g + 1]) == 0


def replicas(problem: Any, y: Variables, z: Variables, expert: IntArray, copies: IntArray) -> None:
    """Every expert has one of its replica counts, and as many replicas, never two on one rank.

    z ``[options]`` is 1 if ``expert[option]`` has ``copies[option]`` replicas; y ``[options, ranks]`` is 1 if
    one of these lies on a rank. An expert of one option needs no z.
    """
    options = np.bincount(expert)
    for e in np.flatnonzero(options > 1):
        problem += total(z[expert == e]) == 1
    for option, copy in enumerate(copies.tolist()):
        if options[expert[option]] == 1:
            problem += total(y[option]) == copy
            continue
        problem += total(y[option]) - copy * z[option] == 0
        for g in range(y.shape[1]):
            problem += y[option, g] - z[option] <= 0


def together(problem: Any, q: Variables, x: Variables, after: Variables, room: int) -> None:
    """``q[e, f, g]`` is 1 if expert e of one layer and f of the next are both on rank g.

    x and after are ``[experts, ranks]``. Beside ``q <= x`` and ``q <= after`` every expert meets exactly
    `room` of the other layer on its rank, which makes the relaxation much tighter.
    """
    experts, ranks = x.shape
    for e, g in np.ndindex(experts, ranks):
        problem += total(q[e, :, g]) - room * x[e, g] == 0
        problem += total(q[:, e, g]) - room * after[e, g] == 0
    for e, f in np.ndindex(experts, experts):
        for g in range(ranks):
            problem += q[e, f, g] - x[e, g] <= 0
            problem += q[e, f, g] - after[f, g] <= 0


def routed(problem: Any, q: Variables, y: Variables, after: Variables) -> None:
    """``q[c, g, d, h]`` is 1 if cluster c lies on GPU g and cluster d of the next layer on h.

    y and after are ``[clusters, gpus]``; each pair of rows of q adds up to what it is a part of.
    """
    clusters, gpus = y.shape
    for c, g, d in np.ndindex(clusters, gpus, clusters):
        problem += total(q[c, g, d, :]) - y[c, g] == 0
        problem += total(q[d, :, c, g]) - after[c, g] == 0


def slowest(problem: Any, q: Variables, seconds: FloatArray, longest: Any) -> None:
    """No link between two GPUs takes longer; q and seconds are ``[clusters, gpus, clusters, gpus]``."""
    gpus = q.shape[1]
    for g, h in np.ndindex(gpus, gpus):
        if g != h:
            problem += total(q[:, g, :, h], seconds[:, g, :, h]) - longest <= 0
