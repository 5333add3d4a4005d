"""The search: optimal where the optimum is known, reproducible, and as good as claimed on real loads."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from brute_force import optimum

from moesim.placement import Problem, evaluate, greedy, solve
from moesim.placement.solvers.anneal import search

TINY = [
    (4, 2, 0),
    (6, 2, 0),
    (8, 2, 0),
    (9, 3, 0),
    (3, 2, 1),
    (4, 2, 2),
    (5, 3, 1),
    (4, 4, 4),
    (6, 3, 3),
    (6, 4, 2),
]


def skewed(layers, experts, sigma=0.7, seed=0):
    return np.random.default_rng(seed).lognormal(0.0, sigma, (layers, experts))


@pytest.mark.parametrize(("experts", "ranks", "redundant"), TINY)
def test_reaches_the_optimum_of_small_problems(experts, ranks, redundant):
    loads = np.concatenate([skewed(6, experts, sigma) for sigma in (0.2, 0.7, 1.5)])
    found = solve(Problem(loads, ranks, redundant)).expert_map.rank_loads(loads).max(axis=1)
    best = np.array([optimum(row, ranks, experts + redundant) for row in loads])
    np.testing.assert_allclose(found, best, rtol=2e-4)  # it stops at 1e-4 of the bound


@pytest.mark.parametrize(
    ("experts", "ranks", "redundant", "gap"),
    [(8, 4, 0, 1e-9), (64, 8, 0, 5e-4), (64, 32, 0, 1e-9), (128, 8, 16, 2e-4), (512, 32, 64, 2e-4)],
)
def test_gap_over_sizes_of_models(experts, ranks, redundant, gap):
    loads = skewed(3, experts)
    ours, greedily = (solve(Problem(loads, ranks, redundant), method) for method in ("search", "greedy"))
    assert ours.gap.max() <= gap
    assert (ours.gap <= greedily.gap).all()


def test_same_seed_same_plan_whatever_the_threads():
    loads = skewed(5, 32)
    start = greedy(loads, 8, 8)
    one, two, other = (search(loads, 8, start, seed=s, threads=t) for s, t in ((3, 1), (3, 4), (4, 1)))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_a_start_at_the_bound_is_left_alone_and_the_start_is_not_changed():
    loads = np.array([[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    start = np.array([[0, 3, 1, 2], [0, 1, 2, 3]])
    kept = start.copy()
    np.testing.assert_array_equal(search(loads, 2, start), kept)
    np.testing.assert_array_equal(start, kept)


@pytest.mark.parametrize("unit", [1e-300, 1e295])
def test_units_of_loads_do_not_matter(unit):
    loads = skewed(2, 16)
    plans = [solve(Problem(some, 4, 4)).expert_map.physical_to_logical for some in (loads, loads * 2.0**10)]
    np.testing.assert_array_equal(*plans)
    scaled = solve(Problem(loads * unit, 4, 4))
    assert scaled.gap == pytest.approx(solve(Problem(loads, 4, 4)).gap, abs=1e-3)


def test_more_effort_is_not_worse_here():
    loads = skewed(4, 128)
    short, long = (solve(Problem(loads, 64, 64), effort=effort).gap.mean() for effort in (0.02, 1.0))
    assert long < short


def test_plan_for_one_load_is_judged_on_another():
    fitted, other = skewed(4, 64, seed=1), skewed(4, 64, seed=2)
    plan = solve(Problem(fitted, 8, 8)).expert_map
    assert evaluate(plan, fitted).worst < 1.001 < evaluate(plan, other).mean


@pytest.mark.parametrize(
    ("ranks", "redundant", "worst"),
    [(32, 32, 5e-4), (36, 32, 5e-4), (72, 32, 6e-3), (32, 0, 2e-3), (320, 64, 1e-9)],
)
def test_deepseek_v3_loads(shared, ranks, redundant, worst):
    document = json.loads(shared("traces/deepseek-v3-counts/decode_in1000out1000.json").read_text())
    loads = np.array(document["logical_count"])
    started = time.process_time()
    solution = solve(Problem(loads, ranks, redundant))
    assert time.process_time() - started < 10  # of all cores, first compilation included
    assert np.isnan(solution.gap[:3]).all()
    assert np.nanmax(solution.gap) <= worst
