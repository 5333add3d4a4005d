"""Pools of instances, reuse of prompts, and resharding of attention."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.deployment import Deployment
from moesim.engine.routing import uniform
from moesim.errors import InfeasibleError
from moesim.hardware import load_hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model import load_model
from moesim.ops import Precision
from moesim.supernode import (
    Pool,
    best_split,
    load_seconds,
    prefill_times,
    resharding_s,
    service_rate,
    with_reuse,
)

rate = st.floats(0.5, 100.0)


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 9), rate, rate)
def test_the_best_split_is_that_of_all_splits(devices, per_prefill, per_decode, a, b):
    if devices < per_prefill + per_decode:
        with pytest.raises(InfeasibleError):
            best_split(devices, Pool(per_prefill, a), Pool(per_decode, b))
        return
    found = best_split(devices, Pool(per_prefill, a), Pool(per_decode, b))
    every = [
        (min(p * a, d * b), -(p * per_prefill + d * per_decode))
        for p, d in product(range(1, devices + 1), repeat=2)
        if p * per_prefill + d * per_decode <= devices
    ]
    best, fewest = max(every)
    assert found.requests_per_s == pytest.approx(best)
    assert found.devices <= -fewest or found.requests_per_s > best * (1 - 1e-12)
    assert found.devices == found.prefill * per_prefill + found.decode * per_decode <= devices


@given(st.floats(0.05, 0.95), st.floats(1e6, 1e12))
def test_a_rate_that_is_fitted_gives_back_its_gain(share, bandwidth):
    def step(new, past):
        return new * 1e-4 + new * past * 1e-9

    found = with_reuse(step, 4096.0, share, 1e9, bandwidth)
    gain = step(4096.0, 0.0) / found.seconds
    assert service_rate(gain, share, step, 4096.0, 1e9) == pytest.approx(bandwidth, rel=1e-3)


def test_no_rate_explains_a_gain_that_computing_forbids():
    with pytest.raises(ValueError, match="longer"):
        service_rate(3.0, 0.5, lambda new, _: new, 100.0, 1.0)


def test_a_pool_reads_the_store_once():
    alone = load_seconds(100.0, 5, 2.0, 1e9, pooled=False)
    assert alone == pytest.approx(5 * load_seconds(100.0, 1, 2.0, 1e9, pooled=False))
    assert load_seconds(100.0, 5, 2.0, 1e9, pooled=True) == pytest.approx(alone / 5, rel=1e-6)


@pytest.fixture(scope="module")
def instance():
    model = load_model("deepseek-v2-lite")
    return Deployment(
        model,
        load_hardware("cloudmatrix384"),
        Parallelism(dp=16, ep=16),
        Precision.of(model, "int8"),
        uniform(model.num_experts, model.top_k),
        ExpertMap.contiguous(1, model.num_experts, 16),
        samples=2,
    )


def test_resharding_moves_latents_to_all_and_outputs_once(instance):
    attention, tokens, ranks = instance.model.layers[0].attention, 1024.0, 16
    link = instance.hardware.scale_up
    busbw = link.bandwidth_bytes_per_s * link.efficiency
    queries = attention.heads * (attention.nope_dim + attention.rope_dim)
    gathered = ranks * tokens * (queries + attention.kv_rank + attention.rope_dim) * 2.0
    exchanged = tokens * attention.heads * attention.v_dim * 2.0
    wanted = (gathered + exchanged) * (ranks - 1) / ranks / busbw
    steps = np.log2(ranks) + 1
    assert resharding_s(instance, tokens) == pytest.approx(wanted + steps * link.latency_s)


def test_micro_batches_lie_between_the_busier_lane_and_the_sum(instance):
    found = prefill_times(instance, 2.0, 4096.0)
    assert found.resharding_s < found.overlapped_s < found.alone_s
    assert 1.0 < found.gain < 2.0
    cached = prefill_times(instance, 2.0, 2048.0, 2048.0)
    # Half of the tokens, but each still attends to all before it.
    assert found.alone_s / 2 < cached.alone_s < found.alone_s
