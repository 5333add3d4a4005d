"""Decoding in one attention kernel with prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.engine.deployment import Deployment
from moesim.engine.traits import OVER_BRIDGE, Traits
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision, step_work
from moesim.ops.attention import MIXED, MIXED_ROWS
from moesim.serving.kernel.price import seconds_of
from moesim.serving.pricing import prices_of
from moesim.serving.settings import Scheduler
from moesim.serving.state import CONTEXT, LOADS, QUERIES, SEQUENCES

MODEL, MACHINE = load_model("llama-3.1-8b"), load_hardware("rtx-pro-6000-8")


def deployment(backend="vllm", hardware=MACHINE, **options):
    return Deployment(MODEL, hardware, Parallelism(), Precision.of(MODEL), backend=backend, **options)


def flops(batch, together):
    work = step_work(MODEL, Parallelism(), batch, Precision.of(MODEL), together=together)
    return {op.name + op.kind: np.asarray(op.flops) for op, _ in work.table.ops}, work


def test_a_query_takes_a_tile():
    batch = Batch.of(sequences=np.array([8.0, 8.0]), context=100.0, prompts=np.array([0.0, 1.0]), chunk=16.0)
    apart, _ = flops(batch, False)
    mixed, work = flops(batch, True)
    decode = "attentionattention_decode"
    assert mixed[decode].tolist() == [apart[decode][0], 0.0]
    assert mixed[MIXED + "attention_prefill"].tolist() == [0.0, MIXED_ROWS * apart[decode][1]]
    # The cache is read once either way.
    cache = [sum(np.sum(op.cache_bytes) for op, _ in w.table.ops) for w in (work, flops(batch, False)[1])]
    assert cache[0] == pytest.approx(cache[1])


def test_steps_without_prompts_are_as_they_were():
    batch = Batch.decode(8.0, 100.0)
    assert MIXED not in " ".join(flops(batch, True)[0])


def test_only_where_it_was_measured():
    assert deployment().one_attention
    assert not deployment("sglang").one_attention
    assert not deployment(hardware=load_hardware("h100-sxm-8")).one_attention


def test_decoding_beside_a_prompt_is_dearer_on_fa2():
    batch = Batch.of(sequences=128.0, context=1384.0, prompts=1.0, chunk=16.0)
    alone = Batch.decode(128.0, 1384.0)
    ours = [{e.op: float(e.seconds[0]) for e in deployment().step(b).entries()} for b in (alone, batch)]
    # By the tables 836 and 507 us for each of 32 layers.
    assert ours[0]["attention"] == pytest.approx(32 * 507.3e-6, rel=0.05)
    assert ours[1][MIXED] == pytest.approx(32 * 836.2e-6, rel=0.12)


def test_collectives_over_a_host_bridge():
    traits = Traits(communication=1.5, over_bridge=OVER_BRIDGE["vllm"])
    two = Deployment(MODEL, MACHINE, Parallelism(tp=2), Precision.of(MODEL), backend="vllm", traits=traits)
    plain = replace(two, traits=Traits())
    batch = Batch.decode(64.0, 1000.0)
    seconds = [{e.op: e.seconds for e in d.step(batch).entries()}["all_reduce"] for d in (two, plain)]
    assert seconds[0] / seconds[1] == pytest.approx(OVER_BRIDGE["vllm"])
    assert traits.on(load_hardware("h100-sxm-8").scale_up).communication == 1.5


def test_vllm_gathers_tokens_where_no_exchange_is_known():
    model = load_model("qwen3-30b-a3b")
    layout = Parallelism(dp=2, ep=2)
    batch = Batch.decode(64.0, 1000.0)
    found = {}
    for backend in ("vllm", "sglang"):
        d = Deployment(model, MACHINE, layout, Precision.of(model), backend=backend)
        found[backend] = {e.op: float(e.seconds[0]) for e in d.step(batch).entries()}
    # Half of 128 vectors of 2048 in 16 bits cross, whatever experts they go to.
    fit = MACHINE.scale_up.collectives["all_gather"][0]
    each = fit.alpha_s + 64 * 2048 * 2 / fit.busbw_bytes_per_s
    assert found["vllm"]["dispatch"] == pytest.approx(48 * each, rel=1e-6)
    assert found["vllm"]["dispatch"] < found["sglang"]["dispatch"]


def test_gathered_tokens_wait_for_the_fullest_lane():
    model = load_model("qwen3-30b-a3b")
    d = Deployment(
        model, MACHINE, Parallelism(dp=2, ep=2), Precision.of(model), backend="vllm", traits=Traits()
    )
    prices = prices_of(d, 1024, 128, 2048, Scheduler())
    assert prices.gathered
    loads = np.zeros((2, LOADS))
    for lane, sequences in enumerate((100.0, 20.0)):
        loads[lane, [SEQUENCES, QUERIES, CONTEXT]] = sequences, sequences, 1000.0 * sequences
    uneven = seconds_of(prices, loads, 0)
    mean = seconds_of(prices._replace(gathered=False), loads, 0)
    # 80 vectors more cross either way than if lanes were even at 60: 40 more than half of 120.
    fit = [MACHINE.scale_up.collectives[name][0] for name in ("all_gather", "reduce_scatter")]
    more = 48 * 40 * 2048 * 2 * sum(1.0 / f.busbw_bytes_per_s for f in fit)
    assert uneven - mean == pytest.approx(more, rel=0.02)
