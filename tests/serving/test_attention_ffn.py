"""Attention and experts on workers of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.deployment import Deployment
from moesim.engine.timeline import Task, makespan
from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision
from moesim.prediction import Engine
from moesim.requests import request_trace
from moesim.serving.attention_ffn import Pools, hidden_s, micro_batches, pools_prices, serve_pools
from moesim.serving.check import seconds_of_all
from moesim.serving.kernel.overlap import ping_pong_s
from moesim.serving.parts import DECODE, Parts
from moesim.serving.settings import Scheduler
from moesim.serving.state import CONTEXT, LOADS, QUERIES, SEQUENCES

BUDGET, MOST, LONGEST = 2048, 512, 8192
MODEL = load_model("deepseek-v3")
seconds = st.floats(1e-6, 1e-2)


def pools(workers=16, experts=32, micro=3, hardware="h200-sxm-8", **changes):
    machine = load_hardware(hardware, nodes=8)
    precision = Precision.of(MODEL, "auto", "auto")
    one = Deployment(MODEL, machine, Parallelism(dp=workers), precision)
    other = Deployment(MODEL, machine, Parallelism(dp=experts, ep=experts), precision)
    return Pools(one, other, micro, **changes)


def decode(workers, sequences, context=2000.0):
    rows = np.zeros((len(sequences), workers, LOADS))
    rows[:, :, SEQUENCES] = rows[:, :, QUERIES] = np.asarray(sequences, float)[:, None]
    rows[:, :, CONTEXT] = rows[:, :, SEQUENCES] * context
    return rows


@given(st.integers(1, 40), st.integers(1, 6), seconds, seconds, seconds, seconds)
def test_micro_batches_as_on_a_timeline(layers, micro, attention, there, experts, back):
    def tasks():
        for layer in range(layers):
            for i in range(micro):
                before = (f"b{layer - 1}.{i}",) if layer else ()
                for name, s, after in (
                    ("a", attention, before),
                    ("t", there, (f"a{layer}.{i}",)),
                    ("e", experts, (f"t{layer}.{i}",)),
                    ("b", back, (f"e{layer}.{i}",)),
                ):
                    yield Task(f"{name}{layer}.{i}", name, np.array([s]), after)

    found = ping_pong_s(layers, micro, attention, there, experts, back)
    # A stream takes its tasks in the order in which they are listed: micro-batches in turn.
    assert found == pytest.approx(makespan(tasks())[0], rel=1e-9)


@given(st.integers(1, 60), seconds, seconds, st.floats(0.0, 0.99), st.integers(0, 3))
def test_hidden_ways_take_what_the_paper_says(layers, attention, experts, share, more):
    way = share * max(attention, experts)
    # As many as equation 3 asks for, by the same T_f.
    micro = micro_batches(attention, experts, way) + more
    found = ping_pong_s(layers, micro, attention, way, experts, way)
    assert found == pytest.approx(hidden_s(attention, experts, way, micro, layers), rel=1e-9)


@given(st.integers(1, 40), st.integers(1, 6), seconds, seconds, seconds)
def test_no_schedule_beats_its_busiest_stream_or_one_micro_batch(layers, micro, attention, experts, way):
    found = ping_pong_s(layers, micro, attention, way, experts, way)
    assert found >= layers * micro * max(attention, experts, way) * (1 - 1e-12)
    assert found >= layers * (attention + experts + 2 * way) * (1 - 1e-12)
    assert found <= layers * micro * (attention + experts + 2 * way) * (1 + 1e-12)


def test_many_micro_batches_of_equal_halves_keep_both_busy():
    layers = 60
    shares = [ping_pong_s(layers, m, 1e-3, 2e-4, 1e-3, 2e-4) / (layers * m * 1e-3) for m in (1, 2, 3, 6)]
    assert shares[0] == pytest.approx(2.4)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1.01


def test_a_step_is_made_of_both_pools():
    found = pools()
    prices = pools_prices(found, BUDGET, MOST, LONGEST, Scheduler())
    parts, layers, moe = Parts(found.attention), 61, 58
    many = np.array([30.0, 90.0, 300.0])
    each = many / 3.0
    dense = parts.dense(each)
    attention = dense[0] + dense[1] - parts.shared(each) + parts.decoding(each, np.full(3, 2000.0))
    ways = found.experts_s(16.0 * each, DECODE) / moe
    outside = dense[2] + parts.heads(each)
    by_hand = [
        3.0 * (a / layers * 3 + o) + ping_pong_s(moe, 3, a / layers, *w)
        for a, o, w in zip(attention, outside, ways.T, strict=True)
    ]
    np.testing.assert_allclose(seconds_of_all(prices, decode(16, many)), by_hand, rtol=0.01)


def test_nothing_beats_what_the_devices_can_do():
    """All arithmetic and all bytes of either pool at its peak, with perfect overlap."""
    found = pools()
    prices = pools_prices(found, BUDGET, MOST, LONGEST, Scheduler())
    many = np.array([1.0, 7.0, 64.0, 500.0])
    batch = Batch.decode(many, 2000.0)
    step = found.attention.step(batch)
    own = [not op.name.startswith("shared_") for op, _ in step.work.table.ops]
    counts = step.work.table.counts[own]
    bounds = [(counts * peak[own]).sum(axis=0) for peak in (step.ops.peak_compute_s, step.ops.peak_memory_s)]
    held = found.experts.step(Batch.decode(many / 2.0, 2000.0))
    device = found.experts.hardware.device
    bandwidth = device.processor.bandwidth_bytes_per_s[device.memory.name]
    bounds.append(held.expert_mean("mean_bytes") / bandwidth)
    ours = seconds_of_all(prices, decode(16, many))
    assert (ours >= np.max(bounds, axis=0)).all()


def test_three_micro_batches_beat_one_where_batches_are_large():
    """And cost where they are small: every micro-batch reads the weights anew."""
    many = [8.0, 256.0]
    found = {
        m: seconds_of_all(pools_prices(pools(micro=m), BUDGET, MOST, LONGEST, Scheduler()), decode(16, many))
        for m in (1, 3)
    }
    assert found[3][1] < found[1][1]
    assert found[3][0] > found[1][0]


def test_more_workers_of_experts_shorten_experts_but_not_attention():
    batch = np.array([4096.0])
    few, many = (pools(experts=n).experts_s(batch, DECODE) for n in (16, 32))
    assert many[1] < few[1]


def test_faster_links_are_never_slower():
    slow = pools()
    quick = replace(slow.attention.hardware.scale_out, bandwidth_bytes_per_s=1e12)
    machine = replace(slow.attention.hardware, scale_out=quick)
    fast = Pools(*(replace(d, hardware=machine) for d in (slow.attention, slow.experts)))
    tokens = np.array([1.0, 100.0, 5000.0])
    assert (fast.way_s(tokens, DECODE) <= slow.way_s(tokens, DECODE)).all()
    loads = decode(16, [4.0, 64.0, 400.0])
    slow_s, fast_s = (
        seconds_of_all(pools_prices(p, BUDGET, MOST, LONGEST, Scheduler()), loads) for p in (slow, fast)
    )
    assert (fast_s <= slow_s * 1.001).all()


def test_workers_of_attention_hold_no_experts():
    found = pools()
    memory = found.attention.memory(BUDGET, 0.9)
    room = found.cache_bytes(BUDGET, 0.9)
    assert room > memory.cache_budget_bytes
    assert room < memory.budget_bytes
    assert found.blocks(4096, BUDGET, 0.9) > 1000


def test_a_fleet_of_pools_serves():
    found = pools(workers=8, experts=16)
    trace = request_trace(np.arange(60) * 0.02, np.full(60, 500), np.full(60, 40))
    outcome = serve_pools(found, trace)
    assert outcome.done.all()
    # Later tokens take a step each, of which none beats a step of one sequence.
    prices = pools_prices(found, 8192, 1024, 1024, Scheduler())
    alone = decode(8, [1.0], 500.0)
    alone[:, 1:] = 0.0
    assert (outcome.tpot_s >= 0.99 * seconds_of_all(prices, alone)).all()
    with pytest.raises(InfeasibleError):
        serve_pools(found, request_trace([0.0], [60_000], [4]), engine=Engine(memory_utilisation=0.11))


def test_pools_that_do_not_fit_together():
    good = pools()
    other = replace(good.experts, model=load_model("qwen3-235b-a22b"))
    with pytest.raises(ConfigError) as found:
        Pools(replace(good.attention, overlap="two-batch"), replace(other, layout=Parallelism(dp=8)), 0)
    assert len(found.value.faults) == 4
