"""Integer programmes: optima of small cases, published programmes, honest bounds and statuses."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.layout import ExpertMap
from moesim.placement.ilp.balance import balance, moetuner_clusters
from moesim.placement.ilp.solve import Run, read_cbc
from moesim.placement.ilp.traffic import cluster_pairs, joint, leaving, longest_links, moetuner_links
from moesim.placement.solvers.greedy import greedy

SHAPES = [(4, 2, 4), (6, 3, 6), (6, 2, 6), (8, 2, 8), (3, 2, 4), (4, 2, 6), (5, 3, 6), (4, 3, 6)]


def splits(experts, ranks):
    """All placements of one layer without spares, ranks named, [placements, experts]."""
    room = experts // ranks
    found = set()
    for order in itertools.permutations(range(experts)):
        parts = [tuple(sorted(order[g * room : (g + 1) * room])) for g in range(ranks)]
        found.add(sum(parts, ()))
    return np.array(sorted(found))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(SHAPES), st.data())
def test_balance_is_the_optimum(shape, data):
    experts, ranks, slots = shape
    row = np.array(data.draw(st.lists(st.integers(0, 20), min_size=experts, max_size=experts)), dtype=float)
    row[0] += 1
    answer = balance(row[None], ranks, slots)
    assert answer.value[0] == pytest.approx(optimum(row, ranks, slots))
    assert answer.bound[0] == pytest.approx(answer.value[0], rel=1e-5)
    assert answer.status == ("optimal",)
    plan = ExpertMap(answer.table, experts, ranks)
    assert plan.rank_loads(row[None]).max() == pytest.approx(answer.value[0])


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_a_poor_start_is_improved_and_proven(solver):
    loads = np.array([[5.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 1.0]])
    start = np.tile(np.arange(8), (2, 1))
    answer = balance(loads, 2, start=start, run=Run(solver))
    assert answer.value == pytest.approx([optimum(row, 2, 8) for row in loads])
    assert answer.status == ("optimal", "optimal")


def test_counts_may_be_given():
    loads = np.array([[6.0, 3.0, 2.0, 1.0]])
    free = balance(loads, 3, 6)
    given_counts = balance(loads, 3, 6, counts=np.array([[3, 1, 1, 1]]))
    assert free.value[0] == pytest.approx(4.0)
    assert given_counts.value[0] == pytest.approx(5.0)
    assert np.bincount(given_counts.table[0]).tolist() == [3, 1, 1, 1]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 30), min_size=6, max_size=6), st.sampled_from([2, 3]))
def test_moetuner_clusters_deviate_least(row, ranks):
    loads = np.array([row], dtype=float)
    every = splits(6, ranks)
    sums = loads[0][every].reshape(len(every), ranks, -1).sum(axis=2)
    least = abs(sums - loads.sum() / ranks).sum(axis=1).min()
    answer = moetuner_clusters(loads, ranks)
    assert answer.value[0] == pytest.approx(least, abs=1e-6)
    assert answer.status == ("optimal",)
    ExpertMap(answer.table, 6, ranks)


def drawn(layers, experts, seed=0):
    rng = np.random.default_rng(seed)
    pairs = rng.gamma(0.5, 10.0, size=(layers - 1, experts, experts)).round()
    loads = np.concatenate([pairs.sum(axis=2), pairs[-1:].sum(axis=1)])
    return loads, pairs


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_moetuner_links_by_dynamic_programme(uniform, solver):
    """Only consecutive layers meet, so the sum of maxima has an exact dynamic programme over orders."""
    _, pairs = drawn(4, 6)
    table = np.tile(np.arange(6), (4, 1))
    speed = np.ones((3, 3))
    if not uniform:
        speed[0, 1:] = speed[1:, 0] = 0.5
    between = cluster_pairs(table, pairs, 3)
    orders = list(itertools.permutations(range(3)))
    best = np.zeros(len(orders))
    for layer in range(3):
        cost = np.empty((len(orders), len(orders)))
        for (i, a), (j, b) in itertools.product(enumerate(orders), repeat=2):
            seconds = between[layer][np.ix_(a, b)] / speed
            cost[i, j] = seconds[~np.eye(3, dtype=bool)].max()
        best = (best[:, None] + cost).min(axis=0)
    answer = moetuner_links(table, pairs, 3, speed, run=Run(solver))
    assert answer.value[0] == pytest.approx(best.min())
    assert answer.bound[0] == pytest.approx(best.min(), rel=1e-5)
    assert longest_links(answer.table, pairs, 3, speed).sum() == pytest.approx(best.min())
    # Clusters stay what they were.
    held = np.sort(answer.table.reshape(4, 3, 2), axis=2)
    assert {tuple(c) for c in held[0].tolist()} == {(0, 1), (2, 3), (4, 5)}


@pytest.mark.parametrize("solver", ["highs", "cbc"])
@pytest.mark.parametrize("slack", [1.0, 1.3])
def test_joint_is_the_optimum_of_all_placements(solver, slack):
    loads, pairs = drawn(3, 6, seed=2)
    every = splits(6, 3)
    cap = balance(loads, 3).value * slack
    sums = [loads[i][every].reshape(len(every), 3, 2).sum(axis=2).max(axis=1) for i in range(3)]
    fitting = [every[s <= c * (1 + 1e-9)] for s, c in zip(sums, cap, strict=True)]
    best = np.zeros(len(fitting[0]))
    for layer in range(2):
        cost = np.array(
            [
                [leaving(np.stack([a, b]), pairs[layer : layer + 1], 3) for b in fitting[layer + 1]]
                for a in fitting[layer]
            ]
        )
        best = (best[:, None] + cost).min(axis=0)
    answer = joint(loads, pairs, 3, cap, run=Run(solver, gap=1e-9))
    assert answer.status == ("optimal",)
    assert answer.value[0] == pytest.approx(best.min())
    assert answer.bound[0] == pytest.approx(best.min(), rel=1e-4)
    assert (ExpertMap(answer.table, 6, 3).rank_loads(loads).max(axis=1) <= cap * (1 + 1e-9)).all()
    warm = joint(loads, pairs, 3, cap, start=answer.table[:, ::-1], run=Run(solver))
    assert warm.value[0] == pytest.approx(best.min())


def test_joint_without_a_placement_within_the_cap():
    loads, pairs = drawn(3, 6)
    answer = joint(loads, pairs, 3, 0.1 * loads.max())
    assert answer.status == ("none",)


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_out_of_time_is_said_and_the_bound_holds(solver):
    loads = np.random.default_rng(3).lognormal(0.0, 0.5, size=(1, 120))
    start = greedy(loads, 12)
    seen = []
    answer = balance(loads, 12, start=start, run=Run(solver, time_limit_s=1.0, gap=0.0), progress=seen.append)
    assert answer.status[0] in ("time limit", "feasible")
    assert answer.value[0] <= ExpertMap(start, 120, 12).rank_loads(loads).max() * (1 + 1e-9)
    assert 0 < answer.bound[0] < answer.value[0]
    assert answer.seconds < 10
    assert seen
    assert all(state.bound <= state.incumbent * (1 + 1e-6) for state in seen)


@pytest.mark.parametrize(
    ("log", "status", "value", "bound"),
    [
        ("Result - Optimal solution found\n\nObjective value:   7.00000000\n", "optimal", 7.0, 7.0),
        ("Result - Problem proven infeasible\n", "infeasible", np.inf, np.inf),
        ("Result - Stopped on time limit\n\nNo feasible solution found\n", "none", np.inf, -np.inf),
        (
            "Cbc0010I After 0 nodes, 1 on tree, 4.8 best solution, best possible 4.5 (1.66 seconds)\n"
            "Result - Optimal solution found (within gap tolerance)\n\nObjective value: 4.80000000\n",
            "optimal",
            4.8,
            4.5,
        ),
    ],
)
def test_logs_of_cbc(log, status, value, bound):
    outcome = read_cbc(log)
    assert (outcome.status, outcome.value) == (status, value)
    assert outcome.bound == pytest.approx(bound)
    assert outcome.bound <= bound


def test_unknown_solver():
    with pytest.raises(ConfigError, match="is no solver"):
        balance(
            np.array([[5.0, 3.0, 3.0, 2.0, 2.0, 2.0, 1.0, 1.0]]),
            2,
            run=Run("gurobi"),
            start=np.arange(8)[None],
        )


def test_import_stays_light():
    code = "import sys, moesim, moesim.placement; print([m for m in ('pulp', 'highspy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_solvers_print_nothing():
    code = (
        "import numpy as np; from moesim.placement.ilp.balance import balance\n"
        "balance(np.array([[5.0, 4, 3, 3, 2, 2, 1, 1]]), 2, start=np.arange(8)[None])\n"
        "print('after')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("after\n", "")


def test_mixtral_balance_is_proven(shared):
    with np.load(shared("traces/olmoe-counts/olmoe_mixtral_counts.npz")) as data:
        loads = np.concatenate([data[k] for k in data if k.startswith("mistral") and k.endswith("__counts")])
    for ranks in (2, 4, 8):
        answer = balance(loads.astype(float), ranks)
        assert set(answer.status) == {"optimal"}
        assert (answer.gap < 2e-6).all()
