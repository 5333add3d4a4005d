"""KTransformers: which experts of a token may be put off until the next layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


def deferrable(
    trace: RoutingTrace,
    steps: Steps,
    deferred: int,
    kept: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Accesses that no token of their step needs among its most weighted experts.

    As in KTransformers' released code (``select_deferred_experts`` of kt-kernel): every token protects its
    ``top_k - deferred`` experts of largest weight; an expert that any token of the step protects is computed
    at once, the rest may wait for the next MoE layer. The last layer puts nothing off. Those that wait add to
    the output one layer later than the model was trained for.

    Parameters
    ----------
    trace
        What the steps were formed of; without weights the stored order stands for them.
    steps
        Its steps.
    deferred
        Experts of each token that may wait, 0 to `top_k`.
    kept
        Slots that a gate leaves in use, bool ``[tokens, layers, top_k]``.

    Returns
    -------
    ndarray
        bool ``[accesses]``: mark them with 4 in `where` before `assign`.

    Examples
    --------
    Two tokens in one step: expert 1 matters least to the first token and most to the second.

    >>> ids = np.array([[[0, 1], [0, 1]], [[1, 2], [1, 2]]], np.uint8)
    >>> zeros, ones = np.zeros(2, np.int32), np.ones(2, np.int8)
    >>> trace = RoutingTrace(ids, zeros, 3, (0, 1), np.arange(2, dtype=np.int32), ones)
    >>> experts, tokens = np.array([0, 1, 2] * 2, np.int32), np.array([1, 2, 1] * 2, np.int32)
    >>> step = zeros[:1], ones[:1], np.array([2], np.int32), np.ones(1, np.float32)
    >>> steps = Steps(experts, tokens, None, np.array([0, 3, 6]), 2, 3, *step, np.arange(2))
    >>> deferrable(trace, steps, 1).tolist()
    [False, False, True, False, False, False]
    """
    top_k = trace.top_k
    protected = max(0, top_k - max(0, deferred))
    if deferred <= 0:
        return np.zeros(steps.accesses, np.bool_)
    if trace.topk_weights is None:
        weights = np.zeros((1, 1, top_k), np.float32)
    else:
        weights = trace.topk_weights.astype(np.float32)
    used = np.ones((1, 1, top_k), np.bool_) if kept is None else kept
    first = np.concatenate(([0], np.cumsum(steps.step_tokens, dtype=np.int64)))
    return _unprotected(
        trace.topk_ids,
        weights,
        used,
        protected,
        steps.rows,
        first,
        steps.experts,
        steps.starts,
        steps.num_experts,
    )


@compiled
def _unprotected(
    ids: npt.NDArray[np.unsignedinteger],
    weights: npt.NDArray[np.float32],
    used: npt.NDArray[np.bool_],
    protected: int,
    rows: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    experts: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    num_experts: int,
) -> npt.NDArray[np.bool_]:
    """Mark accesses whose expert no token protects; `weights` and `used` of one row stand for all rows."""
    layers, top_k = ids.shape[1], ids.shape[2]
    out = np.zeros(len(experts), np.bool_)
    stamp = np.full(num_experts, -1, np.int64)
    several_weights, several_used = len(weights) > 1, len(used) > 1
    for step in range(len(first) - 1):
        for layer in range(layers - 1):
            cell = step * layers + layer
            for place in range(first[step], first[step + 1]):
                row = rows[place]
                for j in range(top_k):
                    if several_used and not used[row, layer, j]:
                        continue
                    # Place of this expert by falling weight; the stored order decides between equals.
                    above = 0
                    for other in range(top_k):
                        if several_used and not used[row, layer, other]:
                            continue
                        if several_weights:
                            mine, theirs = weights[row, layer, j], weights[row, layer, other]
                            if theirs > mine or (theirs == mine and other < j):
                                above += 1
                        elif other < j:
                            above += 1
                    if above < protected:
                        stamp[ids[row, layer, j]] = cell
            for access in range(starts[cell], starts[cell + 1]):
                out[access] = stamp[experts[access]] != cell
    return out
