"""Two streams on shares of a device's cores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.deployment import Deployment
from moesim.engine.routing import uniform
from moesim.engine.speculation import Speculation
from moesim.engine.streams import two_stream_layers, with_cores
from moesim.engine.timeline import makespan
from moesim.hardware import load_hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision

seconds = st.floats(min_value=0.0, max_value=10.0)


@given(seconds, seconds, st.integers(1, 9))
def test_layers_take_twice_the_longer_stream(attention, experts, layers):
    span = float(makespan(two_stream_layers(layers, np.array(attention), np.array(experts))))
    longer, shorter = max(attention, experts), min(attention, experts)
    assert span == pytest.approx(2 * layers * longer + shorter)


@given(st.floats(0.1, 0.9))
def test_two_streams_together_are_the_device(share):
    machine = load_hardware("cloudmatrix384")
    parts = [with_cores(machine, s) for s in (share, 1.0 - share)]
    for dtype, peak in machine.device.processor.peak_flops_per_s.items():
        assert sum(p.device.processor.peak_flops_per_s[dtype] for p in parts) == pytest.approx(peak)
    for part in parts:
        # The memory and what it costs to begin a transfer do not belong to cores.
        assert part.device.processor.bandwidth_bytes_per_s == machine.device.processor.bandwidth_bytes_per_s
        found, whole = (m.exchanges["low_latency"].dispatch.up for m in (part, machine))
        assert found.latency_s == whole.latency_s
    rates = [p.exchanges["low_latency"].combine.up.rate_bytes_per_s for p in parts]
    assert sum(rates) == pytest.approx(machine.exchanges["low_latency"].combine.up.rate_bytes_per_s)


@pytest.fixture(scope="module")
def deployment():
    """DeepSeek-V2-Lite on 64 dies of a supernode: small, with a shared expert and latent attention."""
    model = load_model("deepseek-v2-lite")
    return Deployment(
        model,
        load_hardware("cloudmatrix384").with_nodes(4),
        Parallelism(dp=64, ep=64),
        Precision.of(model, "int8"),
        uniform(model.num_experts, model.top_k),
        ExpertMap.contiguous(1, model.num_experts, 64),
        overlap="streams",
        samples=2,
    )


def test_streams_never_lose_and_never_beat_the_memory(deployment):
    many = np.array([1.0, 8.0, 64.0, 256.0])
    batch = Batch.decode(many, 4096.0)
    found = deployment.step(batch).seconds
    alone = deployment.sequential(batch, 1)
    assert (found <= alone.seconds).all()
    assert (found >= alone.bound_s).all()
    assert (found >= alone.memory_seconds() - 1e-12).all()
    # A large batch gains, a small one is left alone.
    assert found[0] == alone.seconds[0]
    assert found[-1] < alone.seconds[-1]


def test_one_split_is_as_the_closed_form_says(deployment):
    split, many = 0.5, np.array([256.0])
    one = replace(deployment, splits=(split,))
    batch = Batch.decode(many, 4096.0)
    attention, experts = one.stream_seconds(batch.half(), split)
    blocks = one.sequential(batch, 1).block_seconds()
    layers, every = len(one.model.moe_layer_ids), one.model.num_layers
    wanted = (
        2 * layers * np.maximum(attention, experts)
        + np.minimum(attention, experts)
        + blocks["attention"] / every * (every - layers)
        + blocks["other"]
    )
    assert one.step(batch).seconds == pytest.approx(np.minimum(wanted, sum(blocks.values())))
    # More splits to choose from are never worse.
    assert deployment.step(batch).seconds <= one.step(batch).seconds + 1e-12


def test_kernels_that_are_fused_start_once(deployment):
    batch = Batch.decode(np.array([4.0]), 1024.0)
    plain, fused = (
        replace(deployment, fused=names).sequential(batch, 1)
        for names in (frozenset(), frozenset(("rope_cache_write",)))
    )
    floor = deployment.hardware.device.processor.efficiency_of("elementwise", "bf16").floor_s
    saved = plain.seconds - fused.seconds
    assert saved == pytest.approx(deployment.model.num_layers * floor)


def test_what_stands_for_every_layer_stands_for_the_draft(deployment):
    drafting = replace(deployment, speculation=Speculation(1, 0.7))
    assert drafting.draft.plan is drafting.plan
    assert drafting.draft.source is drafting.source
