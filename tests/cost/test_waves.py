"""Tiles and waves: closed forms, the roofline, and what a changed machine changes."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.cost import ExpertShape, expert_times
from moesim.cost.waves import tile_of, wave_times
from moesim.hardware.tiles import Tile, TileLaw
from moesim.hardware.types import Device, Memory, Processor

CORES, PEAK, BANDWIDTH = 100, 1e15, 4e12
SMALL = Tile("small", 16, 128, compute=0.3, fill_s=1e-6, drain_s=2e-6, most=12.0)
LARGE = Tile("large", 128, 256, compute=0.8, fill_s=0.5e-6, drain_s=3e-6)
LAW = TileLaw((SMALL, LARGE), launch_s=2e-6, launches=2, memory=((1e6, 0.3), (1e8, 0.9)), moves=((1.0, 0.7),))
SHAPE = ExpertShape(hidden=2048, width=1024, matrices=3, dtype="bf16")


def machine(
    law: TileLaw = LAW, cores: int = CORES, peak: float = PEAK, bandwidth: float = BANDWIDTH
) -> Device:
    processor = Processor("p", {"bf16": peak}, cores, {"m": bandwidth}, {}, tiles={"bf16": law})
    return Device("d", "", (processor,), (Memory("m", 1e11, bandwidth),))


DEVICE = machine()
histograms = st.lists(st.integers(0, 3000), min_size=1, max_size=12)


def by_hand(tokens: list[int], shape: ExpertShape, law: TileLaw) -> float:
    """One histogram, with nothing but loops."""
    mean = sum(tokens) / len(tokens)
    tile = next(t for t in law.tiles if mean <= t.most)
    pairs, hit = sum(tokens), sum(n > 0 for n in tokens)
    if not pairs:
        return 0.0
    total = law.launches * law.launch_s + pairs * shape.hidden * 4 / (0.7 * BANDWIDTH)
    for inputs, outputs, stored in (
        (shape.hidden, 2 * shape.width, shape.width),
        (shape.width, shape.hidden, shape.hidden),
    ):
        tiles = sum(ceil(n / tile.rows) for n in tokens) * ceil(outputs / tile.columns)
        one = tile.fill_s + 2 * tile.rows * tile.columns * inputs / (tile.compute * PEAK / CORES)
        busy = ceil(tiles / CORES) * one + tile.drain_s
        data = 2 * (hit * inputs * outputs + pairs * (inputs + stored))
        share = float(np.interp(np.log(data), np.log([1e6, 1e8]), [0.3, 0.9]))
        total += law.launch_s + max(busy, data / (BANDWIDTH * share))
    roof = max(
        pairs * shape.flops_per_pair / PEAK,
        (hit * shape.weight_bytes + pairs * shape.bytes_per_pair) / BANDWIDTH,
    )
    return max(total, roof)


@given(histograms)
def test_law_against_loops(tokens):
    found = expert_times(np.array([tokens], dtype=float), SHAPE, DEVICE)
    assert found.seconds[0] == pytest.approx(by_hand(tokens, SHAPE, LAW))


def test_waves_by_hand():
    # 7 row tiles x 8 columns are 56 tiles: one wave of 100, up; the same down.
    tokens = np.array([[129.0, 256.0, 384.0, 0.0]])
    one = 0.5e-6 + 2 * 128 * 256 * np.array([2048, 1024]) / (0.8 * PEAK / CORES)
    times = wave_times(tokens, SHAPE, DEVICE, LAW)
    assert times.compute_s[0] == pytest.approx(one.sum() + 2 * 3e-6)
    # One more row of tiles per expert makes 13 x 8 = 104 tiles: two waves.
    times = wave_times(np.add(tokens, 256.0 * (tokens > 0)), SHAPE, DEVICE, LAW)
    assert times.compute_s[0] == pytest.approx(2 * one.sum() + 2 * 3e-6)


def test_configuration_by_the_mean_over_all_slots():
    tokens = np.array([[12.0, 12.0], [12.0, 13.0], [24.0, 0.0], [9999.0, 0.0], [0.0, 0.0]])
    assert tile_of(tokens, LAW).tolist() == [0, 1, 0, 1, 0]


def test_batches_are_as_one_after_the_other():
    tokens = np.random.default_rng(1).integers(0, 400, (3, 4, 8)).astype(float)
    whole = expert_times(tokens, SHAPE, DEVICE)
    for at in np.ndindex(3, 4):
        one = expert_times(tokens[at][None], SHAPE, DEVICE)
        for name in ("seconds", "compute_s", "memory_s", "floor_s"):
            assert getattr(whole, name)[at] == pytest.approx(getattr(one, name)[0])


def test_both_16_bit_types_are_alike_and_others_go_their_own_way():
    tokens = np.array([[100.0, 3.0]])
    half = expert_times(tokens, replace(SHAPE, dtype="fp16"), DEVICE).seconds
    assert half == pytest.approx(expert_times(tokens, SHAPE, DEVICE).seconds)
    packed = replace(SHAPE, dtype="fp8")
    bare = machine()
    bare = replace(bare, processors=(replace(bare.processor, tiles={}),))
    assert expert_times(tokens, packed, DEVICE).seconds == expert_times(tokens, packed, bare).seconds


def test_an_idle_rank_takes_no_time():
    times = expert_times(np.zeros((2, 4)), SHAPE, DEVICE)
    assert times.seconds.tolist() == times.floor_s.tolist() == times.compute_s.tolist() == [0.0, 0.0]


#: As a hardware file may have them: no curve rises so fast that more bytes take less time.
curves = st.lists(st.floats(0.05, 1.0), min_size=2, max_size=2).map(
    lambda v: ((1e6, min(v)), (1e9, min(max(v), min(v) * (1 + np.log(1e3)))))
)
tiles = st.builds(
    Tile,
    st.just("t"),
    st.sampled_from([16, 64, 128]),
    st.sampled_from([64, 128, 256]),
    st.floats(0.05, 1.0),
    st.floats(0.0, 5e-6),
    st.floats(0.0, 5e-6),
)
laws = st.builds(
    lambda a, b, **rest: TileLaw((replace(a, most=32.0), b), **rest),
    tiles,
    tiles,
    launch_s=st.floats(0.0, 5e-6),
    launches=st.integers(0, 4),
    memory=curves,
    moves=curves,
    sharpness=st.sampled_from([1.0, 3.0, inf]),
)
shapes = st.builds(
    ExpertShape,
    st.sampled_from([256, 2048, 4096]),
    st.sampled_from([64, 704, 1408]),
    st.sampled_from([2, 3]),
    st.just("bf16"),
)


@given(histograms, shapes, laws)
def test_never_beats_the_bare_roofline(tokens, shape, law):
    pairs, hit = sum(tokens), sum(n > 0 for n in tokens)
    roof = max(
        pairs * shape.flops_per_pair / PEAK,
        (hit * shape.weight_bytes + pairs * shape.bytes_per_pair) / BANDWIDTH,
    )
    assert expert_times(np.array([tokens], dtype=float), shape, machine(law)).seconds[0] >= roof


@given(histograms, shapes, laws)
def test_a_larger_machine_is_never_slower(tokens, shape, law):
    histogram = np.array([tokens], dtype=float)
    before = expert_times(histogram, shape, machine(law)).seconds[0] * (1 + 1e-9)
    for better in (
        machine(law, bandwidth=2 * BANDWIDTH),
        machine(law, peak=2 * PEAK),
        # Twice the cores are twice the peak: the peak is the whole machine's.
        machine(law, cores=2 * CORES, peak=2 * PEAK),
    ):
        assert expert_times(histogram, shape, better).seconds[0] <= before


@given(histograms, shapes, laws, st.randoms(use_true_random=False))
def test_names_of_experts_do_not_matter(tokens, shape, law, random):
    other = random.sample(tokens, len(tokens))
    device = machine(law)
    one, two = (expert_times(np.array([t], dtype=float), shape, device).seconds[0] for t in (tokens, other))
    assert one == two


@given(histograms, st.data(), shapes, laws)
def test_more_tokens_are_never_faster_within_a_configuration(tokens, data, shape, law):
    more = [n + data.draw(st.integers(0, 300)) for n in tokens]
    histogram = np.array([tokens, more], dtype=float)
    device = machine(law)
    if len(set(tile_of(histogram, law).tolist())) == 1:
        before, after = expert_times(histogram, shape, device).seconds
        assert after >= before * (1 - 1e-9)


def test_across_configurations_more_tokens_may_be_faster():
    """As on a GPU, where the kernel for few tokens runs until the host's rule changes it."""
    crowded = np.zeros((2, 100))
    crowded[:, 0] = 1200, 1300
    twelve, thirteen = expert_times(crowded, SHAPE, machine(bandwidth=1e15)).seconds
    assert thirteen < twelve
