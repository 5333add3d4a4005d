"""Gates keep what their rule keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.policy import AsRouted, Composition, Selected, token_steps
from moesim.policy.gates import (
    AdapMoE,
    AdmissionMask,
    CapacityDrop,
    CumulativeSkip,
    ExpertChoice,
    FewerExperts,
    SecondRatio,
    TopGap,
    ZeroExperts,
    by_depth,
)
from moesim.policy.published import ADAPMOE_NEXT_GATE, ADAPMOE_SENSITIVITY, MC_MOE_BETA
from moesim.trace import RoutingTrace

FIRST_STAYS = {
    "fewer": FewerExperts(2),
    "adapmoe": AdapMoE(),
    "gap": TopGap(),
    "skip": CumulativeSkip(),
    "ratio": SecondRatio(),
}
MAY_EMPTY = {"zero": ZeroExperts(), "drop": CapacityDrop(1.0, 16), "choice": ExpertChoice(0.5, 16)}


def one_layer(weights, ids=None, experts=8):
    """A trace of one layer, a row of weights per token."""
    weights = np.asarray(weights, np.float16)[:, None]
    tokens, _, k = weights.shape
    ids = np.broadcast_to(np.arange(k), weights.shape) if ids is None else np.asarray(ids)[:, None]
    zeros = np.zeros(tokens, np.int32)
    place = np.arange(tokens, dtype=np.int32)
    return RoutingTrace(ids.astype(np.uint8), zeros, experts, (0,), place, np.ones(tokens, np.int8), weights)


@pytest.mark.parametrize("name", FIRST_STAYS | MAY_EMPTY)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_slots_are_dropped_never_added(name, seed, random_trace):
    gate = (FIRST_STAYS | MAY_EMPTY)[name]
    trace = random_trace(seed, top_k=3)
    selected = gate.select(trace)
    assert isinstance(selected, Selected)
    assert selected.kept.shape == trace.topk_ids.shape
    assert np.array_equal(selected.trace.topk_ids, trace.topk_ids)
    if name in FIRST_STAYS:
        best = trace.topk_weights.argmax(axis=2)
        assert np.take_along_axis(selected.kept, best[..., None], 2).all()
        # What is kept is heavier than what is dropped.
        kept = np.where(selected.kept, trace.topk_weights, np.inf).min(axis=2)
        dropped = np.where(selected.kept, -np.inf, trace.topk_weights).max(axis=2)
        assert (kept >= dropped).all()
    steps = Composition(gate=gate).steps(trace)
    assert steps.accesses == selected.kept.sum()
    assert selected.dropped == pytest.approx(1 - steps.accesses / trace.topk_ids.size)
    cells = np.diff(steps.starts).reshape(-1, steps.layers)
    assert np.array_equal(cells, selected.kept.sum(axis=2))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_the_order_of_slots_means_nothing(seed, random_trace):
    trace = random_trace(seed, tokens=8, top_k=3)
    weights = trace.topk_weights
    assume(
        (np.diff(np.sort(weights, axis=2), axis=2) > 0).all()
    )  # of equal ones the first stored counts first
    turned = replace(trace, topk_ids=trace.topk_ids[..., ::-1], topk_weights=weights[..., ::-1])
    for gate in FIRST_STAYS.values():
        assert np.array_equal(gate.select(trace).kept, gate.select(turned).kept[..., ::-1])


def test_fewer_experts_without_weights_go_by_the_stored_order(random_trace):
    selected = FewerExperts(1).select(random_trace(0, top_k=3, weights=False))
    assert selected.kept[..., 0].all()
    assert not selected.kept[..., 1:].any()
    assert FewerExperts(9).select(random_trace(0)).kept.all()


@pytest.mark.parametrize(
    "gate", [AdapMoE(), TopGap(), CumulativeSkip(), SecondRatio(), ZeroExperts(), ExpertChoice()]
)
def test_without_weights_a_gate_says_what_it_needs(gate, random_trace):
    with pytest.raises(ConfigError, match="needs router weights"):
        gate.select(random_trace(0, weights=False))


def test_adapmoe_with_two_experts_is_the_published_rule():
    # Of layer l the second is dropped where w2 < sqrt(0.005 / F_l); layer 0 has sqrt(0.005 / 46.69) = 0.0103.
    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 1.0, (500, 32))
    weights = np.stack([first, 1 - first], axis=2).astype(np.float16)
    ids = np.broadcast_to(np.array([3, 5], np.uint8), weights.shape).copy()
    place = np.arange(500, dtype=np.int32)
    trace = RoutingTrace(ids, place * 0, 8, tuple(range(32)), place, np.ones(500, np.int8), weights)
    kept = AdapMoE().select(trace).kept
    exact = weights.astype(np.float64)
    exact /= exact.sum(axis=2, keepdims=True)
    limit = np.sqrt(0.005 / np.array(ADAPMOE_SENSITIVITY))
    assert np.array_equal(kept[..., 1], exact[..., 1] >= limit[None])
    assert limit[0] == pytest.approx(0.01035, abs=1e-4)
    # The released code sends what lost its second expert to expert 0.
    released = AdapMoE(released=True).select(trace)
    assert np.array_equal(released.kept, kept)
    alone = ~kept[..., 1]
    assert (released.trace.topk_ids[alone, 0] == 0).all()
    assert np.array_equal(released.trace.topk_ids[~alone], ids[~alone])


def test_adapmoe_drops_more_where_layers_care_less():
    trace = one_layer([[0.9, 0.1]])
    assert AdapMoE(sensitivities=(1.0,)).select(trace).kept.all()
    assert not AdapMoE(sensitivities=(0.1,)).select(trace).kept[0, 0, 1]


def test_adapmoe_with_more_experts_drops_from_the_end_while_the_sum_is_small():
    # sqrt(0.005 / 0.05) = 0.316: 0.1 and 0.1 + 0.2 may go, 0.1 + 0.2 + 0.3 may not.
    trace = one_layer([[0.4, 0.3, 0.2, 0.1]])
    assert AdapMoE(sensitivities=(0.05,)).select(trace).kept.tolist() == [[[True, True, False, False]]]


def test_top_gap_by_hand():
    trace = one_layer([[0.6, 0.4], [0.54, 0.46], [0.46, 0.54]])
    assert TopGap(0.1).select(trace).kept[:, 0].tolist() == [[True, False], [True, True], [True, True]]


def test_cumulative_skip_by_hand():
    trace = one_layer([[0.95, 0.05], [0.85, 0.15], [0.05, 0.95]])
    assert CumulativeSkip(0.9).select(trace).kept[:, 0].tolist() == [
        [True, False],
        [True, True],
        [False, True],
    ]


def test_second_ratio_by_hand():
    # 0.25 < 0.402 x 0.75 = 0.30; 0.3125 > 0.402 x 0.6875.
    trace = one_layer([[0.75, 0.25], [0.6875, 0.3125]])
    assert SecondRatio((0.402,)).select(trace).kept[:, 0].tolist() == [[True, False], [True, True]]


def test_zero_experts_take_their_part(random_trace):
    # 0.75 x 8 / (0.75 x 8 + 4) = 0.6 of the slots stay.
    selected = ZeroExperts(4, 0.75).select(random_trace(0, tokens=500, top_k=2))
    assert selected.dropped == pytest.approx(0.4, abs=0.002)


def test_capacity_drops_the_last_to_come():
    # 4 tokens x 1 expert of 2: capacity 1.0 x 4 / 2 = 2 slots each; expert 0 is asked three times.
    trace = one_layer([[1.0]] * 4, [[0], [1], [0], [0]], experts=2)
    assert CapacityDrop(1.0, 4).select(trace).kept.ravel().tolist() == [True, True, True, False]
    assert CapacityDrop(1.5, 4).select(trace).kept.all()
    # In groups of two, expert 0 has 1 slot in each.
    assert CapacityDrop(1.0, 2).select(trace).kept.ravel().tolist() == [True, True, True, False]


def test_expert_choice_takes_the_heaviest():
    trace = one_layer([[0.2], [1.0], [0.9], [0.5]], [[0], [1], [0], [0]], experts=2)
    # Weights are normalised over a token's experts; with two experts per token they differ.
    trace = one_layer([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]], [[0, 1]] * 3, experts=2)
    # Capacity ceil(0.6 x 6 / 2) = 2: expert 0 takes tokens 1 and 2, expert 1 tokens 0 and 2.
    assert ExpertChoice(0.6, 3).select(trace).kept[:, 0].tolist() == [
        [False, True], [True, False], [True, True]
    ]  # fmt: skip


@given(
    seed=st.integers(0, 2**32), factor=st.sampled_from([0.5, 1.0, 1.25]), group=st.sampled_from([7, 16, 64])
)
@settings(max_examples=25)
def test_no_expert_exceeds_its_capacity(seed, factor, group, random_trace):
    trace = random_trace(seed, tokens=50)
    for gate in (CapacityDrop(factor, group), ExpertChoice(factor, group)):
        kept = gate.select(trace).kept
        for start in range(0, 50, group):
            ids, used = trace.topk_ids[start : start + group], kept[start : start + group]
            limit = int(np.ceil(factor * ids.shape[0] * 2 / 8 - 1e-12))
            for layer in range(4):
                asked = np.bincount(ids[:, layer].ravel(), minlength=8)
                given_ = np.bincount(ids[:, layer][used[:, layer]], minlength=8)
                assert np.array_equal(given_, np.minimum(asked, limit))


@given(seed=st.integers(0, 2**32), experts=st.integers(2, 8))
@settings(max_examples=25)
def test_an_admission_mask_admits_its_experts_alone(seed, experts, random_trace):
    train, trace = random_trace(seed + 1), random_trace(seed, weights=False)
    gate = AdmissionMask(experts).fit(train)
    selected = gate.select(trace)
    assert selected.kept.all()  # two experts per token, two or more admitted
    for layer in range(4):
        heat = np.bincount(train.topk_ids[:, layer].ravel(), train.topk_weights[:, layer].ravel(), 8)
        admitted = set(np.argsort(-heat, kind="stable")[:experts].tolist())
        ids = selected.trace.topk_ids[:, layer]
        assert set(np.unique(ids).tolist()) <= admitted
        assert (ids[:, 0] != ids[:, 1]).all()
        inside = np.isin(trace.topk_ids[:, layer], list(admitted))
        assert np.array_equal(ids[inside], trace.topk_ids[:, layer][inside])
    dropped = replace(gate, reroute=False).select(trace)
    assert np.array_equal(dropped.kept, dropped.trace.topk_ids == selected.trace.topk_ids)


def test_an_admission_mask_learns_first(random_trace):
    with pytest.raises(ConfigError, match="needs a trace of its task"):
        AdmissionMask(4).select(random_trace(0))


def test_published_figures_have_their_models_layers():
    assert len(ADAPMOE_SENSITIVITY) == len(MC_MOE_BETA) == 32
    assert len(ADAPMOE_NEXT_GATE) == 31
    stretched = by_depth(ADAPMOE_SENSITIVITY, 24, log=True)
    assert stretched[0] == pytest.approx(46.69)
    assert stretched[-1] == pytest.approx(0.02295)


def test_no_gate_is_no_change(random_trace):
    trace = random_trace(0)
    steps = Composition(gate=AsRouted()).steps(trace)
    assert np.array_equal(steps.experts, token_steps(trace).experts)
