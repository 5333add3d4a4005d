"""The scheduler: conservation laws, closed forms, and a second implementation written for clarity alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.batching import MIXED, POLICIES, PREFILL_FIRST, Batcher, schedule
from moesim.errors import ConfigError
from moesim.requests import generate_requests, parse_lengths, request_trace

cases = st.tuples(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=25),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(POLICIES),
    st.sampled_from([None, 1, 3]),
)


def made(case):
    """Requests whose times are multiples of a quarter, so that clocks are exact."""
    rows, budget, most, policy, concurrency = case
    arrival, read, written = (np.array(column) for column in zip(*rows, strict=True))
    requests = request_trace(arrival / 4, read, written, concurrency=concurrency)
    return requests, Batcher(max(budget, most), most, policy)


def reference(requests, batcher, step_s):
    """The rules of `Batcher`, token by token: a list of (start, [(request, position, phase)])."""
    most = min(batcher.max_sequences, requests.concurrency or batcher.max_sequences)
    waiting = list(range(len(requests)))
    running, done, steps, now = [], dict.fromkeys(waiting, 0), [], 0.0

    def reading(r):
        return done[r] < requests.input_tokens[r]

    def may_enter():
        return bool(waiting) and len(running) < most and requests.arrival_s[waiting[0]] <= now

    while waiting or running:
        if not running:
            now = max(now, requests.arrival_s[waiting[0]])
        tokens = []
        prompts = may_enter() or any(map(reading, running))
        if batcher.policy == MIXED or not prompts:
            for r in [r for r in running if not reading(r)]:
                tokens.append((r, done[r], 1))
                done[r] += 1
        if batcher.policy == MIXED or prompts:
            began = set(map(int, np.array([t[0] for t in tokens], int)))
            for r in running:
                while reading(r) and r not in began and len(tokens) < batcher.token_budget:
                    tokens.append((r, done[r], 0))
                    done[r] += 1
            while may_enter() and len(tokens) < batcher.token_budget:
                r = waiting.pop(0)
                running.append(r)
                while reading(r) and len(tokens) < batcher.token_budget:
                    tokens.append((r, done[r], 0))
                    done[r] += 1
        steps.append((now, tokens))
        running = [r for r in running if done[r] < requests.input_tokens[r] + requests.output_tokens[r] - 1]
        now += step_s
    return steps


@given(case=cases)
@settings(max_examples=150, deadline=None)
def test_the_same_as_the_plain_implementation(case):
    requests, batcher = made(case)
    plan = schedule(requests, batcher, 0.5)
    expected = reference(requests, batcher, 0.5)
    assert plan.start_s.tolist() == [start for start, _ in expected]
    tokens = list(zip(plan.request.tolist(), plan.position.tolist(), plan.phase.tolist(), strict=True))
    assert tokens == [token for _, step in expected for token in step]
    assert plan.step_ptr.tolist() == np.cumsum([0, *(len(step) for _, step in expected)]).tolist()


@given(case=cases)
@settings(max_examples=100, deadline=None)
def test_conservation(case):
    requests, batcher = made(case)
    plan = schedule(requests, batcher, 0.25)
    sizes = np.diff(plan.step_ptr)
    step = np.repeat(np.arange(len(sizes)), sizes)
    # Steps are never empty, never over budget, and do not overlap.
    assert 1 <= sizes.min() <= sizes.max() <= batcher.token_budget
    assert (np.diff(plan.start_s) >= plan.seconds[:-1]).all()
    for r in range(len(requests)):
        own = plan.request == r
        read, written = int(requests.input_tokens[r]), int(requests.output_tokens[r])
        # Every token once, in order, prompt first.
        assert plan.position[own].tolist() == list(range(read + written - 1))
        assert plan.phase[own].tolist() == [0] * read + [1] * (written - 1)
        # Not before it arrives; one decoded token a step, none in the step that ends the prompt.
        assert plan.start_s[step[own][0]] >= requests.arrival_s[r]
        decoding = step[own][read:]
        assert (np.diff(np.r_[step[own][read - 1], decoding]) >= 1).all()
        if batcher.policy == MIXED:
            assert (np.diff(np.r_[step[own][read - 1], decoding]) == 1).all()
    for i in range(len(sizes)):
        phases = plan.phase[step == i]
        assert len(set(plan.request[step == i].tolist())) <= batcher.max_sequences
        if batcher.policy == PREFILL_FIRST:
            assert len(set(phases.tolist())) == 1
    # First come, first served.
    first = [int(step[plan.request == r][0]) for r in range(len(requests))]
    assert first == sorted(first)


@given(case=cases, factor=st.sampled_from([2.0, 8.0]))
@settings(max_examples=40, deadline=None)
def test_time_has_no_unit(case, factor):
    requests, batcher = made(case)
    slow = request_trace(
        requests.arrival_s * factor,
        requests.input_tokens,
        requests.output_tokens,
        concurrency=requests.concurrency,
    )
    a, b = schedule(requests, batcher, 0.25), schedule(slow, batcher, 0.25 * factor)
    assert (a.request == b.request).all()
    assert (a.step_ptr == b.step_ptr).all()
    assert (a.start_s * factor == b.start_s).all()


@given(case=cases)
@settings(max_examples=40, deadline=None)
def test_a_clock_that_always_says_the_same_is_the_fixed_clock(case):
    requests, batcher = made(case)
    seen = []

    def clock(load):
        seen.append(load)
        return 0.25

    a, b = schedule(requests, batcher, 0.25), schedule(requests, batcher, clock)
    for name in ("step_ptr", "start_s", "seconds", "request", "position", "phase"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    sizes = np.diff(a.step_ptr)
    assert [load.prefill_tokens + load.decode_tokens for load in seen] == sizes.tolist()
    for load, start, size in zip(seen, a.step_ptr[:-1].tolist(), sizes.tolist(), strict=True):
        part = slice(start, start + size)
        assert load.decode_tokens == a.phase[part].sum()
        reads = a.phase[part] == 0
        assert load.context_tokens == (a.position[part][~reads] + 1).sum()
        first = dict(
            zip(a.request[part][reads][::-1].tolist(), a.position[part][reads][::-1].tolist(), strict=True)
        )
        assert (load.prompts, load.past_tokens) == (len(first), sum(first.values()))


def test_all_at_once_with_room_for_all():
    n, read, written = 20, 50, 30
    plan = schedule(generate_requests(n, "closed:64", read, written), Batcher(n * read, 64), 0.1)
    assert np.diff(plan.step_ptr).tolist() == [n * read] + [n] * (written - 1)
    np.testing.assert_allclose(plan.start_s, np.arange(written) * 0.1)


def test_one_long_prompt_is_read_in_chunks():
    plan = schedule(request_trace([3.0], [1000], [4]), Batcher(300, 8), 1.0)
    assert np.diff(plan.step_ptr).tolist() == [300, 300, 300, 100, 1, 1, 1]
    assert plan.start_s.tolist() == [3, 4, 5, 6, 7, 8, 9]


def test_mixed_steps_lose_nothing_to_decoding_and_prefill_first_stalls_it():
    requests = request_trace([0.0, 1.5], [4, 8], [6, 1])
    mixed = schedule(requests, Batcher(5, 4, MIXED), 1.0)
    # The second prompt fills what one decoded token leaves of 5.
    assert np.diff(mixed.step_ptr).tolist() == [4, 1, 5, 5, 1, 1]
    stalled = schedule(requests, Batcher(5, 4, PREFILL_FIRST), 1.0)
    assert np.diff(stalled.step_ptr).tolist() == [4, 1, 5, 3, 1, 1, 1, 1]
    assert stalled.phase[stalled.step_ptr[:-1]].tolist() == [0, 1, 0, 0, 1, 1, 1, 1]


def test_one_at_a_time_is_a_queue():
    requests = request_trace([0.0, 0.0, 50.0], [3, 5, 2], [2, 3, 1])
    plan = schedule(requests, Batcher(100, 1), 1.0)
    assert plan.request[plan.step_ptr[:-1]].tolist() == [0, 0, 1, 1, 1, 2]
    assert plan.start_s.tolist() == [0, 1, 2, 3, 4, 50]


def test_a_closed_loop_keeps_its_concurrency():
    requests = generate_requests(200, "closed:16", 10, parse_lengths("lognormal:40:0.5"), seed=1)
    plan = schedule(requests, Batcher(4096, 256), 0.01)
    step = np.repeat(np.arange(len(plan.start_s)), np.diff(plan.step_ptr))
    at_once = [len(np.unique(plan.request[step == i])) for i in range(len(plan.start_s))]
    assert max(at_once) == 16
    last_entry = step[np.flatnonzero(plan.request == 199)[0]]
    assert set(at_once[: last_entry + 1]) == {16}


def test_little_s_law():
    """Mean requests in service is arrival rate times time in service."""
    requests = generate_requests(20_000, "poisson:50", 1, 21, seed=3)
    plan = schedule(requests, Batcher(4096, 4096), 0.01)
    # One step reads the prompt and 20 decode; a request waits for the step under way to end first.
    sizes = np.diff(plan.step_ptr)
    busy = plan.seconds.sum()
    assert (sizes * plan.seconds).sum() == pytest.approx(20_000 * 21 * 0.01)
    idle = 1 - busy / plan.start_s[-1]
    # A busy period ends only if none arrived for 0.2 s, once in about e^10 gaps.
    assert idle < 0.01
    assert (sizes * plan.seconds).sum() / plan.start_s[-1] == pytest.approx(50 * 0.21, rel=0.03)


def test_a_clock_may_look_at_the_load():
    requests = request_trace([0.0, 0.0], [4, 4], [3, 2])
    plan = schedule(requests, Batcher(6, 4), lambda load: 1.0 + load.prefill_tokens)
    assert plan.seconds.tolist() == [7.0, 3.0, 1.0]
    assert plan.start_s.tolist() == [0.0, 7.0, 10.0]


@pytest.mark.parametrize("step_s", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_clocks(step_s):
    requests = request_trace([0.0], [1], [1])
    for clock in (step_s, lambda _: step_s):
        with pytest.raises(ConfigError, match="is no time of a step"):
            schedule(requests, Batcher(), clock)


def test_impossible_rules_are_all_named():
    with pytest.raises(ConfigError) as raised:
        Batcher(0, 5, "lifo")
    assert len(raised.value.faults) == 3
    with pytest.raises(ConfigError, match="every running request decodes in each step"):
        Batcher(10, 11)


def test_too_much_for_memory_is_refused_before_it_is_tried():
    huge = request_trace(np.zeros(100), np.full(100, 2**30), np.full(100, 1))
    with pytest.raises(ConfigError, match="fewer requests"):
        schedule(huge, Batcher(), 1.0)
