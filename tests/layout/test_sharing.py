"""How engines choose among replicas: SGLang's own tables, worked examples, and what no rule may break."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sglang_wheel import sglang_table

from moesim.errors import ConfigError
from moesim.layout import DISPATCH, ExpertMap, slot_shares
from moesim.layout.draws import _fair_choices, generators
from moesim.layout.sharing import (
    ALIASES,
    FIXED,
    dispatch_faults,
    draws,
    near_slots,
    rank_loads_lp,
    rule_of,
    slots_of_sources,
)


@st.composite
def plans(draw, layers=3):
    """Random placements with empty slots now and then, the nodes their ranks lie on, and loads."""
    nodes = draw(st.integers(1, 3))
    ranks = nodes * draw(st.integers(1, 3))
    room = draw(st.integers(1, 4))
    experts = draw(st.integers(room, ranks * room))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = np.full((layers, ranks, room), -1)
    for layer in range(layers):
        for place, expert in enumerate(rng.permutation(experts)):
            table[layer, place % ranks, place // ranks] = expert
        for rank, slot in np.argwhere(table[layer] < 0):
            others = np.setdiff1d(np.arange(experts), table[layer, rank])
            if len(others) and rng.random() < 0.9:
                table[layer, rank, slot] = rng.choice(others)
        table[layer] = rng.permutation(table[layer])
    plan = ExpertMap(table.reshape(layers, -1), experts, ranks)
    return plan, nodes, rng.lognormal(0.0, 1.0, (layers, experts))


@settings(max_examples=60)
@given(plans(), st.sampled_from(DISPATCH))
def test_shares_of_replicas_sum_to_one_and_conserve_load(case, rule):
    plan, nodes, loads = case
    shares = slot_shares(plan, rule, nodes, loads=loads)
    used = plan.physical_to_logical >= 0
    total = np.zeros(loads.shape)
    layer, slot = np.nonzero(used)
    np.add.at(total, (layer, plan.physical_to_logical[used]), shares[layer, slot])
    np.testing.assert_allclose(total, 1.0)
    assert (shares[~used] == 0).all()
    assert shares.min() >= 0
    np.testing.assert_allclose(plan.rank_loads(loads, shares).sum(axis=1), loads.sum(axis=1))


@settings(max_examples=60)
@given(plans(), st.sampled_from(FIXED), st.integers(0, 9))
def test_every_source_sends_to_a_slot_that_holds_the_expert(case, rule, seed):
    plan, nodes, _ = case
    slots = slots_of_sources(plan, rule, nodes, seed=seed)
    held = np.take_along_axis(plan.physical_to_logical[:, None, :], slots, axis=2)
    np.testing.assert_array_equal(held, np.broadcast_to(np.arange(plan.num_experts), slots.shape))
    if rule == "sglang-static":
        near = near_slots(plan, nodes)
        np.testing.assert_array_equal(slots[near >= 0], near[near >= 0])
        # The rank's own replica is always the nearest.
        own = slots // plan.slots_per_rank == np.arange(plan.ranks)[:, None]
        for k in range(plan.ranks):
            mine = plan.physical_to_logical.reshape(plan.layers, plan.ranks, -1)[:, k]
            for layer in range(plan.layers):
                assert own[layer, k, mine[layer][mine[layer] >= 0]].all()


@settings(max_examples=40)
@given(plans(), st.integers(0, 99))
def test_a_plan_without_draws_is_used_alike_whatever_the_seed_and_the_rows_before(case, seed):
    plan, nodes, _ = case
    calm = draws(plan, nodes) == 0
    one = slots_of_sources(plan, "static", nodes)
    other = slots_of_sources(plan, "static", nodes, seed=seed, rows=[2, 3, 7])
    np.testing.assert_array_equal(one[calm], other[calm])
    # What is expected of a random choice is then what happens.
    static, dynamic = (slot_shares(plan, rule, nodes) for rule in ("static", "dynamic"))
    np.testing.assert_allclose(static[calm], dynamic[calm])


@settings(max_examples=40)
@given(plans(), st.sampled_from(["even", "sglang-dynamic", "vllm-ascend", "lp"]), st.randoms())
def test_labels_of_experts_do_not_matter_where_nothing_is_drawn(case, rule, shuffle):
    plan, nodes, loads = case
    names = list(range(plan.num_experts))
    shuffle.shuffle(names)
    names = np.array(names)
    renamed = np.empty_like(loads)
    renamed[:, names] = loads
    table = np.where(plan.physical_to_logical >= 0, names[plan.physical_to_logical], -1)
    other = ExpertMap(table, plan.num_experts, plan.ranks)
    busiest = [
        p.rank_loads(w, slot_shares(p, rule, nodes, loads=w)).max(axis=1)
        for p, w in ((plan, loads), (other, renamed))
    ]
    np.testing.assert_allclose(*busiest)


def test_a_worked_example_of_near_replicas():
    # Two nodes of two ranks; expert 0 has a replica on each, expert 1 two on the first node.
    plan = ExpertMap(np.array([[0, 1, 2, 1, 0, 3, 4, 5]]), num_experts=6, ranks=4)
    near = near_slots(plan, nodes=2)[0]
    assert near[:, 0].tolist() == [0, 0, 4, 4]
    assert near[:, 1].tolist() == [1, 3, -1, -1]
    assert draws(plan, nodes=2).tolist() == [2]
    assert slot_shares(plan, "sglang-dynamic", nodes=2)[0].tolist() == [0.5, 0.5, 1, 0.5, 0.5, 1, 1, 1]
    # On one node, only a rank's own replica is near.
    assert near_slots(plan, nodes=1)[0][:, 0].tolist() == [0, -1, 4, -1]


def test_a_worked_example_of_turns():
    plan = ExpertMap(np.array([[0, 1, 0, 2, 0, 1, 3, 4]]), num_experts=5, ranks=4)
    slots = slots_of_sources(plan, "vllm-ascend")[0]
    assert slots[:, 0].tolist() == [0, 2, 4, 0]
    assert slots[:, 1].tolist() == [1, 5, 1, 5]
    assert slot_shares(plan, "modulo")[0].tolist() == [0.5, 0.5, 0.25, 1, 0.25, 0.5, 1, 1]


# Placement, experts, ranks, nodes, and the slot of each rank and expert: what sglang 0.5.23 gave.
FROZEN = [
    (
        [[0, 1, 2, 0], [2, 0, 1, 2]],
        (3, 2, 1),
        [[[0, 1, 2], [3, 1, 2]], [[1, 2, 0], [1, 2, 3]]],
    ),
    (
        [[0, 1, 0, 2, 1, 3, 2, 3], [3, 0, 0, 1, 0, 2, 0, 1]],
        (4, 4, 2),
        [
            [[0, 1, 3, 7], [2, 1, 3, 5], [2, 4, 6, 5], [0, 4, 6, 7]],
            [[1, 3, 5, 0], [2, 3, 5, 0], [4, 7, 5, 0], [6, 7, 5, 0]],
        ],
    ),
    (
        [[0, 1, 2, 3, 0, 4, 5, 0, 0, 6, 7, 1], [7, 6, 5, 4, 3, 2, 1, 0, 7, 5, 7, 4]],
        (8, 6, 1),
        [
            [
                [0, 1, 2, 3, 5, 6, 9, 10],
                [0, 11, 2, 3, 5, 6, 9, 10],
                [4, 11, 2, 3, 5, 6, 9, 10],
                [7, 11, 2, 3, 5, 6, 9, 10],
                [8, 1, 2, 3, 5, 6, 9, 10],
                [8, 11, 2, 3, 5, 6, 9, 10],
            ],
            [
                [7, 6, 5, 4, 3, 9, 1, 0],
                [7, 6, 5, 4, 3, 2, 1, 8],
                [7, 6, 5, 4, 3, 9, 1, 8],
                [7, 6, 5, 4, 3, 2, 1, 10],
                [7, 6, 5, 4, 11, 9, 1, 8],
                [7, 6, 5, 4, 11, 9, 1, 10],
            ],
        ],
    ),
]


@pytest.mark.parametrize(("table", "sizes", "wanted"), FROZEN)
def test_draws_are_those_of_sglang(table, sizes, wanted):
    experts, ranks, nodes = sizes
    plan = ExpertMap(np.array(table), experts, ranks)
    assert slots_of_sources(plan, "static", nodes).tolist() == wanted


# Experts, spare slots, ranks, nodes; the last ones have experts with more replicas than a pool is drawn from.
WHEEL = [(8, 4, 4, 2), (16, 16, 8, 1), (64, 64, 32, 4), (3, 93, 32, 2), (4, 92, 32, 1), (20, 300, 32, 1)]


@pytest.mark.parametrize(("experts", "redundant", "ranks", "nodes"), WHEEL)
def test_tables_are_those_of_the_sglang_wheel(experts, redundant, ranks, nodes):
    """Run with MOESIM_SGLANG_WHEEL naming the wheel that ``pip download --no-deps sglang==0.5.23`` gives."""
    from moesim.placement import greedy

    loads = np.random.default_rng(experts).lognormal(0.0, 1.0, (2, experts))
    plan = ExpertMap(greedy(loads, ranks, redundant), experts, ranks)
    np.testing.assert_array_equal(slots_of_sources(plan, "static", nodes), sglang_table(plan, nodes))


def test_rows_between_are_those_that_are_emitted():
    from moesim.placement.files.sglang import document_of
    from moesim.placement.files.target import Target

    plan = ExpertMap(np.array([[0, 1, 2, 3, 4, 5, 1, 0], [5, 0, 3, 1, 2, 4, 5, 3]]), 6, 4)
    ids = (1, 3)
    target = Target("tiny", num_layers=5, moe_layer_ids=ids, num_experts=6, ranks=4)
    rows = np.array(document_of(plan, target)["physical_to_logical_map"])
    whole = slots_of_sources(ExpertMap(rows, 6, 4), "static")
    np.testing.assert_array_equal(slots_of_sources(plan, "static", rows=ids), whole[list(ids)])
    assert (slots_of_sources(plan, "static") != whole[list(ids)]).any()


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 2**40))
def test_fair_choices_are_those_of_python(many, number, seed):
    """More than 21 replicas with few to sample take another way in Python's generator."""
    whole, rest = divmod(number, many)
    python = random.Random(seed)
    wanted = list(range(many)) * whole + python.sample(range(many), rest)
    python.shuffle(wanted)
    state, found = generators(seed, 1)[0], np.empty(number, dtype=np.int64)
    _fair_choices(state, np.arange(many), number, found)
    assert found.tolist() == wanted
    assert state.tolist() == list(python.getstate()[1])


def _confined(plan, loads):
    """Largest over sets of ranks of the load that nothing outside can take, per rank; one layer."""
    members = [set(s[s >= 0] // plan.slots_per_rank) for s in plan.logical_to_physical[0]]
    return max(
        sum(w for w, m in zip(loads, members, strict=True) if m <= set(ranks)) / size
        for size in range(1, plan.ranks + 1)
        for ranks in itertools.combinations(range(plan.ranks), size)
    )


def _programme(plan, loads):
    """The linear programme as it is written: shares of slots, and the load that no rank exceeds."""
    slots, ranks = plan.slots, plan.ranks
    upper = np.zeros((ranks, slots + 1))
    upper[np.arange(slots) // plan.slots_per_rank, np.arange(slots)] = 1
    upper[:, -1] = -1
    used = np.flatnonzero(plan.physical_to_logical[0] >= 0)
    equal = np.zeros((plan.num_experts, slots + 1))
    equal[plan.physical_to_logical[0, used], used] = 1
    cost = np.append(np.zeros(slots), 1.0)
    return linprog(cost, A_ub=upper, b_ub=np.zeros(ranks), A_eq=equal, b_eq=loads).fun


@settings(max_examples=80)
@given(plans(layers=1), st.booleans())
def test_the_split_is_the_optimum_of_the_linear_programme(case, sparse):
    plan, nodes, loads = case
    if sparse:
        loads[0, ::2] = 0.0
    found = rank_loads_lp(plan, loads).max()
    assert found == pytest.approx(_confined(plan, loads[0]), rel=1e-9, abs=1e-12)
    assert found == pytest.approx(_programme(plan, loads[0]), rel=1e-6, abs=1e-9)
    for rule in DISPATCH:
        other = plan.rank_loads(loads, slot_shares(plan, rule, nodes, loads=loads)).max()
        assert found <= other * (1 + 1e-12)
    np.testing.assert_allclose(
        slot_shares(plan, "lp", loads=loads * 7e9), slot_shares(plan, "lp", loads=loads), atol=1e-9
    )


def test_the_split_is_exact_at_the_size_of_deepseek():
    from moesim.placement import greedy

    rng = np.random.default_rng(3)
    plan = ExpertMap(greedy(rng.lognormal(0, 1, (1, 256)), 32, 32), 256, 32)
    loads = rng.lognormal(0, 1, (1, 256))
    assert rank_loads_lp(plan, loads).max() == pytest.approx(_programme(plan, loads[0]), rel=1e-9)


def test_names():
    assert [rule_of(name) for name in ALIASES] == list(ALIASES.values())
    assert set(ALIASES.values()) <= set(DISPATCH)
    assert not dispatch_faults("static")
    assert "sglang-static" in str(dispatch_faults("sglang-statik")[0])
    plan = ExpertMap.contiguous(1, 4, 2, 2)
    with pytest.raises(ConfigError, match="loads"):
        slot_shares(plan, "lp")
    with pytest.raises(ConfigError, match="is no dispatch rule"):
        slot_shares(plan, "fair")
    with pytest.raises(ConfigError, match="for good"):
        slots_of_sources(plan, "dynamic")
    for rows in ([1, 2], [-1], []):
        with pytest.raises(ConfigError, match="one for each layer"):
            slots_of_sources(plan, "static", rows=rows)
