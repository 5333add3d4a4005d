"""Kernels of early 2025: their laws against the tables that they were fitted on, and on machines."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.cost import Choice, ExpertShape, Rates, expert_times, op_times
from moesim.hardware import load_hardware
from moesim.ops.primitives import gemm
from moesim.ops.table import OpTable
from moesim.systems.triton_fp8 import NEW, OLD, decode_s, grouped_extra_s, with_old_kernels

PATH = Path(__file__).parents[2] / "benchmarks" / "systems" / "triton_fp8.py"
BLOCK = Choice(backend="sglang", block_scaled=True)


def _script():
    spec = importlib.util.spec_from_file_location("triton_fp8_fit", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def box():
    return load_hardware("h200-sxm-8")


@pytest.fixture(scope="module")
def old_box(box):
    return with_old_kernels(box)


@pytest.mark.parametrize(("title", "law", "limit"), [("OLD", OLD, 0.08), ("NEW", NEW, 0.15)])
def test_constants_are_those_of_the_fit_and_hold_on_rows_left_out(title, law, limit):
    script = _script()
    names, data = script.rows()
    chosen = (names == script.COPIED) == (title == "OLD")
    found, _, seen, left = script.fit(data[:, chosen], title == "OLD")
    assert law.step_s == pytest.approx(found.step_s, rel=2e-3)
    assert law.flops_per_s == pytest.approx(found.flops_per_s, rel=2e-3)
    assert np.median(np.abs(seen)) < limit
    assert np.median(np.abs(left)) < limit


def test_the_new_law_foretells_grouped_products_it_has_not_seen(shared):
    found = _script().grouped(shared("kernels"), NEW)
    decode = [seconds / (low * high) ** 0.5 for tokens, seconds, low, high in found if tokens <= 512]
    assert len(decode) > 10
    assert 0.7 < np.median(decode) < 1.2
    # Prompts cross the memory around the products as well, which the law has not.
    assert min(s / (low * high) ** 0.5 for _, s, low, high in found) > 0.5


@given(st.integers(1, 4096), st.integers(1, 64), st.integers(1, 128))
def test_a_law_grows_with_every_size_and_in_whole_tiles(rows, outputs, inputs):
    outputs, inputs = 128 * outputs, 128 * inputs
    here = OLD.seconds(rows, outputs, inputs)
    assert here <= OLD.seconds(rows + 64, outputs, inputs)
    assert here < OLD.seconds(rows, outputs + 128, inputs)
    assert here < OLD.seconds(rows, outputs, inputs + 128)
    assert here == OLD.seconds(64 * -(-rows // 64), outputs, inputs)


def test_ops_take_what_the_law_says(old_box):
    rows = np.array([1.0, 8.0, 64.0, 256.0, 4096.0])
    for outputs, inputs in ((512, 7168), (3072, 1536), (7168, 2048)):
        table = OpTable(((gemm("x", rows, inputs, outputs, "fp8"), 1),), (), len(rows))
        device = old_box.device
        seconds = op_times(table, device, Rates.of(table, device, BLOCK)).seconds[0]
        # Between knots the surface is smooth where the law has steps.
        assert seconds == pytest.approx(OLD.seconds(rows, outputs, inputs), rel=0.12)


def test_experts_take_the_difference_of_the_laws_longer(box, old_box):
    shape = ExpertShape(7168, 256.0, 3, "fp8")
    for hit, each in ((8, 1.0), (64, 2.0), (256, 4.0), (256, 256.0)):
        tokens = np.full((1, hit), each)
        today, then = (float(expert_times(tokens, shape, b.device, BLOCK).seconds[0]) for b in (box, old_box))
        extra = float(grouped_extra_s(tokens, shape.flops_per_pair)[0])
        assert then - today == pytest.approx(extra, rel=0.25)
    assert grouped_extra_s(np.zeros((1, 4)), 1.0) == 0.0


def test_latent_attention_reads_the_cache_once_for_every_sixteen_heads(box):
    device = box.device
    one, two = (decode_s(64.0, 65536.0, heads, device) for heads in (16.0, 32.0))
    assert 1.9 < two / one < 2.0
    slope = (decode_s(1.0, 2e6, 16.0, device) - decode_s(1.0, 1e6, 16.0, device)) / 1e6
    assert 1152 / slope == pytest.approx(1.65e12)


def test_old_kernels_leave_the_rest_alone(box, old_box):
    before, after = (b.device.processor.kernels for b in (box, old_box))
    changed = {key for key in before if after.get(key) is not before[key]}
    assert {key[0] for key in changed} <= {"gemm", "mla_decode", "experts", "experts_ep"}
    assert all(after[key] is before[key] for key in before if key[1] == "bf16" and key[0] != "mla_decode")
