"""Accesses to experts, as a batcher forms them: which experts each step asks of each layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.trace.types import RoutingTrace

#: The request of a step that serves several.
MIXED = -1


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What a sequence of steps asks for, step by step and layer by layer.

    A cell is one layer of one step; cell ``step * layers + layer`` holds the accesses
    ``starts[cell]:starts[cell + 1]``. An expert appears once per cell, however many tokens chose it: one load
    serves all tokens of a step.

    Parameters
    ----------
    experts
        Logical expert of each access, int32 ``[accesses]``, in the order in which they are asked for.
    tokens
        Tokens of the step that chose it, int32 ``[accesses]``.
    weights
        Their router weights added up, float32 ``[accesses]``; None where the trace has none.
    starts
        First access of every cell, int64 ``[steps * layers + 1]``.
    layers, num_experts
        MoE layers, and routed experts in each.
    request
        Request of each step, int32 ``[steps]``; `MIXED` where it serves several.
    phase
        0 prefill, 1 decode, int8 ``[steps]``.
    step_tokens
        Tokens of each step, int32 ``[steps]``.
    context
        Tokens that a token of the step looks back on, itself included, mean, float32 ``[steps]``.
    rows
        Row of the trace of each token, step by step, int64 ``[tokens]``.
    """

    experts: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32] | None
    starts: npt.NDArray[np.int64]
    layers: int
    num_experts: int
    request: npt.NDArray[np.int32]
    phase: npt.NDArray[np.int8]
    step_tokens: npt.NDArray[np.int32]
    context: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]

    @property
    def num_steps(self) -> int:
        """Steps."""
        return len(self.request)

    @property
    def accesses(self) -> int:
        """Accesses in all."""
        return len(self.experts)


def token_steps(trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
    """One step per token, in stored order: decoding one sequence at a time.

    Parameters
    ----------
    trace
        Rows become steps.
    kept
        Slots that a gate leaves in use, bool ``[tokens, layers, top_k]``; None is all of them.

    Examples
    --------
    >>> import numpy as np
    >>> ids = np.array([[[2, 0], [1, 3]], [[0, 1], [3, 2]]], np.uint8)
    >>> zeros = np.zeros(2, np.int32)
    >>> trace = RoutingTrace(ids, zeros, 4, (0, 1), np.arange(2, dtype=np.int32), np.ones(2, np.int8))
    >>> steps = token_steps(trace)
    >>> steps.experts.tolist(), steps.starts.tolist()
    ([2, 0, 1, 3, 0, 1, 3, 2], [0, 2, 4, 6, 8])

    Only the first expert of each token and layer:

    >>> steps = token_steps(trace, np.broadcast_to([True, False], ids.shape))
    >>> steps.experts.tolist(), steps.starts.tolist()
    ([2, 1, 0, 3], [0, 1, 2, 3, 4])
    """
    tokens, layers, top_k = trace.topk_ids.shape
    experts, weights = trace.topk_ids.reshape(-1), trace.topk_weights
    flat = None if weights is None else weights.reshape(-1)
    starts = np.arange(tokens * layers + 1, dtype=np.int64) * top_k
    if kept is not None:
        used = kept.reshape(-1)
        experts, flat = experts[used], None if flat is None else flat[used]
        starts[1:] = np.cumsum(kept.sum(axis=2).reshape(-1))
    return Steps(
        experts=experts.astype(np.int32),
        tokens=np.ones(len(experts), np.int32),
        weights=None if flat is None else flat.astype(np.float32),
        starts=starts,
        layers=layers,
        num_experts=trace.num_experts,
        request=trace.request.astype(np.int32),
        phase=trace.phase.astype(np.int8),
        step_tokens=np.ones(tokens, np.int32),
        context=(trace.position + 1).astype(np.float32),
        rows=np.arange(tokens, dtype=np.int64),
    )
