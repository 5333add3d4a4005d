"""Expert GEMMs follow the histogram: tiles, waves, weights that are hit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.cost import ExpertShape, expert_times
from moesim.cost.expert_gemm import TILE_COLUMNS, tile_rows
from moesim.hardware.types import Device, Memory, Processor

CORES, PEAK, BANDWIDTH = 100, 1e15, 1e12
DEVICE = Device(
    "d", "", (Processor("p", {"bf16": PEAK}, CORES, {"m": BANDWIDTH}, {}),), (Memory("m", 1e11, BANDWIDTH),)
)
SHAPE = ExpertShape(hidden=2048, width=1024, matrices=3, dtype="bf16")


def test_few_tokens_pay_for_the_weights_they_hit():
    times = expert_times(np.array([[1.0, 1.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]), SHAPE, DEVICE)
    two, one = times.seconds
    assert two == pytest.approx((2 * SHAPE.weight_bytes + 2 * SHAPE.bytes_per_pair) / BANDWIDTH)
    assert one == pytest.approx((SHAPE.weight_bytes + 2 * SHAPE.bytes_per_pair) / BANDWIDTH)


def test_waves_by_hand():
    tokens = np.array([[1024.0, 1024.0]])
    rows = 128
    up = 2 * 8 * (2 * 1024 // TILE_COLUMNS)
    down = 2 * 8 * (2048 // TILE_COLUMNS)
    per_wave = CORES * 2.0 * rows * TILE_COLUMNS / PEAK
    expected = np.ceil(up / CORES) * per_wave * 2048 + np.ceil(down / CORES) * per_wave * 1024
    assert expert_times(tokens, SHAPE, DEVICE).compute_s[0] == pytest.approx(expected)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=8), st.sampled_from([1, 8, 32]))
def test_units_that_share_a_product_pad_to_their_own_rows(tokens, rows):
    alike = replace(DEVICE.processor, tile_rows=rows)
    device = replace(DEVICE, processors=(alike,))
    padded = sum(-(-n // rows) * rows for n in tokens)
    histogram = np.array([tokens], dtype=float)
    shared = expert_times(histogram, SHAPE, device)
    assert shared.compute_s[0] == pytest.approx(padded * SHAPE.flops_per_pair / PEAK)
    # Neither the data nor any other processor knows of it, and no tile is smaller than one vector.
    tiled = expert_times(histogram, SHAPE, DEVICE)
    assert shared.memory_s == tiled.memory_s
    single = expert_times(histogram, SHAPE, replace(device, processors=(replace(alike, tile_rows=1),)))
    assert single.compute_s <= min(shared.compute_s, tiled.compute_s) * (1 + 1e-12)


def test_an_idle_rank_takes_no_time():
    assert expert_times(np.zeros((2, 4)), SHAPE, DEVICE).seconds.tolist() == [0.0, 0.0]


def test_tile_rows_suit_the_histogram():
    assert tile_rows(np.array([[1.0, 0.0], [40.0, 30.0], [9e3, 9e3]])).tolist() == [16.0, 64.0, 128.0]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=16))
def test_never_faster_than_the_bare_work(tokens):
    histogram = np.array([tokens], dtype=float)
    seconds = expert_times(histogram, SHAPE, DEVICE).seconds[0]
    assert seconds >= histogram.sum() * SHAPE.flops_per_pair / PEAK * (1 - 1e-12)
    data = (histogram > 0).sum() * SHAPE.weight_bytes + histogram.sum() * SHAPE.bytes_per_pair
    assert seconds >= data / BANDWIDTH * (1 - 1e-12)


@given(st.permutations([0.0, 3.0, 17.0, 200.0, 1000.0]))
def test_order_of_slots_does_not_matter(tokens):
    ordered = expert_times(np.array([sorted(tokens)]), SHAPE, DEVICE).seconds
    assert expert_times(np.array([tokens]), SHAPE, DEVICE).seconds == pytest.approx(ordered)
