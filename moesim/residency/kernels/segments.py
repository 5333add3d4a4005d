"""Counts in windows, and priority stacks, of samples of a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

LFU, BELADY, SCH = range(3)


@compiled
def window_counts(
    ids: npt.NDArray[np.int32],
    begin: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
    m: int,
    expert: npt.NDArray[Any],
    sample: npt.NDArray[Any],
) -> None:
    """How often experts occur in the windows of `m` consecutive tokens of each sample, stride 1.

    An expert's count changes when it enters or leaves the window; how long it stood is added then.

    Parameters
    ----------
    ids
        Of one layer, ``[tokens, top_k]``.
    begin, end
        First token of each sample, and the one after its last, ``[samples]``.
    expert
        Windows by expert and count, int64 ``[experts, m + 1]``, added to.
    sample
        Windows of any expert by sample and count, int64 ``[samples, m + 1]``, added to.
    """
    experts = len(expert)
    times = np.zeros(experts, np.int64)
    since = np.zeros(experts, np.int64)
    for s in range(len(begin)):
        first, stop = begin[s], end[s]
        if stop - first < m:
            continue
        times[:] = 0
        since[:] = 0
        for t in range(first, stop):
            # The window that ends in this token; the first whole one is number 0.
            window = max(t - first - m + 1, 0)
            if t - first >= m:
                for j in range(ids.shape[1]):
                    e = ids[t - m, j]
                    stood = window - since[e]
                    expert[e, times[e]] += stood
                    sample[s, times[e]] += stood
                    since[e] = window
                    times[e] -= 1
            for j in range(ids.shape[1]):
                e = ids[t, j]
                stood = window - since[e]
                expert[e, times[e]] += stood
                sample[s, times[e]] += stood
                since[e] = window
                times[e] += 1
        windows = stop - first - m + 1
        for e in range(experts):
            expert[e, times[e]] += windows - since[e]
            sample[s, times[e]] += windows - since[e]


@compiled
def priority_depths(
    ids: npt.NDArray[np.int32],
    objects: int,
    kind: int,
    m: int,
    depth: npt.NDArray[Any],
) -> None:
    """Stack depths of one sample under a priority; what a cache drops is what has the lowest.

    All objects of a token are looked up before any is moved, and then moved one after the other, each to the
    top: it was used. The first time counts at the depth of how many were seen before: free while slots are.

    Parameters
    ----------
    ids
        ``[tokens, lookups]``, without repetition in a token.
    kind
        `LFU`: times used, then last use. `BELADY`: next use. `SCH`: how often it is used in the `m` tokens
        from the present one on, less what of it was moved already; then last use.
    depth
        Lookups by depth, int64 ``[objects]``, added to.
    """
    tokens, width = ids.shape
    shift = np.int64(1) << np.int64(40)
    stack = np.zeros(objects, np.int32)
    place = np.full(objects, -1, np.int32)
    key = np.zeros(objects, np.int64)
    count = np.zeros(objects, np.int64)
    after = np.zeros(tokens * width if kind == BELADY else 0, np.int64)
    if kind == BELADY:
        soonest = np.full(objects, tokens * width, np.int64)
        for i in range(tokens * width - 1, -1, -1):
            x = ids[i // width, i % width]
            after[i] = soonest[x]
            soonest[x] = i
    elif kind == SCH:
        for t in range(min(m, tokens)):
            for j in range(width):
                count[ids[t, j]] += 1
        for x in range(objects):
            key[x] = count[x] * shift
    size, clock = 0, 0
    for t in range(tokens):
        new = size
        for j in range(width):
            at = place[ids[t, j]]
            if at >= 0:
                depth[at] += 1
            else:
                depth[new] += 1
                new += 1
        for j in range(width):
            x = ids[t, j]
            at = place[x]
            if at < 0:
                at = size
                size += 1
            if at > 0:
                carry = stack[0]
                kept = key[carry]
                for i in range(1, at):
                    other = stack[i]
                    if kept > key[other]:
                        stack[i] = carry
                        place[carry] = i
                        carry = other
                        kept = key[other]
                stack[at] = carry
                place[carry] = at
            stack[0] = x
            place[x] = 0
            if kind == BELADY:
                key[x] = -after[clock]
            else:
                count[x] += 1 if kind == LFU else -1
                key[x] = count[x] * shift + clock
            clock += 1
        if kind == SCH and t + m < tokens:
            for j in range(width):
                x = ids[t + m, j]
                count[x] += 1
                key[x] += shift
