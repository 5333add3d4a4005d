"""Statistics that replay a sample: predicting the next layer, and the best cache with a short look ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.analysis.kept import Kept
from moesim.analysis.partial import SEGMENTS, runs
from moesim.compiled import compiled

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]
#: Added to every count before its logarithm is taken.
SMOOTHING = 0.5
#: Work (accesses times experts of the pool) that replaying the whole model as one pool may take.
POOL_BUDGET = 1.5e9


def recall(joint: npt.NDArray[np.int64], test: npt.NDArray[Any], load: Array, top_k: int) -> Array:
    """Share of the next layer's experts that naive Bayes names from the set of this layer's.

    Expert ``b`` scores ``ln P(b) + sum over the set of ln P(a | b)``, learnt from requests of even number and
    judged on those of odd number.

    Parameters
    ----------
    joint
        Pairs in the learning half, ``[layers - 1, experts, experts]``.
    test
        Ids of held-out tokens, ``[layers, tokens, top_k]``.
    load
        Load in the learning half ``[layers, experts]``, for the baseline.

    Returns
    -------
    ndarray
        ``[layers - 1, 3]``: recall of the best `top_k`, of the best ``2 * top_k``, and of the `top_k` most
        popular experts whatever the token; row ``l`` is about predicting layer ``l + 1``.
    """
    layers, experts = joint.shape[:2]
    out = np.full((layers, 3), np.nan)
    if not test.shape[1] or not joint.sum():
        return out
    for layer in range(layers):
        table = joint[layer] + SMOOTHING
        like = np.log(table / table.sum(0))
        prior = np.log((load[layer + 1] + SMOOTHING) / (load[layer + 1] + SMOOTHING).sum())
        popular = np.zeros(experts, bool)
        popular[np.argsort(-load[layer + 1], kind="stable")[:top_k]] = True
        named = np.zeros(2, np.int64)
        name_next(test[layer], test[layer + 1], like, prior, named)
        out[layer] = np.array([*named, popular[test[layer + 1]].sum()]) / test[layer].size
    return out


@compiled
def name_next(now: Ints, then: Ints, like: Array, prior: Array, named: Ints) -> None:
    """How many experts of `then` are among the ``k``, and the ``2 k``, best scored from `now`.

    Scores equal to nine digits are ties, which the lower number wins, whatever the order of summation.
    """
    n, k = now.shape
    experts = len(prior)
    score = np.zeros(experts)
    for t in range(n):
        score[:] = prior
        for j in range(k):
            row = like[now[t, j]]
            for e in range(experts):
                score[e] += row[e]
        for e in range(experts):
            score[e] = np.rint(score[e] * 1e9)
        for j in range(k):
            b = then[t, j]
            own, better = score[b], 0
            for e in range(experts):
                better += score[e] > own
            for e in range(b):
                better += score[e] == own
            named[0] += better < k
            named[1] += better < 2 * k


def cache_hits(kept: Kept, experts: int) -> tuple[npt.NDArray[np.int64], int]:
    """Hits of the best cache that sees `SEGMENTS` tokens, layer by layer, for every size of it.

    Returns
    -------
    tuple
        Hits ``[layers, segments, experts]`` (index ``C - 1`` for a cache of ``C`` experts), and selections of
        one layer.
    """
    layers, tokens, top_k = kept.request_ids.shape
    hits = np.zeros((layers, len(SEGMENTS), experts), np.int64)
    ids, begin, end = _sequences(kept)
    for layer in range(layers):
        _replay(np.ascontiguousarray(ids[layer]), begin, end, hits[layer])
    return hits.cumsum(-1), tokens * top_k


def pool_hits(kept: Kept, experts: int) -> tuple[npt.NDArray[np.int64], int] | None:
    """The same for one pool of all layers, ``[segments, layers * experts]``; None if it is too much work."""
    layers, _, top_k = kept.request_ids.shape
    ids, begin, end = _sequences(kept)
    pool = layers * experts
    cost = np.cumsum(end - begin) * float(layers * top_k * pool * len(SEGMENTS))
    few = int((cost <= POOL_BUDGET).sum())
    if not few:
        return None
    offset = (np.arange(layers) * experts)[:, None, None]
    flat = np.ascontiguousarray((ids + offset).transpose(1, 0, 2)).reshape(ids.shape[1], -1)
    hits = np.zeros((len(SEGMENTS), pool), np.int64)
    _replay(flat.astype(np.int32), begin[:few], end[:few], hits)
    return hits.cumsum(-1), int((end - begin)[:few].sum()) * layers * top_k


def _sequences(kept: Kept) -> tuple[Any, Any, Any]:
    """Ids with the tokens of a request together, and where each request begins and ends."""
    order = np.argsort(kept.request, kind="stable")
    return kept.request_ids[:, order].astype(np.int32), *runs(kept.request[order])


def _replay(ids: Ints, begin: Ints, end: Ints, hits: Ints) -> None:
    for i, m in enumerate(SEGMENTS):
        for b, e in zip(begin.tolist(), end.tolist(), strict=True):
            look_ahead(ids[b:e], hits.shape[1], m, hits[i])


@compiled
def look_ahead(x: Ints, experts: int, m: int, hits: Ints) -> None:
    """Stack depths of one sequence under the priority "chosen more often soon, then more recently".

    Soon is the window of `m` tokens that starts with the current one, less what was already looked up of it.
    All experts of a token are looked up before any is moved. An expert that was never chosen before counts at
    the depth of how many were, so that the first time is a hit of a larger cache. One stack serves all cache
    sizes: the expert that a cache drops is the one of lowest priority (Mattson's priority stack).

    `hits` int64 ``[experts]``: selections by stack depth.
    """
    stack = np.full(experts, -1, np.int32)
    place = np.full(experts, -1, np.int32)
    soon = np.zeros(experts, np.int32)
    recent = np.zeros(experts, np.int32)
    n, k = x.shape
    for t in range(min(m, n)):
        for j in range(k):
            soon[x[t, j]] += 1
    size, clock = 0, 0
    for t in range(n):
        new = size
        for j in range(k):
            if place[x[t, j]] >= 0:
                hits[place[x[t, j]]] += 1
            else:
                hits[new] += 1
                new += 1
        for j in range(k):
            e = x[t, j]
            at = place[e]
            if at < 0:
                at = size
                size += 1
            if at > 0:
                carry = stack[0]
                for i in range(1, at):
                    other = stack[i]
                    if soon[carry] > soon[other] or (
                        soon[carry] == soon[other] and recent[carry] > recent[other]
                    ):
                        stack[i] = carry
                        place[carry] = i
                        carry = other
                stack[at] = carry
                place[carry] = at
            stack[0] = e
            place[e] = 0
            clock += 1
            recent[e] = clock
            soon[e] -= 1
        if t + m < n:
            for j in range(k):
                soon[x[t + m, j]] += 1
