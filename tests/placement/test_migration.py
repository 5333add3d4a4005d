"""Moves between plans: the fewest there are, conserved, and the same under other names."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.layout import ExpertMap
from moesim.placement import Problem, evaluate, solve
from moesim.placement.migration import aligned, held_by, moves, near_plans
from moesim.placement.solvers.exchange import exchanges


def plan_of(seed, layers=2, experts=6, ranks=4, redundant=2):
    loads = np.random.default_rng(seed).lognormal(0.0, 1.0, (layers, experts))
    return solve(Problem(loads, ranks, redundant), "greedy").expert_map


def shuffled(plan, seed):
    """The same plan under other labels of ranks, slots in another order."""
    rng = np.random.default_rng(seed)
    table = plan.physical_to_logical.reshape(plan.layers, plan.ranks, -1)
    table = np.stack([rng.permuted(rows, axis=1)[rng.permutation(plan.ranks)] for rows in table])
    return ExpertMap(table.reshape(plan.layers, -1), plan.num_experts, plan.ranks)


def labelled(plan, order):
    table = plan.physical_to_logical.reshape(plan.layers, plan.ranks, -1)[:, list(order)]
    return ExpertMap(table.reshape(plan.layers, -1), plan.num_experts, plan.ranks)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("keep", [False, True])
def test_no_relabelling_moves_less_than_the_aligned_plan(seed, keep):
    current, plan = plan_of(seed, layers=1), plan_of(seed + 100, layers=1)
    fewest = {}
    for order in permutations(range(4)):
        nodes_whole = {order[0] // 2 == order[1] // 2, order[2] // 2 == order[3] // 2} == {True}
        if keep and not nodes_whole:
            continue
        found = moves(labelled(plan, order), current, domain=2)
        fewest[order] = (int(found.experts.sum()), found.out.sum())
    found = moves(aligned(plan, current, nodes=2, keep_nodes=keep), current, domain=2)
    assert (int(found.experts.sum()), found.out.sum()) == min(fewest.values())


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_plan_under_other_names_moves_nothing(seed, names):
    plan = plan_of(seed)
    back = aligned(shuffled(plan, names), plan, nodes=2)
    np.testing.assert_array_equal(back.physical_to_logical, plan.physical_to_logical)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_balance_does_not_depend_on_labels_and_moves_not_on_those_of_the_new_plan(seed, names):
    current, plan = plan_of(seed), plan_of(seed + 1)
    loads = np.random.default_rng(seed).random((2, 6)) + 0.1
    one, two = aligned(plan, current), aligned(shuffled(plan, names), current)
    assert evaluate(one, loads).mean == pytest.approx(evaluate(plan, loads).mean)
    np.testing.assert_array_equal(moves(one, current).experts, moves(two, current).experts)


@given(st.integers(0, 10_000))
def test_every_rank_gets_what_it_lacks_from_one_that_has_it(seed):
    current, plan = plan_of(seed), plan_of(seed + 1)
    found = moves(plan, current, expert_bytes=np.array([3.0, 5.0]), domain=2)
    lacks = held_by(plan) & ~held_by(current)
    np.testing.assert_array_equal(found.copies.sum(axis=1), lacks.sum(axis=2))  # received
    assert not found.copies[:, np.arange(4), np.arange(4)].any()
    assert found.total_bytes == (lacks.sum(axis=(1, 2)) * [3.0, 5.0]).sum() == found.traffic.sum()
    np.testing.assert_array_equal(found.up + found.out, found.traffic)
    # What its own node holds never comes from another.
    near = held_by(current).reshape(2, 2, 2, -1).any(axis=2).repeat(2, axis=1)
    assert found.out.sum() == ((lacks & ~near).sum(axis=(1, 2)) * [3.0, 5.0]).sum()


def test_sources_of_one_expert_take_turns():
    current = ExpertMap(np.array([[0, 1, -1, 0, 2, -1, 3, 4, -1, 5, 6, -1]]), num_experts=7, ranks=4)
    more = ExpertMap(np.array([[0, 1, -1, 0, 2, -1, 3, 4, 0, 5, 6, 0]]), num_experts=7, ranks=4)
    np.testing.assert_array_equal(moves(more, current).copies[0].sum(axis=1), [1, 1, 0, 0])


def test_slots_of_a_rank_are_permuted_for_free():
    current = ExpertMap(np.array([[0, 1, 2, 3]]), num_experts=4, ranks=2)
    turned = ExpertMap(np.array([[1, 0, 2, 3]]), num_experts=4, ranks=2)
    found = moves(turned, current)
    assert found.total_bytes == 0.0
    assert found.shifted.tolist() == [2]
    assert moves(aligned(turned, current), current).shifted.tolist() == [0]


def test_plans_of_other_shapes_are_refused():
    with pytest.raises(ConfigError, match="not those of the current plan"):
        moves(plan_of(0), plan_of(0, ranks=2))
    with pytest.raises(ConfigError, match="do not lie evenly"):
        aligned(plan_of(0), plan_of(1), nodes=3)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_path_counts_its_moves_and_its_values(seed, steps):
    rng = np.random.default_rng(seed)
    loads = rng.lognormal(0.0, 1.0, (steps, 2, 8))
    start = solve(Problem(rng.lognormal(0.0, 1.0, (2, 8)), 4, 4), "greedy").expert_map
    path = exchanges(loads, 4, start.physical_to_logical, most=6)
    assert path.moves.max() <= 6
    for point in range(path.value.shape[1]):
        plan = ExpertMap(path.at(np.full(2, point)), 8, 4)
        np.testing.assert_array_equal(moves(plan, start).experts, path.moves[:, point])
        worst = np.stack([plan.rank_loads(step).max(axis=1) for step in loads]).sum(axis=0)
        mean = loads.sum(axis=(0, 2)) / 4
        np.testing.assert_allclose(worst / mean, path.value[:, point])


def test_prefixes_of_a_path():
    loads = np.random.default_rng(0).lognormal(0.0, 1.0, (1, 3, 32))
    start = ExpertMap.contiguous(3, 32, 8, 8)
    path = exchanges(loads, 8, start.physical_to_logical, most=16)
    rows = np.arange(3)
    values = [path.value[rows, path.within(most)] for most in range(17)]
    assert (np.diff(values, axis=0) <= 0).all()  # more moves never make it worse
    assert (values[16] < values[0]).all()
    assert not path.priced(1e9).any()  # too dear
    np.testing.assert_array_equal(path.priced(0.0), path.within(16))


def test_scale_of_loads_and_threads_change_no_path():
    loads = np.random.default_rng(1).lognormal(0.0, 1.0, (2, 3, 32))
    start = ExpertMap.contiguous(3, 32, 8, 8).physical_to_logical
    one = exchanges(loads, 8, start, most=16, threads=1)
    two = exchanges(loads * 4.0, 8, start, most=16, threads=3)
    np.testing.assert_array_equal(one.slots, two.slots)
    np.testing.assert_array_equal(one.experts, two.experts)


def test_layers_without_load_stay():
    start = ExpertMap.contiguous(2, 8, 4).physical_to_logical
    loads = np.zeros((1, 2, 8))
    loads[0, 1] = [9, 1, 1, 1, 1, 1, 1, 9]
    path = exchanges(loads, 4, start, most=4)
    assert path.within(4)[0] == 0
    assert (path.value[0] == 1.0).all()


def test_a_change_is_the_best_swap_of_the_hottest_rank_that_has_a_good_one():
    rng = np.random.default_rng(3)
    for _ in range(20):
        loads, start = rng.lognormal(0.0, 1.0, 8), np.arange(8)

        def excess(table, loads=loads):
            return (np.maximum(0.0, loads[table].reshape(4, 2).sum(axis=1) - loads.sum() / 4) ** 2).sum()

        def swapped(i, j, start=start):
            return np.where(start == i, j, np.where(start == j, i, start))

        path = exchanges(loads[None, None], 4, start[None], most=2)
        wanted = excess(start)
        for hot in np.argsort(-loads.reshape(4, 2).sum(axis=1)):
            best = min(excess(swapped(i, j)) for i in (2 * hot, 2 * hot + 1) for j in range(8))
            if best < wanted * (1 - 1e-5):
                wanted = best
                break
        assert excess(path.at(np.array([1]))[0]) == pytest.approx(wanted)


def test_plans_near_the_current_one_span_from_it_to_the_most_even():
    rng = np.random.default_rng(0)
    loads, current = rng.lognormal(0.0, 1.0, (2, 32)), ExpertMap.contiguous(2, 32, 8, 8)
    problem = Problem(loads, 8, 8, nodes=2, current=current)
    new = solve(Problem(loads, 8, 8)).expert_map.physical_to_logical
    tables = near_plans(problem, [new])
    plans = [ExpertMap(table, 32, 8) for table in tables]
    found = [(moves(plan, current).experts.max(), evaluate(plan, loads).mean) for plan in plans]
    assert found[0][0] == 0
    assert found[1][1] == pytest.approx(evaluate(ExpertMap(new, 32, 8), loads).mean)
    path = found[2:]
    assert all(moved <= 2**i for i, (moved, _) in enumerate(path))
    assert all(b[1] <= a[1] for a, b in pairwise(path))
    assert path[-1][1] < 1.1 < found[0][1]
    assert near_plans(Problem(loads, 8, 8), [new]) == []
