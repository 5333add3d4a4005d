"""A trace through a composition on a box: what users see, and what must not change it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.offload import Box, run
from moesim.offload.latency import latency_of
from moesim.policy import Composition, Constant, Executor, Residency, Transfer, token_steps
from moesim.policy.placements import Popular
from moesim.policy.predictors import oracle
from moesim.residency import replay
from moesim.trace import RoutingTrace, load_trace

LAYERS, EXPERTS, TOP_K = 24, 32, 4


def routing(tokens: int = 40, seed: int = 0, prefill: int = 0) -> RoutingTrace:
    rng = np.random.default_rng(seed)
    # Popular experts, and persistence from token to token.
    ids = np.argsort(rng.random((tokens, LAYERS, EXPERTS)) + np.arange(EXPERTS) / 20, axis=2)[:, :, :TOP_K]
    for t in range(1, tokens):
        stay = rng.random(LAYERS) < 0.5
        ids[t, stay] = ids[t - 1, stay]
    half = tokens // 2
    request = np.repeat([0, 1], [half, tokens - half]).astype(np.int32)
    position = np.concatenate([np.arange(half), np.arange(tokens - half)]).astype(np.int32)
    phase = (position >= prefill).astype(np.int8)
    return RoutingTrace(ids.astype(np.uint8), request, EXPERTS, tuple(range(LAYERS)), position, phase)


@pytest.fixture(scope="module")
def box():
    return Box.of(load_hardware("rtx-4090-workstation"), load_model("gpt-oss-20b"))


def test_everything_resident_never_stalls(box):
    trace = routing(prefill=3)
    found = run(Composition(Residency(start="first")), trace, box, slots=LAYERS * EXPERTS)
    assert found.hit_ratio == 1.0
    assert found.seconds == pytest.approx(found.bounds["no_stall"], rel=1e-9)
    assert found.tpot_s == pytest.approx(found.bounds["tpot_s"], rel=1e-9)
    assert found.ttft_s == pytest.approx(found.bounds["ttft_s"], rel=1e-9)
    assert sum(found.stalls.values()) == 0.0
    assert found.bytes_moved == {"to_device": 0.0, "from_device": 0.0, "storage": 0.0}


def test_hits_are_those_of_the_cache_replay_and_bytes_those_of_the_misses(box):
    trace = routing()
    for rule in ("lru", "lfu", "belady"):
        residency = Residency(rule, lookup="token_batch")
        found = run(Composition(residency), trace, box, slots=LAYERS * 8)
        expected = replay(token_steps(trace), residency, np.full(LAYERS, 8))
        np.testing.assert_array_equal(found.counts["hits"], expected.hits)
        assert found.bytes_moved["to_device"] == (found.accesses - found.hits) * 13219200.0
        assert found.seconds >= found.bounds["belady"] >= found.bounds["no_stall"] * (1 - 1e-9)


def test_a_faster_link_helps_and_changes_no_hit(box):
    trace = routing()
    slow = run(Composition(), trace, box, slots=LAYERS * 8)
    twice = replace(box, to_device=replace(box.to_device, bytes_per_s=2 * box.to_device.bytes_per_s))
    fast = run(Composition(), trace, twice, slots=LAYERS * 8)
    assert fast.hits == slow.hits
    assert fast.seconds < slow.seconds
    # Loads take half as long, up to latency: so does waiting for them, at least.
    saved = slow.stalls["to_device"] - fast.stalls["to_device"]
    assert saved >= 0.45 * slow.stalls["to_device"]


def test_an_oracle_one_layer_ahead_waits_less_than_demand(box):
    trace = routing()
    demand = run(Composition(Residency(lookup="token_batch")), trace, box, slots=LAYERS * 8)
    ahead = Composition(
        Residency(lookup="token_batch"), Transfer(width=TOP_K), predictor=oracle(1, wrap=False)
    )
    found = run(ahead, trace, box, slots=LAYERS * 8)
    assert found.hit_ratio > demand.hit_ratio
    assert found.tpot_s < demand.tpot_s
    assert found.total("useful") == found.total("prefetched")
    assert found.bounds["belady"] is None
    assert found.seconds >= found.bounds["link"]


def test_a_cpu_that_runs_what_is_missing_moves_nothing(box):
    trace = routing()
    composition = Composition(Residency("static", start="first"), executor=Executor("mask"))
    found = run(composition, trace, box, slots=LAYERS * 8)
    assert found.loads == 0
    assert found.total("on_cpu") == found.accesses - found.hits > 0
    assert found.busy["cpu"] > 0
    assert found.bytes_moved["to_device"] == 0.0
    assert found.busy["gpu"] + sum(found.stalls.values()) == pytest.approx(found.seconds)


def test_fewer_bits_move_fewer_bytes(box):
    trace = routing()
    eight = run(Composition(precision=Constant(8.0)), trace, box, slots=LAYERS * 8)
    four = run(Composition(precision=Constant(4.0)), trace, box, slots=LAYERS * 8)
    assert four.bytes_moved["to_device"] == pytest.approx(eight.bytes_moved["to_device"] / 2)
    assert four.seconds < eight.seconds


def test_storage_is_slower_than_host_memory(box):
    trace = routing()
    stored = Box.of(box.hardware, box.model, backing="storage")
    near, far = (run(Composition(), trace, b, slots=LAYERS * 8) for b in (box, stored))
    assert far.hits == near.hits
    assert far.bytes_moved["storage"] == far.bytes_moved["to_device"] == near.bytes_moved["to_device"]
    assert far.stalls["storage"] > 0
    assert far.seconds > near.seconds


def test_latencies_of_two_requests():
    trace = routing(6, prefill=2)
    # Each request: two prefill tokens, one decoded one; steps end at 1, 3, 6, 10, 15, 21.
    found = latency_of(np.array([1.0, 3.0, 6.0, 10.0, 15.0, 21.0]), token_steps(trace), trace)
    assert found.ttft_s == pytest.approx((3.0 + 9.0) / 2)
    assert found.tpot_s == pytest.approx((3.0 + 6.0) / 2)
    assert found.output_tokens == 4
    assert found.output_throughput == pytest.approx(4 / 21.0)
    alone = latency_of(np.arange(1.0, 7.0), token_steps(routing(6)), routing(6))
    assert alone.ttft_s is None
    assert alone.tpot_s == pytest.approx(1.0)


def test_faults_come_together(box):
    trace = routing()
    wrong = Composition(Residency("lfu", parameters={"alpha": 1.0}), Transfer(channels=2, preemptible=True))
    with pytest.raises(ConfigError) as found:
        run(wrong, trace, Box.of(box.hardware, load_model("mixtral-8x7b")), spares=0)
    assert len(found.value.faults) >= 5
    with pytest.raises(ConfigError):
        run(Composition(), trace, box, slots=np.array([1, 2]))
    with pytest.raises(ConfigError):
        run(Composition(Residency(start="popular")), trace, box)
    with pytest.raises(ConfigError):
        run(Composition(placement=Popular()), trace, box)


def test_real_decoding_keeps_all_laws(shared, box):
    whole = load_trace(shared("traces/gpt-oss-20b/decode.npz"))
    rows = slice(0, 1500)
    trace = replace(
        whole,
        topk_ids=whole.topk_ids[rows],
        request=whole.request[rows],
        position=whole.position[rows],
        phase=whole.phase[rows],
        topk_weights=None,
        token_id=None,
    )
    previous = np.inf
    for slots in (4, 8, 16):
        lru = run(Composition(Residency(lookup="token_batch")), trace, box, slots=LAYERS * slots)
        best = run(Composition(Residency("belady", lookup="token_batch")), trace, box, slots=LAYERS * slots)
        assert best.hits >= lru.hits
        assert lru.tpot_s <= previous
        previous = lru.tpot_s
        for found in (lru, best):
            assert found.seconds >= found.bounds["belady"] >= found.bounds["no_stall"] * (1 - 1e-9)
            assert found.busy["gpu"] + sum(found.stalls.values()) == pytest.approx(found.seconds)
