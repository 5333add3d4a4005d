"""Batches too large to keep token by token still know which experts are chosen together."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.engine import routing
from moesim.engine.dispatch import Replicas, dispatch, two_level
from moesim.engine.routing import TokenSource
from moesim.layout import ExpertMap
from moesim.trace.types import RoutingTrace


@pytest.mark.parametrize("rule", ["even", "sglang-static", "sglang-dynamic"])
def test_a_sample_stands_for_the_batch(monkeypatch, rule):
    rng = np.random.default_rng(0)
    tokens, layers = 4096, 2
    # Experts come in blocks of four: a token reaches one node, though counts say all.
    block = rng.integers(0, 4, size=(tokens, layers, 1))
    ids = rng.random((tokens, layers, 4)).argsort(axis=2)[:, :, :2] + 4 * block
    zeros = np.zeros(tokens, np.int32)
    trace = RoutingTrace(ids.astype(np.uint8), zeros, 16, (0, 1), zeros, zeros.astype(np.int8))
    # Nodes of two ranks, a block on each; two of its experts are on both ranks.
    row = (np.arange(0, 16, 4)[:, None] + [0, 1, 3, 2, 3, 0]).ravel()
    plan = ExpertMap(np.tile(row, (layers, 1)), 16, 8)
    replicas = Replicas.of(plan, rule, nodes=4)
    whole = TokenSource(trace).draw(tokens, 0, np.random.default_rng(1))
    assert whole.ids is not None
    monkeypatch.setattr(routing, "TOKEN_BUDGET", 8000)
    counted = TokenSource(trace).draw(tokens, 0, np.random.default_rng(1))
    assert counted.ids is None
    assert counted.sample.size <= 8000
    one, other = (
        two_level(dispatch(d, plan, replicas, np.random.default_rng(2)), plan, 2) for d in (whole, counted)
    )
    assert other.out.sum() == pytest.approx(one.out.sum(), rel=0.05)
    assert other.up.sum() == pytest.approx(one.up.sum(), rel=0.05)
    assert one.out.sum() == pytest.approx(0.75 * tokens * layers, rel=0.05)
