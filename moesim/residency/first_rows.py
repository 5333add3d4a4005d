"""The released HybriMoE scores a step of several tokens by its first one alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.policy import Steps
from moesim.trace.types import RoutingTrace


def first_rows(steps: Steps, trace: RoutingTrace) -> Steps:
    """The same accesses with the router weights of each step's first token, and 0 where it chose otherwise.

    HybriMoE's paper adds the scores of all tokens of a step, which is what the weights of `Steps` are; its
    code (at 508a85b) updates them with row 0 of a batch. ``replay(first_rows(steps, trace),
    Residency("mrs"), slots)`` is that. One token at a time it makes no difference.

    Raises
    ------
    ConfigError
        If the trace has no router weights.

    Examples
    --------
    >>> from moesim.policy.batchers import Continuous
    >>> ids = np.array([[[0, 1]], [[1, 2]]], np.uint8)
    >>> weights = np.array([[[0.75, 0.25]], [[0.5, 0.5]]], np.float16)
    >>> request = np.arange(2, dtype=np.int32)
    >>> one, zero = np.ones(2, np.int8), np.zeros(2, np.int32)
    >>> trace = RoutingTrace(ids, request, 3, (0,), zero, one, topk_weights=weights)
    >>> steps = Continuous(2).form(trace)
    >>> steps.experts.tolist(), steps.weights.tolist()
    ([0, 1, 2], [0.75, 0.75, 0.5])
    >>> first_rows(steps, trace).weights.tolist()
    [0.75, 0.25, 0.0]
    """
    if trace.topk_weights is None:
        raise ConfigError(Fault("has no router weights", "trace", trace.source or None))
    begin = np.concatenate(([0], np.cumsum(steps.step_tokens)[:-1])).astype(np.int64)
    row = steps.rows[begin]
    cells = np.repeat(np.arange(len(steps.starts) - 1), np.diff(steps.starts))
    of, layer = row[cells // steps.layers], cells % steps.layers
    # Each access against the few choices of the first token.
    same = trace.topk_ids[of, layer] == steps.experts[:, None]
    weights = np.where(same, trace.topk_weights[of, layer], 0).sum(axis=1).astype(np.float32)
    return replace(steps, weights=weights)
