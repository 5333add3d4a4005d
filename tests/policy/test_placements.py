"""Placements: quotas against brute force, published masks, and Fiddler's hit ratios on held-out domains."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim as ms
from moesim.errors import ConfigError
from moesim.policy import Placement
from moesim.policy.placements import (
    AdapMoEQuota,
    DemandQuota,
    FrontLoading,
    MeasuredQuota,
    Popular,
    Random,
    RoundRobin,
    WholeLayers,
    allocate,
    expected_misses,
    greedy,
    popular_coverage,
)
from moesim.policy.published import ADAPMOE_NEXT_GATE, ADAPMOE_SINGLE


def trace_of(tokens=60, layers=3, num_experts=6, top_k=2, seed=0):
    """Tokens whose later layers prefer fewer experts."""
    rng = np.random.default_rng(seed)
    ids = np.empty((tokens, layers, top_k), np.uint8)
    for layer in range(layers):
        weight = np.exp(-layer * np.arange(num_experts))
        for token in range(tokens):
            ids[token, layer] = rng.choice(num_experts, top_k, replace=False, p=weight / weight.sum())
    zeros = np.zeros(tokens, np.int32)
    order = np.arange(tokens, dtype=np.int32)
    return ms.RoutingTrace(ids, zeros, num_experts, tuple(range(layers)), order, np.ones(tokens, np.int8))


def misses_of_last(trace):
    """Misses of each layer if the s experts of least number are resident."""
    counts = trace.load_counts().totals
    return counts.sum(axis=1, keepdims=True) - np.concatenate(
        (np.zeros((len(counts), 1)), np.cumsum(counts, axis=1)), axis=1
    )


PLACEMENTS = (
    Popular(),
    Popular(across=False),
    Random(3),
    RoundRobin(),
    FrontLoading(),
    WholeLayers(),
    WholeLayers(last=False),
    AdapMoEQuota(0.2, (0.0, 0.5, 0.9)),
    MeasuredQuota(misses_of_last),
    DemandQuota(8),
)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda slot: type(slot).__name__)
@given(slots=st.integers(0, 25))
@settings(max_examples=26)
def test_quotas_hold_what_they_promise(placement, slots):
    trace = trace_of()
    assert isinstance(placement, Placement)
    quota = placement.quota(slots, trace)
    assert quota.dtype == np.int64
    assert (quota >= 0).all()
    assert (quota <= 6).all()
    used = min(slots, 18)
    if isinstance(placement, WholeLayers):
        used = used // 6 * 6
    assert quota.sum() == used
    assert placement.resident(quota, trace).sum(axis=1).tolist() == quota.tolist()


def test_popular_takes_the_largest_counts_over_all_layers():
    trace = trace_of()
    counts = trace.load_counts().totals
    for slots in range(19):
        quota = Popular().quota(slots, trace)
        resident = Popular().resident(quota, trace)
        assert counts[resident].sum() == np.sort(counts, axis=None)[::-1][:slots].sum()
        assert np.ptp(Popular(across=False).quota(slots, trace)) <= 1


def test_masks_are_those_of_ktransformers_and_llama_cpp():
    trace = trace_of()
    assert RoundRobin().quota(7, trace).tolist() == [3, 2, 2]
    assert np.flatnonzero(RoundRobin().resident(np.array([3, 2, 2]), trace)[0]).tolist() == [0, 1, 2]
    assert FrontLoading().quota(7, trace).tolist() == [6, 1, 0]
    # -ncmoe 1: the experts of the first layer on the CPU, all others on the GPU
    assert WholeLayers().quota(13, trace).tolist() == [0, 6, 6]
    assert WholeLayers(last=False).quota(13, trace).tolist() == [6, 6, 0]
    one, two = Random(1).resident(np.full(3, 3), trace), Random(2).resident(np.full(3, 3), trace)
    assert not np.array_equal(one, two)


def test_adapmoe_formula_is_that_of_its_source():
    # f(index, size) of src/dp.py, for 8 experts
    for a, b, size in itertools.product((0.0, 0.3, 1.0), (0.0, 0.8), range(9)):
        f1 = (1 - size / 8) * (1 - b)
        f2 = 2 * max(0, (8 - size) * (7 - size) / 56) * (1 - b)
        f3 = max((8 - size) * (7 - size) / 56, 0) * b
        f4 = 2 * (8 - size) * size / 56 * (1 - b)
        ours = expected_misses(8, np.array([a]), np.array([b]))[0, size]
        assert ours == pytest.approx(a * f1 + (1 - a) * (f2 + f3 + f4))


def test_without_prediction_the_formula_is_the_expected_number_of_missing_experts():
    # Two of E drawn without replacement, s of them resident: 2 (1 - s / E) are missing on average.
    s = np.arange(13)
    assert expected_misses(12, np.zeros(1), np.zeros(1))[0] == pytest.approx(2 * (1 - s / 12))


@given(
    curves=st.integers(1, 4).flatmap(
        lambda layers: st.lists(
            st.lists(st.integers(0, 30), min_size=5, max_size=5), min_size=layers, max_size=layers
        )
    ),
    slots=st.integers(0, 16),
    least=st.integers(0, 2),
)
def test_the_allocation_is_the_best_of_all(curves, slots, least):
    curves = np.array(curves, float)
    layers = len(curves)
    if slots < least * layers:
        with pytest.raises(ConfigError, match="too few"):
            allocate(curves, slots, least)
        return
    used = min(slots, 4 * layers)
    best = min(
        sum(curves[layer, s] for layer, s in enumerate(choice))
        for choice in itertools.product(range(least, 5), repeat=layers)
        if sum(choice) == used
    )
    found = allocate(curves, slots, least)
    assert found.sum() == used
    assert (found >= least).all()
    assert curves[np.arange(layers), found].sum() == best


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(0, 20)
)
def test_greedy_is_exact_on_convex_curves(gains, slots):
    falls = np.sort(np.array(gains, float), axis=1)[:, ::-1]
    curves = np.concatenate((np.zeros((len(falls), 1)), -np.cumsum(falls, axis=1)), axis=1)
    layers = np.arange(len(falls))
    assert curves[layers, greedy(curves, slots, 0)].sum() == curves[layers, allocate(curves, slots, 0)].sum()


def test_slots_go_where_predictions_fail():
    accuracy = (0.0, *ADAPMOE_NEXT_GATE)
    assert len(accuracy) == len(ADAPMOE_SINGLE) == 32
    curves = expected_misses(8, np.array(ADAPMOE_SINGLE), np.array(accuracy))
    quota = allocate(curves, 64)
    assert quota.sum() == 64
    assert quota[0] == quota.max()
    assert quota[:4].mean() > quota[-4:].mean()


def test_demand_follows_what_batches_need():
    trace = trace_of()
    quota = DemandQuota(8).quota(12, trace)
    distinct = np.array(
        [
            np.mean([len(np.unique(trace.topk_ids[b : b + 8, layer])) for b in range(0, 60, 8)])
            for layer in range(3)
        ]
    )
    assert np.abs(quota - 12 * distinct / distinct.sum()).max() <= 1
    assert DemandQuota().quota(2, trace).sum() == 2


def test_numbers_out_of_range_are_told_together():
    with pytest.raises(ConfigError) as caught:
        AdapMoEQuota(1.2, -0.1)
    assert len(caught.value.faults) == 2
    for wrong in (
        lambda: AdapMoEQuota((0.1, 0.2)).quota(9, trace_of()),
        lambda: DemandQuota(0),
        lambda: Popular().quota(-1, trace_of()),
        lambda: allocate(np.full((2, 3), np.nan), 2),
        lambda: allocate(np.zeros((2, 3)), 9, 5),
    ):
        with pytest.raises(ConfigError):
            wrong()


def test_random_placements_hit_with_the_resident_share():
    rng = np.random.default_rng(0)
    load = rng.random((4, 8))
    found = [popular_coverage(rng.random((4, 8)), load, 0.25) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(0.25, abs=0.005)


def test_hit_ratios_of_fiddler_on_domains_that_were_not_fitted(shared):
    """Fiddler: 25.2 % with 56 of 256 experts of Mixtral-8x7B resident, 53.0 % with 125."""
    counts = np.load(shared("traces/olmoe-counts/olmoe_mixtral_counts.npz"))
    loads = {
        name.split("__")[1]: counts[name]
        for name in counts.files
        if name.startswith("mistral") and name.endswith("counts")
    }
    assert len(loads) == 5
    for resident, published in ((56, 0.252), (125, 0.530)):
        found = []
        for domain, load in loads.items():
            rest = sum(other for name, other in loads.items() if name != domain)
            found.append(popular_coverage(rest, load, resident / 256))
            assert resident / 256 < found[-1] < popular_coverage(load, load, resident / 256)
        assert np.mean(found) == pytest.approx(published, rel=0.15)
