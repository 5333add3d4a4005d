"""Traces without a fault, for tests that plant one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.trace import LoadCounts, RoutingTrace, Shape

SHAPE = Shape("planted", 8, tuple(range(2, 8)), 32, 4)
REQUESTS, LENGTH, PREFILL_TOKENS = 20, 40, 10
TOKENS = REQUESTS * LENGTH


def clean(seed=0, shape=SHAPE, requests=REQUESTS, length=LENGTH):
    """A trace of skewed but honest routing: every request has prefill and decode."""
    rng = np.random.default_rng(seed)
    layers, experts = len(shape.moe_layer_ids), shape.num_experts
    popularity = rng.normal(0, 0.5, (1, layers, experts))
    scores = popularity + rng.gumbel(size=(requests * length, layers, experts))
    ids = np.argsort(-scores, axis=2)[:, :, : shape.top_k]
    position = np.tile(np.arange(length, dtype=np.int32), requests)
    return RoutingTrace(
        topk_ids=ids.astype(np.uint8 if experts <= 256 else np.uint16),
        request=np.repeat(np.arange(requests, dtype=np.int32), length),
        num_experts=experts,
        moe_layer_ids=shape.moe_layer_ids,
        position=position,
        phase=(position >= PREFILL_TOKENS).astype(np.int8),
    )


def planted(trace, plant):
    """A copy of a trace whose ids a function has changed in place."""
    ids = trace.topk_ids.copy()
    plant(ids)
    return replace(trace, topk_ids=ids)


def clean_counts(seed=0, steps=1, shape=SHAPE):
    """Load counts in which every layer has the same total."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 0.6, (len(shape.moe_layer_ids), shape.num_experts))
    share /= share.sum(axis=1, keepdims=True)
    counts = [[rng.multinomial(40_000, row) for row in share] for _ in range(steps)]
    return LoadCounts(np.array(counts, float), shape.moe_layer_ids, shape.top_k)
