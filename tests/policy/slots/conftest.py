"""Small random traces for tests of decisions."""

import numpy as np
import pytest

from moesim.trace import RoutingTrace


@pytest.fixture(scope="session")
def random_trace():
    """A maker of traces: tokens in contiguous requests, every layer with favourites of its own."""

    def make(seed, tokens=40, layers=4, experts=8, top_k=2, requests=4, weights=True):
        rng = np.random.default_rng(seed)
        popularity = rng.dirichlet(np.ones(experts), layers)
        keys = rng.gumbel(size=(tokens, layers, experts)) + np.log(popularity + 1e-9)
        ids = np.argsort(-keys, axis=2)[..., :top_k].astype(np.uint8)
        values = rng.dirichlet(np.ones(top_k), (tokens, layers)) * 0.9 + 0.1 / top_k
        request = np.sort(rng.integers(0, requests, tokens)).astype(np.int32)
        return RoutingTrace(
            topk_ids=ids,
            request=request,
            num_experts=experts,
            moe_layer_ids=tuple(range(layers)),
            position=(np.arange(tokens) - np.searchsorted(request, request)).astype(np.int32),
            phase=np.ones(tokens, np.int8),
            topk_weights=values.astype(np.float16) if weights else None,
        )

    return make
