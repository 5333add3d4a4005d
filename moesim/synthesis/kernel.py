"""The draw of experts, token by token: all that costs time.

Log weights are int16 in steps of 1/128 of a factor of two, and weights are whole numbers, so that sums are
exact in any order: the same tables and seed give the same draws on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

#: Steps of a log weight per factor of two.
SCALE = 128
_LANES = 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_UNIT = 2.0**-53
_LAYER = np.uint64(0xD1342543DE82EF95)

Array = npt.NDArray[Any]


@compiled
def _mix(x: Any) -> Any:  # noqa: ANN401 - uint64
    """The finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def draw_layer(
    before: Array,
    kind: Array,
    base: Array,
    kinds: Array,
    segment: Array,
    position: Array,
    coupling: Array,
    memory: Array,
    recency: Array,
    past: Array,
    groups: int,
    top_groups: int,
    stream: Any,  # noqa: ANN401 - uint64
    token: int,
    out: Array,
) -> None:
    """Draw the experts of one layer for a run of tokens, k of E without replacement.

    Expert e has log weight ``base[segment, e] + kinds[kind, e]``, plus ``coupling[j, e]`` for each j the
    token chose in the layer before, plus ``memory[j, e]`` for each j the previous token of the request chose
    here, plus ``recency[m]`` if the token m + 1 back chose e. Experts are drawn one after the other in
    proportion to their weights (Plackett-Luce). With groups, `top_groups` of the `groups` equal runs of
    experts are drawn first, in the same manner by the sum of their weights, and experts only from them.

    Parameters
    ----------
    before
        Choices in the layer before, ``[tokens, k]``; not read without `coupling`.
    kind
        The kind of each token, ``[tokens]``; not read without `kinds`.
    base
        int16 ``[segments, E]``.
    kinds
        int16 ``[C, E]``, or of size zero for none.
    segment, position
        Row of `base` and place in the request, ``[tokens]``.
    coupling, memory
        int16 ``[E, E]``, or of size zero for none.
    recency
        int16 ``[lags]``.
    past
        The choices of the last tokens, ``[lags, k]``, newest first: read, then overwritten.
    groups, top_groups
        Groups of experts, and how many of them a token may use; 1 and 1 for no such limit.
    stream, token
        The random numbers: a 64-bit stream of this layer, and the index of the first token.
    out
        The choices, ``[tokens, k]``.
    """
    tokens, k = out.shape
    E = base.shape[1]
    # Expert e is in column e % columns; a column has 16 experts, which keeps both searches short.
    columns = (E + _LANES - 1) // _LANES
    lags = past.shape[0]
    logs = np.empty(E, np.int16)
    weights = np.zeros(columns * _LANES, np.int32)
    heights = np.empty(columns * _LANES, np.int32)
    sums = np.empty(columns, np.int32)
    width = E // groups
    shares = np.empty(groups, np.int32)
    # Sums stay below 2**31.
    octaves = np.int32(14)
    while (np.int64(E) << (octaves + 8)) >= np.int64(2147483648):
        octaves -= np.int32(1)
    reach = np.int32(octaves * SCALE)
    of_kinds = kinds.shape[0] > 0
    coupled = coupling.shape[0] > 0
    remembers = memory.shape[0] > 0
    for t in range(tokens):
        row = base[segment[t]]
        for e in range(E):
            logs[e] = row[e]
        if of_kinds:
            row = kinds[kind[t]]
            for e in range(E):
                logs[e] += row[e]
        if coupled:
            for i in range(k):
                row = coupling[before[t, i]]
                for e in range(E):
                    logs[e] += row[e]
        if remembers and position[t] > 0:
            for i in range(k):
                row = memory[past[0, i]]
                for e in range(E):
                    logs[e] += row[e]
        for m in range(min(lags, position[t])):
            for i in range(k):
                logs[past[m, i]] += recency[m]
        top = np.int16(-32768)
        for e in range(E):
            top = max(top, logs[e])
        low = np.int32(top) - reach
        for e in range(E):
            x = max(np.int32(logs[e]) - low, np.int32(0))
            weights[e] = (np.int32(SCALE) + (x & np.int32(SCALE - 1))) << (x >> np.int32(7))
        state = _mix(np.uint64(stream) + np.uint64(token + t) * _GOLDEN)
        if top_groups < groups:
            open_weight = np.int32(0)
            for g in range(groups):
                group = weights[g * width : (g + 1) * width]
                share = np.int32(0)
                for e in range(width):
                    share += group[e]
                shares[g] = share
                open_weight += share
            for _ in range(top_groups):
                state += _GOLDEN
                left = np.int32(np.float64(_mix(state) >> np.uint64(11)) * _UNIT * open_weight)
                running, found = np.int32(0), np.uint32(0)
                for g in range(groups):
                    running += shares[g]
                    found += np.uint32(running <= left)
                open_weight -= shares[found]
                shares[found] = 0
            for g in range(groups):
                if shares[g] > 0:
                    group = weights[g * width : (g + 1) * width]
                    for e in range(width):
                        group[e] = 0
        for c in range(columns):
            sums[c] = 0
        for i in range(_LANES):
            for c in range(columns):
                sums[c] += weights[i * columns + c]
                heights[i * columns + c] = sums[c]
        total = np.int32(0)
        for c in range(columns):
            total += sums[c]
            sums[c] = total
        for m in range(lags - 1, 0, -1):
            for i in range(k):
                past[m, i] = past[m - 1, i]
        drawn, removed = 0, 0
        while drawn < k:
            state += _GOLDEN
            left = np.int32(np.float64(_mix(state) >> np.uint64(11)) * _UNIT * total)
            column = np.uint32(0)
            for c in range(columns):
                column += np.uint32(sums[c] <= left)
            if column > 0:
                left -= sums[column - np.uint32(1)]
            lane = np.uint32(0)
            for j in range(_LANES):
                lane += np.uint32(heights[np.uint32(j) * np.uint32(columns) + column] <= left)
            choice = lane * np.uint32(columns) + column
            if weights[choice] > 0:
                out[t, drawn] = choice
                past[0, drawn] = choice
                weights[choice] = 0
                drawn += 1
                continue
            # Drawn before. Only now is it worth the time to take away what was drawn.
            while removed < drawn:
                gone = np.uint32(out[t, removed])
                column = gone % np.uint32(columns)
                lane = gone // np.uint32(columns)
                weight = heights[gone]
                if lane > 0:
                    weight -= heights[gone - np.uint32(columns)]
                for j in range(lane, _LANES):
                    heights[np.uint32(j) * np.uint32(columns) + column] -= weight
                for c in range(columns):
                    sums[c] -= weight * np.int32(c >= column)
                total -= weight
                removed += 1


def stream_of(seed: int, layer: int) -> np.uint64:
    """The stream of random numbers of one layer, counted from 0; its kinds have a number of their own."""
    with np.errstate(over="ignore"):
        return np.uint64(seed) * _GOLDEN + np.uint64(layer) * _LAYER
