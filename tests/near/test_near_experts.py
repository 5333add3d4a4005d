"""Experts on two processors: the best prefix, and what the timing of the memory leaves of its bandwidth."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost import ExpertShape
from moesim.hardware import load_hardware
from moesim.near import (
    HBM3,
    Box,
    draw,
    expert_seconds,
    hot_experts,
    layer_seconds,
    moved_bytes,
    prefix_split,
    refresh_efficiency,
    row_efficiency,
    split_seconds,
)

seconds = st.lists(
    st.tuples(st.integers(0, 9), st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=7
)


@given(seconds)
def test_a_prefix_split_is_the_best_of_its_kind_and_no_better_than_any_subset(triples):
    triples = sorted(triples)
    tokens, main, near = np.array(triples).T
    found = prefix_split(tokens, main, near)
    cuts = [max(near[:i].sum(), main[i:].sum()) for i in range(len(triples) + 1)]
    assert found.seconds == pytest.approx(min(cuts))
    every = range(len(triples))
    best = min(
        max(near[list(s)].sum(), main[[i for i in every if i not in s]].sum())
        for size in range(len(triples) + 1)
        for s in combinations(every, size)
    )
    assert best <= found.seconds * (1 + 1e-12)
    assert found.seconds <= min(main.sum(), near.sum()) * (1 + 1e-12)
    assert 0 <= found.near_tokens <= tokens.sum()


def test_a_row_of_every_bank_is_opened_command_by_command():
    # Issue the commands of four rows one by one and count how long data moves.
    clock = data = 0
    for _ in range(4):
        clock += HBM3.activate
        for column in range(HBM3.columns):
            data += HBM3.column
            if column + 1 < HBM3.columns:
                clock += HBM3.column
        clock += HBM3.read_to_precharge + HBM3.precharge
    assert row_efficiency(HBM3) == pytest.approx(data / clock)


@pytest.mark.parametrize("name", ["h100-duplex-4", "h100-bank-pim-4", "h100-bank-group-pim-4"])
def test_descriptions_have_the_efficiency_that_follows_from_the_timing(name):
    near = load_hardware(name).device.processors[1]
    share = near.efficiency_of("expert_gemm", "bf16").memory[0][1]
    assert share == pytest.approx(row_efficiency(HBM3) * refresh_efficiency(HBM3), abs=6e-4)


#: Bandwidth inside over that of the interface, FLOP per byte, and bytes per second of one device.
GEMV = {
    "h100-duplex-4": (4, 8, 13.4e12 * 0.694),
    "h100-bank-pim-4": (16, 1, 53.6e12 * 0.694),
    "h100-bank-group-pim-4": (4, 8, 13.4e12 * 0.694),
    "attacc-8": (9, 1, 5 * 670.4e9 * 9),
    "hbm-pim": (4, 1, 4 * 4 * 307.2e9),
}


@pytest.mark.parametrize("name", GEMV)
def test_a_vector_takes_as_long_as_reading_the_matrix_inside(name):
    device = load_hardware(name).device
    near, memory = device.near, device.near_memory
    times, intensity, rate = GEMV[name]
    assert near.bandwidth_bytes_per_s[memory.name] == pytest.approx(
        times * memory.bandwidth_bytes_per_s, rel=2e-3
    )
    peak = next(iter(near.peak_flops_per_s.values()))
    assert peak / near.bandwidth_bytes_per_s[memory.name] == pytest.approx(intensity, rel=0.03)
    shape = ExpertShape(4096, 14336, 3, "bf16")
    took = float(expert_seconds(np.array([1.0]), shape, near, memory.name)[0])
    # FLOP per byte of a vector is 1: a unit with no more than that is as busy computing.
    compute = shape.flops_per_pair / peak
    assert took == pytest.approx(max((shape.weight_bytes + shape.bytes_per_pair) / rate, compute), rel=1e-2)


@pytest.mark.parametrize(("name", "rate"), [("cent-32", 512e12 / 32), ("cxl-pnm", 1.1e12)])
def test_devices_that_are_memory_read_a_matrix_at_their_own_rate(name, rate):
    device = load_hardware(name).device
    shape = ExpertShape(4096, 14336, 3, "bf16")
    took = expert_seconds(np.array([1.0]), shape, device.processor, device.memory.name)
    assert took[0] == pytest.approx((shape.weight_bytes + shape.bytes_per_pair) / rate, rel=0.05)


def box(share=0.88):
    return Box.of(load_hardware("a100-monde"), share)


SHAPE = ExpertShape(1024, 4096, 2, "bf16")


@given(st.integers(0, 50), st.integers(1, 4096), st.floats(0.3, 2.0))
@settings(max_examples=25)
def test_balancing_beats_leaving_all_near_the_data_and_any_alpha(seed, tokens, skew):
    near_data = box()
    loads = draw(128, tokens, skew, np.random.default_rng(seed))
    times = {mode: layer_seconds(loads, SHAPE, near_data, mode) for mode in ("near", "alpha", "balanced")}
    assert times["balanced"] <= min(times.values()) * (1 + 1e-12)
    faster = Box(near_data.hardware, 2 * near_data.link_bytes_per_s)
    for mode in ("move", "near", "balanced"):
        there, here = (layer_seconds(loads, SHAPE, b, mode) for b in (faster, near_data))
        assert there <= here * (1 + 1e-12)


def test_the_split_of_equal_experts_is_that_of_the_bandwidths():
    # One token each: reading beside the memory bounds the unit, copies the GPU.
    near_data = box()
    equal = np.ones(1700)
    ends = split_seconds(equal, SHAPE, near_data)
    assert abs(int(ends.argmin()) - hot_experts(1700, near_data)) <= 3
    assert hot_experts(128, box(1.0)) == round(128 * 32 / (32 + 512))


def test_parameters_and_activations_move_as_the_paper_counts():
    shape = ExpertShape(2048, 8192, 2, "bf16")
    assert moved_bytes(shape, 128, 512) == (2 * 128 * 2048 * 8192 * 2, 2 * 512 * 2048 * 2)
