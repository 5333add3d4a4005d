"""Replay: nothing from the future, nothing for free, and the same sums as without a replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.layout import ExpertMap
from moesim.model import load_model
from moesim.placement import Problem, evaluate, solve
from moesim.placement.migration import moves
from moesim.rebalancing import (
    POLICIES,
    Copying,
    Rules,
    StepPricer,
    Stepwise,
    Triggered,
    cut,
    in_turn,
    policy_of,
    rebalance,
    recorded,
    replay,
    sampled,
)
from moesim.rebalancing.copying import Change, StepCost, beside, seconds_lost
from moesim.trace import LoadCounts, RoutingTrace

LAYERS, EXPERTS, TOP_K, RANKS, SPARES = 24, 32, 4, 8, 8


@pytest.fixture(scope="module")
def pricer():
    return StepPricer(load_model("gpt-oss-20b"), load_hardware("h100-sxm-8"), RANKS)


def loads_of(seed, sigma=0.7):
    shares = np.random.default_rng(seed).lognormal(0.0, sigma, (1, LAYERS, EXPERTS))
    return LoadCounts(shares, tuple(range(LAYERS)), TOP_K)


def drifting(steps=40, tokens=2048):
    one, two = (sampled(loads_of(seed), tokens, steps, TOP_K, seed) for seed in (0, 1))
    return one.then(two)


def start():
    return ExpertMap.contiguous(LAYERS, EXPERTS, RANKS, SPARES)


def asked(name, **settings):
    return policy_of(name, **({"interval": 6, "window": 12} | settings))


def test_the_static_policy_is_a_direct_evaluation(pricer):
    steps = drifting(5)
    run = replay(steps, pricer, asked("static"), start())
    direct = [pricer.price(start(), steps.draw(i)) for i in range(10)]
    np.testing.assert_array_equal(run.seconds, [cost.moe_s + cost.rest_s for cost in direct])
    assert run.imbalance.mean() == pytest.approx(evaluate(start(), steps.counts).mean)
    assert run.summary()["moved_bytes"] == run.summary()["stall_s"] == 0.0


@pytest.mark.parametrize("name", [n for n in POLICIES if n not in ("static", "search")])
def test_nothing_comes_from_the_future(pricer, name):
    steps, cut_at = drifting(10), 14
    other = steps.part(0, cut_at).then(sampled(loads_of(7, 1.5), 2048, 6, TOP_K, 7))
    copying = Copying(async_steps=2) if name in ("ours", "eplb") else Copying()
    one, two = (replay(s, pricer, asked(name), start(), copying) for s in (steps, other))
    np.testing.assert_array_equal(one.seconds[:cut_at], two.seconds[:cut_at])
    np.testing.assert_array_equal(one.moved_bytes[:cut_at], two.moved_bytes[:cut_at])
    assert one.rebalances


@pytest.mark.parametrize("name", ["eplb", "incremental", "ours"])
def test_bytes_are_experts_times_their_size(pricer, name):
    run = replay(drifting(15), pricer, asked(name), start())
    size = pricer.expert_bytes[0]
    assert (pricer.expert_bytes == size).all()
    assert run.moved_bytes.sum() == pytest.approx(sum(r.experts for r in run.rebalances) * size)
    assert run.stall_s.sum() == pytest.approx(sum(r.copy_s for r in run.rebalances))
    assert len(run.rebalances) == np.count_nonzero(run.moved_bytes)


def test_without_drift_a_fitted_plan_is_kept(pricer):
    first = solve(Problem(loads_of(0).totals, RANKS, SPARES)).expert_map
    steps = sampled(loads_of(0), 2048, 40, TOP_K, 3)
    run = replay(steps, pricer, asked("ours"), first)
    assert not run.rebalances
    periodic = replay(steps, pricer, asked("eplb"), first)
    assert periodic.seconds.sum() > run.seconds.sum()


def test_a_change_that_pays_is_made_after_a_turn_and_beats_standing_still(pricer):
    steps = drifting(24)
    runs = {name: replay(steps, pricer, asked(name), start()) for name in ("static", "eplb", "ours")}
    total = {name: run.seconds.sum() for name, run in runs.items()}
    assert total["ours"] < min(total["static"], total["eplb"])
    assert any(24 <= r.step < 40 for r in runs["ours"].rebalances)
    assert runs["ours"].moved_bytes.sum() < runs["eplb"].moved_bytes.sum()


def test_when_moving_is_dear_nothing_moves(pricer):
    dear = Copying(host_s=1e6)
    assert not replay(drifting(15), pricer, asked("ours"), start(), dear).rebalances
    assert not replay(drifting(15), pricer, asked("ours", trigger=8.0), start()).rebalances


def test_with_links_of_no_end_beside_the_steps_is_as_good_as_standing_still(pricer):
    link = replace(
        pricer.hardware.scale_up, bandwidth_bytes_per_s=1e30, latency_s=0.0, efficiency=1.0, collectives={}
    )
    free = StepPricer(pricer.model, replace(pricer.hardware, scale_up=link), RANKS)
    # A measured exchange has a floor of its own; it is that of both.
    for name in ("eplb", "ours"):
        stood, beside_it = (
            replay(drifting(12), free, asked(name), start(), how)
            for how in (Copying(), Copying(async_steps=0))
        )
        np.testing.assert_allclose(stood.seconds, beside_it.seconds, rtol=1e-9)
        np.testing.assert_array_equal(stood.moved_bytes, beside_it.moved_bytes)


def test_copies_beside_the_steps_change_layer_by_layer(pricer):
    slow = Copying(async_steps=3, layers_per_step=5)
    steps = sampled(loads_of(0), 2048, 20, TOP_K, 0)
    run = replay(steps, pricer, asked("eplb", interval=8), start(), slow)
    done = run.rebalances[0].step
    assert run.stall_s.sum() == 0.0
    before = replay(steps, pricer, asked("static"), start())
    np.testing.assert_array_equal(run.imbalance[: done + 4], before.imbalance[: done + 4])
    # Then 24 layers, five at a time.
    changing = (run.imbalance - before.imbalance)[done + 3 : done + 9]
    assert (np.diff(changing) < 0).all()
    assert run.copy_s[: done + 1].sum() == 0.0
    assert run.copy_s.sum() > 0.0


@given(
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=6),
    st.floats(0.05, 0.95),
    st.floats(0.1, 2.0),
    st.floats(0.0, 2.0),
)
def test_copies_take_the_links_that_the_steps_leave(copies, share, rest, exchange):
    step = StepCost(0.0, exchange, 0.0, rest)
    rules = Copying(async_steps=0, share=share)
    change = Change(np.array(copies), rules)
    longer, steps = 0.0, 0
    while change.ready() < len(copies):
        longer += change.step(step)
        steps += 1
    done, most = beside(np.inf, step, share)
    assert steps == pytest.approx(np.ceil(sum(copies) / done), abs=1)
    assert longer == pytest.approx(seconds_lost(sum(copies), step, rules), abs=1e-9)
    # The link is never used for more than its time: copies and exchange fit into the longer step.
    assert done + exchange <= rest + exchange + most + 1e-9


def test_relabelled_experts_change_nothing(pricer):
    order = np.random.default_rng(0).permutation(EXPERTS)
    steps = drifting(8)
    other = Stepwise(steps.counts[:, :, order], steps.tokens)
    table = np.argsort(order)[start().physical_to_logical]
    for name in ("static", "incremental", "ours"):
        one = replay(steps, pricer, asked(name), start())
        two = replay(other, pricer, asked(name), ExpertMap(table, EXPERTS, RANKS))
        np.testing.assert_allclose(one.seconds, two.seconds, rtol=1e-9)


def test_steps_of_a_trace():
    tokens = 100
    rng = np.random.default_rng(0)
    request = np.repeat(np.arange(10), 10).astype(np.int32)
    trace = RoutingTrace(
        topk_ids=np.argsort(rng.random((tokens, 2, 8)), axis=2)[:, :, :2].astype(np.uint8),
        request=request,
        num_experts=8,
        moe_layer_ids=(0, 1),
        position=np.tile(np.arange(10), 10).astype(np.int32),
        phase=np.ones(tokens, dtype=np.int8),
    )
    in_order = cut(trace, 30)
    assert len(in_order) == 3
    assert (in_order.counts.sum(axis=2) == 60).all()
    np.testing.assert_array_equal(in_order.draw(1).ids, trace.topk_ids[30:60])
    turns = in_turn(trace, 5)
    # Five requests of ten tokens, then the other five.
    assert len(turns) == 20
    np.testing.assert_array_equal(request[turns.rows[0]], np.arange(5))
    np.testing.assert_array_equal(request[turns.rows[10]], np.arange(5, 10))
    assert sorted(np.concatenate(turns.rows)) == list(range(tokens))
    for wrong in (0, 11):
        with pytest.raises(ConfigError, match="requests of the trace"):
            in_turn(trace, wrong)
    with pytest.raises(ConfigError, match="tokens of the trace"):
        cut(trace, 101)
    with pytest.raises(ConfigError, match="has no load"):
        recorded(LoadCounts(np.stack([np.ones((1, 4)), np.zeros((1, 4))]), (0,), 2), 2)


def test_a_comparison_says_everything(pricer):
    steps = drifting(10)
    found = rebalance(
        steps,
        pricer.model,
        pricer.hardware,
        ep=RANKS,
        redundant=SPARES,
        policies=("static", "ours", "static"),
        rules=Rules(6, 12),
    )
    assert list(found.runs) == ["static", "ours"]
    columns = found.columns()
    assert {len(column) for column in columns.values()} == {40}
    document = found.to_dict()
    assert document["rules"]["copying"]["synchronous"]
    assert document["policies"]["ours"]["changes"]
    assert found.best == "ours"
    total = sum(s for s, p in zip(columns["seconds"], columns["policy"], strict=True) if p == "ours")
    assert total == pytest.approx(document["policies"]["ours"]["total_s"])


def test_everything_wrong_is_said_at_once(pricer):
    with pytest.raises(ConfigError) as error:
        rebalance(drifting(2), pricer.model, pricer.hardware, ep=9, redundant=1, policies=("oors",))
    text = str(error.value)
    assert "nearest: ours" in text
    assert "redundant" in text
    assert "devices" in text
    with pytest.raises(ConfigError) as error:
        Rules(0, -1, 0.5)
    assert len(error.value.faults) == 3
    with pytest.raises(ConfigError) as error:
        Copying(-1, -1, 1.0, float("nan"))
    assert len(error.value.faults) == 4


@settings(max_examples=3)
@given(st.integers(0, 1000))
def test_a_gain_must_be_sure_and_worth_its_price(pricer, seed):
    """What is taken gains more, on the steps it is judged on, than it costs over the horizon."""
    seen = []

    class Spy(Triggered):
        def decide(self, history):
            found = super().decide(history)
            if found is not None:
                judged = range(history.now - 1, history.now - 1 - 6, -2)
                gain = (history.seconds(history.plan, judged) - history.seconds(found, judged)).mean()
                assert gain * (history.now - history.since) > history.cost_of(found)
                assert moves(found, history.plan).experts.max() <= found.slots // 4
                seen.append(found)
            return found

    replay(sampled(loads_of(seed), 2048, 20, TOP_K, seed), pricer, Spy(6, 12), start())
    assert seen
