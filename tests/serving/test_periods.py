"""Experts' load that drifts while requests are served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.engine.deployment import Deployment
from moesim.engine.routing import source_of
from moesim.engine.traits import Traits
from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.layout import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model import load_model
from moesim.ops import Precision
from moesim.placement.problem import Problem
from moesim.placement.solve import solve
from moesim.rebalancing import Copying, StepPricer, policy_of, rebalanced_windows, recorded
from moesim.requests import request_trace
from moesim.serving.periods import Window, periods_of, tokens_of, windows_of
from moesim.serving.pricing import prices_of
from moesim.serving.settings import Scheduler
from moesim.serving.simulate import prepare
from moesim.trace.types import LoadCounts, RoutingTrace

BUDGET, MOST, LONGEST = 2048, 256, 2000
MODEL = load_model("olmoe-1b-7b")
HARDWARE = load_hardware("h100-sxm-8")
LAYOUT = Parallelism(dp=8, ep=8)
RANKS = 8


def loads(*hot, steps=8, tokens=4096):
    """Steps in which some experts take most tokens, one list of experts after the other."""
    layers, experts, top_k = len(MODEL.moe_layer_ids), MODEL.num_experts, MODEL.top_k
    found = []
    for some in hot:
        share = np.full(experts, 0.2 / experts)
        share[list(some)] += 0.8 / len(some)
        found += [np.tile(np.round(share * tokens * top_k), (layers, 1))] * steps
    return LoadCounts(np.array(found), MODEL.moe_layer_ids, top_k)


def deployment(routing, plan=None):
    precision = Precision.of(MODEL, "auto", "auto")
    return Deployment(MODEL, HARDWARE, LAYOUT, precision, source_of(routing, MODEL.top_k), plan)


def contiguous(redundant=0):
    return ExpertMap.contiguous(len(MODEL.moe_layer_ids), MODEL.num_experts, RANKS, redundant)


def served(one, periods=None, requests=300):
    """Seconds between tokens of requests by the order in which they end."""
    trace = request_trace(np.arange(requests) * 0.01, np.full(requests, 1900), np.full(requests, 50))
    ready = prepare(MODEL, HARDWARE, LAYOUT, trace, traits=Traits())
    prices = prices_of(one, int(ready.rules.budget), int(ready.rules.most), LONGEST, Scheduler())
    ready = replace(ready, prices=prices if periods is None else periods.on(prices))
    return ready.serve(trace)


def of(one, windows):
    return periods_of(one, windows, 8192, 1024)


def test_windows_of_the_same_routing_change_nothing():
    routing = loads((3, 17))
    one = deployment(routing, contiguous())
    whole = served(one)
    cut = served(one, of(one, windows_of(routing, 4, tokens=30_000.0)))
    np.testing.assert_allclose(cut.e2el_s, whole.e2el_s, rtol=1e-6)
    np.testing.assert_allclose(cut.ttft_s, whole.ttft_s, rtol=1e-6)


def test_hot_experts_slow_steps_until_they_are_spread():
    """Even load; then experts of one rank are hot; then a placement made for that, after a stall."""
    even, hot = loads(tuple(range(64))), loads(tuple(range(8)))
    start = contiguous(8)
    fitted = solve(Problem(hot.totals, RANKS, 8), "greedy").expert_map
    one = deployment(even, start)
    stall = 0.5
    third = 300 * 1950 / 3.0
    windows = [Window(even, third, start), Window(hot, third, start), Window(hot, third, fitted, stall)]
    calm = served(one, of(one, windows[:1]))
    drifting = served(one, of(one, windows[:2]))
    rebalanced = served(one, of(one, windows))
    free = served(one, of(one, [*windows[:2], replace(windows[2], stall_s=0.0)]))
    first, second, third = slice(0, 60), slice(130, 180), slice(230, 280)
    assert drifting.tpot_s[second].mean() > 1.3 * calm.tpot_s[second].mean()
    assert free.tpot_s[third].mean() < 0.8 * drifting.tpot_s[third].mean()
    assert free.tpot_s[third].mean() == pytest.approx(calm.tpot_s[third].mean(), rel=0.15)
    # Before anything changes nothing is different, and those who are met by the stall bear it.
    np.testing.assert_array_equal(rebalanced.e2el_s[first], calm.e2el_s[first])
    longest = (rebalanced.e2el_s - free.e2el_s).max()
    assert 0.8 * stall < longest < 1.5 * stall


def test_periods_begin_where_tokens_were_served():
    routing = loads((0,), (5,))
    one = deployment(routing, contiguous())
    found = of(one, windows_of(routing, 2))
    assert found.tokens.tolist() == [0.0, pytest.approx(8 * 4096, rel=0.01)]
    again = found.repeated(3)
    assert len(again.tokens) == len(again.experts_s) == len(again.stall_s) == 6
    assert (np.diff(again.tokens) > 0).all()
    assert again.tokens[2] == found.total
    np.testing.assert_array_equal(again.experts_s[4:], found.experts_s)


def test_windows_of_tokens():
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((1000, 16, 64)), axis=2)[:, :, :8].astype(np.uint8)
    trace = RoutingTrace(
        ids,
        np.zeros(1000, np.int32),
        64,
        MODEL.moe_layer_ids,
        np.arange(1000, dtype=np.int32),
        np.ones(1000, np.int8),
    )
    found = windows_of(trace, 3)
    assert sum(w.tokens for w in found) == 1000
    np.testing.assert_array_equal(np.concatenate([w.routing.topk_ids for w in found]), ids)
    assert tokens_of(trace.load_counts()) == 1000


def test_what_cannot_be_cut():
    routing = loads((0,))
    with pytest.raises(ConfigError):
        windows_of(routing, 9)
    with pytest.raises(ConfigError):
        windows_of(replace(routing, top_k=None), 2)
    with pytest.raises(ConfigError):
        of(deployment(routing), [])


@pytest.mark.parametrize("name", ["static", "eplb", "incremental"])
def test_windows_under_a_policy(name):
    """Windows hold all steps, begin where the placement changes, and carry the stalls of the replay."""
    routing = loads(tuple(range(8)), tuple(range(40, 48)), steps=20)
    steps, start = recorded(routing, MODEL.top_k), contiguous(8)
    pricer = StepPricer(MODEL, HARDWARE, RANKS)
    policy = policy_of(name, interval=8, window=8)
    windows, replayed = rebalanced_windows(steps, pricer, policy, start, copying=Copying(host_s=0.01))
    assert sum(window.tokens for window in windows) == steps.tokens.sum()
    assert sum(window.stall_s for window in windows) == pytest.approx(replayed.stall_s.sum())
    assert windows[0].plan is start
    counts = sum(window.routing.counts.sum() for window in windows)
    assert counts == routing.counts.sum()
    assert len(windows) == len(replayed.rebalances) + 1
    np.testing.assert_array_equal(windows[-1].plan.physical_to_logical, replayed.plan.physical_to_logical)


def test_a_policy_helps_requests_when_load_turns():
    routing = loads(tuple(range(8)), tuple(range(40, 48)), steps=20)
    steps, start = recorded(routing, MODEL.top_k), contiguous(8)
    pricer = StepPricer(MODEL, HARDWARE, RANKS)
    one = deployment(routing, start)
    found = {}
    for name in ("static", "eplb"):
        policy = policy_of(name, interval=5, window=5)
        # The whole run is one pass through the recording.
        windows, _ = rebalanced_windows(
            steps, pricer, policy, start, per_window=10, tokens_per_step=300 * 1950 / 40.0
        )
        found[name] = served(one, of(one, windows)).tpot_s[100:].mean()
    assert found["eplb"] < 0.97 * found["static"]
