"""Seconds of a step from tables: parts that depend on different sums of a batch, added up.

Steps run one operation after the other, so their parts add: what depends on a rank's tokens alone, on all
ranks' tokens (experts and their exchange), on decoding sequences and their context, on chunks and what lies
before them, and on sequences that give a token. Between grid points parts are linear in the logarithms of
their arguments' distance; the grids are fine enough for the error that `moesim.serving.pricing` checks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.serving.state import CONTEXT, PAIRS, PREFILL, PROMPTS, QUERIES, SEQUENCES

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


class Prices(NamedTuple):
    """Tables; a first index ``[2]`` is for steps that decode alone and for steps that read prompts.

    Parameters
    ----------
    tokens, dense_s
        Tokens of a lane ``[n]``, and what depends on them alone ``[2, n]``.
    everyone, experts_s
        Tokens of all lanes ``[m]``, and routed experts with their exchange ``[periods, 2, m]``.
    sequences, context, decode_s
        Decoding sequences ``[s]``, their mean context ``[c]``, attention ``[s, c]``.
    chunks, past, prefill_s
        Tokens read ``[p]``, tokens before them ``[q]``, attention ``[p, q]``.
    given, heads_s
        Sequences that give a token ``[h]``, and the head ``[h]``.
    draft_s
        Drafting for so many sequences ``[s]``.
    host_s
        Seconds of the host, and whether they hide behind the device's ``[2]``.
    padded
        Tokens that a captured graph runs for a decode step of so many, ``[most + 1]``; empty without.
    period_tokens, period_stall_s
        Tokens served in all when a period of `experts_s` begins, rising from 0, and what its beginning costs.
    """

    tokens: F8
    dense_s: F8
    everyone: F8
    experts_s: F8
    sequences: F8
    context: F8
    decode_s: F8
    chunks: F8
    past: F8
    prefill_s: F8
    given: F8
    heads_s: F8
    draft_s: F8
    host_s: F8
    padded: I8
    period_tokens: F8
    period_stall_s: F8


@compiled
def _place(grid: F8, x: float) -> tuple[int, float]:
    """Cell of a grid and the place in it; beyond the last point the last cell goes on."""
    low, high = 0, len(grid) - 1
    if high == 0:
        return 0, 0.0
    while high - low > 1:
        middle = (low + high) // 2
        if grid[middle] <= x:
            low = middle
        else:
            high = middle
    return low, (x - grid[low]) / (grid[low + 1] - grid[low])


@compiled
def along(grid: F8, values: F8, x: float) -> float:
    """A table of one argument."""
    i, w = _place(grid, x)
    if len(grid) == 1:
        return float(values[0])
    return float(values[i] + w * (values[i + 1] - values[i]))


@compiled
def across(rows: F8, columns: F8, values: F8, x: float, y: float) -> float:
    """A table of two."""
    i, u = _place(rows, x)
    a = along(columns, values[i], y)
    if len(rows) == 1:
        return a
    return a + u * (along(columns, values[i + 1], y) - a)


@compiled
def seconds_of(prices: Prices, loads: F8, period: int) -> float:
    """Seconds of a step whose lanes have these loads, ``[lanes, LOADS]``; the slowest lane counts."""
    everyone, slowest, reads = 0.0, 0.0, 0
    for lane in range(len(loads)):
        if loads[lane, PROMPTS] > 0:
            reads = 1
    for lane in range(len(loads)):
        load = loads[lane]
        tokens = load[PREFILL] + load[QUERIES]
        if tokens == 0:
            continue
        if not reads and tokens < len(prices.padded):
            tokens = float(prices.padded[int(tokens)])
        everyone += tokens
        seconds = along(prices.tokens, prices.dense_s[reads], tokens)
        seconds += along(prices.given, prices.heads_s, load[PROMPTS] + load[SEQUENCES])
        if load[SEQUENCES]:
            context = load[CONTEXT] / load[SEQUENCES]
            seconds += across(prices.sequences, prices.context, prices.decode_s, load[SEQUENCES], context)
            seconds += along(prices.sequences, prices.draft_s, load[SEQUENCES])
        if load[PROMPTS]:
            past = max(load[PAIRS] / load[PREFILL] - load[PREFILL] / load[PROMPTS] / 2.0, 0.0)
            seconds += across(prices.chunks, prices.past, prices.prefill_s, load[PREFILL], past)
        slowest = max(slowest, seconds)
    if everyone:
        slowest += along(prices.everyone, prices.experts_s[period, reads], everyone)
    if prices.host_s[1]:
        return float(max(slowest, prices.host_s[0]))
    return float(slowest + prices.host_s[0])
