"""Kernels against plain Python, optima by brute force, and what must hold for every trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import reference

from moesim.policy import Residency, Steps
from moesim.residency import replay

CASES = [
    ("lru", {}),
    ("fifo", {}),
    ("lifo", {}),
    ("lfu", {}),
    ("lfu", {"keep": 1}),
    ("lfu", {"window": 1}),
    ("lfu", {"keep": 1, "window": 1}),
    ("belady", {}),
    ("belady", {"bypass": 1}),
    ("static", {}),
]
CONDITIONS = {
    "lookup": ("sequential", "token_batch"),
    "cold": ("charge", "free", "fill"),
    "reset": ("never", "request"),
    "start": ("empty", "first", "random", "popular"),
}


def cells(lists, layers, experts, requests=None):
    """Steps of explicit cells, layer after layer."""
    flat = [e for cell in lists for e in cell]
    steps = len(lists) // layers
    return Steps(
        experts=np.array(flat, np.int32),
        tokens=np.ones(len(flat), np.int32),
        weights=None,
        starts=np.concatenate(([0], np.cumsum([len(c) for c in lists]))).astype(np.int64),
        layers=layers,
        num_experts=experts,
        request=np.zeros(steps, np.int32) if requests is None else np.array(requests, np.int32),
        phase=np.ones(steps, np.int8),
        step_tokens=np.ones(steps, np.int32),
        context=np.ones(steps, np.float32),
        rows=np.arange(steps, dtype=np.int64),
    )


@st.composite
def some_steps(draw, max_steps=30, max_cell=6):
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    steps = draw(st.integers(0, max_steps))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    most = min(max_cell, experts)
    lists = [
        rng.permutation(experts)[: rng.integers(0 if draw(st.booleans()) else 1, most + 1)].tolist()
        for _ in range(steps * layers)
    ]
    requests = np.sort(rng.integers(0, 4, steps)) if draw(st.booleans()) else rng.integers(-1, 3, steps)
    return cells(lists, layers, experts, requests)


@st.composite
def some_pools(draw, steps):
    """Keywords of a residency and of its replay."""
    pool = draw(st.sampled_from(["layer", "global", "device"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    devices = None
    pools = steps.layers if pool == "layer" else 1
    if pool == "device":
        devices = rng.integers(
            0, 3, (steps.layers, steps.num_experts) if draw(st.booleans()) else steps.num_experts
        )
        pools = int(devices.max()) + 1
    most = steps.num_experts + 2 if pool == "layer" else steps.layers * steps.num_experts
    slots = rng.integers(0, most + 1, pools)
    conditions = {name: draw(st.sampled_from(values)) for name, values in CONDITIONS.items()} | {"pool": pool}
    popular = rng.integers(0, 5, (steps.layers, steps.num_experts))
    return conditions, slots, {"devices": devices, "popular": popular, "seed": draw(st.integers(0, 9))}


@pytest.mark.parametrize(("rule", "parameters"), CASES, ids=str)
@given(st.data())
def test_every_rule_under_every_condition_is_what_plain_python_does(rule, parameters, data):
    steps = data.draw(some_steps())
    conditions, slots, rest = data.draw(some_pools(steps))
    residency = Residency(rule, **conditions, parameters=parameters)
    found = replay(steps, residency, slots, **rest)
    expected = reference(steps, residency, slots, **rest)
    assert found.hits.tolist() == expected[0].tolist()
    assert found.accesses.tolist() == expected[1].tolist()
    assert found.cold.tolist() == expected[2].tolist()
    assert found.evictions.tolist() == expected[3].tolist()
