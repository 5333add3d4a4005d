"""Greedy replicate-and-pack: the published example, invariants, and where it may not go."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.layout import ExpertMap
from moesim.placement import greedy, pack, replicate

# The example of EPLB's README (github.com/deepseek-ai/EPLB): 4 groups, 16 slots, 8 GPUs, 2 nodes.
EPLB_LOADS = np.array(
    [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ],
    dtype=float,
)
EPLB_PLAN = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


@st.composite
def problems(draw):
    """Loads [layers, experts], ranks, slots: any feasible small shape, ties and zeros included."""
    experts = draw(st.integers(1, 12))
    ranks = draw(st.integers(1, 6))
    room = draw(st.integers(-(-experts // ranks), experts))
    layers = draw(st.integers(1, 3))
    load = st.one_of(st.integers(0, 20).map(float), st.floats(0, 1e6, allow_subnormal=False))
    rows = st.lists(st.lists(load, min_size=experts, max_size=experts), min_size=layers, max_size=layers)
    return np.array(draw(rows)), ranks, ranks * room


def test_published_example_slot_by_slot():
    assert greedy(EPLB_LOADS, ranks=8, redundant=4, groups=4, nodes=2).tolist() == EPLB_PLAN


def test_published_example_keeps_groups_on_their_node():
    plan = greedy(EPLB_LOADS, ranks=8, redundant=4, groups=4, nodes=2).reshape(2, 2, 8)
    for layer in plan // 3:
        assert not set(layer[0]) & set(layer[1])


@settings(deadline=None, max_examples=150)
@given(problems())
def test_any_problem_gives_a_valid_plan_that_conserves_load(problem):
    loads, ranks, slots = problem
    experts = loads.shape[1]
    plan = ExpertMap(greedy(loads, ranks, slots - experts), experts, ranks)  # checks the invariants
    np.testing.assert_allclose(plan.rank_loads(loads).sum(axis=1), loads.sum(axis=1))


@settings(deadline=None, max_examples=60)
@given(problems(), st.randoms(use_true_random=False), st.sampled_from([0.25, 3.0, 1e5]))
def test_names_and_units_of_loads_do_not_matter(problem, random, factor):
    loads, ranks, slots = problem
    experts = loads.shape[1]
    loads = loads + np.arange(experts) * 0.37 + np.pi  # no ties: their order may depend on names
    order = random.sample(range(experts), experts)

    def hottest(some):
        plan = ExpertMap(greedy(some, ranks, slots - experts), experts, ranks)
        return plan.rank_loads(some).max(axis=1)

    np.testing.assert_allclose(hottest(loads[:, order]), hottest(loads))
    np.testing.assert_allclose(hottest(loads * factor), hottest(loads) * factor)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 4), st.integers(1, 4))
def test_replication_is_optimal(row, spare, most):
    slots = min(len(row) + spare, len(row) * most)
    counts = replicate(np.array([row], float), slots, max_copies=most)[0]
    assert counts.sum() == slots
    assert counts.max() <= most
    choices = itertools.product(range(1, most + 1), repeat=len(row))
    best = min(max(w / r for w, r in zip(row, c, strict=True)) for c in choices if sum(c) == slots)
    assert (row / counts).max() == pytest.approx(best)


def test_replicas_of_idle_experts_go_round():
    assert replicate(np.zeros((1, 4)), 7).tolist() == [[2, 2, 2, 1]]


def test_packing_without_labels_is_largest_first_into_the_lightest_with_room():
    packed = pack(np.array([[9.0, 1.0, 1.0, 8.0, 2.0, 3.0]]), bins=2)
    assert packed.tolist() == [[[0, 4, 1], [3, 5, 2]]]


def test_packing_makes_room_when_every_bin_with_room_holds_the_label():
    # 9 fills its bin last, so both copies of label 3 find room beside it alone: 1 or 2 has to move over.
    weights = np.array([[9.0, 3.0, 3.0, 1.0, 1.0, 1.0]])
    labels = np.array([[0, 1, 2, 4, 3, 3]])
    packed = pack(weights, 2, labels)[0]
    assert sorted(packed.ravel()) == [0, 1, 2, 3, 4, 5]
    for items in packed:
        assert len(set(labels[0, items])) == 3


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.data())
def test_hierarchical_greedy_gives_valid_plans_and_keeps_groups_whole(
    nodes, groups_each, size, ranks_each, data
):
    here = groups_each * size  # experts of a node
    room = data.draw(st.integers(-(-here // ranks_each), here))
    experts, ranks = here * nodes, ranks_each * nodes
    load = st.integers(0, 9).map(float)
    loads = np.array([data.draw(st.lists(load, min_size=experts, max_size=experts))])
    table = greedy(loads, ranks, room * ranks - experts, groups_each * nodes, nodes)
    plan = ExpertMap(table, experts, ranks)
    homes = [set(part // size) for part in plan.physical_to_logical.reshape(nodes, -1)]
    assert sum(map(len, homes)) == len(set.union(*homes)) == groups_each * nodes


def test_hierarchical_greedy_on_equal_nodes_is_flat_greedy_inside_each():
    loads = np.tile(np.array([[8.0, 4.0, 2.0, 1.0]]), (1, 2))
    plan = greedy(loads, ranks=4, redundant=4, groups=2, nodes=2)[0].reshape(2, -1)
    flat = greedy(loads[:, :4], ranks=2, redundant=2)[0]
    for part in plan:
        assert (part % 4).tolist() == flat.tolist()
