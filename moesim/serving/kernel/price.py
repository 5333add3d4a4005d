"""Seconds of a step from tables: parts that depend on different sums of a batch, added up.

Operations of a step depend on its tokens alone, on the tokens of all lanes (experts and their exchange), on
decoding sequences and their context, on prompts, tokens read and what they see, or on how many sequences give
a token. The tables are linear between their points in all of these, and where the work is a product of two of
them (tokens read times what each sees), so is the interpolation: only efficiencies bend.

Prompts read in one step differ. They count as equal ones with as many tokens, query-key pairs and cached
tokens: with c new ones behind p each, ``n c = T``, ``n c (p + c / 2) = P`` and ``n (p + c) = S`` give n.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.serving.kernel.overlap import ping_pong_s, two_batch_s
from moesim.serving.state import CONTEXT, PAIRS, PREFILL, PROMPTS, QUERIES, SEQUENCES, STORED

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

#: How parts of a layer follow each other: one after the other; two half batches taking turns, where that is
#: faster; micro-batches that go back and forth between workers of attention and workers of experts.
IN_TURN, TWO_BATCH, PING_PONG = range(3)


#: Fields of `moesim.serving.tables.Tables`, in order: rows of `Prices.where`.
(
    TOKENS,
    DENSE,
    EVERYONE,
    EXPERTS,
    SEQUENCE,
    SEEN_BY_EACH,
    DECODE,
    PROMPT,
    READ,
    SEEN,
    REST,
    GIVEN,
    HEADS,
    LEAST,
    BESIDE,
    LAYERS,
    EXPERT_LAYERS,
) = range(17)
FIELDS = 17


class Prices(NamedTuple):
    """What steps take; `moesim.serving.tables.packed` makes it.

    Parameters
    ----------
    data
        All tables end to end.
    where
        Where each begins and the length of its first dimension, of the parts of a step and of those of
        drafting one token of every decoding sequence, ``[2, FIELDS, 2]``; layers are there themselves.
    drafts
        Tokens drafted for each decoding sequence.
    pattern, micro
        `IN_TURN`, `TWO_BATCH` or `PING_PONG`, and micro-batches of the last.
    host_s, hidden
        Seconds of the host in every step, and whether they hide behind those of the device.
    padded
        Tokens that a captured graph runs for a decode step of so many, ``[most + 1]``; empty without.
    period_tokens, period_stall_s
        Tokens served in all when a period of the experts' tables begins, rising from 0, and the seconds that
        its beginning costs.
    gathered
        Whether every lane gets the tokens of all, so that the exchange takes as long as if all lanes had as
        many as the fullest.
    """

    data: F8
    where: I8
    drafts: int
    pattern: int
    micro: int
    host_s: float
    hidden: bool
    padded: I8
    period_tokens: F8
    period_stall_s: F8
    gathered: bool = False


@compiled
def _place(data: F8, at: I8, x: float) -> tuple[int, float]:
    """Cell of a grid and the place in it; beyond the ends the outer cells go on."""
    start, low, high = at[0], 0, at[1] - 1
    if high == 0:
        return 0, 0.0
    while high - low > 1:
        middle = (low + high) // 2
        if data[start + middle] <= x:
            low = middle
        else:
            high = middle
    return low, (x - data[start + low]) / (data[start + low + 1] - data[start + low])


@compiled
def _along(data: F8, first: int, w: float) -> float:
    """Between two neighbouring values."""
    if w == 0.0:
        return float(data[first])
    return float(data[first] + w * (data[first + 1] - data[first]))


@compiled
def _across(data: F8, first: int, width: int, u: float, w: float) -> float:
    """Between two neighbouring rows of a table."""
    a = _along(data, first, w)
    if u == 0.0:
        return a
    return float(a + u * (_along(data, first + width, w) - a))


@compiled
def _decode_s(data: F8, at: I8, table: int, sequences: float, context: float) -> float:
    i, u = _place(data, at[SEQUENCE], sequences)
    j, w = _place(data, at[SEEN_BY_EACH], context / sequences)
    width = at[SEEN_BY_EACH, 1]
    return _across(data, at[table, 0] + i * width + j, width, u, w)


@compiled
def _prefill_s(data: F8, at: I8, prompts: float, read: float, seen: float) -> float:
    k, v = _place(data, at[PROMPT], prompts)
    i, u = _place(data, at[READ], read)
    j, w = _place(data, at[SEEN], seen)
    width = at[SEEN, 1]
    sheet = at[READ, 1] * width
    first = at[REST, 0] + k * sheet + i * width + j
    a = _across(data, first, width, u, w)
    if v == 0.0:
        return a
    return float(a + v * (_across(data, first + sheet, width, u, w) - a))


@compiled
def own_s(data: F8, at: I8, load: F8, tokens: float, share: float) -> tuple[float, float, float]:
    """What a lane does for a share of its load: attention blocks, beside routed experts, outside of layers.

    Parameters
    ----------
    load
        ``[LOADS]``.
    tokens
        Those that its products run over: as many as the load has, or a graph's.
    """
    i, w = _place(data, at[TOKENS], share * tokens)
    first, width = at[DENSE, 0] + i, at[TOKENS, 1]
    attention, beside = _along(data, first, w), _along(data, first + width, w)
    outside = _along(data, first + 2 * width, w)
    i, w = _place(data, at[GIVEN], share * (load[QUERIES] + load[PROMPTS]))
    outside += _along(data, at[HEADS, 0] + i, w)
    if load[SEQUENCES] > 0:
        table = BESIDE if load[PREFILL] > 0 else DECODE
        attention += _decode_s(data, at, table, share * load[SEQUENCES], share * load[CONTEXT])
    if load[PREFILL] > 0:
        seen = load[PAIRS] / load[PREFILL]
        prompts = (load[STORED] - load[PREFILL] / 2.0) / seen
        attention += _prefill_s(data, at, share * prompts, share * load[PREFILL], seen)
    return attention, beside, outside


@compiled
def exchange_s(data: F8, at: I8, period: int, reads: int, tokens: float) -> tuple[float, float, float]:
    """Dispatch, routed experts and combine for so many tokens of all lanes."""
    if at[EXPERT_LAYERS, 0] == 0:
        return 0.0, 0.0, 0.0
    # Less than one token on average: that share of steps has one.
    part = min(tokens, 1.0)
    i, w = _place(data, at[EVERYONE], max(tokens, 1.0))
    width = at[EVERYONE, 1]
    first = at[EXPERTS, 0] + (min(period, at[EXPERTS, 1] - 1) * 2 + reads) * 3 * width + i
    there, experts = _along(data, first, w), _along(data, first + width, w)
    back = _along(data, first + 2 * width, w)
    return part * there, part * experts, part * back


@compiled
def _two_batch_s(
    data: F8, at: I8, load: F8, tokens: float, everyone: float, period: int, reads: int
) -> float:
    """Two half batches: attention is spread over all layers, and layers without experts hide nothing."""
    attention, beside, outside = own_s(data, at, load, tokens, 0.5)
    there, experts, back = exchange_s(data, at, period, reads, 0.5 * everyone)
    each, n = attention / at[LAYERS, 0], at[EXPERT_LAYERS, 0]
    turns = two_batch_s(n, each, there / n, (beside + experts) / n, back / n)
    return float(2.0 * each * (at[LAYERS, 0] - n) + turns + 2.0 * outside)


@compiled
def _ping_pong_s(data: F8, at: I8, load: F8, everyone: float, period: int, reads: int, micro: int) -> float:
    """Micro-batches, no more than there are tokens; layers without experts keep attention's workers alone."""
    tokens = load[PREFILL] + load[QUERIES]
    micro = max(min(micro, int(tokens)), 1)
    attention, beside, outside = own_s(data, at, load, tokens, 1.0 / micro)
    there, experts, back = exchange_s(data, at, period, reads, everyone / micro)
    each, n = attention / at[LAYERS, 0], at[EXPERT_LAYERS, 0]
    turns = ping_pong_s(n, micro, each, there / n, (beside + experts) / n, back / n)
    return float(micro * each * (at[LAYERS, 0] - n) + turns + micro * outside)


@compiled
def _device_s(
    data: F8, at: I8, loads: F8, pattern: int, micro: int, period: int, graph: float, gathered: bool
) -> tuple[float, int]:
    """Seconds of the devices, and whether some lane reads a prompt and some decodes: 1, 2, 0 for none."""
    reads, decodes, everyone, fullest = 0, 0, 0.0, 0.0
    for lane in range(len(loads)):
        reads = max(reads, int(loads[lane, PREFILL] > 0))
        decodes = max(decodes, int(loads[lane, SEQUENCES] > 0))
        tokens = graph if graph > 0.0 else loads[lane, PREFILL] + loads[lane, QUERIES]
        everyone, fullest = everyone + tokens, max(fullest, tokens)
    slowest, worst = 0.0, 0
    for lane in range(len(loads)):
        tokens = graph if graph > 0.0 else loads[lane, PREFILL] + loads[lane, QUERIES]
        if tokens > 0.0:
            attention, beside, outside = own_s(data, at, loads[lane], tokens, 1.0)
            if attention + beside + outside > slowest:
                slowest, worst = attention + beside + outside, lane
    kind = reads * (1 + decodes)
    if pattern == PING_PONG:
        return _ping_pong_s(data, at, loads[worst], everyone, period, reads, micro), kind
    there, experts, back = exchange_s(data, at, period, reads, everyone)
    if gathered and len(loads) > 1:
        there, _, back = exchange_s(data, at, period, reads, len(loads) * fullest)
    seconds = slowest + there + experts + back
    if pattern == TWO_BATCH and at[EXPERT_LAYERS, 0] > 0:
        tokens = graph if graph > 0.0 else loads[worst, PREFILL] + loads[worst, QUERIES]
        # An engine switches overlap off where it does not pay.
        seconds = min(seconds, _two_batch_s(data, at, loads[worst], tokens, everyone, period, reads))
    return seconds, kind


@compiled
def _graph(prices: Prices, loads: F8) -> float:
    """Tokens that all lanes run: those of the graph of the fullest one; 0 without a graph."""
    most = 0.0
    for lane in range(len(loads)):
        if loads[lane, PREFILL] > 0:
            return 0.0
        most = max(most, loads[lane, QUERIES])
    return float(prices.padded[int(most)]) if most < len(prices.padded) else 0.0


@compiled
def seconds_of(prices: Prices, loads: F8, period: int) -> float:
    """Seconds of a step whose lanes have these loads, ``[lanes, LOADS]``; the slowest lane counts."""
    graph = _graph(prices, loads) if len(prices.padded) else 0.0
    at = prices.where[0]
    seconds, kind = _device_s(
        prices.data, at, loads, prices.pattern, prices.micro, period, graph, prices.gathered
    )
    seconds = max(seconds, prices.host_s) if prices.hidden else seconds + prices.host_s
    seconds = max(seconds, prices.data[at[LEAST, 0] + kind])
    if prices.drafts and kind != 1:
        one = np.zeros_like(loads)
        one[:, SEQUENCES], one[:, QUERIES] = loads[:, SEQUENCES], loads[:, SEQUENCES]
        one[:, CONTEXT] = loads[:, CONTEXT]
        pattern = IN_TURN if prices.pattern == PING_PONG else prices.pattern
        drafting, _ = _device_s(prices.data, prices.where[1], one, pattern, 1, period, 0.0, prices.gathered)
        seconds += prices.drafts * max(drafting, prices.data[prices.where[1, LEAST, 0]])
    return float(seconds)
