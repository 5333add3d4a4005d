"""Small traces to measure."""

from __future__ import annotations

import numpy as np

from moesim.trace import RoutingTrace


def make(ids, request, experts, **more):
    ids = np.asarray(ids)
    n = len(ids)
    fields = {
        "topk_ids": ids.astype(np.uint8),
        "request": np.asarray(request, np.int32),
        "num_experts": experts,
        "moe_layer_ids": tuple(range(1, 1 + ids.shape[1])),
        "position": np.arange(n, dtype=np.int32),
        "phase": np.zeros(n, np.int8),
    }
    return RoutingTrace(**(fields | more))


def random_trace(seed, *, layers, experts, k, lengths, skew=0.0, stay=0.0):
    """Tokens that draw experts by fixed odds, and repeat the token before with probability `stay`."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    odds = skew * rng.standard_normal((layers, experts)) + rng.gumbel(size=(n, layers, experts))
    ids = np.argsort(-odds, axis=2)[:, :, :k]
    request = np.repeat(np.arange(len(lengths)), lengths)
    for t in range(1, n):
        if request[t] == request[t - 1] and rng.random() < stay:
            ids[t] = ids[t - 1]
    return make(ids, request, experts)
