"""All capacities in one pass, against caches of one capacity in plain Python."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import make_steps
from reference import reference

from moesim import load_trace
from moesim.errors import ConfigError
from moesim.policy import Residency, token_steps
from moesim.residency import curve, replay

CONDITIONS = list(
    itertools.product(
        ("layer", "global"), ("sequential", "token_batch"), ("charge", "free", "fill"), ("never", "request")
    )
)


@st.composite
def traces(draw, max_experts=7, max_steps=14):
    experts = draw(st.integers(1, max_experts))
    layers = draw(st.integers(1, 3))
    count = draw(st.integers(1, max_steps))
    cell = st.lists(st.integers(0, experts - 1), unique=True, max_size=min(experts, 4))
    rows = draw(st.lists(st.lists(cell, min_size=layers, max_size=layers), min_size=count, max_size=count))
    request = sorted(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    return make_steps(rows, experts, request)


@pytest.mark.parametrize("rule", ["lru", "belady"])
@settings(max_examples=60, deadline=None)
@given(steps=traces(), conditions=st.sampled_from(CONDITIONS))
def test_every_capacity_is_what_a_cache_of_it_hits(rule, steps, conditions):
    residency = Residency(rule, *conditions)
    found = curve(steps, residency)
    for c in found.capacities:
        assert found.hits[:, c].tolist() == reference(steps, residency, c)[0].tolist(), c
        assert found.hits[:, c].tolist() == replay(steps, residency, c).hits.tolist(), c


@settings(max_examples=60, deadline=None)
@given(steps=traces(), conditions=st.sampled_from(CONDITIONS))
def test_more_slots_never_hit_less_and_belady_is_never_beaten(steps, conditions):
    lru, opt = (curve(steps, Residency(rule, *conditions)) for rule in ("lru", "belady"))
    for found in (lru, opt):
        assert (np.diff(found.hits, axis=1) >= 0).all()
        assert (found.hits[:, -1] <= found.accesses).all()
    assert (opt.hits.sum(axis=0) >= lru.hits.sum(axis=0)).all()
    # With room for everything only first times miss, whatever the rule.
    assert lru.hits[:, -1].tolist() == opt.hits[:, -1].tolist()


def test_too_much_for_the_optimal_stack_is_told(monkeypatch):
    monkeypatch.setattr("moesim.residency.curves.LIMIT", 3)
    steps = make_steps([[[0, 1]]], 2)
    curve(steps, Residency("lru"))
    with pytest.raises(ConfigError, match="hours"):
        curve(steps, Residency("belady"))


def test_other_rules_and_starts_are_told():
    steps = make_steps([[[0]]], 2)
    with pytest.raises(ConfigError) as failed:
        curve(steps, Residency("lfu", pool="device", start="first"))
    assert len(failed.value.faults) == 3


@pytest.mark.parametrize("batch", [False, True])
def test_depths_of_a_pool_of_many_objects_and_squeezed_rows(batch):
    """Rows longer than a block of words, squeezed often, against a plain list that is searched."""
    rng = np.random.default_rng(3)
    layers, experts = 3, 512
    rows = [
        [rng.permutation(experts)[: rng.integers(0, 12)].tolist() for _ in range(layers)] for _ in range(600)
    ]
    steps = make_steps(rows, experts)
    found = curve(steps, Residency("lru", pool="global", lookup="token_batch" if batch else "sequential"))
    stack = []
    depths = []
    for row in rows:
        for layer, cell in enumerate(row):
            objects = [(layer, e) for e in cell]
            if batch:
                depths += [stack.index(x) for x in objects if x in stack]
            for x in objects:
                if x in stack:
                    if not batch:
                        depths.append(stack.index(x))
                    stack.remove(x)
                stack.insert(0, x)
    expected = np.bincount(depths, minlength=layers * experts).cumsum()
    assert found.hits.sum(axis=0)[1:].tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["esft-deepseek-v2-lite/summary", "gpt-oss-20b/decode"])
def test_curves_of_recorded_routing(shared, name):
    trace = load_trace(shared(f"traces/{name}.npz"))
    steps = token_steps(trace)
    for rule, lookup in itertools.product(("lru", "belady"), ("sequential", "token_batch")):
        residency = Residency(rule, lookup=lookup, cold="fill", reset="request")
        found = curve(steps, residency)
        for slots in (1, 3, trace.num_experts // 4, trace.num_experts // 2, trace.num_experts):
            assert found.hits[:, slots].tolist() == replay(trace, residency, slots).hits.tolist()
