"""What a batch of unequal contexts takes beyond one of equal ones: attention ends with its longest sequence.

FlashAttention 2 gives each key-value head of a sequence to one core where there are enough of them to fill
the device, and splits contexts where there are not (``num_splits_heuristic`` of its flash_api.cpp: below 0.8
for each of twice the cores). Heads come one after the other and sequences within them, so that the longest
sequence of the last head begins when ``1 - 1 / (2 h) - m / N`` of the time is over, with N pieces of h heads
on m cores. Until the others end it has read ``1 + s / (2 m)`` mean contexts; the rest it reads alone, `ALONE`
times as fast as when all cores share the memory:

    time = equal * (1 + m / (ALONE N) * max(0, longest / mean - 1 - s / (2 m)))
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.requests import RequestTrace

F8 = npt.NDArray[np.float64]

#: Geometric mean of 1.6 and 2.2, which give the times of 256 sequences of which one is four times as long,
#: with 4 and 8 heads, in skew.csv of Qwen3-32B (tp2) and Llama-3.1-8B (tp1) in casys-kaist/LLMServingSim
#: profiler/perf/RTXPRO6000.
ALONE = 1.9
#: Pieces for each core from which contexts are not split.
FILLED = 1.6
#: Points of a distribution of contexts.
POINTS = 256


def spread_of(requests: RequestTrace) -> F8:
    """Quantiles of the contexts of decoding sequences over their mean, at `POINTS` middles of equal shares.

    A request counts as often as it decodes, with contexts from its prompt to its last token.

    >>> from moesim.requests import request_trace
    >>> spread_of(request_trace([0.0], [1000], [1])).tolist() == [1.0] * POINTS
    True
    """
    prompt, output = (a.astype(np.float64) for a in (requests.input_tokens, requests.output_tokens))
    parts = (np.arange(8) + 0.5) / 8.0
    context = (prompt[:, None] + parts * (output[:, None] - 1.0)).ravel()
    weight = np.repeat(output / len(parts), len(parts))
    order = np.argsort(context, kind="stable")
    below = np.cumsum(weight[order])
    at = (np.arange(POINTS) + 0.5) / POINTS * below[-1]
    found = context[order][np.minimum(np.searchsorted(below, at), len(order) - 1)]
    return np.asarray(found * weight.sum() / (context @ weight))


def longest_over_mean(spread: F8, sequences: F8) -> F8:
    """Longest of so many contexts over their mean: at the rank expected of it, ``n / (n + 1)``."""
    at = (np.arange(len(spread)) + 0.5) / len(spread)
    return np.asarray(np.interp(1.0 - 1.0 / (np.maximum(sequences, 1.0) + 1.0), at, spread))


def stretched(sequences: F8, kv_heads: float, cores: float, longest: F8) -> F8:
    """Time of attention over that of equal contexts.

    Parameters
    ----------
    sequences
        Decoding, of one lane.
    kv_heads
        Of one device.
    cores
        Of a device.
    longest
        Longest context over the mean.

    Examples
    --------
    With 4 heads, 256 sequences and one of 4096 tokens among some of 1024 take 18 % longer than equal ones:

    >>> stretched(np.array([256.0]), 4, 188, np.array([4096 / 1036])).round(2).tolist()
    [1.22]
    """
    pieces = np.maximum(sequences * kv_heads, 1.0)
    rest = np.maximum(longest - 1.0 - sequences / (2.0 * cores), 0.0)
    more = cores / (ALONE * pieces) * rest
    return np.asarray(1.0 + np.where(pieces >= FILLED * cores, more, 0.0))
