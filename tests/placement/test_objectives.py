"""Objectives in words, and the choice among plans by them."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.layout import DISPATCH
from moesim.placement import Problem, solve
from moesim.placement.objective import TERMS, WITHIN, Objective, objective_value
from moesim.placement.portfolio import _best, incumbents
from moesim.placement.solvers.eight import joint_optimum
from moesim.placement.traffic import transitions
from moesim.trace.types import RoutingTrace, count_ids


def skewed(shape, seed=0):
    return np.random.default_rng(seed).lognormal(0.0, 0.8, shape)


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("max-load", Objective()),
        ("expected_max", Objective(("expected-max",))),
        ("max-load+2*migration", Objective(("max-load", "migration"), (1.0, 2.0))),
        ("max-load , migration", Objective(("max-load", "migration"), (1.0, 1.0), ordered=True)),
    ],
)
def test_objectives_are_read(text, objective):
    found = Objective.parse(text)
    assert found == objective
    assert Objective.parse(str(found)) == objective


def test_every_fault_of_an_objective_at_once():
    with pytest.raises(ConfigError) as caught:
        Objective.parse("max-lod + -1 migration + max-load + max-load + 2 3 x + ")
    text = str(caught.value)
    for part in ("nearest: max-load", "-1 migration", "twice", "2 3 x"):
        assert part in text
    assert len(caught.value.faults) == 5
    with pytest.raises(ConfigError, match="no weights"):
        Objective.parse("2 max-load, migration")


@pytest.mark.parametrize(
    ("term", "lacks"),
    [
        ("remote-nodes", "token-level"),
        ("transitions", "token-level"),
        ("layer-time", "hardware"),
        ("migration", "loaded now"),
    ],
)
def test_what_an_objective_lacks_is_said(term, lacks):
    with pytest.raises(ConfigError, match=lacks):
        solve(Problem(skewed((1, 4)), 2), objective=term)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**16))
def test_the_choice_is_the_best_by_brute_force(terms, plans, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, (terms, plans, 6)) * 1.0
    weights = tuple(rng.uniform(0.5, 2.0, terms).tolist())
    weighed = _best(values, Objective(TERMS[:terms], weights))
    ordered = _best(values, Objective(TERMS[:terms], (1.0,) * terms, ordered=True))
    for layer in range(6):
        column = values[:, :, layer]
        sums = [sum(w * column[t, p] for t, w in enumerate(weights)) for p in range(plans)]
        assert sums[weighed[layer]] == pytest.approx(min(sums))
        tuples = [tuple(column[:, p]) for p in range(plans)]
        assert tuples[ordered[layer]] == min(tuples)


def test_a_later_term_decides_between_plans_that_are_as_good():
    values = np.array([[[1.0], [1.0 + WITHIN / 2], [1.0 + 2 * WITHIN]], [[5.0], [1.0], [0.0]]])
    assert _best(values, Objective(TERMS[:2], (1.0, 1.0), ordered=True)).tolist() == [1]


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(DISPATCH), st.integers(0, 999), st.integers(0, 2), st.booleans())
def test_never_worse_than_greedy_nor_better_than_the_bound(dispatch, seed, spare, steps):
    loads = skewed((3, 2, 16) if steps else (2, 16), seed)
    problem = Problem(loads, 4, 4 * spare, nodes=2, groups=4, dispatch=dispatch)
    objective = Objective.parse("expected-max" if steps else "max-load")
    solution = solve(problem, objective=objective, effort=0.02)
    tables = incumbents(problem)
    assert len(tables) == 2
    greedy = [objective_value(problem, problem.plan(table), objective) for table in tables]
    if dispatch == "sglang-static":
        # What is drawn for a layer depends on the layers before: plans are compared as a whole.
        assert solution.value.mean() <= min(g.mean() for g in greedy) * (1 + 1e-12)
    else:
        assert (solution.value <= np.min(greedy, axis=0) * (1 + 1e-12)).all()
    assert (solution.value >= solution.bound * (1 - 1e-9)).all()
    np.testing.assert_allclose(solution.value, objective_value(problem, solution.expert_map, objective))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_small_models_are_optimal_by_default_and_their_traffic_is_the_least(ranks):
    rng = np.random.default_rng(3)
    taste = rng.gumbel(size=(400, 3, 8)) + 0.3 * rng.normal(size=(3, 8))
    ids = np.argsort(taste, axis=2)[:, :, :2].astype(np.uint8)
    zeros = np.zeros(400, np.int32)
    tokens = RoutingTrace(ids, zeros, 8, (0, 1, 2), zeros, zeros.astype(np.int8))
    loads = count_ids(ids, 8).astype(float)
    problem = Problem(loads, ranks, tokens=tokens)
    balanced = solve(problem)
    assert balanced.gap.max() <= 1e-6
    np.testing.assert_allclose(
        balanced.value * loads.sum(axis=1) / ranks, [optimum(row, ranks, 8) for row in loads], rtol=1e-6
    )
    found = solve(problem, objective="transitions", effort=0.05)
    cap = np.maximum(balanced.value, 1.1)
    best = problem.plan(joint_optimum(transitions(ids, 8), loads, ranks, cap))
    least = objective_value(problem, best, Objective(("transitions",)))
    assert found.value.mean() <= least.mean() + 1e-12
    assert (found.value >= found.bound - 1e-12).all()
