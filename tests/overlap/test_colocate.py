"""Co-location of tokens and experts, shadowed experts, capacity from angles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erfc

from moesim.overlap import (
    ShadowLayer,
    capacity,
    capacity_bounds,
    grouped_exchange,
    learn,
    local_rate,
    smart_bound,
    smart_seconds,
    topology_limit,
)
from moesim.overlap.colocate import counts
from moesim.trace import load_trace


def blocks(tokens, layers, groups, size, seed=0):
    """Tokens that stay with one group of experts, whose names are shuffled anew in each layer."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, groups, tokens)
    names = np.stack([rng.permutation(groups * size).reshape(groups, size) for _ in range(layers)])
    picks = np.argsort(rng.random((tokens, layers, size)), axis=-1)[..., :2]
    return np.take_along_axis(names[:, of].transpose(1, 0, 2), picks, axis=-1), groups * size


def test_groups_that_stay_together_are_found_whatever_they_are_called():
    ids, experts = blocks(3000, 5, 4, 4)
    found = learn(ids[:1500], experts, 4)
    sent = found.send(ids[1500:])
    # The first layer has nothing before it: one device for all.
    later = local_rate(found.device_of[1:], ids[1500:, 1:], sent[:, 1:])
    assert later > 0.99
    assert (np.sort(found.device_of, axis=1) == np.repeat(np.arange(4), 4)).all()


def test_random_routing_gives_no_more_than_chance_on_unseen_tokens():
    rng = np.random.default_rng(3)
    ids = np.argsort(rng.random((4000, 3, 16)), axis=-1)[..., :2]
    found = learn(ids[:2000], 16, 4)
    assert local_rate(found.device_of, ids[2000:], found.send(ids[2000:])) == pytest.approx(0.25, abs=0.02)


def test_only_earlier_layers_decide_where_a_token_goes():
    ids, experts = blocks(800, 4, 4, 4)
    found = learn(ids, experts, 4)
    changed = ids.copy()
    changed[:, 2:] = np.random.default_rng(1).permutation(changed[:, 2:])
    assert (found.send(ids)[:, :3] == found.send(changed)[:, :3]).all()


def test_counts_are_of_all_experts_of_a_token():
    ids, experts = blocks(50, 3, 4, 4)
    found = learn(ids, experts, 4)
    assert (counts(found.device_of, ids, 1, 4).sum(axis=1) == 2).all()


def test_experts_have_to_divide_over_devices():
    with pytest.raises(ValueError, match="do not divide"):
        learn(np.zeros((4, 1, 2), int), 10, 4)


@pytest.mark.parametrize(("task", "least", "most"), [("intent", 0.47, 0.53), ("summary", 0.40, 0.46)])
def test_real_traces_of_deepseek_v2_lite(shared, task, least, most):
    trace = load_trace(shared(f"traces/esft-deepseek-v2-lite/{task}.npz"))
    requests = np.unique(trace.request)
    train = np.isin(trace.request, requests[: len(requests) // 5])
    found = learn(trace.topk_ids[train], 64, 8)
    test = trace.topk_ids[~train]
    rate = local_rate(found.device_of, test, found.send(test))
    even = local_rate(np.tile(np.arange(64) // 8, (26, 1)), test, np.zeros((len(test), 26), int))
    best = np.mean([counts(found.device_of, test, layer, 8).max(axis=1).mean() for layer in range(26)]) / 6
    assert least < rate < most
    assert 2.5 * even < rate < best


# -- shadows

loads = st.lists(st.floats(1.0, 1e5), min_size=2, max_size=20).map(np.array)


@given(loads, st.floats(1e8, 1e11))
def test_the_greedy_rule_never_hurts_and_trying_all_is_never_worse(found, bandwidth):
    layer = ShadowLayer(1024, 2.0, 10e12, bandwidth)
    none, greedy, best = (
        sum(layer.seconds(found, n)) for n in (0, layer.shadows_of(found), layer.best_shadows(found))
    )
    assert best <= greedy * (1 + 1e-12)
    assert greedy <= none * (1 + 1e-12)
    assert layer.pays(found) == (layer.shadows_of(found) > 0)


def test_even_loads_need_no_shadow_and_one_hot_expert_does():
    layer = ShadowLayer(1024, 2.0, 10e12, 3e9)
    assert not layer.pays(np.full(16, 1000.0))
    hot = np.full(16, 1000.0)
    hot[5] = 60000.0
    assert layer.pays(hot)
    assert layer.shadows_of(hot) == 1


def test_seconds_of_a_shadow_are_those_of_the_formula():
    layer = ShadowLayer(1000, 2.0, 1e12, 1e9)
    compute, sent = layer.seconds(np.array([100.0, 400.0]), 1)
    # 12 a H^2 / P of 100 tokens and a half of the 400 that stay where they are.
    assert compute == pytest.approx(12 * 2 * 1e6 * (100 + 200) / 1e12)
    assert sent == pytest.approx(4 * 100 * 1000 * 4 / 1e9 + 2 * 2 * 2 * 1e6 * 4 / 1e9)


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(1, 64))
def test_overlap_by_groups_is_between_the_bound_and_nothing(compute, exchange, groups):
    seconds = smart_seconds(compute, exchange, groups)
    assert seconds <= compute + exchange + 1e-12
    assert (compute + exchange) / seconds <= smart_bound(compute, exchange) + 1e-9
    assert smart_seconds(compute, exchange, groups + 1) <= seconds


def test_the_topology_gate_lets_through_what_keeps_both_links_busy_alike():
    tokens = topology_limit(4096.0, 8e9, 2e9, 4)
    # Over the network at its rate as long as a node's share takes inside.
    assert tokens / 2e9 == pytest.approx(4096.0 / 4 / 8e9)


# -- LocMoE


@given(st.integers(2, 256), st.integers(16, 8192), st.floats(0.0, 0.03))
def test_the_simple_bound_is_below_the_exact_one_and_both_above_an_even_share(experts, width, cosine):
    exact, simple = capacity_bounds(experts, width, cosine)
    assert 1.0 / experts <= simple * (1 + 1e-12)
    assert simple <= exact * (1 + 1e-9)
    exponent = cosine**2 * width / (2 - cosine**2)
    assert exact == pytest.approx(1 / (experts * erfc(np.sqrt(exponent))))


def test_capacity_and_grouped_exchange():
    assert capacity(1000, 1.0, 1, 16) == 63
    assert grouped_exchange(8.0, 0.5, 1) == 8.5
    assert grouped_exchange(8.0, 0.5, 8) == 1.5
