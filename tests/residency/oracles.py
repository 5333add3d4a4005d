"""Caches in plain Python, for one capacity: what the fast ones are compared with."""

from __future__ import annotations

import numpy as np

from moesim.policy import Steps


def make_steps(rows, experts, request=None, weights=None, layers=None):
    """Steps from ``rows[step][layer] = [experts]``."""
    layers = layers or len(rows[0])
    cells = [cell for row in rows for cell in row]
    flat = [e for cell in cells for e in cell]
    n = len(rows)
    return Steps(
        experts=np.array(flat, np.int32),
        tokens=np.ones(len(flat), np.int32),
        weights=None if weights is None else np.array(weights, np.float32),
        starts=np.concatenate([[0], np.cumsum([len(c) for c in cells])]).astype(np.int64),
        layers=layers,
        num_experts=experts,
        request=np.zeros(n, np.int32) if request is None else np.array(request, np.int32),
        phase=np.ones(n, np.int8),
        step_tokens=np.ones(n, np.int32),
        context=np.ones(n, np.float32),
        rows=np.arange(n, dtype=np.int64),
    )
