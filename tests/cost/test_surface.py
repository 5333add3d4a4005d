"""Measured kernels: closed forms on a grid made by hand, and what must hold for any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim as ms
from moesim.calibrate.histograms import rank_tokens
from moesim.cost import Choice, ExpertShape, Rates, expert_times, op_times
from moesim.cost.surface import Stack, find_surface
from moesim.hardware.curves import Axis, Surface
from moesim.hardware.types import Device, Memory, Processor
from moesim.ops import Batch
from moesim.ops.primitives import add, gemm
from moesim.ops.table import OpTable

PEAK, BANDWIDTH, FLOOR = 1e15, 1e12, 5e-6
#: S is the sum of the knots' positions, a tenth each: linear, so that interpolation is exact.
AXES = (Axis(0.0, 1.0, 5), Axis(10.0, 1.0, 3), Axis(10.0, 1.0, 3))
VALUES = tuple(0.1 * (i + j + k) for i in range(5) for j in range(3) for k in range(3))
GEMM = Surface("gemm", "bf16", "vllm", "1", FLOOR, 1.0, AXES, VALUES)
EXPERTS = Surface(
    "experts",
    "bf16",
    "vllm",
    "1",
    FLOOR,
    np.inf,
    (Axis(0.0, 2.0, 4), Axis(0.0, 2.0, 3), Axis(8.0, 2.0, 2)),
    (0.0,) * 24,
    tile_rows=64.0,
)


def device(*surfaces, bandwidth=BANDWIDTH):
    kernels = {(s.kernel, s.dtype, s.backend): s for s in surfaces}
    processor = Processor("p", {"bf16": PEAK}, 100, {"m": bandwidth}, {}, kernels)
    return Device("d", "", (processor,), (Memory("m", 1e11, bandwidth),))


def gemm_seconds(rows, outputs, inputs, on, choice=None):
    table = OpTable(((gemm("g", float(rows), inputs, outputs), 1),), (), 1)
    return op_times(table, on, Rates.of(table, on, choice or Choice())).seconds[0, 0]


@pytest.mark.parametrize(
    ("rows", "outputs", "inputs", "s"),
    [
        (1, 1024, 1024, 0.0),
        (4, 2048, 1024, 0.3),
        (2**1.5, 1024, 2**10.5, 0.2),
        # Beyond the grid S stays what it is at its border, and the roofline goes on.
        (4096, 2**14, 2**14, 0.8),
        (0.5, 64, 64, 0.0),
    ],
)
def test_a_surface_by_hand(rows, outputs, inputs, s):
    op = gemm("g", rows, inputs, outputs)
    bare = FLOOR + op.flops / PEAK + op.bytes / BANDWIDTH
    assert gemm_seconds(rows, outputs, inputs, device(GEMM)) == pytest.approx(bare * np.exp(s))


def test_rows_without_a_surface_keep_their_efficiency():
    table = OpTable(((gemm("g", 4.0, 1024, 1024), 1), (add("a", 4.0, 1024), 2)), (), 1)
    both, none = op_times(table, device(GEMM)), op_times(table, device())
    assert both.seconds[1] == none.seconds[1]
    assert both.seconds[0] > none.seconds[0]
    assert both.peak_memory_s == pytest.approx(none.peak_memory_s)


def test_many_surfaces_are_evaluated_as_each_alone():
    rng = np.random.default_rng(0)
    one = replace(GEMM, values=tuple(rng.normal(size=45)))
    flat = Surface("mla_decode", "bf16", "vllm", "1", 0.0, 1.0, (Axis(0, 2, 3), Axis(1, 1, 1), Axis(0, 1, 4)),
                   tuple(rng.normal(size=12)))  # fmt: skip
    sizes = 2.0 ** rng.uniform(-2, 14, (3, 4, 7))
    sizes[:, 3] = 1.0
    together = Stack.of([one, flat, one]).log_correction(sizes)
    for row, surface in enumerate((one, flat, one)):
        alone = Stack.of([surface]).log_correction(sizes[row : row + 1])
        assert together[row] == pytest.approx(alone[0])


@given(
    st.floats(1, 1e5),
    st.floats(64, 1e5),
    st.floats(64, 1e5),
    st.lists(st.floats(-2, 2), min_size=45, max_size=45),
)
def test_twice_the_bandwidth_is_never_slower_nor_below_the_roofline(rows, outputs, inputs, values):
    surface = replace(GEMM, values=tuple(values))
    op = gemm("g", rows, inputs, outputs)
    before = gemm_seconds(rows, outputs, inputs, device(surface))
    after = gemm_seconds(rows, outputs, inputs, device(surface, bandwidth=2 * BANDWIDTH))
    assert before / 2 * (1 - 1e-9) <= after <= before
    assert before >= max(op.flops / PEAK, op.bytes / BANDWIDTH) * (1 - 1e-9)


def test_whose_kernel_is_used():
    keys = [("gemm", "fp8", "vllm"), ("gemm", "fp8_block", "sglang"), ("experts", "fp8_block", "vllm"),
            ("experts", "fp8", "trtllm"), ("experts_ep", "fp8", "trtllm")]  # fmt: skip
    table = {key: replace(GEMM, kernel=key[0], dtype=key[1], backend=key[2]) for key in keys}

    def used(*wanted):
        found = find_surface(table, *wanted)
        return found and (found.kernel, found.dtype, found.backend)

    assert used("gemm", "fp8", "trtllm") == ("gemm", "fp8", "vllm")
    assert used("gemm", "fp8_block", "vllm") == ("gemm", "fp8_block", "sglang")
    # Grouped kernels are more alike in one engine than in one kind of scales.
    assert used("experts_ep", "fp8", "vllm") == ("experts", "fp8_block", "vllm")
    assert used("experts_ep", "fp8", "trtllm") == ("experts_ep", "fp8", "trtllm")
    assert used("mla_decode", "bf16", "vllm") is None


def test_a_quantised_gemm_is_the_one_with_the_lowest_floor():
    """Tables of some engines time the quantising of activations, or the host, with it."""
    floors = {
        ("fp8", "vllm"): 5e-6,
        ("fp8", "trtllm"): 13e-6,
        ("bf16", "vllm"): 5e-6,
        ("bf16", "trtllm"): 13e-6,
    }
    table = {
        ("gemm", dtype, backend): replace(GEMM, dtype=dtype, backend=backend, floor_s=floor)
        for (dtype, backend), floor in floors.items()
    }
    assert find_surface(table, "gemm", "fp8", "trtllm").backend == "vllm"
    assert find_surface(table, "gemm", "fp8_block", "trtllm").backend == "vllm"
    assert find_surface(table, "gemm", "bf16", "trtllm").backend == "trtllm"


@pytest.mark.parametrize("surfaces", [(GEMM,), ()])
def test_what_runs_beside_something_else_has_no_floor_of_its_own(surfaces):
    on = device(*surfaces)
    op = gemm("g", 64.0, 2048, 2048)
    beside = replace(op, launches=0)
    one, both = (OpTable(tuple((o, 1) for o in ops), (), 1) for ops in ((op,), (op, beside)))
    alone = op_times(one, on)
    found = op_times(both, on)
    assert found.seconds[0] == pytest.approx(alone.seconds[0])
    assert found.floor_s[1] == pytest.approx(0.0)
    assert found.seconds[1] == pytest.approx(found.seconds[0] - found.floor_s[0])


def test_experts_by_hand():
    shape = ExpertShape(1024, 1024.0, 3, "bf16")
    tokens = np.array([[1.0, 100.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    times = expert_times(tokens, shape, device(EXPERTS))
    compute = (64 + 128) * shape.flops_per_pair / PEAK
    memory = (2 * shape.weight_bytes + 101 * shape.bytes_per_pair) / BANDWIDTH
    assert times.seconds[0] == pytest.approx(FLOOR + max(compute, memory))
    assert times.seconds[1] == 0.0
    held = expert_times(tokens, shape, device(replace(EXPERTS, held=2.0)), held_pairs=np.array([1000.0, 0.0]))
    assert held.seconds[0] == pytest.approx(FLOOR + memory + 2 * 1000 * 1024 * 2 / BANDWIDTH)


@given(st.permutations([0.0, 3.0, 17.0, 200.0, 1000.0]))
def test_relabelling_experts_changes_nothing(tokens):
    shape, on = ExpertShape(1024, 512.0, 3, "bf16"), device(EXPERTS)
    ordered = expert_times(np.array([sorted(tokens)]), shape, on).seconds
    assert expert_times(np.array([tokens]), shape, on).seconds == pytest.approx(ordered)


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_skew_costs_little_for_few_tokens_and_much_for_many(backend):
    """256 experts, top-8: what the tables say of the busiest of 64 ranks."""
    on, shape = ms.load_hardware("h200-sxm-8").device, ExpertShape(7168, 2048.0, 3, "fp8")

    def seconds(distribution, tokens, ranks):
        histogram = rank_tokens(distribution, tokens, 256, 8, ranks)
        choice = Choice(backend, block_scaled=True)
        held = float(tokens * 8)
        return expert_times(histogram, shape, on, choice, shared=ranks > 1, held_pairs=held).seconds.mean()

    for tokens in (64, 256, 1024):
        for ranks in (1, 64):
            ratio = seconds("power_law_1.2", tokens, ranks) / seconds("balanced", tokens, ranks)
            assert 0.7 < ratio < 1.3
    for exponent in ("1.01", "1.2"):
        ratio = seconds(f"power_law_{exponent}", 16384, 64) / seconds("balanced", 16384, 64)
        assert 1.3 < ratio < 3.0
    # On one rank, where nobody waits for the busiest, skew stays cheap.
    assert seconds("power_law_1.2", 16384, 1) / seconds("balanced", 16384, 1) < 1.15


def test_backends_change_a_prediction():
    model, hardware = ms.load_model("deepseek-v3"), ms.load_hardware("h200-sxm-8")
    load = ms.Workload(1024, 256, 64)
    layout = ms.Parallelism(tp=8, ep=8)
    tpot = {b: ms.predict(model, hardware, layout, load, engine=ms.Engine(backend=b)).tpot_s
            for b in ("vllm", "sglang", "trtllm")}  # fmt: skip
    assert len(set(tpot.values())) == 3
    assert max(tpot.values()) < 1.5 * min(tpot.values())
    with pytest.raises(ms.ConfigError, match="backend"):
        ms.predict(model, hardware, layout, load, engine=ms.Engine(backend="tgi"))


def test_a_kind_that_the_description_states_hides_the_measured_kernels(tmp_path):
    from moesim.files import data_dir

    text = (data_dir("hardware") / "h200-sxm-8.yaml").read_text()
    edited = tmp_path / "edited.yaml"
    edited.write_text(
        text.replace(
            "efficiency: hopper", "efficiency: {like: hopper, kinds: {gemm: {compute: 0.5, source: assumed}}}"
        )
    )
    kernels = ms.load_hardware(edited).device.processor.kernels
    assert not [key for key in kernels if key[0] in ("gemm", "mla_bmm")]
    assert [key for key in kernels if key[0] == "experts"]
    edited.write_text(text.replace("kernels: h200-sxm", "kernels: h300"))
    with pytest.raises(ms.ConfigError, match="no such measured kernels"):
        ms.load_hardware(edited)


def test_every_surface_covers_every_batch_of_a_sweep():
    """Evaluating many batches at once gives what each alone gives."""
    model, hardware = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")
    loads = [ms.Workload(512, 128, c) for c in (1, 7, 64, 500)]
    table = ms.sweep(model, hardware, [ms.Parallelism(tp=2)], loads)["tpot_s"][0]
    alone = [ms.predict(model, hardware, ms.Parallelism(tp=2), load).tpot_s for load in loads]
    assert table == pytest.approx(alone)
    assert Batch.decode(1.0, 1.0).size == 1
