"""Machines whose units work in or beside a memory answer the same question, without tiles of a GPU."""

from __future__ import annotations

import numpy as np
import pytest

import moesim as ms
from moesim.correction import calibration_of
from moesim.cost import ExpertShape, expert_times, peak_flops_per_s
from moesim.hardware import load_hardware, names

VECTORS = ("cent-32", "cxl-pnm", "groq-lpu-rack", "cerebras-wse3")
SHAPE = ExpertShape(2048, 1024, 3, "bf16")


@pytest.mark.parametrize("name", VECTORS)
def test_nothing_is_padded(name):
    device = load_hardware(name).device
    few, many = (expert_times(np.full(64, n), SHAPE, device).compute_s.item() for n in (1.0, 4.0))
    assert many == pytest.approx(4.0 * few)
    ideal = 64 * SHAPE.flops_per_pair / peak_flops_per_s(device.processor, "bf16")
    # What is left is the efficiency of arithmetic that the file says.
    assert few == pytest.approx(ideal / device.processor.efficiency_of("expert_gemm", "bf16").compute[0][1])


def test_who_pads_has_not_changed():
    alike = {n for n in names() if load_hardware(n).device.processor.tile_rows is not None}
    assert alike == set(VECTORS)


def test_predict_counts_what_vectors_cost():
    """CENT's arithmetic and bandwidth are one FLOP per byte: a decode step takes what its vectors do."""
    model, machine = ms.load_model("mixtral-8x7b"), load_hardware("cent-32")
    layout = ms.Parallelism(tp=32)
    question = ms.Workload(input_len=128, output_len=128, concurrency=64)
    answer = ms.predict(model, machine, layout, question, calibration=calibration_of("none"))
    line = next(o for o in answer.breakdown if o.op == "experts")
    pairs = 64 * model.top_k * model.num_layers
    width = model.moe.intermediate / 32
    flops = pairs * 2 * 3 * model.hidden * width
    assert line.seconds == pytest.approx(flops / machine.device.processor.peak_flops_per_s["bf16"], rel=0.02)
