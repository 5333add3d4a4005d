"""Batches are formed as said, and a searched plan is kept only where it holds on requests held out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim import load_trace
from moesim.errors import ConfigError
from moesim.layout import ExpertMap
from moesim.placement import Problem, evaluate, greedy
from moesim.placement.batches import draw_batches
from moesim.placement.held_out import FOLDS, fit_sampled, fit_steps
from moesim.trace.types import RoutingTrace


def routing(requests=12, length=20, experts=16, layers=2, k=2, seed=0):
    """Tokens of a request choose among the four experts of its kind."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(requests), length).astype(np.int32)
    kind = of % (experts // 4)
    ids = (
        rng.permuted(np.tile(np.arange(4), (len(of), layers, 1)), axis=2)[:, :, :k] + 4 * kind[:, None, None]
    )
    position = np.tile(np.arange(length, dtype=np.int32), requests)
    return RoutingTrace(
        ids.astype(np.uint8), of, experts, tuple(range(layers)), position, np.ones(len(of), np.int8)
    )


@given(st.integers(1, 400), st.sampled_from([1, 7, 50]), st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_every_batch_has_its_tokens_and_only_of_its_requests(tokens, run, by_task, resample, seed):
    trace = routing()
    some = np.array([1, 4, 5])  # of kinds 1, 0, 1
    tasks = np.arange(12) % 4 if by_task else None
    counts = draw_batches(trace, tokens, 3, requests=some, run=run, tasks=tasks, resample=resample, seed=seed)
    np.testing.assert_array_equal(counts.sum(axis=2), np.full((3, 2), 2 * tokens))
    assert not counts[:, :, 8:].any()  # experts of kinds 2 and 3
    if by_task:  # of one kind in each batch
        assert not (counts[:, :, :4].any(axis=(1, 2)) & counts[:, :, 4:].any(axis=(1, 2))).any()


def test_mixed_batches_take_no_token_twice_and_runs_are_neighbours():
    trace = routing(requests=3)
    np.testing.assert_array_equal(draw_batches(trace, 60, 1)[0], trace.load_counts().totals)
    # Runs as long as the requests are whole requests.
    counts = draw_batches(trace, 20, 50, run=20)[:, 0]
    whole = np.stack(
        [routing(requests=3).load_counts().totals[0] * (np.arange(16) // 4 == r) for r in range(3)]
    )
    assert all((row == whole).all(axis=1).any() for row in counts)


def test_resampled_batches_have_the_same_mean_and_vary_as_requests_do():
    trace = routing(requests=8)
    plain, again = (draw_batches(trace, 400, 400, resample=r, seed=3)[:, 0] / 800 for r in (False, True))
    np.testing.assert_allclose(again.mean(axis=0), plain.mean(axis=0), atol=0.01)
    # Two of the eight requests choose the experts of a kind: of eight draws, binomial(8, 1/4) are of these.
    kinds = again.reshape(400, 4, 4).sum(axis=2)
    binomial = (0.25 * 0.75 / 8) ** 0.5
    assert kinds.std(axis=0) == pytest.approx(np.full(4, binomial), rel=0.15)
    assert plain.reshape(400, 4, 4).sum(axis=2).std() < 0.2 * binomial + 1e-9


def test_everything_wrong_with_batches_is_named():
    with pytest.raises(ConfigError) as raised:
        draw_batches(routing(), 0, 0, requests=np.array([99]), run=0)
    assert [fault.where for fault in raised.value.faults] == ["tokens", "number", "run", "requests"]
    with pytest.raises(ConfigError, match="task of every request"):
        draw_batches(routing(), 1, 1, tasks=np.zeros(3, dtype=np.int64))


def test_a_pattern_is_kept_and_the_plan_holds_elsewhere():
    trace = routing(requests=40)
    tasks = np.arange(40) % 4

    def sample(chosen, seed=0):
        return draw_batches(trace, 16, 60, requests=chosen, tasks=tasks, seed=seed)

    found = fit_sampled(sample, np.arange(30), ranks=4)
    assert found.kept
    assert found.groups == 30
    assert not found.few
    assert found.searched < found.greedy
    other = sample(np.arange(30, 40), seed=1)
    plans = [greedy(sample(np.arange(30)).sum(axis=0), 4), found.table]
    before, after = (evaluate(ExpertMap(t, 16, 4), other).mean for t in plans)
    assert after - 1 < 0.5 * (before - 1)  # one expert of each kind on each rank
    again = fit_sampled(sample, np.arange(30), ranks=4)
    np.testing.assert_array_equal(found.table, again.table)


def test_noise_falls_back_to_greedy_once_for_all_layers():
    steps = np.random.default_rng(1).gamma(2.0, size=(12, 3, 16))
    found = fit_steps(Problem(steps, 4, 4), effort=0.2)
    assert not found.kept
    np.testing.assert_array_equal(found.table, greedy(steps.sum(axis=0), 4, 4))


def test_steps_of_a_group_are_held_out_together():
    # Steps of a group are copies: held out by step they would be foreseen, held out by group they are not.
    groups = np.repeat(np.arange(6), 10)
    steps = np.random.default_rng(2).gamma(1.0, size=(6, 1, 16))[groups]
    alone, together = fit_steps(Problem(steps, 4)), fit_steps(Problem(steps, 4), groups)
    assert alone.searched < together.searched
    assert (alone.groups, together.groups) == (60, 6)
    assert together.few


def test_too_few_groups_to_hold_any_out():
    steps = np.random.default_rng(0).gamma(1.0, size=(FOLDS - 1, 2, 8))
    found = fit_steps(Problem(steps, 2))
    assert not found.kept
    assert np.isnan(found.searched)
    np.testing.assert_array_equal(found.table, greedy(steps.sum(axis=0), 2))


def test_groups_must_fit():
    with pytest.raises(ConfigError, match="one entry per step"):
        fit_steps(Problem(np.ones((3, 1, 4)), 2), np.array([0, 1]))


def test_gpt_oss_tasks_of_requests_held_out(shared):
    trace = load_trace(shared("traces/gpt-oss-20b/decode.npz"), num_experts=32)
    about = json.loads(shared("traces/gpt-oss-20b/requests.json").read_text())
    subjects = np.array(
        [about.get(str(i), {}).get("category", "") for i in range(int(trace.request.max()) + 1)]
    )
    tasks = np.unique(subjects, return_inverse=True)[1]
    trace = RoutingTrace(
        trace.topk_ids[:, ::6], trace.request, 32, trace.moe_layer_ids[::6], trace.position, trace.phase
    )
    requests = np.random.default_rng(0).permutation(np.unique(trace.request))
    requests = requests[np.argsort(tasks[requests], kind="stable")]

    def sample(chosen, seed=0):
        return draw_batches(trace, 256, 100, requests=chosen, tasks=tasks, seed=seed)

    found = fit_sampled(sample, requests[::2], 8, 8)
    assert found.kept
    other = sample(requests[1::2], seed=1)
    plain = greedy(sample(requests[::2]).sum(axis=0), 8, 8)
    before, after = (evaluate(ExpertMap(t, 32, 8), other).mean - 1 for t in (plain, found.table))
    assert after < 0.75 * before
