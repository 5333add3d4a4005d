"""Op times: closed forms, limits, and what must never happen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.cost import op_times, peak_flops_per_s
from moesim.cost.roofline import at, soft_max
from moesim.hardware.curves import Efficiency
from moesim.hardware.types import Device, Memory, Processor
from moesim.ops.primitives import elementwise, gemm
from moesim.ops.table import OpTable

positive = st.floats(min_value=1e-9, max_value=1e3)


def _device(peak=1e15, bandwidth=1e12, **efficiency):
    return Device(
        "d",
        "",
        (
            Processor(
                "p", {"bf16": peak, "fp8": 2 * peak, "fp32": peak / 10}, 100, {"m": bandwidth}, efficiency
            ),
        ),
        (Memory("m", 1e11, bandwidth),),
    )


def _time(op, device):
    return float(op_times(OpTable(((op, 1),), (), 1), device).seconds[0, 0])


def test_bare_roofline():
    assert _time(gemm("g", 1e5, 1e4, 1e4), _device()) == pytest.approx(2e13 / 1e15)
    small = gemm("g", 1.0, 1000, 1000)
    assert _time(small, _device()) == pytest.approx(float(small.bytes) / 1e12)


def test_floor_efficiency_and_sharpness():
    curve = Efficiency(((1.0, 0.5),), ((1.0, 0.8),), 3e-6, 1.0)
    op = gemm("g", 512.0, 1000, 1000)
    expected = 3e-6 + op.flops / 0.5e15 + op.bytes / 0.8e12
    assert _time(op, _device(gemm=curve)) == pytest.approx(expected)


def test_an_op_without_tokens_costs_nothing():
    curve = Efficiency(floor_s=3e-6)
    assert _time(gemm("g", np.zeros(1), 1000, 1000), _device(gemm=curve)) == 0.0


def test_fused_ops_have_no_floor():
    curve = Efficiency(floor_s=3e-6)
    alone, fused = (
        _time(elementwise("e", 10.0, flops_each=1, tensors=2, launches=n), _device(elementwise=curve))
        for n in (1, 0)
    )
    assert alone - fused == pytest.approx(3e-6)


@given(positive, positive, st.floats(min_value=0.3, max_value=50))
def test_soft_max_lies_between_maximum_and_its_limits(a, b, p):
    value = float(soft_max(np.array(a), np.array(b), p))
    assert value >= max(a, b) * (1 - 1e-12)
    assert value <= max(a, b) * 2 ** (1 / p) * (1 + 1e-9)


@given(
    rows=st.floats(min_value=1, max_value=1e5),
    factor=st.floats(min_value=1.0, max_value=8.0),
    p=st.sampled_from([0.8, 1.0, 2.3, np.inf]),
)
def test_better_hardware_is_never_slower(rows, factor, p):
    curve = Efficiency(((1e6, 0.2), (1e12, 0.7)), ((1e3, 0.1), (1e9, 0.9)), 1e-6, p)
    op = gemm("g", rows, 2048, 1024)
    base = _time(op, _device(gemm=curve))
    assert _time(op, _device(bandwidth=factor * 1e12, gemm=curve)) <= base * (1 + 1e-12)
    assert _time(op, _device(peak=factor * 1e15, gemm=curve)) <= base * (1 + 1e-12)


def test_curves_are_log_linear_and_flat_outside():
    curve = ((1e2, 0.2), (1e4, 0.6))
    assert at(curve, np.array([1.0, 1e3, 1e9])) == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize(
    ("peaks", "dtype", "expected"),
    [
        ({"bf16": 1.0, "fp8": 2.0}, "fp8", 2.0),
        ({"bf16": 1.0}, "fp8", 1.0),
        ({"bf16": 1.0, "fp8": 2.0}, "int4", 1.0),
        ({"bf16": 1.0, "fp8": 2.0}, "mxfp4", 1.0),
        ({"bf16": 1.0, "fp8": 2.0, "fp4": 4.0}, "mxfp4", 2.0),
        ({"bf16": 1.0, "fp8": 2.0, "fp4": 4.0}, "nvfp4", 4.0),
        ({"fp16": 1.0}, "bf16", 1.0),
    ],
)
def test_weights_are_multiplied_in_what_the_processor_has(peaks, dtype, expected):
    assert peak_flops_per_s(Processor("p", peaks, 1, {}, {}), dtype) == expected


def test_a_processor_without_a_peak_for_vectors_still_does_elementwise_work():
    """Alone on its device it has to: at the peak of its matrix units, where no other is known."""
    unit = Processor("p", {"bf16": 1e15}, 100, {"m": 1e12}, {})
    device = Device("d", "", (unit,), (Memory("m", 1e11, 1e12),))
    op = elementwise("e", 1e9, flops_each=1, tensors=2)
    assert _time(op, device) == pytest.approx(float(op.bytes) / 1e12)
