"""Steps from rows: what each step asks of each layer, one access per expert."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.steps import MIXED, Steps
from moesim.trace.types import DECODE, RoutingTrace


def gather(
    trace: RoutingTrace,
    rows: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
    kept: npt.NDArray[np.bool_] | None = None,
) -> Steps:
    """Steps of given rows.

    A step of one token asks for experts in stored order, a step of several in order of their number, as
    engines walk through them.

    Parameters
    ----------
    trace
        Where the rows are.
    rows
        Rows, step by step, int64 ``[tokens]``.
    bounds
        First of `rows` of every step, int64 ``[steps + 1]``; no step is empty.
    kept
        Slots that a gate leaves in use, bool ``[tokens, layers, top_k]``; None is all of them.

    Returns
    -------
    Steps
        A step of one request has it as its request, else `MIXED`; it is decode where all its rows are.

    Examples
    --------
    >>> ids = np.array([[[2, 0]], [[0, 1]], [[3, 2]]], np.uint8)
    >>> zeros = np.zeros(3, np.int32)
    >>> trace = RoutingTrace(ids, zeros, 4, (0,), np.arange(3, dtype=np.int32), np.ones(3, np.int8))
    >>> steps = gather(trace, np.arange(3), np.array([0, 2, 3]))
    >>> steps.experts.tolist(), steps.tokens.tolist(), steps.starts.tolist()
    ([0, 1, 2, 3, 2], [2, 1, 1, 1, 1], [0, 3, 5])
    """
    sizes = np.diff(bounds)
    none = np.zeros((1, 1, 1), np.float16)
    weights = none if trace.topk_weights is None else trace.topk_weights
    used = np.ones((1, 1, 1), np.bool_) if kept is None else kept
    experts, tokens, summed, starts = _gathered(
        trace.topk_ids,
        weights.view(np.uint16) if weights.dtype == np.float16 else none.view(np.uint16),
        _HALF,
        trace.topk_weights is not None,
        used,
        kept is not None,
        rows,
        bounds,
        trace.num_experts,
    )
    request, heads = trace.request[rows].astype(np.int32), bounds[:-1]
    same = np.ones(len(sizes), np.bool_)
    if len(rows):
        same = np.minimum.reduceat(request, heads) == np.maximum.reduceat(request, heads)
        decode = np.minimum.reduceat((trace.phase[rows] == DECODE).astype(np.int8), heads)
        context = np.add.reduceat(trace.position[rows].astype(np.float64) + 1, heads) / sizes
    else:
        decode, context = np.zeros(0, np.int8), np.zeros(0)
    return Steps(
        experts=experts,
        tokens=tokens,
        weights=None if trace.topk_weights is None else summed,
        starts=starts,
        layers=trace.topk_ids.shape[1],
        num_experts=trace.num_experts,
        request=np.where(same, request[heads], MIXED).astype(np.int32),
        phase=decode.astype(np.int8),
        step_tokens=sizes.astype(np.int32),
        context=context.astype(np.float32),
        rows=np.asarray(rows, np.int64),
    )


#: Value of every float16 by its bits: compiled code has no float16.
_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


@compiled
def _gathered(
    ids: npt.NDArray[np.unsignedinteger],
    weights: npt.NDArray[np.uint16],
    half: npt.NDArray[np.float32],
    weighted: bool,
    kept: npt.NDArray[np.bool_],
    masked: bool,
    rows: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
    num_experts: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Experts, tokens, summed weights and first accesses of all cells."""
    layers, top_k = ids.shape[1], ids.shape[2]
    steps = len(bounds) - 1
    most = 0
    for step in range(steps):
        most += min((bounds[step + 1] - bounds[step]) * top_k, num_experts)
    experts = np.empty(most * layers, np.int32)
    tokens = np.empty(most * layers, np.int32)
    summed = np.empty(most * layers if weighted else 0, np.float32)
    starts = np.empty(steps * layers + 1, np.int64)
    starts[0] = 0
    count = np.zeros(num_experts, np.int32)
    weight = np.zeros(num_experts, np.float32)
    seen = np.empty(num_experts, np.int32)
    out = 0
    for step in range(steps):
        alone = bounds[step + 1] - bounds[step] == 1
        for layer in range(layers):
            distinct = 0
            for place in range(bounds[step], bounds[step + 1]):
                row = rows[place]
                for j in range(top_k):
                    if masked and not kept[row, layer, j]:
                        continue
                    expert = ids[row, layer, j]
                    if count[expert] == 0:
                        seen[distinct] = expert
                        distinct += 1
                    count[expert] += 1
                    if weighted:
                        weight[expert] += half[weights[row, layer, j]]
            if not alone:
                if distinct * 8 < num_experts:
                    for i in range(1, distinct):
                        expert = seen[i]
                        j = i
                        while j > 0 and seen[j - 1] > expert:
                            seen[j] = seen[j - 1]
                            j -= 1
                        seen[j] = expert
                else:
                    place = 0
                    for expert in range(num_experts):
                        if count[expert] > 0:
                            seen[place] = expert
                            place += 1
            for i in range(distinct):
                expert = seen[i]
                experts[out] = expert
                tokens[out] = count[expert]
                count[expert] = 0
                if weighted:
                    summed[out] = weight[expert]
                    weight[expert] = 0.0
                out += 1
            starts[step * layers + layer + 1] = out
    return experts[:out].copy(), tokens[:out].copy(), summed[: out if weighted else 0].copy(), starts
