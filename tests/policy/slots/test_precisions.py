"""Precisions give the levels of their rules; bits of experts are allotted at the least loss there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError, InfeasibleError
from moesim.policy import SKIP, Composition, Constant, token_steps
from moesim.policy.precisions import Nested, RankedPrecision, StaticBits, allot_bits, hebf


def test_constant():
    levels = Constant(4.5).levels(token_steps_of([[0.5, 0.5]]))
    assert levels.bits.tolist() == [4.5]
    assert levels.wanted.tolist() == [0, 0]


def token_steps_of(weights):
    from moesim.trace import RoutingTrace

    weights = np.asarray(weights, np.float16)[:, None]
    tokens, _, k = weights.shape
    ids = np.broadcast_to(np.arange(k, dtype=np.uint8), weights.shape)
    place = np.arange(tokens, dtype=np.int32)
    return token_steps(RoutingTrace(ids, place * 0, 8, (0,), place, np.ones(tokens, np.int8), weights))


def test_ranked_precision_by_hand():
    # Before rank 2: 0.5 -> high; 0.7 -> low; 0.95 -> skipped. The first rank is always high.
    steps = token_steps_of([[0.5, 0.5], [0.7, 0.3], [0.05, 0.95]])
    levels = RankedPrecision().levels(steps)
    assert levels.wanted.tolist() == [0, 0, 0, 1, SKIP, 0]
    assert levels.misses_only
    assert levels.bits.tolist() == [16.0, 4.0]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_ranked_precision_against_its_definition(seed, random_trace):
    trace = random_trace(seed, top_k=4)
    wanted = RankedPrecision().levels(token_steps(trace)).wanted.reshape(trace.topk_ids.shape)
    weights = trace.topk_weights.astype(np.float64)
    weights /= weights.sum(axis=2, keepdims=True)
    for row in range(0, 40, 7):
        for layer in range(4):
            for i in range(4):
                ahead = [j for j in range(4) if (-weights[row, layer, j], j) < (-weights[row, layer, i], i)]
                before = weights[row, layer, ahead].sum()
                if min(abs(before - 0.6), abs(before - 0.9)) < 1e-6:
                    continue
                expected = 0 if before <= 0.6 else 1 if before <= 0.9 else SKIP
                assert wanted[row, layer, i] == expected


def test_cells_of_several_tokens_are_wanted_in_full():
    steps = token_steps_of([[0.05, 0.95]])
    many = replace(steps, step_tokens=np.array([2], np.int32))
    assert RankedPrecision().levels(many).wanted.tolist() == [0, 0]


def test_nested_widths_get_their_parts(random_trace):
    train, trace = random_trace(0, tokens=2000, top_k=4), random_trace(1, tokens=2000, top_k=4)
    levels = Nested().fit(train).levels(token_steps(trace))
    assert levels.nested
    assert levels.bits.tolist() == [4.0, 3.0, 2.0]
    parts = np.bincount(levels.wanted, minlength=3) / len(levels.wanted)
    assert parts == pytest.approx([0.3, 0.4, 0.3], abs=0.02)
    # More weight, no fewer bits, layer by layer.
    weights = trace.topk_weights.astype(np.float64)
    weights /= weights.sum(axis=2, keepdims=True)
    wanted = levels.wanted.reshape(weights.shape)
    for layer in range(4):
        order = np.argsort(-weights[:, layer].ravel(), kind="stable")
        assert (np.diff(wanted[:, layer].ravel()[order]) >= 0).all()


@given(
    seed=st.integers(0, 2**32),
    experts=st.integers(1, 6),
    mean=st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0]),
    required=st.lists(st.booleans(), min_size=3, max_size=3),
)
@settings(max_examples=60)
def test_allotted_bits_are_the_best_there_are(seed, experts, mean, required):
    rng = np.random.default_rng(seed)
    loss, bits, budget = rng.random((experts, 3)), np.array([1, 2, 3]), int(mean * experts)
    required = np.array(required)
    plans = [
        (sum(loss[e, w] for e, w in enumerate(plan)), plan)
        for plan in product(range(3), repeat=experts)
        if bits[list(plan)].sum() <= budget and all(w in plan for w in np.flatnonzero(required))
    ]
    if not plans:
        with pytest.raises(InfeasibleError):
            allot_bits(loss, bits, budget, required)
        return
    chosen = allot_bits(loss, bits, budget, required)
    assert bits[chosen].sum() <= budget
    assert all(w in chosen for w in np.flatnonzero(required))
    assert loss[np.arange(experts), chosen].sum() == pytest.approx(min(plans)[0])


def test_static_bits_follow_importance(random_trace):
    train, trace = random_trace(2, tokens=500), random_trace(3)
    precision = StaticBits(2.0).fit(train)
    bits = np.array([3, 2, 1])[precision.static]
    assert (bits.sum(axis=1) <= 16).all()
    assert (bits == 3).any(axis=1).all()
    assert (bits == 2).any(axis=1).all()
    for layer in range(4):
        heat = np.bincount(train.topk_ids[:, layer].ravel(), train.topk_weights[:, layer].ravel(), 8)
        load = np.bincount(train.topk_ids[:, layer].ravel(), minlength=8)
        importance = load / load.sum() * (heat / heat.sum()) ** 1.5
        order = np.argsort(-importance)
        assert (np.diff(bits[layer][order]) <= 0).all()
    levels = precision.levels(token_steps(trace))
    wanted = levels.wanted.reshape(trace.topk_ids.shape)
    for layer in range(4):
        assert np.array_equal(wanted[:, layer], precision.static[layer][trace.topk_ids[:, layer]])
    assert levels.static is precision.static


def test_hebf_loads_bases_first_and_the_hottest_head():
    counts = [[4, 4, 1], [9, 2], [5], [0, 0]]
    order = hebf(counts)
    assert sorted(order) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    left = dict.fromkeys(range(4), 0)
    for expert, piece in order:
        assert piece == left[expert]
        heads = [counts[e][left[e]] for e in left if left[e] < len(counts[e])]
        assert counts[expert][piece] == max(heads)
        left[expert] += 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: RankedPrecision(high=0.9, low=0.6),
        lambda: RankedPrecision(bits=(4, 16)),
        lambda: RankedPrecision(prefetch="middle"),
        lambda: Nested(bits=(4, 3)),
        lambda: Nested(shares=(0.5, 0.5)),
        lambda: StaticBits(bits=(3, 2)),
        lambda: StaticBits(required=(5,)),
        lambda: StaticBits(errors=(0.1,)),
        lambda: StaticBits(mean_bits=0.0),
        lambda: Constant(0.0),
    ],
)
def test_bad_values_are_refused(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("precision", [RankedPrecision(), Nested(limits=np.zeros((4, 2)))])
def test_without_weights_a_precision_says_what_it_needs(precision, random_trace):
    with pytest.raises(ConfigError, match="needs router weights"):
        precision.levels(token_steps(random_trace(0, weights=False)))


def test_a_composition_learns_slot_by_slot(random_trace):
    train, trace = random_trace(4), random_trace(5)
    taught = Composition(precision=StaticBits(2.0)).fit(train, trace)
    assert taught.precision.static is not None
    with pytest.raises(ConfigError, match="of the 4 requests that are replayed"):
        Composition(precision=StaticBits(2.0)).fit(trace, trace)
