"""Draws of routing: conservation, distinctness, probabilities, independence of labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.dispatch import direct, dispatch, two_level
from moesim.engine.routing import TOKEN_BUDGET, LoadSource, TokenSource, assumed, typical, uniform
from moesim.layout import ExpertMap
from moesim.placement import Problem, solve
from moesim.trace.types import DECODE, PREFILL, LoadCounts, RoutingTrace


def _loads(experts=16, layers=3, seed=0):
    counts = np.random.default_rng(seed).lognormal(0.0, 1.0, (1, layers, experts)) * 1000
    return LoadCounts(counts, tuple(range(layers)), top_k=4)


def _trace(tokens=600, layers=3, experts=16, k=4, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((tokens, layers, experts)), axis=2)[:, :, :k].astype(np.uint8)
    zeros = np.zeros(tokens, dtype=np.int32)
    return RoutingTrace(ids, zeros, experts, tuple(range(layers)), zeros, np.ones(tokens, dtype=np.int8))


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 300), seed=st.integers(0, 99), skew=st.floats(0.0, 4.0), k=st.integers(1, 6))
def test_every_token_chooses_k_distinct_experts(tokens, seed, skew, k):
    rng = np.random.default_rng(seed)
    counts = rng.lognormal(0.0, skew, (1, 2, 8))
    draw = LoadSource.of(LoadCounts(counts, (0, 1), top_k=k), k).draw(tokens, DECODE, rng)
    assert draw.counts.sum(axis=1).tolist() == [tokens * k] * 2
    assert draw.ids is not None
    assert all(len(set(row)) == k for row in draw.ids.reshape(-1, k).tolist())


def test_draws_follow_the_loads():
    loads = _loads()
    source = LoadSource.of(loads, 4)
    drawn = (
        np.mean([source.draw(1000, DECODE, np.random.default_rng(i)).counts for i in range(20)], axis=0)
        / 1000
    )
    assert np.abs(drawn - source.inclusion).max() < 0.02
    share = loads.totals / loads.totals.sum(axis=1, keepdims=True) * 4
    below = share.max(axis=1) < 1
    assert drawn[below] == pytest.approx(share[below], abs=0.02)


def test_large_batches_are_drawn_as_counts_and_conserve_tokens():
    source = LoadSource.of(_loads(), 4)
    tokens = TOKEN_BUDGET
    draw = source.draw(tokens, DECODE, np.random.default_rng(0))
    assert draw.ids is None
    assert draw.counts.sum(axis=1) == pytest.approx([4.0 * tokens] * 3)
    assert draw.counts.max() <= tokens


def test_one_hot_loads_put_every_token_on_the_same_experts():
    counts = np.zeros((1, 1, 16))
    counts[0, 0, :4] = 1.0
    draw = LoadSource.of(LoadCounts(counts, (0,), top_k=4), 4).draw(50, DECODE, np.random.default_rng(0))
    assert draw.counts[0].tolist() == [50.0] * 4 + [0.0] * 12


def test_uniform_draws_hit_as_many_experts_as_theory_says():
    source = uniform(64, 8, layers=200)
    for tokens in (1, 8, 32):
        hit = (source.draw(tokens, DECODE, np.random.default_rng(1)).counts > 0).mean()
        assert hit == pytest.approx(1 - (1 - 8 / 64) ** tokens, abs=0.01)


def test_typical_loads_are_alike_in_all_layers_but_for_the_order():
    source = typical(64, 8, layers=6)
    assert source.inclusion.sum(axis=1) == pytest.approx(np.full(6, 8.0))
    assert source.inclusion.max() <= 1.0
    shares = np.sort(source.inclusion, axis=1)
    assert shares == pytest.approx(np.broadcast_to(shares[0], shares.shape))
    assert len({tuple(np.argsort(row)) for row in source.inclusion}) == 6
    # Log-normal: the logarithm of the load is symmetric about its median.
    assert np.log(shares[0]) + np.log(shares[0, ::-1]) == pytest.approx(
        2 * np.log(np.median(shares[0])), abs=0.01
    )


def test_typical_batches_hit_fewer_experts_and_skew_is_less_with_few_experts():
    def hit(source, tokens):
        return (source.draw(tokens, DECODE, np.random.default_rng(3)).counts > 0).mean()

    for experts, top_k in ((256, 8), (128, 4), (64, 6)):
        tokens = experts // top_k
        assert hit(typical(experts, top_k, 64), tokens) < 0.95 * hit(uniform(experts, top_k, 64), tokens)
        # One token takes as many experts whatever the loads.
        assert hit(typical(experts, top_k, 64), 1) == hit(uniform(experts, top_k, 64), 1)
    few, many = typical(8, 2).inclusion, typical(128, 2).inclusion
    assert few.max() / few.mean() < 1.5 < many.max() / many.mean()


def test_an_assumed_source_is_the_same_every_time():
    assert assumed("typical", 64, 8, 4) is assumed("typical", 64, 8, 4)
    assert np.ptp(assumed("uniform", 64, 8, 4).inclusion) == 0.0


def test_experts_are_chosen_together_as_often_as_chance_says():
    """Pairs of experts, whatever their labels, are about equally often in the same token."""
    ids = uniform(16, 4).draw(20_000, DECODE, np.random.default_rng(2)).ids[:, 0]
    together = np.zeros((16, 16))
    for i in range(4):
        for j in range(4):
            np.add.at(together, (ids[:, i], ids[:, j]), 1)
    share = together[~np.eye(16, dtype=bool)] / 20_000
    assert share.mean() == pytest.approx(4 * 3 / (16 * 15))
    assert share.std() < 0.35 * share.mean()


def test_decode_batches_mix_the_trace_and_prefill_batches_run_along_it():
    tokens = 4096
    ids = (np.arange(tokens)[:, None, None] // 256 + np.zeros((1, 1, 1), dtype=int)).astype(np.uint8)
    zeros = np.zeros(tokens, dtype=np.int32)
    trace = RoutingTrace(ids, zeros, 16, (0,), zeros, np.ones(tokens, dtype=np.int8))
    source = TokenSource(trace)
    mixed = source.draw(64, DECODE, np.random.default_rng(0)).counts
    run = source.draw(64, PREFILL, np.random.default_rng(0)).counts
    assert (mixed > 0).sum() > 8
    assert (run > 0).sum() <= 2


@pytest.mark.parametrize("tokens", [1, 7, 64, TOKEN_BUDGET])
@pytest.mark.parametrize("redundant", [0, 8])
def test_dispatch_conserves_pairs(tokens, redundant):
    loads = _loads()
    plan = solve(Problem(loads.totals, 8, redundant)).expert_map
    draw = LoadSource.of(loads, 4).draw(tokens, DECODE, np.random.default_rng(0))
    sent = dispatch(draw, plan)
    assert sent.slot_tokens.sum(axis=(1, 2)) == pytest.approx([4.0 * tokens] * 3)
    assert sent.pairs.sum(axis=(1, 2)) == pytest.approx([4.0 * tokens] * 3)
    assert sent.pairs.sum(axis=1) == pytest.approx(sent.slot_tokens.sum(axis=2))
    assert (sent.slot_tokens.sum(axis=2) >= 0).all()


def test_replicas_share_evenly():
    plan = ExpertMap(np.array([[0, 1, 0, 2]]), 3, 2)
    counts = LoadCounts(np.array([[[10.0, 1.0, 1.0]]]), (0,), top_k=1)
    slots = dispatch(LoadSource.of(counts, 1).draw(1000, DECODE, np.random.default_rng(0)), plan).slot_tokens
    assert abs(slots[0, 0, 0] - slots[0, 1, 0]) <= 0.1 * slots[0, 0, 0]


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(8, 200), seed=st.integers(0, 50))
def test_two_level_exchange_sends_each_token_once_per_domain(tokens, seed):
    trace = _trace(seed=seed)
    plan = ExpertMap.contiguous(3, 16, 8)
    draw = TokenSource(trace).draw(tokens, DECODE, np.random.default_rng(seed))
    sent = dispatch(draw, plan)
    near, far = two_level(sent, plan, 4), direct(sent, 4)
    assert (near.out.sum(axis=(1, 2)) <= far.out.sum(axis=(1, 2))).all()
    # At most one crossing per token and foreign domain, and none at home.
    assert (near.out.sum(axis=(1, 2)) <= tokens).all()
    home = np.arange(8) // 4
    assert near.out[:, home[:, None] == home[None, :]].sum() == 0
    assert near.up[:, home[:, None] != home[None, :]].sum() == 0
    # By counting: distinct domains of each token beyond its own.
    rank = draw.ids // 2
    own = np.arange(tokens) * 8 // tokens // 4
    crossings = [sum(len(set(rank[t, layer] // 4) - {own[t]}) for t in range(tokens)) for layer in range(3)]
    assert near.out.sum(axis=(1, 2)).tolist() == crossings


def test_a_layer_without_load_counts_as_uniform():
    counts = np.zeros((1, 2, 8))
    counts[0, 1] = np.arange(8)
    source = LoadSource.of(LoadCounts(counts, (0, 1), top_k=2), 2)
    assert source.inclusion[0].tolist() == [0.25] * 8
