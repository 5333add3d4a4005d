"""Chains of clusters and the exact optimum of small models, against every plan."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from moesim.errors import ConfigError
from moesim.layout import ExpertMap
from moesim.placement.bound_traffic import least_leaving
from moesim.placement.solvers.chain import chain_lap, largest_flow
from moesim.placement.solvers.eight import joint_optimum, states
from moesim.placement.solvers.greedy import greedy
from moesim.placement.traffic import leaving


def left(table, pairs, ranks):
    experts = pairs.shape[1]
    share = leaving(ExpertMap(table, experts, ranks), pairs, ranks)
    return (share * pairs.sum(axis=(1, 2))).sum()


def random_pairs(rng, layers, experts):
    return rng.integers(0, 50, size=(layers - 1, experts, experts)).astype(float)


def chains(table, parts):
    """Every order of the clusters of all layers but the first."""
    blocks = table.reshape(len(table), parts, -1)
    for orders in itertools.product(itertools.permutations(range(parts)), repeat=len(table) - 1):
        rows = [blocks[0], *(blocks[i + 1][list(o)] for i, o in enumerate(orders))]
        yield np.stack(rows).reshape(table.shape)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("ranks", "redundant"), [(2, 0), (3, 0), (3, 3)])
def test_no_order_of_clusters_is_better(seed, ranks, redundant):
    rng = np.random.default_rng(seed)
    pairs = random_pairs(rng, 3, 6)
    table = greedy(rng.random((3, 6)), ranks, redundant)
    every = list(chains(table, ranks))
    assert left(chain_lap(pairs, table, ranks), pairs, ranks) == pytest.approx(
        min(left(t, pairs, ranks) for t in every)
    )
    found = largest_flow(pairs, chain_lap(pairs, table, ranks, "largest"), ranks).sum()
    assert found == pytest.approx(min(largest_flow(pairs, t, ranks).sum() for t in every))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("experts", "ranks", "layers"), [(4, 2, 3), (6, 2, 3), (6, 3, 2)])
@pytest.mark.parametrize("cap", [1.08, 10.0])
def test_no_plan_under_the_cap_is_better(seed, experts, ranks, layers, cap):
    rng = np.random.default_rng(seed)
    pairs, loads = random_pairs(rng, layers, experts), rng.uniform(1.0, 1.4, size=(layers, experts))
    every = states(experts, ranks)
    member = every[:, :, None] == np.arange(ranks)
    even = [(np.einsum("e,ser->sr", row, member).max(axis=1) <= cap * row.sum() / ranks) for row in loads]
    best = np.inf
    for plan in itertools.product(*[every[fits] for fits in even]):
        steps = zip(plan, plan[1:], pairs, strict=False)
        best = min(best, sum(flow[a[:, None] != b].sum() for a, b, flow in steps))
    found = joint_optimum(pairs, loads, ranks, cap)
    assert left(found, pairs, ranks) == pytest.approx(best)
    assert (ExpertMap(found, experts, ranks).load_imbalance(loads) <= cap * (1 + 1e-9)).all()


def test_names_change_nothing():
    rng = np.random.default_rng(3)
    pairs, loads = random_pairs(rng, 3, 8), rng.uniform(1.0, 1.3, size=(3, 8))
    name = np.stack([rng.permutation(8) for _ in range(3)])
    renamed = np.stack([p[a][:, b] for p, a, b in zip(pairs, name, name[1:], strict=False)])
    named = np.take_along_axis(loads, name, axis=1)
    for cap in (1.05, 1.15):
        one = left(joint_optimum(pairs, loads, 4, cap), pairs, 4)
        assert left(joint_optimum(renamed, named * 7.0, 4, cap), renamed, 4) == pytest.approx(one)


def test_faults_are_told():
    pairs, loads = np.ones((1, 8, 8)), np.array([[9.0, *[1.0] * 7], [1.0] * 8])
    with pytest.raises(ConfigError, match="no placement of layer 0"):
        joint_optimum(pairs, loads, 4, 1.02)
    with pytest.raises(ConfigError, match="no placement of layer 0"):
        joint_optimum(pairs, loads, 8, 1.02)
    with pytest.raises(ConfigError, match="divide"):
        states(8, 3)
    with pytest.raises(ConfigError, match="placements"):
        states(16, 4)
    with pytest.raises(ConfigError, match="aim"):
        chain_lap(pairs, np.zeros((2, 8), int), 2, "least")


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_mixtral_is_solved_to_the_optimum_in_seconds(ranks, shared):
    data = np.load(shared("traces/olmoe-counts/olmoe_mixtral_counts.npz"))
    domains = ("arxiv", "book", "c4", "github", "wikipedia")
    loads = sum(data[f"mistral__{d}__counts"] for d in domains).astype(float)
    pairs = sum(data[f"mistral__{d}__crosslayer"] for d in domains).astype(float)
    first = greedy(loads, ranks)
    cap = np.maximum(ExpertMap(first, 8, ranks).load_imbalance(loads), 1.02)
    began = time.process_time()
    found = joint_optimum(pairs, loads, ranks, cap)
    assert time.process_time() - began < 5.0
    assert (ExpertMap(found, 8, ranks).load_imbalance(loads) <= cap * (1 + 1e-9)).all()
    optimum, chained = left(found, pairs, ranks), left(chain_lap(pairs, first, ranks), pairs, ranks)
    assert optimum <= chained <= left(first, pairs, ranks)
    assert (least_leaving(pairs, ranks) * pairs.sum(axis=(1, 2))).sum() <= optimum
    # The whole model's depth takes seconds as well: 32 layers of the same counts.
    deep = np.concatenate([pairs] * 16)[:31]
    began = time.process_time()
    joint_optimum(deep, np.concatenate([loads] * 11)[:32], ranks, np.resize(cap, 32))
    assert time.process_time() - began < 5.0
