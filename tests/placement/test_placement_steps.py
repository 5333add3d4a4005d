"""Plans for several loads: optimal where every plan can be looked at, never worse, and they transfer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import load_trace
from moesim.layout import ExpertMap
from moesim.placement import Problem, evaluate, greedy, lower_bound
from moesim.placement.solvers.steps import rank_costs, search_costs, search_robust, search_steps


def gamma(steps, layers, experts, seed=0):
    return np.random.default_rng(seed).gamma(2.0, size=(steps, layers, experts))


def mean_of_max(table, cost, ranks):
    """Mean over steps of the most costly rank of one layer, from ``cost [steps, experts, copies]``."""
    rows = np.reshape(table, (ranks, -1))
    copies = np.bincount(rows.ravel(), minlength=cost.shape[1])
    of_slots = cost[:, rows, copies[rows] - 1]
    return of_slots.sum(axis=2).max(axis=1).mean()


def best_of_all(cost, ranks, room):
    """The least `mean_of_max` of any placement whose copies the cost table knows."""
    experts = cost.shape[1]
    sets = list(itertools.combinations(range(experts), room))
    found = np.inf
    for chosen in itertools.combinations_with_replacement(sets, ranks):
        copies = np.bincount(np.ravel(chosen), minlength=experts)
        if copies.min() > 0 and copies.max() <= cost.shape[2]:
            found = min(found, mean_of_max(np.ravel(chosen), cost, ranks))
    return found


@pytest.mark.parametrize(
    ("experts", "ranks", "redundant"), [(6, 2, 0), (6, 3, 0), (4, 2, 2), (5, 3, 1), (4, 4, 4)]
)
def test_reaches_the_optimum_of_small_problems(experts, ranks, redundant):
    for seed in range(4):
        cost = np.random.default_rng(seed).gamma(2.0, size=(1, 5, experts, ranks))
        start = greedy(cost[:, :, :, 0].mean(axis=1), ranks, redundant)
        found = search_costs(cost, ranks, start, recount=True, threads=1)
        room = (experts + redundant) // ranks
        known = min(ranks, int(np.bincount(start[0]).max()) + 2)  # copies that the search may use
        best = best_of_all(cost[0, :, :, :known], ranks, room)
        assert mean_of_max(found[0], cost[0], ranks) == pytest.approx(best, rel=1e-9)


@settings(max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from([(6, 3, 0), (8, 4, 4), (8, 2, 2), (16, 4, 8), (6, 1, 0)]),
    st.booleans(),
)
def test_never_worse_and_never_below_the_bound(seed, steps, sizes, recount):
    experts, ranks, redundant = sizes
    loads = gamma(steps, 2, experts, seed)
    start = greedy(loads.sum(axis=0), ranks, redundant)
    kept = start.copy()
    plan = search_steps(loads, ranks, start, effort=0.05, seed=seed, recount=recount, threads=1)
    np.testing.assert_array_equal(start, kept)
    before, after = (evaluate(ExpertMap(t, experts, ranks), loads) for t in (start, plan))
    assert (after.per_layer <= before.per_layer * (1 + 1e-9)).all()
    mean = loads.sum(axis=2) / ranks
    bound = np.stack([lower_bound(step, ranks, experts + redundant) for step in loads]) / mean
    assert (after.per_layer >= bound.mean(axis=0) * (1 - 1e-9)).all()


@pytest.mark.parametrize("recount", [False, True])
def test_units_order_of_steps_and_names_of_ranks_do_not_matter(recount):
    loads = gamma(6, 2, 16)
    start = greedy(loads.sum(axis=0), 4, 4)
    plan = search_steps(loads, 4, start, recount=recount, threads=1)
    scaled = search_steps(loads * 2.0 ** np.arange(6)[:, None, None], 4, start, recount=recount, threads=1)
    np.testing.assert_array_equal(scaled, plan)
    value = evaluate(ExpertMap(plan, 16, 4), loads)
    turned = start.reshape(2, 4, 5)[:, [2, 0, 3, 1]].reshape(2, 20)
    other = search_steps(loads[::-1], 4, turned, recount=recount, threads=1)
    assert evaluate(ExpertMap(other, 16, 4), loads).mean == pytest.approx(value.mean, rel=0.02)


def test_same_seed_same_plan_whatever_the_threads():
    loads = gamma(5, 4, 16)
    start = greedy(loads.sum(axis=0), 4, 4)
    one, two, other = (search_steps(loads, 4, start, seed=s, threads=t) for s, t in ((3, 1), (3, 4), (4, 1)))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_experts_that_are_hot_together_are_put_apart():
    # Two kinds of step: experts 0..3 hot, or 4..7 hot. On the sum all are alike, and any plan is perfect.
    steps = np.ones((2, 1, 8))
    steps[0, 0, :4] = steps[1, 0, 4:] = 5.0
    start = np.arange(8)[None]
    assert evaluate(ExpertMap(start, 8, 4), steps.sum(axis=0)).mean == 1.0
    assert evaluate(ExpertMap(start, 8, 4), steps).mean == pytest.approx(5 / 3)
    assert evaluate(ExpertMap(search_steps(steps, 4, start, threads=1), 8, 4), steps).mean == 1.0


def test_counts_are_kept_unless_asked():
    loads = gamma(3, 2, 16) ** 3
    start = greedy(loads.sum(axis=0), 4, 4)
    plans = [search_steps(loads, 4, start, recount=recount, threads=1) for recount in (False, True)]
    counts = [ExpertMap(table, 16, 4).replica_counts for table in (start, *plans)]
    np.testing.assert_array_equal(counts[0], counts[1])
    assert (counts[1] != counts[2]).any()


def test_idle_steps_and_layers_are_left_alone():
    loads = gamma(3, 2, 8)
    loads[1] = 0.0
    loads[:, 1] = 0.0
    start = np.tile(np.arange(8), (2, 1))
    plan = search_steps(loads, 4, start, threads=1)
    np.testing.assert_array_equal(plan[1], start[1])
    assert evaluate(ExpertMap(plan, 8, 4), loads[[0, 2]]).per_layer[0] >= 1.0


def test_cost_of_ranks_is_that_of_their_slots():
    cost = np.random.default_rng(0).random((2, 3, 4))  # copies, experts, steps
    table = np.array([[0, 1], [0, 2]])
    found = rank_costs(cost, table, np.array([2, 1, 1]))
    np.testing.assert_allclose(found, [cost[1, 0] + cost[0, 1], cost[1, 0] + cost[0, 2]])


def test_deepseek_v3_workloads_left_out(shared):
    folder = shared("traces/deepseek-v3-counts")
    loads = np.stack([load_trace(path).load_counts().totals for path in sorted(folder.glob("*.json"))])
    loads = (loads / loads.sum(axis=2, keepdims=True))[:, ::6]
    cuts, cells = [], []
    for i, left in enumerate(loads):
        fitted = np.delete(loads, i, axis=0)
        start = greedy(fitted.mean(axis=0), 32, 32)
        plan = search_robust(fitted, 32, start, threads=1)
        before, after = (evaluate(ExpertMap(t, 256, 32), left).per_layer - 1 for t in (start, plan))
        cuts.append((before.sum(), after.sum()))
        cells.append(after < before)
    before, after = np.sum(cuts, axis=0)
    assert after < 0.6 * before
    assert np.mean(cells) >= 0.85  # ten layers of each workload; 93 % on all 58


def test_a_problem_of_one_rank():
    loads = gamma(2, 1, 4)
    start = np.arange(4)[None]
    np.testing.assert_array_equal(search_steps(loads, 1, start), start)
    assert Problem(loads, 1).room == 4
