"""Experts one after the other: sums, bounds, and what edits of the machine do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moesim.cost import Choice, ExpertShape, expert_times
from moesim.cost.roofline import soft_max
from moesim.cost.surface import find_surface
from moesim.hardware.curves import Axis, Surface
from moesim.hardware.types import Device, Memory, Processor
from moesim.placement.costs import slot_cost

PEAK, BANDWIDTH = 50e9, 12e9
AXES = (Axis(0.0, 1.0, 4), Axis(8.0, 1.0, 2), Axis(8.0, 1.0, 2))
SHAPE = ExpertShape(512, 256, 3, "fp32")


def surface(values: object = 0.2, floor: float = 5e-6, sharpness: float = 2.0) -> Surface:
    knots = np.broadcast_to(values, (16,)).astype(float)
    return Surface("expert", "fp32", "reference", "1", floor, sharpness, AXES, tuple(knots))


def machine(law: Surface, peak: float = PEAK, bandwidth: float = BANDWIDTH) -> Device:
    processor = Processor(
        "core",
        {"fp32": peak, "bf16": peak},
        1,
        {"ram": bandwidth},
        {},
        {("expert", "fp32", "reference"): law},
    )
    return Device("cpu", "A CPU", (processor,), (Memory("ram", 16e9, bandwidth),))


def seconds(tokens: object, law: Surface, **edits: float) -> np.ndarray:
    return expert_times(np.asarray(tokens, dtype=float), SHAPE, machine(law, **edits)).seconds


def alone(n: float, law: Surface) -> float:
    """One expert, written out; S is flat."""
    compute = n * SHAPE.flops_per_pair / PEAK
    memory = (SHAPE.weight_bytes + n * SHAPE.bytes_per_pair) / BANDWIDTH
    bare = law.floor_s + float(soft_max(np.array(compute), np.array(memory), law.sharpness))
    return max(bare * float(np.exp(law.values[0])), compute, memory)


def test_a_layer_is_the_sum_over_the_experts_that_are_hit():
    law = surface()
    assert seconds([3, 0, 17, 1], law) == pytest.approx(alone(3, law) + alone(17, law) + alone(1, law))
    assert seconds([0, 0, 0, 0], law) == 0.0


def test_shapes_and_parts():
    law = surface()
    tokens = np.array([[[1.0, 2, 0], [4, 4, 4]], [[0, 0, 0], [7, 0, 0]]])
    times = expert_times(tokens, SHAPE, machine(law))
    assert times.seconds.shape == times.floor_s.shape == (2, 2)
    assert times.seconds[0, 1] == pytest.approx(3 * alone(4, law))
    assert times.compute_s[0, 1] == pytest.approx(12 * SHAPE.flops_per_pair / PEAK)
    assert times.memory_s[1, 1] == pytest.approx((SHAPE.weight_bytes + 7 * SHAPE.bytes_per_pair) / BANDWIDTH)
    assert times.floor_s[0, 0] == pytest.approx(2 * law.floor_s * np.exp(0.2))


def test_the_correction_follows_the_tokens_of_each_expert():
    values = np.zeros((4, 2, 2))
    values[2] = 0.7  # at 4 tokens
    law = surface(values.ravel())
    flat = surface(0.0)
    assert seconds([4], law) == pytest.approx(alone(4, flat) * np.exp(0.7))
    assert seconds([1], law) == pytest.approx(alone(1, flat))
    assert seconds([1, 4], law) == pytest.approx(alone(1, flat) + alone(4, flat) * np.exp(0.7))


def test_others_take_other_laws():
    device = machine(surface())
    two = ExpertShape(512, 256, 2, "fp32")
    assert find_surface(device.processor.kernels, "expert", "bf16", "") is None
    for shape in (two, replace(SHAPE, dtype="bf16")):
        times = expert_times(np.array([3.0, 5.0]), shape, device, Choice(backend="vllm"))
        assert np.isfinite(times.seconds)


@given(
    tokens=hnp.arrays(np.float64, (3, 5), elements=st.integers(0, 300).map(float)),
    values=hnp.arrays(np.float64, 16, elements=st.floats(-3, 3)),
    floor=st.sampled_from([0.0, 1e-6, 1e-4]),
    sharpness=st.sampled_from([1.0, 1.5, 2.0, 3.0, float("inf")]),
)
def test_never_below_the_roofline_and_never_slower_on_a_faster_machine(tokens, values, floor, sharpness):
    law = surface(values, floor, sharpness)
    found = seconds(tokens, law)
    pairs, hit = tokens.sum(-1), (tokens > 0).sum(-1)
    roof = np.maximum(
        pairs * SHAPE.flops_per_pair / PEAK,
        (hit * SHAPE.weight_bytes + pairs * SHAPE.bytes_per_pair) / BANDWIDTH,
    )
    assert (found >= roof * (1 - 1e-12)).all()
    assert (seconds(tokens, law, bandwidth=2 * BANDWIDTH) <= found * (1 + 1e-12)).all()
    assert (seconds(tokens, law, peak=2 * PEAK) <= found * (1 + 1e-12)).all()
    # Where each expert's tokens are is no matter.
    assert seconds(tokens[:, ::-1], law) == pytest.approx(found)


def test_fractions_of_tokens_and_huge_counts_are_timed_too():
    law = surface()
    assert seconds([0.5, 3.25], law) == pytest.approx(alone(0.5, law) + alone(3.25, law))
    assert seconds([1e9, 0], law) == pytest.approx(alone(1e9, law))


def test_placement_costs_are_the_sum_itself():
    law, device = surface(), machine(surface())
    tokens = np.random.default_rng(0).poisson(5.0, (6, 8)).astype(float)
    cost = slot_cost(SHAPE, device, Choice("reference"), near=tokens)
    assert cost(tokens).sum(axis=1) == pytest.approx(seconds(tokens, law))
