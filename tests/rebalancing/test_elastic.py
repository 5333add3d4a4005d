"""Lost and new ranks: every expert is there again, with no copy more than it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.layout import ExpertMap
from moesim.model import load_model
from moesim.placement import Problem, solve
from moesim.placement.migration import held_by
from moesim.rebalancing import Loss, StepPricer, Stepwise, policy_of, replay, restored

LAYERS, EXPERTS = 24, 32


@pytest.fixture(scope="module")
def pricer():
    return StepPricer(load_model("gpt-oss-20b"), load_hardware("h100-sxm-8", nodes=2), 16)


def loads_of(seed):
    return np.random.default_rng(seed).lognormal(0.0, 0.7, (LAYERS, EXPERTS))


def plan_of(loads, redundant=16):
    return solve(Problem(loads, 16, redundant), "greedy").expert_map


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sets(st.integers(0, 15), max_size=5), st.integers(0, 2))
def test_every_expert_is_restored_with_the_fewest_copies(pricer, seed, lost, more):
    loads = loads_of(seed)
    plan = plan_of(loads)
    found = restored(plan, loads, pricer, lost=sorted(lost), slots_per_rank=3 + more)
    kept = [r for r in range(16) if r not in lost]
    assert found.ranks.tolist() == kept
    assert found.plan.ranks == len(kept)
    assert found.plan.slots_per_rank == 3 + more
    assert (found.plan.replica_counts > 0).all()
    before, after = held_by(plan)[:, kept], held_by(found.plan)
    np.testing.assert_array_equal(found.missing, ~before.any(axis=1))
    # Every empty slot must be written, and every missing expert must go somewhere.
    empty = len(kept) * more
    fewest = np.maximum(found.missing.sum(axis=1), empty)
    np.testing.assert_array_equal((after & ~before).sum(axis=(1, 2)), fewest)
    arrived = found.copied.experts + found.loaded.sum(axis=1)
    np.testing.assert_array_equal(arrived, fewest)
    assert found.loaded_bytes == pytest.approx(found.loaded.sum() * pricer.expert_bytes[0])
    assert (found.seconds > 0) == bool(fewest.any())
    assert not found.copied.copies[:, sorted(lost)].any()
    assert found.missing_share == pytest.approx(loads[found.missing].sum() / loads.sum())


def test_nothing_lost_nothing_done(pricer):
    plan = plan_of(loads_of(0))
    found = restored(plan, loads_of(0), pricer)
    np.testing.assert_array_equal(found.plan.physical_to_logical, plan.physical_to_logical)
    assert found.seconds == 0.0


def test_a_rank_whose_experts_all_have_replicas_costs_nothing(pricer):
    table = np.tile(np.concatenate([np.arange(32), np.arange(32)]), (LAYERS, 1))
    plan = ExpertMap(table, EXPERTS, 16)
    found = restored(plan, loads_of(0), pricer, lost=[3])
    assert not found.missing.any()
    assert found.seconds == found.missing_share == 0.0


def test_ranks_that_join_take_replicas_of_what_is_hot(pricer):
    loads = loads_of(0)
    plan = solve(Problem(loads, 8, 0), "greedy").expert_map
    found = restored(plan, loads, pricer.on(8), joined=8)
    assert found.plan.ranks == 16
    assert found.plan.redundant == 32
    assert not found.missing.any()
    assert found.load_s == 0.0
    assert (found.copied.copies[:, :, :8] == 0).all()
    # One more rank to share with: no rank carries more than before.
    assert (found.plan.rank_loads(loads).max(axis=1) <= plan.rank_loads(loads).max(axis=1) + 1e-12).all()


def test_slots_that_cannot_hold_the_experts_are_infeasible(pricer):
    plan = plan_of(loads_of(0))
    with pytest.raises(InfeasibleError) as error:
        restored(plan, loads_of(0), pricer, lost=range(6))
    assert error.value.details == {"experts_without_slot": 2, "slots_per_rank": 4}
    assert "2 lack a slot" in str(error.value)
    assert restored(plan, loads_of(0), pricer, lost=range(6), slots_per_rank=4).plan.slots == 40


def test_wrong_questions(pricer):
    plan, loads = plan_of(loads_of(0)), loads_of(0)
    with pytest.raises(ConfigError) as error:
        restored(plan, loads, pricer, lost=[16], slots_per_rank=2, joined=-1)
    assert len(error.value.faults) == 3
    with pytest.raises(ConfigError, match="no rank is left"):
        restored(plan, loads, pricer, lost=range(16))
    with pytest.raises(ConfigError, match="too many"):
        restored(plan, loads, pricer, slots_per_rank=33)
    with pytest.raises(ConfigError, match="17 ranks on 16 devices"):
        restored(plan, loads, pricer, joined=1)


def test_storage_is_slower_than_host_memory(pricer):
    plan, loads = plan_of(loads_of(0)), loads_of(0)
    near = restored(plan, loads, pricer, lost=[0])
    far = restored(plan, loads, pricer, lost=[0], storage_bytes_per_s=1e9)
    per_node = far.loaded.sum(axis=0).reshape(2, 8).sum(axis=1).max() * pricer.expert_bytes[0]
    assert far.load_s == pytest.approx(per_node / 1e9, rel=1e-3)
    assert far.load_s > near.load_s > 0.0


def test_a_replay_goes_on_with_the_ranks_that_are_left(pricer):
    tokens = 2048
    shares = loads_of(0) / loads_of(0).sum(axis=1, keepdims=True)
    steps = Stepwise(np.tile(shares * tokens * 4, (30, 1, 1)), np.full(30, tokens))
    plan = plan_of(loads_of(0))
    losses = [Loss(5, (3,)), Loss(12, tuple(range(8)), 6)]
    with pytest.raises(ConfigError, match="not there to be lost"):
        replay(steps, pricer, policy_of("static", interval=5, window=5), plan, losses=losses)
    losses[1] = Loss(12, (0, 1, 2, *range(4, 8)), 6)
    for name in ("eplb", "ours"):
        run = replay(steps, pricer, policy_of(name, interval=5, window=5), plan, losses=losses)
        assert run.plan.ranks == 8
        assert [len(found.ranks) for _, found in run.losses] == [15, 8]
        for step, found in run.losses:
            assert run.stall_s[step] >= found.seconds > 0.0
        document = run.to_dict()
        assert [loss["step"] for loss in document["losses"]] == [5, 12]
    # What is lost before it happens is not known.
    without = replay(steps, pricer, policy_of("static", interval=5, window=5), plan)
    alone = replay(steps, pricer, policy_of("static", interval=5, window=5), plan, losses=losses)
    np.testing.assert_array_equal(without.seconds[:5], alone.seconds[:5])
