"""Layouts and placements: invariants, and every fault at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model import load_model


def test_all_faults_of_a_layout_at_once():
    faults = Parallelism(tp=3, dp=5, ep=7).faults(load_model("deepseek-v3"), load_hardware("h100-sxm-8"))
    text = "\n".join(map(str, faults))
    assert "does not divide dp x tp = 15" in text
    assert "128 attention heads" in text
    assert "256 experts" in text
    assert "--nodes 2" in text


def test_redundant_experts_change_what_divides():
    model = load_model("deepseek-v3")
    assert Parallelism(dp=36, ep=36).faults(model)
    assert not Parallelism(dp=36, ep=36).faults(model, redundant=32)


@st.composite
def placements(draw):
    ranks = draw(st.sampled_from([1, 2, 4]))
    experts = draw(st.integers(1, 4)) * ranks
    layers = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    spare = draw(st.sampled_from([0, ranks])) if experts > ranks and ranks > 1 else 0
    rows = []
    for _ in range(layers):
        order = rng.permutation(experts)
        row = order.reshape(ranks, -1)
        if spare:
            # Give each rank one expert of its neighbour.
            row = np.concatenate([row, np.roll(row[:, :1], 1, axis=0)], axis=1)
        rows.append(row.ravel())
    return ExpertMap(np.array(rows), experts, ranks), rng


@given(placements())
def test_load_is_conserved_and_tables_agree(case):
    plan, rng = case
    loads = rng.random((plan.layers, plan.num_experts))
    assert plan.rank_loads(loads).sum(axis=1) == pytest.approx(loads.sum(axis=1))
    assert plan.replica_counts.sum(axis=1).tolist() == [plan.slots] * plan.layers
    for layer in range(plan.layers):
        for expert in range(plan.num_experts):
            slots = [s for s in plan.logical_to_physical[layer, expert] if s >= 0]
            assert sorted(slots) == np.flatnonzero(plan.physical_to_logical[layer] == expert).tolist()


@pytest.mark.parametrize(
    ("rows", "experts", "ranks", "word"),
    [
        ([[0, 1, 2]], 3, 2, "divide"),
        ([[0, 1, 1, 3]], 4, 2, "expert 2 is in no slot"),
        ([[0, 0, 1, 1]], 2, 2, "twice on rank 0"),
        ([[0, 9]], 2, 2, "no expert of the model"),
        ([[0, -2]], 2, 2, "no expert of the model"),
        ([0, 1], 2, 2, "two axes"),
    ],
)
def test_broken_placements_are_refused(rows, experts, ranks, word):
    with pytest.raises(ConfigError, match=word):
        ExpertMap(np.array(rows), experts, ranks)


def test_empty_slots_hold_nothing():
    plan = ExpertMap(np.array([[0, 1, 2, 0, -1, -1], [2, -1, -1, 1, 0, -1]]), num_experts=3, ranks=2)
    assert plan.replica_counts.tolist() == [[2, 1, 1], [1, 1, 1]]
    assert plan.logical_to_physical.tolist() == [[[0, 3], [1, -1], [2, -1]], [[4, -1], [3, -1], [0, -1]]]
    assert plan.rank_loads(np.array([[6.0, 1.0, 2.0]] * 2)).tolist() == [[6.0, 3.0], [2.0, 7.0]]
    assert (plan.redundant, plan.mean_copies, plan.full) == (3, 0.5, False)


def test_maps_cannot_be_changed_behind_their_back():
    plan = ExpertMap.contiguous(1, 4, 2)
    with pytest.raises(ValueError, match="read-only"):
        plan.physical_to_logical[0, 0] = 3


def test_round_robin_and_contiguous():
    assert ExpertMap.round_robin(1, 4, 2).physical_to_logical.tolist() == [[0, 2, 1, 3]]
    assert ExpertMap.contiguous(1, 4, 2, 2).physical_to_logical.tolist() == [[0, 1, 2, 3, 0, 1]]
