"""Generated routing with reuse and skew, and files that libCacheSim reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moesim.compiled import compiled
from moesim.residency.kernels.belady import next_uses
from moesim.trace import RoutingTrace

#: Its `oracleGeneral` records: time, object, size, and the request that asks for it next.
RECORD = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])


@compiled
def _layer(out, reuse, skew, order, rng):
    """Fill ``[tokens, top_k]``: part of the last token's experts, the rest by a power law."""
    tokens, top_k = out.shape
    experts = len(skew)
    # Walker's alias table of the power law.
    scaled = skew / skew.sum() * experts
    alias = np.arange(experts)
    small, large = np.flatnonzero(scaled < 1), np.flatnonzero(scaled >= 1)
    s, g = len(small), len(large)
    while s and g:
        low, high = small[s - 1], large[g - 1]
        alias[low] = high
        scaled[high] -= 1 - scaled[low]
        s -= 1
        if scaled[high] < 1:
            g -= 1
            small[s] = high
            s += 1
    mark = np.full(experts, -1, np.int64)
    for t in range(tokens):
        n = 0
        if t:
            for j in range(top_k):
                if rng.random() < reuse:
                    out[t, n] = out[t - 1, j]
                    mark[out[t, n]] = t
                    n += 1
        while n < top_k:
            place = rng.random() * experts
            low = int(place)
            e = order[low if place - low < scaled[low] else alias[low]]
            if mark[e] != t:
                mark[e] = t
                out[t, n] = e
                n += 1


def trace(tokens, layers, experts, top_k, seed=0, reuse=0.35, exponent=0.8):
    """A trace of one request; an expert of rank r is drawn in proportion to ``r ** -exponent``."""
    kind = np.uint8 if experts <= 256 else np.uint16
    ids = np.empty((tokens, layers, top_k), kind)
    for layer in range(layers):
        rng = np.random.default_rng([seed, layer])
        _layer(ids[:, layer], reuse, (np.arange(experts) + 1.0) ** -exponent, rng.permutation(experts), rng)
    positions = np.arange(tokens, dtype=np.int32)
    same = np.zeros(tokens, np.int32)
    return RoutingTrace(ids, same, experts, tuple(range(layers)), positions, np.ones(tokens, np.int8))


def write_oracle(items, members, path: Path) -> None:
    """Write accesses to one pool as libCacheSim's `oracleGeneral`."""
    following, soonest = np.empty(len(items), np.uint32), np.empty(members, np.uint32)
    next_uses(items, following, soonest)
    records = np.zeros(len(items), RECORD)
    records["id"] = items
    records["size"] = 1
    # It counts requests from 1, and the next one is stored, -1 where there is none.
    records["next"] = np.where(following < len(items), following.astype(np.int64) + 1, -1)
    records.tofile(path)
