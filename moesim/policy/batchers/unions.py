"""ExpertFlow's token scheduler: two batches of tokens that share as many experts as they can."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy.batchers.batches import lock_step
from moesim.policy.batchers.gather import gather
from moesim.policy.batchers.requests import Requests, require
from moesim.policy.steps import Steps
from moesim.trace.types import DECODE, RoutingTrace

METHODS = ("stored", "k-means", "swap")
_ROUNDS = 8
_TRIED = 4


@dataclass(frozen=True, slots=True)
class UnionMinimising:
    """Twice as many requests decode together, and their tokens are dealt to two batches by their routes.

    Of 2 `tokens` tokens two batches of equal size are formed so that the experts that each needs, added up
    over layers and batches, are few. Routes must be known before the first layer, by an oracle or a
    predictor. Only decode steps are divided: tokens of one prompt need each other.

    Parameters
    ----------
    tokens
        Tokens of a batch.
    method
        ``k-means`` divides by Hamming distance to two means (ExpertFlow), ``swap`` starts from the better of
        that and the stored order and exchanges pairs while the sum of unions falls, ``stored`` takes the
        tokens as they come and is what the others are compared with.
    """

    tokens: int = 1
    method: str = "k-means"

    def __post_init__(self) -> None:
        require("union minimising", {"tokens": (self.tokens, 1)})
        if self.method not in METHODS:
            fault = Fault("is unknown", "union minimising.method", self.method, ", ".join(METHODS))
            raise ConfigError(fault)

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """Steps: every decode step of 2 `tokens` requests in two halves."""
        found = Requests.of(trace)
        rows, bounds = lock_step(found.rows, found.first, found.prompt, 2 * self.tokens, 0)
        decode = np.zeros(len(bounds) - 1, np.bool_)
        if len(decode):
            decode = np.minimum.reduceat(trace.phase[rows] == DECODE, bounds[:-1])
        used = np.ones((1, 1, 1), np.bool_) if kept is None else kept
        rows, bounds = halved(
            trace.topk_ids,
            used,
            kept is not None,
            trace.num_experts,
            rows,
            bounds,
            decode,
            METHODS.index(self.method),
        )
        return gather(trace, rows, bounds, kept)


@compiled
def halved(
    ids: npt.NDArray[np.unsignedinteger],
    kept: npt.NDArray[np.bool_],
    masked: bool,
    num_experts: int,
    rows: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
    divide: npt.NDArray[np.bool_],
    method: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows by step, and the first of each step, after every step of `divide` is cut in two halves.

    Parameters
    ----------
    ids
        Routes, ``[tokens, layers, top_k]``.
    kept, masked
        Slots in use, where `masked`.
    num_experts
        Experts per layer.
    rows, bounds
        Rows by step before, and the first of each step.
    divide
        Which steps are divided, bool ``[steps]``.
    method
        Place in `METHODS`.

    Returns
    -------
    tuple
        int64 ``[tokens]`` and int64 ``[steps + 1]``.
    """
    layers, top_k = ids.shape[1], ids.shape[2]
    width = layers * num_experts
    out_rows = rows.copy()
    out = np.empty(2 * len(bounds), np.int64)
    out[0] = 0
    steps = 0
    largest = 1
    for step in range(len(divide)):
        largest = max(largest, bounds[step + 1] - bounds[step])
    routes = np.empty((largest, layers * top_k), np.int64)
    lengths = np.empty(largest, np.int64)
    for step in range(len(divide)):
        begin, end = bounds[step], bounds[step + 1]
        n = end - begin
        if divide[step] and n > 1:
            half = (n + 1) // 2
            if method > 0:
                for t in range(n):
                    row, m = rows[begin + t], 0
                    for layer in range(layers):
                        for j in range(top_k):
                            if not masked or kept[row, layer, j]:
                                routes[t, m] = layer * num_experts + ids[row, layer, j]
                                m += 1
                    lengths[t] = m
                side = _two_means(routes, lengths, n, half, width)
                if method == 2:
                    side = _exchanged(routes, lengths, n, half, width, side)
                place = begin
                for wanted in range(2):
                    for t in range(n):
                        if side[t] == wanted:
                            out_rows[place] = rows[begin + t]
                            place += 1
            steps += 1
            out[steps] = begin + half
        steps += 1
        out[steps] = end
    return out_rows, out[: steps + 1].copy()


@compiled
def _two_means(
    routes: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], n: int, half: int, width: int
) -> npt.NDArray[np.int8]:
    """Side of each token: two means of equal size, begun by the first token and the farthest."""
    mean = np.zeros((2, width), np.float64)
    for m in range(lengths[0]):
        mean[0, routes[0, m]] = 1.0
    farthest, least = 0, np.inf
    for t in range(1, n):
        common = 0.0
        for m in range(lengths[t]):
            common += mean[0, routes[t, m]]
        # Hamming distance |a| + |b| - 2 |a and b|
        if 2 * common - lengths[t] < least:
            farthest, least = t, 2 * common - lengths[t]
    for m in range(lengths[farthest]):
        mean[1, routes[farthest, m]] = 1.0
    side = np.full(n, -1, np.int8)
    nearer = np.empty(n, np.float64)
    for _ in range(_ROUNDS):
        squares = np.zeros(2)
        for s in range(2):
            for e in range(width):
                squares[s] += mean[s, e] * mean[s, e]
        for t in range(n):
            # Squared distance to mean 0 less that to mean 1; |a| falls out.
            difference = squares[0] - squares[1]
            for m in range(lengths[t]):
                difference -= 2.0 * (mean[0, routes[t, m]] - mean[1, routes[t, m]])
            nearer[t] = difference
        order = np.argsort(nearer, kind="mergesort")
        changed = False
        for place in range(n):
            s = 0 if place < half else 1
            if side[order[place]] != s:
                side[order[place]] = s
                changed = True
        if not changed:
            break
        mean[:] = 0.0
        for t in range(n):
            share = 1.0 / (half if side[t] == 0 else n - half)
            for m in range(lengths[t]):
                mean[side[t], routes[t, m]] += share
    return side


@compiled
def _exchanged(
    routes: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    n: int,
    half: int,
    width: int,
    start: npt.NDArray[np.int8],
) -> npt.NDArray[np.int8]:
    """Exchange pairs while the sum of both unions falls, from the better of `start` and the stored order.

    Of each side the four tokens that promise most are tried against each other: what their side no longer
    needs without them, less what the other side would need anew.
    """
    stored = np.zeros(n, np.int8)
    stored[half:] = 1
    count = np.zeros((2, width), np.int32)
    size = _count(routes, lengths, n, stored, count)
    side = stored
    if _count(routes, lengths, n, start, count) <= size:
        side = start.copy()
    _count(routes, lengths, n, side, count)
    promise = np.empty(n, np.float64)
    best = np.empty((2, _TRIED), np.int64)
    for _ in range(4 * n):
        for s in range(2):
            best[s] = -1
        for t in range(n):
            gain = 0.0
            for m in range(lengths[t]):
                if count[side[t], routes[t, m]] == 1:
                    gain += 1
                if count[1 - side[t], routes[t, m]] == 0:
                    gain -= 1
            promise[t] = gain
            tried = best[side[t]]
            place = _TRIED - 1
            if tried[place] >= 0 and promise[tried[place]] >= gain:
                continue
            while place > 0 and (tried[place - 1] < 0 or promise[tried[place - 1]] < gain):
                tried[place] = tried[place - 1]
                place -= 1
            tried[place] = t
        a, b, fall = -1, -1, 0
        for i in best[0]:
            for j in best[1]:
                if i >= 0 and j >= 0:
                    now = _move(routes, lengths, i, 0, 1, count) + _move(routes, lengths, j, 1, 0, count)
                    _move(routes, lengths, j, 0, 1, count)
                    _move(routes, lengths, i, 1, 0, count)
                    if now < fall:
                        a, b, fall = i, j, now
        if a < 0:
            break
        _move(routes, lengths, a, 0, 1, count)
        _move(routes, lengths, b, 1, 0, count)
        side[a], side[b] = 1, 0
    return side


@compiled
def _count(
    routes: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    n: int,
    side: npt.NDArray[np.int8],
    count: npt.NDArray[np.int32],
) -> int:
    """Fill how many tokens of each side need each expert; the sum of both unions."""
    count[:] = 0
    total = 0
    for t in range(n):
        for m in range(lengths[t]):
            if count[side[t], routes[t, m]] == 0:
                total += 1
            count[side[t], routes[t, m]] += 1
    return total


@compiled
def _move(
    routes: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    token: int,
    here: int,
    there: int,
    count: npt.NDArray[np.int32],
) -> int:
    """Move a token from one side to the other; by how much the sum of unions grows."""
    grows = 0
    for m in range(lengths[token]):
        route = routes[token, m]
        count[here, route] -= 1
        if count[here, route] == 0:
            grows -= 1
        if count[there, route] == 0:
            grows += 1
        count[there, route] += 1
    return grows
