"""Two pools in steady state: closed forms, Little's law, what is conserved, and limits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.deployment import Deployment
from moesim.engine.disaggregated import BUSY, Side, disaggregated, hand_over_s
from moesim.engine.load import Load
from moesim.engine.traits import Traits
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import Precision

MANY = 10**9


class Worker:
    """A worker with invented times: prompts of `prompt` seconds, tokens of `token + slope x sequences`."""

    def __init__(self, prompt=0.1, token=0.01, slope=0.0, fit=1e9, per_request=0.0):
        self.prompt, self.token, self.slope = prompt, token, slope
        self.layout = Parallelism()
        self.traits = Traits(request_s=per_request, start_up=0.0)
        self.hardware = load_hardware("h100-sxm-8")
        self.room = SimpleNamespace(cache_budget_bytes=float(fit))

    def memory(self, *_):
        return self.room

    def cache_bytes(self, tokens):
        return np.ones(len(tokens))

    def decode(self, sequences, _):
        seconds = self.token + self.slope * sequences
        return SimpleNamespace(token_s=seconds, seconds=seconds, bound_s=seconds / 2)

    def prompts(self, input_len, _):
        # As long per prompt, however many there are.
        seconds = np.full(len(input_len), self.prompt)
        return seconds, seconds / 2, seconds


def load(concurrency, outputs=100.0, **fields):
    c = np.atleast_1d(np.asarray(concurrency, dtype=np.float64))
    fields = {"chunk_tokens": 1000.0, "max_sequences": 1e9} | fields
    return Load(np.full(len(c), 1000.0), np.full(len(c), float(outputs)), c, **fields)


def solve(concurrency, prefill=1, decode=1, outputs=100.0, **times):
    worker = Worker(**times)
    return disaggregated(Side(worker, prefill), Side(worker, decode), load(concurrency, outputs), 0.9)


def alone(**times):
    """Seconds before a request decodes, nobody in its way."""
    worker = Worker(**times)
    return worker.traits.request_s + worker.prompt + hand_over_s(worker, worker, np.ones(1))[0]


def rate_of(state, outputs=100.0):
    return state.running / (outputs * state.tpot_s)


def test_one_request_is_prefilled_handed_over_and_decodes():
    state = solve(1, prompt=0.5, token=0.02, per_request=0.003)
    before = alone(prompt=0.5, token=0.02, per_request=0.003)
    assert before == pytest.approx(0.503, abs=1e-4)
    assert state.ttft_s[0] == pytest.approx(before + 0.02)
    assert state.tpot_s[0] == pytest.approx(0.02)
    # It decodes 2 of its 2.5 seconds.
    assert state.running[0] == pytest.approx(2.0 / (before + 2.0))


def test_enough_prefill_workers_leave_a_lone_prefill():
    state = solve([1, 10, 1000], prefill=MANY, prompt=0.5, token=0.02)
    before = alone(prompt=0.5)
    assert state.ttft_s == pytest.approx(np.full(3, before + 0.02), rel=1e-6)
    assert state.running == pytest.approx(np.array([1, 10, 1000]) * 2.0 / (before + 2.0), rel=1e-6)


def test_prefill_workers_that_cannot_keep_up_set_the_rate():
    """3 prompts at once, 0.5 s each: 6 per second, whoever else waits. Each decodes for 2 s."""
    state = solve(10_000, prefill=3, prompt=0.5, token=0.02)
    assert rate_of(state)[0] == pytest.approx(6.0, rel=1e-3)
    assert state.running[0] == pytest.approx(12.0, rel=1e-3)
    assert state.ttft_s[0] == pytest.approx(10_000 / 6.0 - 99 * 0.02, rel=1e-3)


def test_full_decode_workers_set_the_rate():
    """2 workers that hold 8 each: 16 decode, for 2 s each; the others wait for a place."""
    state = solve(1000, prefill=MANY, decode=2, fit=8, token=0.02)
    assert state.limit[0] == 16
    assert state.running[0] == pytest.approx(16)
    assert rate_of(state)[0] == pytest.approx(8.0)
    assert state.ttft_s[0] == pytest.approx(1000 / 8.0 - 99 * 0.02)


def test_queue_is_that_of_m_d_1():
    """Many slow decoders in front of a fast prefill worker are nearly Poisson arrivals."""
    state = solve(1000, prefill=1, decode=1, outputs=1000, prompt=0.01, token=0.02)
    rate = rate_of(state, 1000)[0]
    busy = rate * 0.01
    assert 0.2 < busy < 0.9
    waited = state.ttft_s[0] - alone(prompt=0.01) - 0.02
    assert waited == pytest.approx(busy / (2 * (1 - busy)) * 0.01, rel=2e-3)


LOADS = {
    "concurrency": st.floats(1, 2000),
    "outputs": st.floats(2, 500),
    "prefill": st.integers(1, 50),
    "decode": st.integers(1, 20),
    "prompt": st.floats(1e-3, 2.0),
    "token": st.floats(1e-3, 0.1),
    "slope": st.floats(0.0, 1e-3),
    "fit": st.integers(1, 500),
}


@given(**LOADS)
def test_littles_law(concurrency, outputs, prefill, decode, **times):
    """All requests are somewhere: rate x residence is what the clients keep in the system."""
    state = solve(concurrency, prefill, decode, outputs, **times)
    residence = state.ttft_s + (outputs - 1.0) * state.tpot_s
    assert rate_of(state, outputs) * residence == pytest.approx(concurrency, rel=1e-3)
    assert state.running <= min(concurrency, state.limit[0]) * (1 + 1e-9)


@given(**LOADS)
def test_neither_pool_works_more_than_all_the_time(concurrency, outputs, prefill, decode, **times):
    state = solve(concurrency, prefill, decode, outputs, **times)
    assert rate_of(state, outputs) * state.prefill_s <= 1 + 1e-6
    assert state.ttft_s >= alone(**times) * (1 - 1e-9)


@given(more=st.integers(1, 50), **LOADS)
def test_more_prefill_workers_are_never_slower(more, concurrency, outputs, prefill, decode, **times):
    few = solve(concurrency, prefill, decode, outputs, **times)
    many = solve(concurrency, prefill + more, decode, outputs, **times)
    assert many.ttft_s <= few.ttft_s * (1 + 1e-6)
    assert rate_of(many, outputs) >= rate_of(few, outputs) * (1 - 1e-3)


@given(more=st.integers(1, 20), **LOADS)
def test_more_decode_workers_never_serve_fewer(more, concurrency, outputs, prefill, decode, **times):
    few = solve(concurrency, prefill, decode, outputs, **times)
    many = solve(concurrency, prefill, decode + more, outputs, **times)
    assert many.tpot_s <= few.tpot_s * (1 + 1e-2)
    assert rate_of(many, outputs) >= rate_of(few, outputs) * (1 - 1e-3)


@given(more=st.floats(1, 1000), **LOADS)
def test_more_clients_wait_longer_and_are_served_faster_together(
    more, concurrency, outputs, prefill, decode, **times
):
    state = solve([concurrency, concurrency + more], prefill, decode, outputs, **times)
    assert state.ttft_s[1] >= state.ttft_s[0] * (1 - 1e-3)
    assert state.tpot_s[1] >= state.tpot_s[0] * (1 - 1e-4)
    assert rate_of(state, outputs)[1] >= rate_of(state, outputs)[0] * (1 - 1e-3)


@given(**LOADS)
def test_alternatives_do_not_know_of_each_other(concurrency, outputs, prefill, decode, **times):
    together = solve([concurrency, 7.0, 900.0], prefill, decode, outputs, **times)
    one = solve(concurrency, prefill, decode, outputs, **times)
    assert together.ttft_s[0] == one.ttft_s[0]
    assert together.tpot_s[0] == one.tpot_s[0]


@given(**{name: LOADS[name] for name in ("outputs", "prompt", "token")}, scale=st.floats(0.1, 10.0))
def test_a_machine_twice_as_fast_halves_all_times(outputs, prompt, token, scale):
    """But for the hand-over, which is left out by one token of cache being nothing."""
    one = solve(100, 2, 2, outputs, prompt=prompt, token=token)
    other = solve(100, 2, 2, outputs, prompt=prompt * scale, token=token * scale)
    latency = hand_over_s(Worker(), Worker(), np.ones(1))[0]
    assert other.tpot_s == pytest.approx(scale * one.tpot_s)
    assert other.ttft_s == pytest.approx(scale * one.ttft_s, rel=1e-2, abs=10 * latency * (1 + scale))


@given(**{name: LOADS[name] for name in ("concurrency", "outputs", "prompt", "token", "slope")})
def test_workers_that_nobody_counted_are_enough(concurrency, outputs, prompt, token, slope):
    state = solve(concurrency, None, None, outputs, prompt=prompt, token=token, slope=slope, fit=64)
    assert state.limit >= concurrency
    workers = round(float((prompt / state.prefill_s)[0]))
    assert workers * state.prefill_s[0] == pytest.approx(prompt)
    busy = rate_of(state, outputs)[0] * prompt
    # As busy as was aimed at if all decoded at once; fewer do, and faster.
    assert busy < workers
    all_decode = alone(prompt=prompt) + outputs * (token + slope * concurrency / np.ceil(concurrency / 64))
    assert workers == max(np.ceil(concurrency / all_decode * prompt / BUSY), 1)


def real(layout, model="gpt-oss-20b"):
    m = load_model(model)
    return Deployment(m, load_hardware("h100-sxm-8"), layout, Precision.of(m, "auto", "fp8"))


@settings(max_examples=20, deadline=None)
@given(
    concurrency=st.sampled_from([1, 3, 16, 100, 1000, 5000]),
    inputs=st.sampled_from([200, 1000, 8000]),
    outputs=st.sampled_from([2, 100, 1000]),
    workers=st.tuples(st.integers(1, 8), st.integers(1, 4)),
)
def test_littles_law_of_real_workers(concurrency, inputs, outputs, workers):
    prefill, decode = Side(PREFILL, workers[0]), Side(DECODE, workers[1])
    traffic = Load(*(np.array([float(v)]) for v in (inputs, outputs, concurrency)))
    state = disaggregated(prefill, decode, traffic, 0.9)
    queued = traffic.queue_s(Traits(), np.array([concurrency - 1.0]), state.prefill_s)
    residence = state.ttft_s - queued + (outputs - 1.0) * state.tpot_s
    assert rate_of(state, outputs) * residence == pytest.approx(concurrency, rel=0.05)
    assert state.ttft_s >= state.bound_ttft_s
    assert state.tpot_s >= state.bound_tpot_s


PREFILL, DECODE = real(Parallelism(tp=2)), real(Parallelism(dp=4, ep=4))


@pytest.mark.parametrize(("first", "second"), [(1, 1), (8, 1), (1, 8), (4, 2), (2, 4)])
def test_a_sharded_cache_crosses_over_as_many_links_as_the_smaller_side_has(first, second):
    """gpt-oss-20b: 24 layers of 8 key-value heads of 64, in 8 bits."""
    a, b = real(Parallelism(tp=first)), real(Parallelism(tp=second))
    link = a.hardware.scale_out
    whole = float(real(Parallelism()).cache_bytes(np.array([1600.0]))[0])
    seconds = hand_over_s(a, b, np.array([1600.0]))[0] - link.latency_s
    rate = link.bandwidth_bytes_per_s * link.efficiency
    assert seconds == pytest.approx(whole / min(first, second) / rate)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (8, 1), (1, 8), (8, 8)])
def test_a_latent_cache_crosses_once_however_often_it_is_replicated(first, second):
    a, b = (real(Parallelism(tp=n), "deepseek-r1") for n in (first, second))
    link = a.hardware.scale_out
    seconds = hand_over_s(a, b, np.array([1600.0]))[0] - link.latency_s
    # 61 layers of 512 + 64 values of one byte.
    rate = link.bandwidth_bytes_per_s * link.efficiency
    assert seconds == pytest.approx(61 * 576 * 1600 / rate, rel=1e-6)


@given(tokens=st.integers(1, 1000))
def test_hand_over_grows_with_the_prompt(tokens):
    few, many = hand_over_s(PREFILL, DECODE, np.array([16.0 * tokens, 32.0 * tokens]))
    latency = PREFILL.hardware.scale_out.latency_s
    assert latency < few < many <= 2 * few
