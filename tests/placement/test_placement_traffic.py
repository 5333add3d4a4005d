"""Traffic of a plan: counted token by token, home by home, and by closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.layout import ExpertMap
from moesim.placement.bound_traffic import least_leaving, least_remote
from moesim.placement.traffic import (
    leaving,
    local_activation,
    remote_nodes,
    remote_ranks,
    split_requests,
    transitions,
)
from moesim.trace.types import RoutingTrace


def draw_ids(rng, tokens, layers, experts, top_k):
    return rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, :top_k]


def random_plan(rng, layers, experts, ranks, redundant):
    """Replicas at random, no expert twice on a rank."""
    room = (experts + redundant) // ranks
    rows = []
    while len(rows) < layers:
        extra = rng.choice(experts, redundant) if redundant else np.zeros(0, int)
        row = rng.permutation(np.concatenate([np.arange(experts), extra])).reshape(ranks, room)
        if all(len(set(r)) == room for r in row.tolist()):
            rows.append(row.ravel())
    return ExpertMap(np.array(rows), experts, ranks)


def counted(plan, ids, nodes, rule, of):
    """Remote nodes or ranks per token, over every home rank and every choice of replicas."""
    per_node, room = plan.ranks // nodes, plan.slots_per_rank
    found = np.zeros(plan.layers)
    for token, layer, home in itertools.product(range(len(ids)), range(plan.layers), range(plan.ranks)):
        choices = []
        for e in ids[token, layer]:
            on = [int(s) // room for s in np.flatnonzero(plan.physical_to_logical[layer] == e)]
            if rule == "nearest":
                near = [r for r in on if r // per_node == home // per_node]
                on = [home] if home in on else near or on
            choices.append(on)
        sizes = []
        for ranks in itertools.product(*choices):
            parts = {r // per_node if of == "nodes" else r for r in ranks}
            sizes.append(len(parts - {home // per_node if of == "nodes" else home}))
        found[layer] += min(sizes) if rule == "fewest" else np.mean(sizes)
    return found / len(ids) / plan.ranks


@pytest.mark.parametrize("rule", ["even", "nearest", "fewest"])
@pytest.mark.parametrize(("ranks", "nodes", "redundant"), [(4, 2, 0), (4, 2, 4), (4, 4, 4), (6, 3, 6)])
def test_traffic_is_what_counting_every_choice_gives(rule, ranks, nodes, redundant):
    rng = np.random.default_rng(ranks + redundant)
    plan = random_plan(rng, 2, 12, ranks, redundant)
    ids = draw_ids(rng, 6, 2, 12, 3)
    np.testing.assert_allclose(remote_nodes(plan, ids, nodes, rule), counted(plan, ids, nodes, rule, "nodes"))
    if rule != "fewest":
        np.testing.assert_allclose(
            remote_ranks(plan, ids, nodes, rule), counted(plan, ids, nodes, rule, "ranks")
        )


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 4, 8]))
@settings(max_examples=25)
def test_names_of_experts_change_nothing_and_rules_are_ordered(seed, redundant):
    rng = np.random.default_rng(seed)
    plan, ids = random_plan(rng, 2, 12, 4, redundant), draw_ids(rng, 20, 2, 12, 3)
    name = rng.permutation(12)
    renamed = ExpertMap(name[plan.physical_to_logical], 12, 4)
    for rule in ("even", "nearest", "fewest"):
        np.testing.assert_allclose(
            remote_nodes(plan, ids, 2, rule), remote_nodes(renamed, name[ids], 2, rule), atol=1e-12
        )
    even, near, fewest = (remote_nodes(plan, ids, 2, rule) for rule in ("even", "nearest", "fewest"))
    assert (fewest <= near + 1e-12).all()
    assert (fewest <= even + 1e-12).all()
    if not redundant:
        np.testing.assert_allclose(even, fewest)
        np.testing.assert_allclose(even, near)
    pairs = transitions(ids, 12)
    moved = transitions(name[ids], 12)
    np.testing.assert_allclose(leaving(plan, pairs, 4), leaving(renamed, moved, 4))
    assert pairs.sum() == 20 * 9


def test_even_routing_has_the_closed_form():
    """All experts of a rank chosen alike: a token misses a node with a hypergeometric chance."""
    rng = np.random.default_rng(0)
    ids = draw_ids(rng, 40_000, 1, 16, 4)
    plan, two = ExpertMap.contiguous(1, 16, ranks=8), ExpertMap.contiguous(2, 16, ranks=8)
    missed = (12 * 11 * 10 * 9) / (16 * 15 * 14 * 13)
    assert remote_nodes(plan, ids, 4)[0] == pytest.approx(3 * (1 - missed), rel=0.01)
    pairs = transitions(draw_ids(rng, 40_000, 2, 16, 4), 16)
    assert leaving(two, pairs, 4)[0] == pytest.approx(0.75, rel=0.01)


def test_activations_are_local_where_a_schedule_puts_tokens():
    plan = ExpertMap(np.array([[0, 1, 2, 0]]), num_experts=3, ranks=2)
    ids = np.array([[[0, 1]], [[0, 2]], [[1, 2]]])
    home = np.array([0, 1, 0])
    assert local_activation(plan, ids, home)[0] == pytest.approx((2 + 2 + 1) / 6)
    assert local_activation(plan, ids, home, rule="even")[0] == pytest.approx((1.5 + 1.5 + 1) / 6)


def every_plan(experts, parts):
    """Part of each expert, for every plan without replicas."""
    rows = set(itertools.permutations(np.arange(experts) * parts // experts))
    return [ExpertMap(np.argsort(row, kind="stable")[None], experts, parts) for row in sorted(rows)]


@pytest.mark.parametrize("seed", range(5))
def test_no_plan_is_below_the_bounds(seed):
    rng = np.random.default_rng(seed)
    skew = rng.gumbel(size=(30, 2, 6)) + 2 * rng.normal(size=(3, 2, 6))[np.arange(30) % 3]
    ids = skew.argsort(axis=2)[:, :, :3]
    pairs = transitions(ids, 6)
    for parts in (2, 3):
        plans = every_plan(6, parts)
        least = least_remote(ids[:, :1], 6, parts)[0]
        assert least <= min(remote_nodes(p, ids[:, :1], parts)[0] for p in plans) + 1e-9
        rows = [p.physical_to_logical[0] for p in plans]
        stay = min(
            leaving(ExpertMap(np.array([rows[0], row]), 6, parts), pairs, parts)[0]
            for base in (rows[0], rows[-1])
            for row in rows
        )
        assert least_leaving(pairs, parts)[0] <= stay + 1e-9


def test_bounds_are_reached_where_experts_come_in_blocks():
    ids = np.array([[[0, 1], [2, 3]], [[2, 3], [0, 1]]])
    plan = ExpertMap(np.array([[0, 1, 2, 3], [2, 3, 0, 1]]), 4, 2)
    pairs = transitions(ids, 4)
    assert leaving(plan, pairs, 2)[0] == least_leaving(pairs, 2)[0] == 0.0
    np.testing.assert_allclose(remote_nodes(plan, ids, 2), least_remote(ids, 4, 2))


def test_requests_are_split_whole():
    request = np.repeat(np.arange(7), 3).astype(np.int32)
    zeros = np.zeros((21, 1, 1), np.uint8)
    trace = RoutingTrace(zeros, request, 2, (0,), np.zeros(21, np.int32), np.zeros(21, np.int8))
    fit, judge = split_requests(trace, 0.4, seed=1)
    assert sorted([*fit, *judge]) == list(range(21))
    assert not set(request[fit]) & set(request[judge])
    assert len(set(request[fit])) == 3


def test_all_faults_are_told_at_once():
    plan = ExpertMap.contiguous(1, 4, ranks=4)
    with pytest.raises(ConfigError) as raised:
        remote_nodes(plan, np.array([[[0, 9]]]), nodes=3, rule="nearst")
    assert len(raised.value.faults) == 3
    assert "nearest: nearest" in str(raised.value)
    for bad in (
        lambda: remote_ranks(plan, np.array([[[0]]]), rule="fewest"),
        lambda: leaving(plan, np.zeros((1, 4, 4)), 4),
        lambda: leaving(plan, np.zeros((0, 4, 4)), 3),
        lambda: local_activation(plan, np.array([[[0]]]), np.array([4])),
        lambda: remote_nodes(ExpertMap.contiguous(1, 16, 16), np.array([[[0]]]), 16, "fewest"),
    ):
        with pytest.raises(ConfigError):
            bad()
