"""Duplex stages: nothing is lost, more processors never hurt, limits that can be written down."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.routing import uniform
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.near import MODES, Mix, System, Traffic, expert_layer, joules, stages

HARDWARE, MIXTRAL = load_hardware("h100-duplex-4"), load_model("mixtral-8x7b")
SOURCE = uniform(8, 2, 8)


@given(st.lists(st.integers(0, 300), min_size=8, max_size=8), st.sampled_from([4, 8, 16]))
@settings(max_examples=40)
def test_coprocessing_is_never_slower_and_bytes_and_flops_are_the_same(tokens, devices):
    n = np.array([tokens], dtype=np.float64)
    found = {mode: expert_layer(n, System(MIXTRAL, HARDWARE, devices, mode)) for mode in MODES}
    # The partial sums of the stacks come on top of the experts.
    sums = 2.0 * 4096 * 5 * n.sum() / HARDWARE.device.memory.bandwidth_bytes_per_s / 0.9
    assert found["coprocess"].seconds <= found["gpu"].seconds + sums
    assert found["coprocess"].seconds <= found["duplex"].seconds + sums
    for f in found.values():
        assert f.flops == pytest.approx(n.sum() * 2 * 3 * 4096 * 14336)
        weights = (n > 0).sum() * 3 * 4096 * 14336 * 2
        assert f.main_bytes + f.near_bytes >= weights * (1 - 1e-12)
    assert found["gpu"].near_bytes == 0


def test_a_lone_expert_near_the_memory_takes_its_bytes_over_the_bandwidth_inside():
    n = np.zeros((1, 8))
    n[0, 0] = 1
    system = System(MIXTRAL, HARDWARE, 4, "duplex")
    weights = 3 * 4096 * 14336 * 2
    assert expert_layer(n, system).seconds == pytest.approx(weights / (13.4e12 * 0.694), rel=2e-3)
    cut = expert_layer(n, System(MIXTRAL, HARDWARE, 4, "tensor"))
    assert cut.seconds == pytest.approx(weights / 4 / (13.4e12 * 0.694), rel=1e-2)


def test_a_pim_helps_most_where_a_stage_only_decodes():
    def gain(traffic):
        gpu, ours = (
            Mix.of(System(MIXTRAL, HARDWARE, 4, mode), traffic, SOURCE) for mode in ("gpu", "tensor")
        )
        return gpu.mean() / ours.mean()

    assert 1 < gain(Traffic(32, 256, 256)) < gain(Traffic(32, 256, 4096)) < 5


def test_prompts_are_read_beside_decoding():
    arrays = [np.array([a]) for a in (60.0, 2048.0, 1.0, 1024.0)]
    alone, both = (stages(System(MIXTRAL, HARDWARE, 4, m), *arrays, SOURCE) for m in ("duplex", "coprocess"))
    none = [np.array([a]) for a in (60.0, 2048.0, 0.0, 1.0)]
    decode = stages(System(MIXTRAL, HARDWARE, 4, "duplex"), *none, SOURCE).attention_s
    prefill = alone.attention_s - decode
    assert both.attention_s == pytest.approx(np.maximum(prefill, decode))


def test_parts_of_a_stage_add_up_and_energy_follows_the_bytes():
    system = System(MIXTRAL, HARDWARE, 4, "tensor")
    found = Mix.of(system, Traffic(64, 1024, 1024), SOURCE).stages
    rest = found.seconds - found.attention_s - found.experts_s - found.links_s
    assert (rest > 0).all()
    pj = (3.59 + 0.3 + 0.16) * 8 * found.main_bytes + 1.92 * 8 * found.near_bytes + 0.23 * found.flops
    assert joules(found, HARDWARE) == pytest.approx(1e-12 * (pj + 1.3 * 8 * found.link_bytes))


def replayed(traffic, count, rng):
    """Prompts in each stage when requests end one by one and others take their place."""
    lengths = np.maximum(rng.normal(traffic.output_len, traffic.output_len / 5, count * 4).round(), 2)
    left = lengths[: traffic.requests] * rng.random(traffic.requests)
    upcoming = iter(lengths[traffic.requests :])
    prompts = []
    for _ in range(count):
        ended = left <= 0
        prompts.append(ended.sum())
        left = np.where(ended, [next(upcoming) if e else 0.0 for e in ended], left - 1)
    return np.array(prompts)


def test_prompts_per_stage_are_as_frequent_as_in_a_replay():
    traffic = Traffic(64, 512, 128)
    prompts = replayed(traffic, 4000, np.random.default_rng(0))
    found = np.bincount(np.minimum(prompts, 3), minlength=4) / len(prompts)
    assert traffic.shares.sum() == pytest.approx(1)
    # A request takes its prompt's stage too.
    assert found == pytest.approx(traffic.shares, abs=0.02)
    weights = np.arange(4)
    assert (found * weights).sum() == pytest.approx((traffic.shares * weights).sum(), rel=0.03)


def test_quantiles_and_capacity_are_those_of_the_stages():
    mix = Mix.of(System(MIXTRAL, HARDWARE, 4, "gpu"), Traffic(64, 256, 1024), SOURCE)
    times = mix.stages.seconds
    assert mix.quantile(0.5) == times[0]
    assert mix.quantile(0.5, first=True) == times[1]
    assert mix.quantile(0.999) in (times[1], times[2])
    assert mix.requests_per_s * mix.end_to_end_s == pytest.approx(64)


def waiting(system, rate, most, input_len, output_len, count, rng):
    """Mean wait for a place of the last quarter of `count` requests that arrive at a rate, stage by stage."""
    sizes = np.array([0.0, 1, 4, 16, most / 2, most])
    table = {}
    for prompts in range(4):
        wide = np.ones(len(sizes))
        context = (input_len + output_len / 2) * wide
        found = stages(system, sizes, context, prompts * wide, input_len * wide, SOURCE)
        table[prompts] = found.seconds
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    clock, came, started = 0.0, 0, []
    left = np.zeros(0, dtype=np.int64)
    while len(started) < count:
        if not len(left) and came < count:
            clock = max(clock, arrivals[came])
        new = 0
        while came < count and arrivals[came] <= clock and len(left) + new < most and new < 3:
            started.append(clock)
            came, new = came + 1, new + 1
        clock += float(np.interp(len(left), sizes, table[new]))
        left = np.append(left - 1, np.full(new, output_len - 1))
        left = left[left > 0]
    return float(np.mean((np.array(started) - arrivals)[-count // 4 :]))


def test_queues_grow_beyond_the_requests_that_can_be_served_and_not_below():
    system, traffic = System(MIXTRAL, HARDWARE, 4, "tensor"), Traffic(32, 1024, 64)
    limit = Mix.of(system, traffic, SOURCE).requests_per_s
    calm, full = (
        waiting(system, share * limit, 32, 1024, 64, 600, np.random.default_rng(0)) for share in (0.85, 1.3)
    )
    stage = 1 / limit * 32 / 64
    assert calm < 64 * stage
    # Of n requests that came 1.3 times too fast, (1 - 1 / 1.3) n are still ahead of the last one.
    assert full > 0.1 * 600 / limit * (1 - 1 / 1.3)
