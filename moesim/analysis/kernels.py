"""Compiled loops over one layer of a trace; all add to arrays they are given.

A layer is uint16 ``[tokens, top_k]``. A *run* is a stretch of neighbouring tokens of one request, given by
its first row and the row after its last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

Array = npt.NDArray[Any]


@compiled
def count(x: Array, slot: Array, load: Array) -> None:
    """Selections of each expert: `load` int64 ``[slots, experts]``, `slot` int32 ``[tokens]``."""
    for t in range(x.shape[0]):
        row = slot[t]
        for j in range(x.shape[1]):
            load[row, x[t, j]] += 1


@compiled
def cut_off(last: Array, size: int, first: int, stop: int) -> int:
    """Experts in windows that begin in ``first..stop`` and would end after it, summed over the windows."""
    whole = max(stop - size, first - 1)
    cut = 0
    for e in range(len(last)):
        cut += max(0, last[e] - whole)
    return cut


@compiled
def locality(
    x: Array,
    begin: Array,
    end: Array,
    group: Array,
    sizes: tuple[int, int, int],
    experts: int,
    lag: Array,
    window: Array,
    across: Array,
) -> None:
    """Repeats at lags 1, 2, 4, 16, 64, and distinct experts summed over all full windows of the `sizes`.

    An expert's history is a word: bit ``d - 1`` says whether it was chosen ``d`` tokens before its last time.
    A window holds an expert once, for the first time the expert occurs in it: an occurrence ``gap`` tokens
    after the one before is the first in ``min(gap, size)`` windows, less those that the end cuts off.

    `lag` int64 ``[groups, 5]``, `window` int64 ``[groups, 3]`` (windows inside one run),
    `across` int64 ``[3]`` (windows of the whole part, whatever the runs); `group` int32 ``[runs]``.
    """
    last = np.full(experts, -1, np.int64)
    past = np.zeros(experts, np.uint64)
    size0, size1, size2 = sizes
    one = np.uint64(1)
    for r in range(len(begin)):
        first, stop, g = begin[r], end[r], group[r]
        l1 = l2 = l4 = l16 = l64 = w0 = w1 = w2 = a0 = a1 = a2 = np.int64(0)
        for t in range(first, stop):
            for j in range(x.shape[1]):
                e = x[t, j]
                gap = t - last[e]
                if gap == 0:
                    continue
                a0 += min(gap, size0)
                a1 += min(gap, size1)
                a2 += min(gap, size2)
                if last[e] < first:
                    # In the run's own windows it is first in fewer.
                    own = t - first + 1
                    w0 -= min(gap, size0) - min(own, size0)
                    w1 -= min(gap, size1) - min(own, size1)
                    w2 -= min(gap, size2) - min(own, size2)
                    past[e] = 0
                elif gap > 64:
                    past[e] = 0
                else:
                    h = ((past[e] << one) | one) << np.uint64(gap - 1)
                    past[e] = h
                    l1 += np.int64(h & one)
                    l2 += np.int64((h >> one) & one)
                    l4 += np.int64((h >> np.uint64(3)) & one)
                    l16 += np.int64((h >> np.uint64(15)) & one)
                    l64 += np.int64(h >> np.uint64(63))
                last[e] = t
        lag[g, 0] += l1
        lag[g, 1] += l2
        lag[g, 2] += l4
        lag[g, 3] += l16
        lag[g, 4] += l64
        window[g, 0] += a0 + w0
        window[g, 1] += a1 + w1
        window[g, 2] += a2 + w2
        across[0] += a0
        across[1] += a1
        across[2] += a2
        for b in range(3):
            window[g, b] -= cut_off(last, sizes[b], first, stop)
    for b in range(3):
        across[b] -= cut_off(last, sizes[b], 0, x.shape[0])


@compiled
def pair_up(x: Array, y: Array, fold: Array, table: Array) -> None:
    """Every expert of a token in `x` with every one in `y`: `table` int64 ``[folds, experts, experts]``."""
    for t in range(x.shape[0]):
        f = fold[t]
        for i in range(x.shape[1]):
            row = table[f, x[t, i]]
            for j in range(y.shape[1]):
                row[y[t, j]] += 1


@compiled
def neighbours(x: Array, begin: Array, end: Array, follow: Array, together: Array) -> None:
    """Experts of a token with those of the next (`follow`) and with each other (`together`).

    Both int64 ``[experts, experts]``; `together` counts each unordered pair once, in its upper triangle.
    """
    k = x.shape[1]
    for r in range(len(begin)):
        for t in range(begin[r], end[r]):
            for i in range(k):
                a = x[t, i]
                for j in range(i + 1, k):
                    b = x[t, j]
                    together[min(a, b), max(a, b)] += 1
                if t + 1 < end[r]:
                    row = follow[a]
                    for j in range(k):
                        row[x[t + 1, j]] += 1


@compiled
def segments(
    x: Array, begin: Array, end: Array, group: Array, m: int, experts: int, hist: Array, best: Array
) -> None:
    """How often experts occur in windows of `m` consecutive tokens, stride 1.

    `hist` int64 ``[groups, m + 1]``: pairs of window and expert by how often the expert occurs in the window.
    `best` int64 ``[groups, 2]``: selections that the `top_k` and ``2 * top_k`` most frequent experts of each
    window hold, summed over windows. Experts that change are moved between levels; nobody else is looked at.
    """
    k = x.shape[1]
    times = np.zeros(experts, np.int64)
    level = np.zeros(m * k + 1, np.int64)
    for r in range(len(begin)):
        first, stop, g = begin[r], end[r], group[r]
        if stop - first < m:
            continue
        times[:] = 0
        level[:] = 0
        level[0] = experts
        top = 0
        for t in range(first, stop):
            if t - first >= m:
                for j in range(k):
                    e = x[t - m, j]
                    level[times[e]] -= 1
                    times[e] -= 1
                    level[times[e]] += 1
            for j in range(k):
                e = x[t, j]
                level[times[e]] -= 1
                times[e] += 1
                level[times[e]] += 1
                top = max(top, times[e])
            if t - first >= m - 1:
                while level[top] == 0:
                    top -= 1
                used = 0
                for c in range(top, 0, -1):
                    n = level[c]
                    if n == 0:
                        continue
                    hist[g, min(c, m)] += n
                    for wanted in range(2):
                        take = min(n, max(0, (wanted + 1) * k - used))
                        best[g, wanted] += take * c
                    used += n
                hist[g, 0] += level[0]


@compiled
def reuse(x: Array, experts: int, depth: Array, first: Array, last: Array) -> None:
    """Least-recently-used stack depth of every selection, in token order and order within the token.

    `depth` int64 ``[experts]``: selections that a cache of more than that many experts would hit. `first` and
    `last` int64 ``[experts]``, -1 at the start: when each expert was chosen first and last. A first time is
    in no depth: what came before this part decides it (see `moesim.analysis.partial.merge`).
    """
    now = 0
    for t in range(x.shape[0]):
        for j in range(x.shape[1]):
            e = x[t, j]
            then = last[e]
            if then < 0:
                first[e] = now
            else:
                above = 0
                for i in range(experts):
                    above += last[i] > then
                depth[above] += 1
            last[e] = now
            now += 1
