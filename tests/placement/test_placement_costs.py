"""Costs of slots: they add up to the time of the engine for typical ranks, and have the right shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import load_hardware
from moesim.cost import Choice, ExpertShape, expert_times
from moesim.layout import ExpertMap
from moesim.placement import evaluate, greedy
from moesim.placement.costs import cost_table, layer_seconds, slot_cost
from moesim.placement.solvers.steps import search_costs, search_steps

SHAPE = ExpertShape(7168, 2048, 3, "fp8")


@pytest.fixture(scope="module", params=["h200-sxm-8", "mi300x-8"])
def device(request):
    return load_hardware(request.param).device


@pytest.mark.parametrize("tokens", [0.3, 8.0, 600.0])
def test_costs_of_a_typical_rank_add_up_to_its_time(device, tokens):
    near = np.random.default_rng(0).poisson(tokens, (40, 9)).astype(float)
    near[0, 0] = 1.0
    cost = slot_cost(SHAPE, device, Choice(block_scaled=True), near=near)
    times = expert_times(near, SHAPE, device, Choice(block_scaled=True), shared=True)
    added = cost(near).sum(axis=1).mean()
    assert added == pytest.approx((times.seconds - times.floor_s).mean(), rel=1e-9)


def test_a_slot_costs_nothing_alone_its_weights_when_hit_and_its_tokens_when_many(device):
    few, many = (
        slot_cost(SHAPE, device, near=np.full((1, 8), tokens, dtype=float)) for tokens in (1.0, 4096.0)
    )
    assert few(np.zeros(1)) == 0.0
    one, two = few(np.array([1.0, 2.0]))
    assert two == pytest.approx(one, rel=0.02)  # weights are read once
    low, high = many(np.array([4096.0, 8192.0]))
    assert high == pytest.approx(2 * low, rel=0.1)  # compute grows with tokens


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_whole_tokens_are_shared_out(copies, seed):
    steps = np.random.default_rng(seed).poisson(3.0, (4, 2, 5)).astype(float)
    linear = cost_table(lambda tokens: 2.0 * tokens, steps, copies)
    for c in range(1, copies + 1):
        np.testing.assert_allclose(linear[..., c - 1], 2.0 * steps.transpose(1, 0, 2) / c)
    # Of c copies with n < c tokens, n are hit.
    hits = cost_table(lambda tokens: 1.0 * (tokens > 0), steps, copies)
    number = np.arange(1, copies + 1)
    np.testing.assert_allclose(hits, np.minimum(steps.transpose(1, 0, 2)[..., None], number) / number)


def test_linear_costs_are_loads():
    steps = np.random.default_rng(0).poisson(20.0, (6, 2, 16)).astype(float)
    steps[:, :, 0] += 320.0 - steps.sum(axis=2) + 80.0  # the same tokens in each step
    start = greedy(steps.sum(axis=0), 4, 4)
    by_load = search_steps(steps, 4, start, threads=1)
    by_cost = search_costs(cost_table(lambda tokens: 0.25 * tokens, steps, 4), 4, start, threads=1)
    values = [evaluate(ExpertMap(t, 16, 4), steps).mean for t in (by_load, by_cost)]
    assert values[1] == pytest.approx(values[0], rel=0.02)


def test_seconds_of_a_layer_are_the_slowest_ranks(device):
    steps = np.array([[[4.0, 3.0, 2.0, 0.0]]])
    table = np.array([[0, 1, 2, 3]])
    expected = expert_times(np.array([[4.0, 3.0], [2.0, 0.0]]), SHAPE, device, Choice(), shared=True)
    assert layer_seconds(table, 2, steps, SHAPE, device)[0, 0] == expected.seconds.max()
