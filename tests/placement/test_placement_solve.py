"""Solving: what every method keeps, and what the search is worth."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.errors import ConfigError
from moesim.placement import METHODS, Problem, evaluate, solve


def skewed(layers, experts, seed=0):
    return np.random.default_rng(seed).lognormal(0.0, 0.7, (layers, experts)).round(3) * 1000


@pytest.mark.parametrize("method", METHODS)
def test_every_method_conserves_load_and_respects_the_bound(method):
    loads = skewed(3, 16)
    redundant = 0 if method == "round-robin" else 8
    solution = solve(Problem(loads, 8, redundant, nodes=2, groups=4), method, time_limit_s=3.0)
    rank_loads = solution.expert_map.rank_loads(loads)
    np.testing.assert_allclose(rank_loads.sum(axis=1), loads.sum(axis=1))
    imbalance = rank_loads.max(axis=1) / rank_loads.mean(axis=1)
    np.testing.assert_allclose(solution.value, imbalance)
    assert (imbalance >= solution.bound * (1 - 1e-12)).all()
    np.testing.assert_allclose(solution.gap, imbalance / solution.bound - 1, atol=1e-12)


def test_search_is_never_worse_than_greedy_and_comes_near_the_bound():
    loads = skewed(12, 64)
    greedy, search = (solve(Problem(loads, 8, 8), method) for method in ("greedy", "search"))
    assert (search.gap <= greedy.gap + 1e-12).all()
    assert search.gap.max() < 5e-4 < greedy.gap.max()


def test_every_fault_of_a_problem_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        Problem(np.array([[1.0, -2.0, np.nan]]), ranks=2, redundant=4, dispatch="evn", speeds=np.array([1.0]))
    text = str(caught.value)
    for part in ("negative", "finite", "nearest: even", "speeds", "do not divide", "no expert goes twice"):
        assert part in text
    assert len(caught.value.faults) == 6
    with pytest.raises(ConfigError) as caught:
        solve(Problem(np.ones((1, 4)), ranks=2), method="serch", effort=0)
    assert "nearest: search" in str(caught.value)
    assert len(caught.value.faults) == 2


def test_layers_without_load_keep_their_experts_in_order_and_stay_out_of_means():
    loads = np.stack([np.zeros(8), skewed(1, 8)[0]])
    solution = solve(Problem(loads, ranks=4, redundant=4))
    assert solution.expert_map.physical_to_logical[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    judged = evaluate(solution.expert_map, loads)
    assert np.isnan(judged.per_layer[0])
    assert np.isnan(solution.gap[0])
    assert judged.mean == judged.worst == judged.per_layer[1]
