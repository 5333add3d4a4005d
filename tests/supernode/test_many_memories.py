"""Whole models in two memories, weights on chips, and servers at the edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import load_trace
from moesim.errors import InfeasibleError
from moesim.files import data_dir
from moesim.hardware import load_hardware
from moesim.model import load_model, params
from moesim.offload import Box, run
from moesim.policy import Composition, Residency
from moesim.supernode import Servers, Tiers, batch_s, chips_for, choose, choose_all, hit_share, on_chips


@given(st.integers(2, 80), st.integers(1, 80))
@settings(max_examples=15)
def test_without_preference_the_cache_hits_its_share(experts, slots):
    found = hit_share(experts, slots)
    assert found == pytest.approx(min(slots / experts, 1.0), abs=0.05)


def test_preference_raises_hits_and_matches_the_approximation_of_che():
    experts, slots = 150, 38
    found = [hit_share(experts, slots, skew) for skew in (0.0, 0.5, 1.0)]
    assert found[0] < found[1] < found[2]
    share = 1.0 / np.arange(1, experts + 1)
    share /= share.sum()
    low, high = 0.0, 1e6
    for _ in range(100):
        time = (low + high) / 2
        low, high = (time, high) if (1 - np.exp(-share * time)).sum() < slots else (low, time)
    assert found[2] == pytest.approx((share * (1 - np.exp(-share * low))).sum(), abs=0.03)


@given(st.floats(1e9, 1e12), st.integers(1, 16), st.integers(1, 400))
@settings(max_examples=15)
def test_faster_copies_and_fewer_experts_never_slow_a_batch(copy, prompts, tokens):
    node = Tiers(100e9, 1e13, copy, 0.01, 0.001)
    slow = batch_s(node, 13e9, 60, prompts, tokens)
    assert batch_s(replace(node, copy_bytes_per_s=2 * copy), 13e9, 60, prompts, tokens) <= slow
    assert batch_s(node, 13e9, 7, prompts, tokens) == pytest.approx(prompts * node.answer_s(tokens))
    worst = prompts * (13e9 / copy + node.answer_s(tokens))
    assert prompts * node.answer_s(tokens) <= slow <= worst * (1 + 1e-9)


def test_chips_hold_the_model_and_read_only_what_is_active():
    machine = load_hardware("groq-lpu-rack")
    dense, sparse = load_model("llama-2-70b"), load_model("mixtral-8x7b")
    for model in (dense, sparse):
        found = on_chips(model, machine, "int8")
        assert found.chips == chips_for(model, machine, "int8")
        room = machine.device.memory.capacity_bytes
        assert (found.chips - 1) * room < params(model).total <= found.chips * room
        rate = machine.scale_up.domain * machine.device.processor.bandwidth_bytes_per_s["sram"]
        assert found.memory_s == pytest.approx(params(model).active / rate)
        assert found.token_s == pytest.approx(found.memory_s + found.link_s)
    with pytest.raises(InfeasibleError, match="chips"):
        on_chips(dense, machine, "int8", chips=10)


def test_one_chip_has_no_links():
    machine = load_hardware("cerebras-wse3")
    model = load_model("qwen3-30b-a3b")
    found = on_chips(model, machine, "int8")
    assert (found.chips, found.link_s) == (1, 0.0)
    bandwidth = machine.device.processor.bandwidth_bytes_per_s["sram"]
    assert found.token_s == pytest.approx(params(model).active / bandwidth)


numbers = st.floats(0.0, 10.0, allow_subnormal=False)


@given(st.data(), st.integers(1, 6), st.integers(1, 3))
def test_the_largest_sets_have_the_best_one(data, count, asked):
    def column():
        return np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)))

    quality = np.array([column() for _ in range(3)])
    servers = Servers(quality, column(), column(), asked)
    energy, delay = data.draw(numbers), data.draw(numbers)
    found, best = choose(servers, energy, delay), choose_all(servers, energy, delay)
    assert bool(found) == bool(best)
    assert servers.value(found) == pytest.approx(servers.value(best))
    assert not found or servers.keeps(found, energy, delay)


def test_a_gate_that_errs_can_lose_what_a_set_gains():
    servers = Servers(np.array([[1.0, 0.2], [0.9, 1.0]]), np.ones(2), np.ones(2))
    both = choose(servers, 10.0, 10.0)
    assert both == (0, 1)
    assert servers.value(both, hit=1.0) > servers.value((0,)) > servers.value(both, hit=0.0)


def test_a_compressed_model_fits_one_box_and_reads_its_active_part():
    model, whole = load_model("deepseek-v3"), 103e9
    bits = 8.0 * whole / params(model).total
    for name, rate in (("dgx-spark", 273e9), ("m4-max", 546e9)):
        found = on_chips(model, load_hardware(name), bits)
        assert found.chips == 1
        assert found.token_s == pytest.approx(whole * params(model).active / params(model).total / rate)
    with pytest.raises(InfeasibleError, match="chips"):
        on_chips(model, load_hardware("m4-max"), "int4", chips=1)


def test_experts_from_storage_take_at_least_their_bytes():
    trace = load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
    model = load_model("gpt-oss-20b")
    seconds = []
    for name, rate in (("phone-ufs31", 2.1e9), ("phone-ufs40", 4.2e9)):
        box = Box.of(load_hardware(name), model, gpu_bytes=4e9)
        found = run(Composition(Residency("lru", lookup="token_batch")), trace, box)
        missed = found.accesses * (1.0 - found.hit_ratio)
        assert found.seconds >= missed * box.widths[0].bytes / rate
        seconds.append(found.seconds)
    assert seconds[0] / 2 <= seconds[1] < seconds[0]
