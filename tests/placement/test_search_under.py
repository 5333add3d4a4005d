"""The search under a dispatch rule: optimal on small problems, never worse, and as claimed on real loads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import load_trace
from moesim.layout import DISPATCH, ExpertMap, slot_shares
from moesim.layout.sharing import FIXED, draws, rule_of, slots_of_sources
from moesim.placement import Problem, evaluate, greedy
from moesim.placement.bound import KINDS
from moesim.placement.bound_shares import bound_under, kinds_under
from moesim.placement.solvers.shares import ALIKE, IN_TURN, NEAREST, improve_layer, share_out
from moesim.placement.solvers.shares_steps import search_steps_under
from moesim.placement.solvers.under import search_under

UNEVEN = ("sglang-static", "sglang-dynamic", "vllm-ascend")


def skewed(layers, experts, sigma=0.7, seed=0):
    return np.random.default_rng(seed).lognormal(0.0, sigma, (layers, experts))


def every_placement(experts, ranks, room):
    """All placements, with ranks told apart, [placements, slots]."""
    sets = list(itertools.combinations(range(experts), room))
    tables = np.array(list(itertools.product(sets, repeat=ranks))).reshape(-1, ranks * room)
    held = np.zeros((len(tables), experts), dtype=bool)
    held[np.arange(len(tables))[:, None], tables] = True
    return tables[held.all(axis=1)]


def busiest(table, experts, ranks, loads, rule, nodes):
    """Load of the busiest rank of each placement, all for the same loads [experts]."""
    plan = ExpertMap(table, experts, ranks)
    loads = np.broadcast_to(loads, (plan.layers, experts))
    return plan.rank_loads(loads, slot_shares(plan, rule, nodes, loads=loads)).max(axis=1)


@pytest.mark.parametrize("rule", ["sglang-dynamic", "vllm-ascend"])
@pytest.mark.parametrize(
    ("experts", "ranks", "redundant", "nodes"), [(5, 4, 3, 2), (4, 3, 2, 1), (4, 4, 4, 2)]
)
def test_reaches_the_optimum_of_small_problems(rule, experts, ranks, redundant, nodes):
    placements = every_placement(experts, ranks, (experts + redundant) // ranks)
    loads = np.concatenate([skewed(2, experts, sigma) for sigma in (0.3, 1.0)])
    problem = Problem(loads, ranks, redundant, nodes=nodes, dispatch=rule)
    found = search_under(problem, greedy(loads, ranks, redundant))
    for layer, row in enumerate(loads):
        best = busiest(placements, experts, ranks, row, rule, nodes).min()
        assert bound_under(row[None], ranks, problem.slots, rule).values[0] <= best * (1 + 1e-12)
        mine = busiest(found[[layer]], experts, ranks, row, rule, nodes)[0]
        # It stops at 1e-3 of the bound where it has a plan without draws.
        assert mine == pytest.approx(best, rel=1.1e-3)


def test_the_bound_holds_for_every_placement_and_every_draw():
    placements = every_placement(4, 4, 2)
    for row in skewed(3, 4, 1.2):
        bound = bound_under(row[None], 4, 8, "static").values[0]
        for placement in placements[::23]:
            assert busiest(placement[None], 4, 4, row, "static", 2)[0] >= bound * (1 - 1e-12)


@st.composite
def problems(draw):
    nodes = draw(st.integers(1, 3))
    ranks = nodes * draw(st.integers(1, 3))
    room = draw(st.integers(1, 4))
    slots = ranks * room
    redundant = draw(st.integers(0, slots - max(room, 1)))
    experts = slots - redundant
    sigma = draw(st.sampled_from([0.0, 0.5, 1.5]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    loads = np.round(rng.lognormal(0.0, sigma, (3, experts)), 2) * 10.0 ** draw(
        st.sampled_from([-200, 0, 200])
    )
    if draw(st.booleans()):
        loads[1] = 0.0
    speeds = rng.choice([1.0, 2.0], ranks) if draw(st.booleans()) else None
    rule = draw(st.sampled_from(DISPATCH))
    return Problem(loads, ranks, redundant, nodes=nodes, dispatch=rule, speeds=speeds)


@settings(max_examples=80)
@given(problems())
def test_any_problem_gives_a_valid_plan_no_worse_than_its_start_and_its_bound(problem):
    start = greedy(problem.totals, problem.ranks, problem.redundant, speeds=problem.speeds)
    plans = [problem.plan(t) for t in (start, search_under(problem, start, effort=0.01))]
    before, after = (
        evaluate(plan, problem.loads, problem.dispatch, problem.nodes, problem.speeds) for plan in plans
    )
    busy = ~problem.idle
    if busy.any():
        assert after.mean <= before.mean * (1 + 1e-9)
    if problem.dispatch != "sglang-static":
        assert (after.per_layer[busy] <= before.per_layer[busy] * (1 + 1e-9)).all()
    if problem.even:
        bound = bound_under(problem.totals, problem.ranks, problem.slots, problem.dispatch).values
        mean = problem.totals.sum(axis=1) / problem.ranks
        assert (after.per_layer[busy] * mean[busy] >= bound[busy] * (1 - 1e-9)).all()


def test_ranks_of_different_room():
    loads = skewed(2, 6)
    problem = Problem(loads, 3, 3, rooms=np.array([4, 3, 2]), dispatch="vllm-ascend")
    start = greedy(loads, 3, 3, rooms=problem.rooms)
    found = search_under(problem, start)
    np.testing.assert_array_equal(found < 0, start < 0)
    before, after = (evaluate(problem.plan(t), loads, "vllm-ascend").per_layer for t in (start, found))
    assert (after <= before).all()


@pytest.mark.parametrize("rule", UNEVEN)
def test_same_seed_same_plan_whatever_the_threads(rule):
    loads = skewed(4, 32)
    start = greedy(loads, 8, 8)
    problem = Problem(loads, 8, 8, nodes=2, dispatch=rule)
    one, two, other = (search_under(problem, start, seed=s, threads=t) for s, t in ((3, 1), (3, 4), (4, 1)))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize(("ranks", "redundant", "nodes"), [(16, 16, 4), (16, 16 * 15, 1), (16, 32, 2)])
def test_with_enough_spare_slots_nothing_is_left_to_draw(ranks, redundant, nodes):
    """So the plan is as good under any seed, after any rows before it, and under dynamic dispatch."""
    experts = 64
    loads = skewed(3, experts, 1.0)
    problem = Problem(loads, ranks, redundant, nodes=nodes, dispatch="static")
    plan = problem.plan(search_under(problem, greedy(loads, ranks, redundant)))
    value = evaluate(plan, loads, "static", nodes).worst
    assert value <= 1.006
    assert draws(plan, nodes).sum() == 0
    assert evaluate(plan, loads, "dynamic", nodes).worst == pytest.approx(value)
    np.testing.assert_array_equal(
        slots_of_sources(plan, "static", nodes), slots_of_sources(plan, "static", nodes, seed=7)
    )


def test_where_draws_decide_the_plan_fits_the_ones_that_its_rows_get():
    loads = skewed(2, 64, 1.0)
    problem = Problem(loads, 16, 16, dispatch="static")
    rows = (3, 5)
    plan = problem.plan(search_under(problem, greedy(loads, 16, 16), rows=rows))
    assert draws(plan).min() > 0
    assert evaluate(plan, loads, "static", rows=rows).worst <= 1.005
    assert evaluate(plan, loads, "static").worst > 1.01  # three dense layers fewer, and others are drawn


@settings(max_examples=80)
@given(st.integers(1, 12), st.integers(1, 4), st.data())
def test_the_search_knows_shares_as_the_layout_does(per_node, nodes, data):
    ranks = per_node * nodes
    members = np.array(sorted(data.draw(st.sets(st.integers(0, ranks - 1), min_size=1))))
    # One expert on those ranks, and one of its own on each rank.
    table = np.stack([np.arange(ranks) + 1, np.where(np.isin(np.arange(ranks), members), 0, -1)], axis=1)
    plan = ExpertMap(table.reshape(1, -1), ranks + 1, ranks)
    for rule, name in ((ALIKE, "even"), (IN_TURN, "vllm-ascend"), (NEAREST, "sglang-dynamic")):
        share = np.empty(len(members))
        undecided = share_out(members, ranks, per_node, rule, share)
        np.testing.assert_allclose(share, slot_shares(plan, name, nodes)[0, members * 2 + 1])
        if rule == NEAREST:
            assert undecided == draws(plan, nodes)[0]


def test_frozen_experts_stay_and_so_do_their_shares():
    loads = skewed(1, 32, 1.0)[0]
    start = greedy(loads[None], 8, 8).reshape(8, 5)
    plan = ExpertMap(start.reshape(1, -1), 32, 8)
    shares = slot_shares(plan, "static", 2)
    found, value = improve_layer(
        loads, start, float(loads.sum() / 8), rule=NEAREST, per_node=4, shares=shares.reshape(8, 5)
    )
    after = ExpertMap(found.reshape(1, -1), 32, 8)
    copied = plan.replica_counts[0] > 1
    np.testing.assert_array_equal(
        np.isin(found, np.flatnonzero(copied)), np.isin(start, np.flatnonzero(copied))
    )
    before, now = (slots_of_sources(p, "static", 2)[0][:, copied] for p in (plan, after))
    np.testing.assert_array_equal(before, now)
    assert value == pytest.approx(after.rank_loads(loads[None], slot_shares(after, "static", 2)).max())
    assert value < plan.rank_loads(loads[None], shares).max()


def test_a_free_split_over_several_steps():
    """Replicas that one split cannot use for all steps are placed so that each step's own split can."""
    steps = np.random.default_rng(1).lognormal(0.0, 0.8, (3, 2, 24))
    problem = Problem(steps, 6, 6, dispatch="lp")
    start = greedy(problem.totals, 6, 6)
    found = search_under(problem, start)
    np.testing.assert_array_equal(found, search_under(problem, start, threads=1))
    before, after = (evaluate(problem.plan(t), steps, "lp").per_layer for t in (start, found))
    assert (after - 1 <= 0.5 * (before - 1)).all()
    assert (after >= 1).all()
    # A single step is balanced as soon as replicas that share alike are.
    one = Problem(steps[0], 6, 6, dispatch="lp")
    assert evaluate(one.plan(search_under(one, start)), steps[0], "lp").worst <= 1.001


@pytest.mark.parametrize(
    ("rule", "nodes"), [("static", 4), ("static", 1), ("dynamic", 4), ("modulo", 4), ("even", 4)]
)
def test_several_loads_at_once(rule, nodes):
    """Never worse in a layer, far better than a plan for their sum, even where draws must stay."""
    rng = np.random.default_rng(2)
    steps = skewed(2, 48)[None] * rng.lognormal(0.0, 0.5, (4, 2, 48))
    problem = Problem(steps, 12, 12, nodes=nodes, dispatch=rule, rows=(1, 4))
    start = search_under(problem, greedy(problem.totals, 12, 12), rows=problem.rows, effort=0.2)
    found = search_steps_under(problem, start, threads=2)
    np.testing.assert_array_equal(found, search_steps_under(problem, start, threads=1))
    before, after = (
        evaluate(problem.plan(t), steps, rule, nodes, rows=problem.rows).per_layer for t in (start, found)
    )
    assert (after <= before).all()
    assert (after.mean() - 1) < 0.6 * (before.mean() - 1)
    counts = [problem.plan(t).replica_counts for t in (start, found)]
    np.testing.assert_array_equal(*counts)


def test_several_loads_that_are_one_are_as_good_as_one():
    loads = skewed(2, 32)
    problem = Problem(np.stack([loads, 5 * loads, np.zeros_like(loads)]), 8, 8, dispatch="modulo")
    found = search_steps_under(problem, greedy(problem.totals, 8, 8))
    assert evaluate(problem.plan(found), loads, "modulo").worst <= 1.005


def test_which_arguments_hold():
    for rule in DISPATCH:
        assert (set(kinds_under(rule)) - set(KINDS) == {"sources"}) == (rule in FIXED)
    loads = np.array([[9.0, 1.0, 1.0, 1.0, 1.0]])
    even, fixed = (bound_under(loads, 5, 10, rule) for rule in ("even", "static"))
    assert even.values[0] <= fixed.values[0]
    # All five ranks served by one of two replicas each: one of them serves three.
    two = bound_under(np.array([[10.0, 0.0, 0.0, 0.0]]), 5, 5, "vllm-ascend")
    assert two.values.tolist() == [6.0]
    assert two.kinds == ("sources",)


@pytest.mark.parametrize(
    ("rule", "nodes"), [("static", 4), ("static", 1), ("dynamic", 4), ("vllm-ascend", 4)]
)
def test_real_loads_of_deepseek_v3(shared, rule, nodes):
    path = shared("traces/deepseek-v3-counts/decode_in1000out1000.json")
    loads = load_trace(path).load_counts().totals[:12]
    start = greedy(loads, 32, 32)
    problem = Problem(loads, 32, 32, nodes=nodes, dispatch=rule)
    plan = problem.plan(search_under(problem, start))
    found, before = (evaluate(p, loads, rule, nodes) for p in (plan, problem.plan(start)))
    assert found.mean <= 1.0005
    assert found.worst <= 1.001
    assert found.mean < before.mean
    if nodes == 4 and rule_of(rule).startswith("sglang"):
        assert draws(plan, nodes).sum() == 0
