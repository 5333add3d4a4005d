"""Ranks that differ in speed or room: hand-made cases, brute force, and what may not change anything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.layout import ExpertMap
from moesim.placement import Problem, evaluate, solve


def skewed(layers, experts, seed=0):
    return np.random.default_rng(seed).lognormal(0.0, 0.7, (layers, experts))


def best_split(loads, rooms, speeds):
    """Least of the largest load over speed, over every placement without replicas."""
    found = np.inf
    for order in set(itertools.permutations(np.repeat(np.arange(len(rooms)), rooms).tolist())):
        held = np.bincount(order, weights=loads, minlength=len(rooms))
        found = min(found, (held / speeds).max())
    return found


@pytest.mark.parametrize(
    ("rooms", "speeds"),
    [((2, 2, 2), (1.0, 2.0, 4.0)), ((3, 2, 1), (1.0, 1.0, 1.0)), ((1, 2, 3), (3.0, 1.0, 0.5))],
)
def test_the_search_finds_the_optimum_of_small_problems(rooms, speeds):
    loads = skewed(4, 6)
    speeds = np.array(speeds)
    problem = Problem(loads, 3, rooms=np.array(rooms), speeds=speeds)
    solution = solve(problem)
    times = solution.expert_map.rank_loads(loads) / speeds
    np.testing.assert_allclose(times.max(axis=1), [best_split(row, rooms, speeds) for row in loads])
    np.testing.assert_allclose(solution.value, times.max(axis=1) / (loads.sum(axis=1) / speeds.sum()))
    assert ((solution.expert_map.physical_to_logical.reshape(4, 3, -1) >= 0).sum(axis=2) == rooms).all()


def test_twice_the_speed_takes_twice_the_load():
    loads = np.full((1, 96), 1.0)
    problem = Problem(loads, 3, 0, rooms=np.array([48, 24, 24]), speeds=np.array([2.0, 1.0, 1.0]))
    solution = solve(problem)
    assert solution.expert_map.rank_loads(loads).tolist() == [[48.0, 24.0, 24.0]]
    assert solution.value.tolist() == [1.0]
    assert solution.gap.tolist() == [0.0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(0, 2), st.sampled_from([0.25, 1.0, 3.0]))
def test_equal_speeds_are_no_speeds_and_units_do_not_matter(seed, spare, unit):
    loads = skewed(2, 8, seed)
    plain, uneven = (
        solve(Problem(loads, 4, 4 * spare, speeds=speeds), "greedy") for speeds in (None, np.full(4, unit))
    )
    np.testing.assert_allclose(uneven.value, plain.value)
    assert (uneven.bound <= plain.bound * (1 + 1e-9)).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.lists(st.integers(1, 5), min_size=3, max_size=3), st.integers(0, 3))
def test_search_is_never_worse_than_greedy_nor_better_than_the_bound(seed, rooms, fewer):
    rng = np.random.default_rng(seed)
    experts = max(max(rooms), sum(rooms) - fewer)
    problem_loads = rng.lognormal(0.0, 1.0, (2, experts))
    speeds = rng.uniform(0.5, 2.0, 3)
    rooms = np.array(rooms)
    if rooms.sum() < experts:
        return
    problem = Problem(problem_loads, 3, int(rooms.sum()) - experts, rooms=rooms, speeds=speeds)
    try:
        greedy = solve(problem, "greedy")
    except ConfigError as error:
        if "hold the expert already" not in str(error):
            raise
        return
    search = solve(problem, effort=0.05)
    assert (search.value <= greedy.value * (1 + 1e-12)).all()
    assert (search.value >= search.bound * (1 - 1e-9)).all()
    held = search.expert_map.rank_loads(problem_loads)
    np.testing.assert_allclose(held.sum(axis=1), problem_loads.sum(axis=1))


def test_judging_with_speeds():
    plan = ExpertMap.contiguous(1, 4, ranks=2)
    loads = np.array([[3.0, 3.0, 2.0, 1.0]])
    assert evaluate(plan, loads, speeds=np.array([2.0, 1.0])).worst == pytest.approx(1.0)
    assert evaluate(plan, loads, speeds=np.array([1.0, 2.0])).worst == pytest.approx(2.0)


def test_faults_of_rooms_and_speeds():
    with pytest.raises(ConfigError) as caught:
        Problem(np.ones((1, 4)), 2, rooms=np.array([5, 0]), speeds=np.array([1.0, -1.0]))
    text = str(caught.value)
    for part in ("slots", "redundant = 1", "positive"):
        assert part in text
    with pytest.raises(ConfigError, match="one speed and room"):
        solve(Problem(np.ones((1, 4)), 2, speeds=np.array([1.0, 2.0])), "contiguous")
