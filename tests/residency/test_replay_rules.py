"""Kernels against plain Python, optima by brute force, and what must hold for every trace."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference

from moesim.errors import ConfigError
from moesim.policy import Residency, Steps, token_steps
from moesim.residency import replay
from moesim.residency.pools import pools_of
from moesim.trace import RoutingTrace

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


@pytest.mark.parametrize(("rule", "parameters"), CASES, ids=str)
@pytest.mark.parametrize("lookup", CONDITIONS["lookup"])
@pytest.mark.parametrize("pool", ["layer", "global"])
def test_long_traces_with_hot_experts_are_replayed_alike(rule, parameters, lookup, pool):
    rng = np.random.default_rng(len(rule) + len(lookup))
    heat = 1.0 / (1 + np.arange(12)) ** 1.5
    lists = []
    for step in range(600):
        shift = step // 160
        for _ in range(2):
            lists.append(
                rng.choice(
                    12, rng.integers(1, 5), replace=False, p=np.roll(heat, shift) / heat.sum()
                ).tolist()
            )
    steps = cells(lists, 2, 12, np.arange(600) // 200)
    for slots in (3, 5):
        residency = Residency(rule, pool, lookup, parameters=parameters)
        found, expected = replay(steps, residency, slots), reference(steps, residency, slots)
        assert found.hits.tolist() == expected[0].tolist()
        assert found.evictions.tolist() == expected[3].tolist()
        assert 0.05 < found.hit_ratio < 0.95


def every_history(lists, slots, bypass, batch):
    """Most hits that any choice of victims gives, by trying all."""
    best = {frozenset(): 0}
    for cell in lists:
        for part in [cell] if batch else [[e] for e in cell]:
            after: dict[frozenset, int] = {}
            for held, hits in best.items():
                now = hits + len(held & set(part))
                whole = held | set(part)
                must = frozenset() if bypass else frozenset(part)
                if len(whole) <= slots:
                    keeps = [whole]
                else:
                    keeps = [
                        frozenset(k) | must for k in itertools.combinations(whole - must, slots - len(must))
                    ]
                for keep in keeps:
                    after[keep] = max(after.get(keep, 0), now)
            best = after
    return max(best.values())


@given(st.integers(0, 2**32), st.integers(1, 4), st.booleans(), st.booleans())
def test_no_history_has_more_hits_than_belady(seed, slots, bypass, batch):
    rng = np.random.default_rng(seed)
    # Where all of a cell has to be held there must be room for it.
    most = slots if batch and not bypass else 4
    lists = [rng.permutation(6)[: rng.integers(1, most + 1)].tolist() for _ in range(10)]
    residency = Residency(
        "belady", lookup="token_batch" if batch else "sequential", parameters={"bypass": float(bypass)}
    )
    assert replay(cells(lists, 1, 6), residency, slots).hits.sum() == every_history(
        lists, slots, bypass, batch
    )


@settings(max_examples=40)
@given(st.data())
def test_no_rule_has_more_hits_than_belady(data):
    steps = data.draw(some_steps(60))
    conditions, slots, rest = data.draw(some_pools(steps))
    conditions["cold"] = "charge"
    best = replay(
        steps, Residency("belady", **conditions, parameters={"bypass": 1}), slots, **rest
    ).hits.sum()
    loads = replay(steps, Residency("belady", **conditions), slots, **rest).hits.sum()
    for rule, parameters in CASES:
        found = replay(steps, Residency(rule, **conditions, parameters=parameters), slots, **rest)
        assert found.hits.sum() <= best, rule
        if rule != "static" and not parameters.get("bypass") and conditions["lookup"] == "sequential":
            assert found.hits.sum() <= loads, rule


@settings(max_examples=40)
@given(st.data())
def test_more_slots_never_cost_hits_under_rules_that_keep_a_stack(data):
    steps = data.draw(some_steps(60))
    conditions, _, rest = data.draw(some_pools(steps))
    conditions["pool"], rest["devices"], conditions["cold"] = "global", None, "charge"
    for rule, parameters in (("lru", {}), ("belady", {}), ("belady", {"bypass": 1}), ("lfu", {"keep": 1})):
        residency = Residency(rule, **conditions, parameters=parameters)
        most = steps.layers * steps.num_experts
        hits = [replay(steps, residency, slots, **rest).hits.sum() for slots in range(most + 2)]
        assert hits == sorted(hits), rule
        assert hits[-1] == hits[-2]


@settings(max_examples=40)
@given(st.data())
def test_every_access_hits_or_misses_and_evictions_balance(data):
    steps = data.draw(some_steps(60))
    conditions, slots, rest = data.draw(some_pools(steps))
    conditions["cold"] = "charge"
    for rule, parameters in CASES:
        residency = Residency(rule, **conditions, parameters=parameters)
        found = replay(steps, residency, slots, **rest, expert_bytes=7)
        assert (found.hits + found.misses).tolist() == found.accesses.tolist()
        assert found.accesses.sum() == steps.accesses
        assert found.bytes_moved == 7 * found.misses.sum()
        assert (found.cold <= found.misses).all()
        if rule != "static" and conditions["reset"] == "never" and conditions["start"] == "empty":
            # What came in and pushed nothing out is still there.
            pools = pools_of(residency, steps.layers, steps.num_experts, slots, rest["devices"])
            layer = np.repeat(np.arange(len(steps.starts) - 1) % steps.layers, np.diff(steps.starts))
            asked = layer * steps.num_experts + steps.experts
            pool = pools.of.reshape(-1)
            distinct = np.bincount(pool[np.unique(asked)], minlength=len(pools.slots))
            filled = np.minimum(distinct, pools.slots).sum()
            nowhere = (pools.slots[pool[asked]] == 0).sum()
            assert found.misses.sum() - found.evictions.sum() - nowhere == filled


@settings(max_examples=40)
@given(st.data())
def test_names_of_experts_do_not_matter(data):
    steps = data.draw(some_steps(60))
    conditions, slots, rest = data.draw(some_pools(steps))
    conditions["start"], conditions["pool"], rest["devices"] = "empty", "global", None
    slots = int(np.max(slots))
    name = (
        np.random.default_rng(data.draw(st.integers(0, 99))).permutation(steps.num_experts).astype(np.int32)
    )
    other = replace(steps, experts=name[steps.experts])
    for rule, parameters in CASES:
        residency = Residency(rule, **conditions, parameters=parameters)
        one, two = replay(steps, residency, slots, **rest), replay(other, residency, slots, **rest)
        assert one.hits.tolist() == two.hits.tolist()
        assert one.evictions.tolist() == two.evictions.tolist()


@settings(max_examples=40)
@given(st.data())
def test_free_cold_misses_are_hits_and_nothing_else_changes(data):
    steps = data.draw(some_steps(60))
    conditions, slots, rest = data.draw(some_pools(steps))
    for rule, parameters in CASES:
        by = {}
        for cold in CONDITIONS["cold"]:
            conditions["cold"] = cold
            by[cold] = replay(steps, Residency(rule, **conditions, parameters=parameters), slots, **rest)
        assert (by["charge"].hits + by["charge"].cold).tolist() == by["free"].hits.tolist()
        assert (by["charge"].hits <= by["fill"].hits).all()
        assert (by["fill"].hits <= by["free"].hits).all()
        assert by["charge"].evictions.tolist() == by["free"].evictions.tolist()


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (16, 5), (300, 3)])
@pytest.mark.parametrize("reset", CONDITIONS["reset"])
def test_a_trace_is_replayed_in_place_as_its_steps_are(experts, top_k, reset):
    rng = np.random.default_rng(5)
    ids = np.argsort(rng.random((400, 3, experts)), axis=2)[:, :, :top_k].astype(
        np.uint8 if experts < 256 else np.uint16
    )
    request, place = np.repeat(np.arange(4, dtype=np.int32), 100), np.arange(400, dtype=np.int32)
    trace = RoutingTrace(ids, request, experts, (0, 1, 2), place, np.ones(400, np.int8))
    for rule, pool, lookup in (
        ("lru", "layer", "sequential"),
        ("lfu", "layer", "sequential"),
        ("belady", "layer", "token_batch"),
        ("belady", "global", "token_batch"),
    ):
        residency = Residency(rule, pool, lookup, "charge", reset)
        one, two = replay(trace, residency, 4), replay(token_steps(trace), residency, 4)
        assert one.hits.tolist() == two.hits.tolist()
        assert one.evictions.tolist() == two.evictions.tolist()


def test_faults_of_arguments_are_errors():
    steps = cells([[0, 1], [1]], 1, 2)
    for residency, slots, rest in (
        (Residency("lru", parameters={"keep": 1}), 1, {}),
        (Residency("lru"), [1, 1], {}),
        (Residency("lru"), -1, {}),
        (Residency("lru", "device"), 1, {}),
        (Residency("lru"), 1, {"devices": [0, 0]}),
        (Residency("lru", "device"), [1], {"devices": [0, 0, 0]}),
        (Residency("lru", start="popular"), 1, {}),
        (Residency("lru", start="popular"), 1, {"popular": [1, 2, 3]}),
        (Residency("lru"), 1, {"expert_bytes": 0}),
    ):
        with pytest.raises(ConfigError):
            replay(steps, residency, slots, **rest)
