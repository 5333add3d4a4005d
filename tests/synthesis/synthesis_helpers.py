"""Small profiles and traces, made once."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from moesim.synthesis.design import Shape, Traits, design
from moesim.synthesis.fitting import fit
from moesim.synthesis.sampling import generate
from moesim.trace import RoutingTrace

SMALL = Shape(tuple(range(1, 5)), 32, 4, model="small")


@lru_cache
def designed():
    return design(SMALL, Traits(skew=0.6, persistence=0.4, coupling=0.5))


@lru_cache
def trace(tokens: int = 12_000, seed: int = 5) -> RoutingTrace:
    return generate(designed()[0], tokens, requests=tokens // 60, seed=seed)


@lru_cache
def fitted():
    return fit(trace(), kinds=48, steps=60, rounds=10)


def relabelled(source: RoutingTrace, seed: int = 0) -> tuple[RoutingTrace, np.ndarray]:
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(source.num_experts) for _ in source.moe_layer_ids])
    ids = np.take_along_axis(order[None], source.topk_ids.reshape(source.num_tokens, len(order), -1), axis=2)
    return replace(source, topk_ids=ids.astype(np.uint8)), order
